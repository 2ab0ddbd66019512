use std::sync::OnceLock;

use rocmforge_quant::DType;

use crate::columns::has_columns;
use crate::decode::{ForFormat, Format, decode_row, for_format};
use crate::error::{KernelError, exact};
use crate::int8::has_packing;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd};

/// How a weight matrix lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// Row after row, in the blocks of the file. Multiplied as f32.
    AsStored,
    /// Sixteen rows interleaved, as [`Packed`](crate::Packed) makes it. Multiplied as 8-bit integers.
    Interleaved,
    /// Sixteen rows side by side, column after column, as [`Packed`](crate::Packed) makes it of types of half precision.
    /// Multiplied as f32.
    Columns,
}

impl Layout {
    /// The layout in which a matrix of this type is fastest.
    pub fn choose(dtype: DType, isa: Isa) -> Layout {
        if has_columns(dtype) {
            return if isa.is_scalar() { Layout::AsStored } else { Layout::Columns };
        }
        match isa.int8() {
            Some(_) if has_packing(dtype) => Layout::Interleaved,
            _ => Layout::AsStored,
        }
    }
}

/// A weight matrix `[rows, cols]` over bytes that somebody else owns; they need no alignment.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub(crate) dtype: DType,
    pub(crate) layout: Layout,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_bytes: usize,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// A matrix in the layout of its file.
    ///
    /// # Errors
    /// Rows are no whole blocks, or the bytes are not as many as `rows * cols` elements take.
    pub fn as_stored(dtype: DType, rows: usize, cols: usize, bytes: &'a [u8]) -> Result<Matrix<'a>, KernelError> {
        let Some(row_bytes) = dtype.row_bytes(cols) else {
            let blocks = format!("rows of whole {dtype} blocks of {}", dtype.layout().block_elements);
            return Err(KernelError::mismatch("columns of a matrix", blocks, cols));
        };
        let expected = row_bytes.saturating_mul(rows);
        exact("bytes of a matrix", bytes.len(), expected)?;
        Ok(Matrix { dtype, layout: Layout::AsStored, rows, cols, row_bytes, bytes })
    }

    /// Rows: outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The bytes of a row.
    pub(crate) fn row(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.row_bytes..(row + 1) * self.row_bytes]
    }

    /// Matrix number `index` of a stack `[count, rows, cols]` whose bytes these are.
    ///
    /// # Errors
    /// As [`as_stored`](Matrix::as_stored); `index` is not below `count`.
    pub fn of_stack(
        dtype: DType,
        [count, rows, cols]: [usize; 3],
        bytes: &'a [u8],
        index: usize,
    ) -> Result<Matrix<'a>, KernelError> {
        let all = Matrix::as_stored(dtype, count.saturating_mul(rows), cols, bytes)?;
        if index >= count {
            return Err(KernelError::mismatch("index of a matrix in a stack", format!("below {count}"), index));
        }
        let bytes = &bytes[index * rows * all.row_bytes..(index + 1) * rows * all.row_bytes];
        Ok(Matrix { rows, bytes, ..all })
    }

    /// A row as f32.
    ///
    /// # Errors
    /// The row does not exist, `out` is not `cols` long, the type cannot be decoded, or rows are interleaved.
    pub fn decode_row(&self, isa: Isa, row: usize, out: &mut [f32]) -> Result<(), KernelError> {
        if self.layout != Layout::AsStored {
            return Err(KernelError::mismatch("layout of a matrix", "rows as stored", "interleaved rows"));
        }
        if row >= self.rows {
            return Err(KernelError::mismatch("row of a matrix", format!("below {}", self.rows), row));
        }
        decode(isa, self.dtype, self.row(row), out)
    }
}

/// `bytes`, elements of a type in the file's layout, as f32.
///
/// # Errors
/// The lengths do not fit, or the type cannot be decoded.
pub fn decode(isa: Isa, dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), KernelError> {
    let expected = dtype.row_bytes(out.len());
    if expected != Some(bytes.len()) {
        let expected = expected.map_or(format!("whole {dtype} blocks"), |n| n.to_string());
        return Err(KernelError::mismatch("bytes of weights", expected, bytes.len()));
    }
    isa.run(Decode { dtype, bytes, out })
}

/// Whether there is a decoder of our own.
pub(crate) struct Native;

impl ForFormat for Native {
    type Out = bool;

    fn native<F: Format>(self) -> bool {
        true
    }

    fn other(self) -> bool {
        false
    }
}

/// Whether weights of this type can be computed with.
pub fn can_decode(dtype: DType) -> bool {
    if for_format(dtype, Native) {
        return true;
    }
    static OTHERS: OnceLock<Vec<DType>> = OnceLock::new();
    OTHERS.get_or_init(|| DType::ALL.iter().copied().filter(|&d| try_decoding(d)).collect()).contains(&dtype)
}

fn try_decoding(dtype: DType) -> bool {
    let layout = dtype.layout();
    let (bytes, mut out) = (vec![0; layout.block_bytes], vec![0.0; layout.block_elements]);
    decode(Isa::scalar(), dtype, &bytes, &mut out).is_ok()
}

struct Decode<'a> {
    dtype: DType,
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl Kernel for Decode<'_> {
    type Out = Result<(), KernelError>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Out {
        for_format(self.dtype, DecodeAs { s, task: self })
    }
}

struct DecodeAs<'a, S> {
    s: S,
    task: Decode<'a>,
}

impl<S: Simd> ForFormat for DecodeAs<'_, S> {
    type Out = Result<(), KernelError>;

    #[inline(always)]
    fn native<F: Format>(self) -> Self::Out {
        let Decode { bytes, out, .. } = self.task;
        // SAFETY: `decode` has checked that the bytes hold exactly as many elements as `out`.
        unsafe { decode_row::<F, S>(self.s, bytes.as_ptr(), out.len(), out.as_mut_ptr()) };
        Ok(())
    }

    fn other(self) -> Self::Out {
        other(self.task.dtype, self.task.bytes, self.task.out)
    }
}

/// Types without a decoder of our own.
pub(crate) fn other(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), KernelError> {
    rocmforge_quant::dequantize(dtype, bytes, out).map_err(|e| KernelError::Weights { dtype, reason: e.to_string() })
}
