//! Weights of quantised types with rows interleaved, multiplied as 8-bit integers with activations that are quantised
//! to 8 bits.

mod activations;
mod format;
mod grid;
mod pack;
mod panel;
mod product;
mod scales;
mod simd;
#[cfg(target_arch = "x86_64")]
mod x86;

use rocmforge_quant::DType;

use crate::cpu::Cpu;
use crate::error::{KernelError, exact};
use crate::isa::Isa;
use crate::matrix::{Layout, Matrix};
use crate::pool::Pool;
use crate::shared::SharedMut;
use crate::workspace::floats;
use activations::{TILE, quantize_tile, row_bytes, tiles};
use format::{ForPacking, Packing, ROWS, for_packing};
use pack::{group_bytes, pack_group};
use product::Product;
pub(crate) use simd::{Int8, Kernel8, Token8};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Vnni256, Vnni512};

/// Bytes of weights per task of a product with few rows.
const TASK_BYTES: usize = 64 << 10;

/// Weight rows per task of a product with many rows, at most.
const TASK_ROWS: usize = 128;

/// Floats of scratch memory for `n` rows of `cols` activations.
pub(crate) fn scratch(n: usize, cols: usize) -> usize {
    n.saturating_mul(row_bytes(cols)).div_ceil(4)
}

/// A stack of weight matrices `[count, rows, cols]` with rows interleaved.
#[derive(Debug)]
pub struct Packed {
    dtype: DType,
    dims: [usize; 3],
    bytes: Vec<u8>,
    /// Of `bytes`, so that groups start at cache lines.
    start: usize,
}

/// Bytes beyond those needed, for the alignment.
const SLACK: usize = 63;

struct GroupBytes(usize);

impl ForPacking for GroupBytes {
    type Out = Option<usize>;

    fn format<P: Packing>(self) -> Option<usize> {
        Some(group_bytes::<P>(self.0))
    }

    fn none(self) -> Option<usize> {
        None
    }
}

/// The code of zero.
struct ZeroCode;

impl ForPacking for ZeroCode {
    type Out = i32;

    fn format<P: Packing>(self) -> i32 {
        P::ZERO
    }

    fn none(self) -> i32 {
        0
    }
}

struct PackGroup<'a> {
    dtype: DType,
    rows: &'a [u8],
    row_bytes: usize,
    cols: usize,
    out: &'a mut [u8],
}

impl ForPacking for PackGroup<'_> {
    type Out = ();

    fn format<P: Packing>(self) {
        pack_group::<P>(self.dtype, self.rows, self.row_bytes, self.cols, self.out);
    }

    fn none(self) {}
}

impl Packed {
    /// Whether there is such a layout for a type, and kernels that multiply with it.
    pub fn supports(dtype: DType, isa: Isa) -> bool {
        Layout::choose(dtype, isa) == Layout::Interleaved
    }

    /// Bytes that a stack takes; `None` for types without such a layout and for sizes that overflow.
    pub fn bytes(dtype: DType, [count, rows, cols]: [usize; 3]) -> Option<u64> {
        dtype.row_bytes(cols)?;
        let group = for_packing(dtype, GroupBytes(cols))?;
        let groups = rows.div_ceil(ROWS).checked_mul(count)?;
        Some(groups.checked_mul(group)?.checked_add(SLACK)? as u64)
    }

    /// Interleaves a stack in the layout of its file.
    ///
    /// # Errors
    /// The type has no such layout, the bytes are not as many as the dimensions ask for, or there is no memory.
    pub fn new(pool: &Pool, dtype: DType, dims: [usize; 3], stored: &[u8]) -> Result<Packed, KernelError> {
        let [count, rows, cols] = dims;
        Matrix::as_stored(dtype, count.saturating_mul(rows), cols, stored)?;
        let (Some(all), Some(group)) = (Packed::bytes(dtype, dims), for_packing(dtype, GroupBytes(cols))) else {
            return Err(KernelError::Weights { dtype, reason: "no interleaved layout".to_owned() });
        };
        let mut bytes = usize::try_from(all).map_err(|_| KernelError::Memory { bytes: all }).and_then(large_zeros)?;
        let start = bytes.as_ptr().align_offset(64).min(SLACK);
        let row_bytes = dtype.row_bytes(cols).unwrap_or(0);
        let groups = rows.div_ceil(ROWS);
        let out = SharedMut::new(&mut bytes[start..]);
        let grain = (TASK_BYTES * 4).div_ceil(group.max(1));
        if group > 0 {
            pool.parallel_for(count * groups, grain, |_, range| {
                for i in range {
                    let (matrix, first) = (i / groups, i % groups * ROWS);
                    let (from, until) = (matrix * rows + first, matrix * rows + rows.min(first + ROWS));
                    // SAFETY: each group is visited once.
                    let out = unsafe { out.part(i * group..(i + 1) * group) };
                    let rows = &stored[from * row_bytes..until * row_bytes];
                    for_packing(dtype, PackGroup { dtype, rows, row_bytes, cols, out });
                }
            })?;
        }
        Ok(Packed { dtype, dims, bytes, start })
    }

