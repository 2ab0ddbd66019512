//! Weights in a layout that is faster than the file's.

use std::borrow::Cow;

use rocmforge_quant::DType;

use crate::columns;
use crate::error::{KernelError, exact};
use crate::int8::{self, ROWS};
use crate::isa::Isa;
use crate::matrix::{Layout, Matrix};
use crate::pool::Pool;
use crate::shared::SharedMut;
use crate::zeros::zeros;

/// Bytes of a group per task, about.
const TASK_BYTES: usize = 4 * int8::TASK_BYTES;
/// Groups start at cache lines.
const LINE: usize = 64;

/// A stack of weight matrices `[count, rows, cols]` with sixteen rows interleaved.
#[derive(Clone, Debug)]
pub struct Packed<'a> {
    dtype: DType,
    dims: [usize; 3],
    bytes: Cow<'a, [u8]>,
    /// Of `bytes`.
    start: usize,
}

/// How the groups of a type are laid out, and the bytes of one.
fn group(dtype: DType, cols: usize) -> Option<(Layout, usize)> {
    dtype.row_bytes(cols)?;
    if columns::has_columns(dtype) {
        return Some((Layout::Columns, columns::group_bytes(cols)?));
    }
    Some((Layout::Interleaved, int8::packed_group_bytes(dtype, cols)?))
}

impl Packed<'static> {
    /// Interleaves a stack in the layout of its file, in memory of its own.
    ///
    /// # Errors
    /// The type has no such layout, the bytes are not as many as the dimensions ask for, or there is no memory.
    pub fn new(pool: &Pool, dtype: DType, dims: [usize; 3], stored: &[u8]) -> Result<Packed<'static>, KernelError> {
        Matrix::as_stored(dtype, dims[0].saturating_mul(dims[1]), dims[2], stored)?;
        let len = size(dtype, dims)?;
        let mut bytes = large_zeros(len.saturating_add(LINE))?;
        let start = bytes.as_ptr().align_offset(LINE).min(LINE);
        Packed::write(pool, dtype, dims, stored, &mut bytes[start..start + len])?;
        Ok(Packed { dtype, dims, bytes: Cow::Owned(bytes), start })
    }

    /// Interleaves a stack in the layout of its file. `out` holds zeros, as many as [`bytes`](Packed::bytes) says.
    ///
    /// # Errors
    /// As [`new`](Packed::new).
    pub fn write(
        pool: &Pool,
        dtype: DType,
        dims: [usize; 3],
        stored: &[u8],
        out: &mut [u8],
    ) -> Result<(), KernelError> {
        let [count, rows, cols] = dims;
        Matrix::as_stored(dtype, count.saturating_mul(rows), cols, stored)?;
        let (layout, group) = group(dtype, cols).ok_or_else(|| no_layout(dtype))?;
        exact("bytes of interleaved weights", out.len(), size(dtype, dims)?)?;
        let row_bytes = dtype.row_bytes(cols).unwrap_or(0);
        let groups = rows.div_ceil(ROWS);
        if group == 0 {
            return Ok(());
        }
        let out = SharedMut::new(out);
        pool.parallel_for(count * groups, TASK_BYTES.div_ceil(group), |_, range| {
            for i in range {
                let (matrix, first) = (i / groups, i % groups * ROWS);
                let (from, until) = (matrix * rows + first, matrix * rows + rows.min(first + ROWS));
                // SAFETY: each group is visited once.
                let out = unsafe { out.part(i * group..(i + 1) * group) };
                let rows = &stored[from * row_bytes..until * row_bytes];
                match layout {
                    Layout::Columns => columns::pack_group(rows, cols, out),
                    _ => int8::interleave(dtype, rows, row_bytes, cols, out),
                }
            }
        })
    }

    /// Whether there is such a layout for a type, and kernels that multiply with it.
    pub fn supports(dtype: DType, isa: Isa) -> bool {
        Layout::choose(dtype, isa) != Layout::AsStored
    }

    /// Whether products with the layout of a type round activations to 8 bits.
    pub fn rounds(dtype: DType) -> bool {
        !columns::has_columns(dtype)
    }

    /// Bytes that a stack takes, a multiple of a cache line; `None` for types without such a layout and for sizes that
    /// overflow.
    pub fn bytes(dtype: DType, [count, rows, cols]: [usize; 3]) -> Option<u64> {
        let (_, group) = group(dtype, cols)?;
        let groups = rows.div_ceil(ROWS).checked_mul(count)?;
        Some(groups.checked_mul(group)?.checked_next_multiple_of(LINE)? as u64)
    }
}

