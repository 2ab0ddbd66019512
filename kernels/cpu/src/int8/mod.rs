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
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

use rocmforge_quant::DType;

use crate::cpu::Cpu;
use crate::error::{KernelError, exact};
use crate::matrix::Matrix;
use crate::shared::SharedMut;
use crate::workspace::{Held, floats};
use activations::{TILE, quantize_tile, row_bytes, tiles};
pub(crate) use format::ROWS;
use format::{ForPacking, Packing, for_packing};
use pack::{group_bytes, pack_group};
use product::Product;
use scales::Scales;
pub(crate) use simd::{Int8, Kernel8, Token8};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Vnni256, Vnni512};

/// Bytes of weights per task of a product with few rows.
pub(crate) const TASK_BYTES: usize = 64 << 10;

/// Weight rows per task of a product with many rows, at most.
const TASK_ROWS: usize = 128;

/// Activations per task that rounds them.
const QUANTIZED: usize = 32 << 10;

/// Floats of scratch memory for `n` rows of `cols` activations.
pub(crate) fn scratch(n: usize, cols: usize) -> usize {
    n.saturating_mul(row_bytes(cols)).div_ceil(4)
}

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

/// The code of zero, and whether products ask for sums that are multiplied with it.
struct ZeroCode;

impl ForPacking for ZeroCode {
    type Out = (i32, bool);

    fn format<P: Packing>(self) -> (i32, bool) {
        (P::ZERO, !(<P::K as Scales>::MINS && <P::K as Scales>::PARTS == 1))
    }

    fn none(self) -> (i32, bool) {
        (0, true)
    }
}

/// Interleaves the rows of a group.
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

/// Bytes of a group of rows of `cols`; `None` for types that have no such layout.
pub(crate) fn packed_group_bytes(dtype: DType, cols: usize) -> Option<usize> {
    for_packing(dtype, GroupBytes(cols))
}

/// Interleaves up to 16 rows of a file; `out` is a group of zeros.
pub(crate) fn interleave(dtype: DType, rows: &[u8], row_bytes: usize, cols: usize, out: &mut [u8]) {
    for_packing(dtype, PackGroup { dtype, rows, row_bytes, cols, out });
}

/// The layout for products with a type.
pub(crate) fn has_packing(dtype: DType) -> bool {
    packed_group_bytes(dtype, 256).is_some()
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
    fn run<S: Int8>(self, s: S) {
        let (until, bytes) = (self.first + self.height, row_bytes(self.cols));
        // SAFETY: each tile is visited once.
        let out = unsafe { self.out.part(self.first * bytes..until * bytes) };
        quantize_tile(s, &self.x[self.first * self.cols..until * self.cols], self.cols, self.zero, out);
    }
}

impl Cpu {
    /// The product with interleaved weights; lengths have been checked.
    pub(crate) fn packed_product(
        &mut self,
        weight: &Matrix<'_>,
        (x, key): (&[f32], Option<u64>),
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
        self.quantize(token, dtype, (x, key), cols)?;
        let held = self.workspace.holds();
        let (scratch, per_thread) = self.workspace.parts(Cpu::matmul_needs(n, cols))?;
        // SAFETY: f32 are bytes, of which all values are valid in both.
        let scratch = unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<u8>(), 4 * scratch.len()) };
        let (x, out, weights) = (&*scratch, SharedMut::new(out), weight.bytes);
        let product = Product { dtype, rows, cols, weights, x, n, bias, out: &out };
        if n == 1 {
            let grain = (TASK_BYTES / (weight.row_bytes * ROWS)).max(1);
            self.pool.parallel_for(groups, grain, |_, range| product.one_row(token, range))?;
        } else {
            let panel_rows = token.panel_rows();
            let panels = rows.div_ceil(panel_rows);
            let grain = (panels / (8 * self.pool.threads())).clamp(1, TASK_ROWS / panel_rows);
            self.pool.parallel_for(panels, grain, |thread, range| {
                let mut scratch = per_thread.lock(thread);
                product.panels(token, range, floats(&mut scratch));
            })?;
        }
        self.workspace.hold(held);
        Ok(())
    }

    /// Rounds rows of `cols` for weights of a type, unless the scratch memory holds them from the product before.
    fn quantize(
        &mut self,
        token: Token8,
        dtype: DType,
        (x, key): (&[f32], Option<u64>),
        cols: usize,
    ) -> Result<(), KernelError> {
        let (n, (zero, sums)) = (x.len() / cols, for_packing(dtype, ZeroCode));
        let wanted = key.map(|key| Held { key, rows: n, cols, zero });
        let same = |held: Held| Some(Held { zero: if sums { held.zero } else { zero }, ..held }) == wanted;
        if self.workspace.holds().is_some_and(same) {
            return Ok(());
        }
        let (scratch, _) = self.workspace.parts(Cpu::matmul_needs(n, cols))?;
        // SAFETY: f32 are bytes, of which all values are valid in both.
        let scratch = unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<u8>(), 4 * scratch.len()) };
        let to = SharedMut::new(&mut scratch[..n * row_bytes(cols)]);
        let quantize = |(first, height)| token.run(Quantize { x, cols, first, height, zero, out: &to });
        if n <= TILE {
            tiles(n).for_each(quantize);
        } else {
            let grain = (QUANTIZED / (TILE * cols)).max(1);
            self.pool.parallel_for(n.div_ceil(TILE), grain, |_, range| {
                let within = |&(first, _): &(usize, usize)| range.contains(&(first / TILE));
                tiles(n).filter(within).for_each(quantize);
            })?;
        }
        self.workspace.hold(wanted);
        Ok(())
    }
}