    /// Matrix number `index` of the stack.
    ///
    /// # Errors
    /// There are not as many.
    pub fn matrix(&self, index: usize) -> Result<Matrix<'_>, KernelError> {
        let [count, rows, cols] = self.dims;
        if index >= count {
            return Err(KernelError::mismatch("index of a matrix in a stack", format!("below {count}"), index));
        }
        let group = for_packing(self.dtype, GroupBytes(cols)).unwrap_or(0);
        let size = group * rows.div_ceil(ROWS);
        let bytes = &self.bytes[self.start + index * size..self.start + (index + 1) * size];
        Ok(Matrix { dtype: self.dtype, layout: Layout::Interleaved, rows, cols, row_bytes: group / ROWS, bytes })
    }

    /// Dimensions `[count, rows, cols]`.
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }
}

/// Zeroed memory, of large pages where there are any, that are taken when they are first written, by the thread that
/// writes them.
pub(crate) fn large_zeros(len: usize) -> Result<Vec<u8>, KernelError> {
    let none = || KernelError::Memory { bytes: len as u64 };
    let layout = std::alloc::Layout::array::<u8>(len.max(1)).map_err(|_| none())?;
    // SAFETY: the size is not 0; if not null, the memory holds `len` bytes that are set, in this layout.
    let mut bytes = unsafe {
        let p = std::alloc::alloc_zeroed(layout);
        if p.is_null() { Err(none()) } else { Ok(Vec::from_raw_parts(p, len, len.max(1))) }
    }?;
    advise_huge_pages(&mut bytes);
    Ok(bytes)
}

/// Asks for large pages: fewer faults while the memory is first written, and no page bounds that stop the processor's
/// own prefetching while it is read. A system that says no costs nothing but speed.
fn advise_huge_pages(bytes: &mut [u8]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let skip = bytes.as_ptr().align_offset(PAGE).min(bytes.len());
        let len = (bytes.len() - skip) / PAGE * PAGE;
        if len >= 2 << 20 {
            // SAFETY: whole pages inside memory that is borrowed here; their contents stay.
            unsafe { libc::madvise(bytes[skip..].as_mut_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = bytes;
}

/// The layout for products with a type.
pub(crate) fn has_packing(dtype: DType) -> bool {
    for_packing(dtype, GroupBytes(256)).is_some()
}

/// Quantises tiles of x.
struct Quantize<'a, 'b> {
    x: &'a [f32],
    cols: usize,
    first: usize,
    height: usize,
    zero: i32,
    out: &'a SharedMut<'b, u8>,
}

impl Kernel8 for Quantize<'_, '_> {
    #[inline(always)]
    fn run<S: Int8>(self, _: S) {
        let (until, bytes) = (self.first + self.height, row_bytes(self.cols));
        // SAFETY: each tile is visited once.
        let out = unsafe { self.out.part(self.first * bytes..until * bytes) };
        quantize_tile(&self.x[self.first * self.cols..until * self.cols], self.cols, self.zero, out);
    }
}

impl Cpu {
    /// The product with interleaved weights; lengths have been checked.
    pub(crate) fn packed_product(
        &mut self,
        weight: &Matrix<'_>,
        x: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let (dtype, rows, cols) = (weight.dtype, weight.rows, weight.cols);
        let Some(token) = self.isa.int8() else {
            return Err(KernelError::Weights {
                dtype,
                reason: "interleaved rows, but no products of 8 bits".to_owned(),
            });
        };
        let n = x.len() / cols;
        let groups = rows.div_ceil(ROWS);
        exact("bytes of interleaved weights", weight.bytes.len(), groups * weight.row_bytes * ROWS)?;
        let (scratch, per_thread) = self.workspace.parts(Cpu::matmul_needs(n, cols))?;
        // SAFETY: f32 are bytes, of which all values are valid in both.
        let scratch = unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<u8>(), 4 * scratch.len()) };
        let zero = for_packing(dtype, ZeroCode);
        let to = SharedMut::new(&mut scratch[..n * row_bytes(cols)]);
        let quantize = |(first, height)| token.run(Quantize { x, cols, first, height, zero, out: &to });
        if n <= TILE {
            tiles(n).for_each(quantize);
        } else {
            self.pool.parallel_for(n.div_ceil(TILE), 4, |_, range| {
                let within = |&(first, _): &(usize, usize)| range.contains(&(first / TILE));
                tiles(n).filter(within).for_each(quantize);
            })?;
        }
        let (x, out, weights) = (&*scratch, SharedMut::new(out), weight.bytes);
        let product = Product { dtype, rows, cols, weights, x, n, bias, out: &out };
        if n == 1 {
            let grain = (TASK_BYTES / (weight.row_bytes * ROWS)).max(1);
            return self.pool.parallel_for(groups, grain, |_, range| product.one_row(token, range));
        }
        let panel_rows = token.panel_rows();
        let panels = rows.div_ceil(panel_rows);
        let grain = (panels / (8 * self.pool.threads())).clamp(1, TASK_ROWS / panel_rows);
        self.pool.parallel_for(panels, grain, |thread, range| {
            let mut scratch = per_thread.lock(thread);
            product.panels(token, range, floats(&mut scratch));
        })
    }
}