impl<'a> Packed<'a> {
    /// A stack that [`write`](Packed::write) has interleaved.
    ///
    /// # Errors
    /// The type has no such layout, or the bytes are not as many as the dimensions ask for.
    pub fn over(dtype: DType, dims: [usize; 3], bytes: &'a [u8]) -> Result<Packed<'a>, KernelError> {
        exact("bytes of interleaved weights", bytes.len(), size(dtype, dims)?)?;
        Ok(Packed { dtype, dims, bytes: Cow::Borrowed(bytes), start: 0 })
    }

    /// Matrix number `index` of the stack.
    ///
    /// # Errors
    /// There are not as many.
    pub fn matrix(&self, index: usize) -> Result<Matrix<'_>, KernelError> {
        Packed::matrix_of(self.dtype, self.dims, &self.bytes[self.start..], index)
    }

    /// The same of the bytes of a stack.
    ///
    /// # Errors
    /// As [`matrix`](Packed::matrix); bytes that are not the stack's are a contained panic.
    pub fn matrix_of(dtype: DType, dims: [usize; 3], bytes: &[u8], index: usize) -> Result<Matrix<'_>, KernelError> {
        let [count, rows, cols] = dims;
        if index >= count {
            return Err(KernelError::mismatch("index of a matrix in a stack", format!("below {count}"), index));
        }
        let (layout, group) = group(dtype, cols).ok_or_else(|| no_layout(dtype))?;
        let size = group * rows.div_ceil(ROWS);
        let bytes = &bytes[index * size..(index + 1) * size];
        Ok(Matrix { dtype, layout, rows, cols, row_bytes: group / ROWS, bytes })
    }

    /// Dimensions `[count, rows, cols]`.
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }
}

/// Bytes of a stack.
fn size(dtype: DType, dims: [usize; 3]) -> Result<usize, KernelError> {
    let bytes = Packed::bytes(dtype, dims).ok_or_else(|| no_layout(dtype))?;
    usize::try_from(bytes).map_err(|_| KernelError::Memory { bytes })
}

fn no_layout(dtype: DType) -> KernelError {
    KernelError::Weights { dtype, reason: "no interleaved layout".to_owned() }
}

/// Zeroed memory, of large pages where there are any, that are taken when they are first written, by the thread that
/// writes them.
///
/// # Errors
/// The system has no memory.
pub fn large_zeros(len: usize) -> Result<Vec<u8>, KernelError> {
    let mut bytes = zeros(len)?;
    advise_huge_pages(&mut bytes);
    Ok(bytes)
}

/// Asks for large pages: fewer faults while the memory is first written, and no page bounds that stop the processor's
/// own prefetching while it is read. A system that says no costs nothing but speed.
pub fn advise_huge_pages<T>(memory: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let (start, bytes) = (memory.as_mut_ptr().cast::<u8>(), size_of_val(memory));
        let skip = start.align_offset(PAGE).min(bytes);
        let len = (bytes - skip) / PAGE * PAGE;
        if len >= 2 << 20 {
            // SAFETY: whole pages inside memory that is borrowed here; their contents stay.
            unsafe { libc::madvise(start.wrapping_add(skip).cast(), len, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}
