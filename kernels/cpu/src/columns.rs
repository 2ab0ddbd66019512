//! Matrices of half precision with the rows of a group side by side, column after column: a product adds to sixteen sums
//! at once, no sum over lanes ends a row, and memory is read as one stream.

use std::ops::Range;

use rocmforge_quant::DType;

use crate::matrix::Matrix;
use crate::shared::SharedMut;
use crate::simd::{AHEAD, Kernel, Simd, prefetch};

/// Rows of a group.
pub(crate) const ROWS: usize = 16;
/// Bytes of an element.
pub(crate) const BYTES: usize = 2;
/// Most rows of x for which weights are decoded as they are used, instead of once per panel.
pub(crate) const FEW_ROWS: usize = 16;
/// Columns of a chunk: in each, the products of the even columns are added up from zero and so are those of the odd ones,
/// and these two sums are added to the total of the chunks before. All products of floats share this order, so that a row
/// of x has the same result beside any others.
pub(crate) const CHUNK: usize = 1024;
/// Columns that are copied at a time.
const COPIED: usize = 32;

/// Whether a type has this layout.
pub(crate) fn has_columns(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// Bytes of a group with rows of `cols`.
pub(crate) fn group_bytes(cols: usize) -> Option<usize> {
    cols.checked_mul(ROWS * BYTES)
}

/// Puts up to 16 rows of `cols` side by side; `out` holds zeros.
pub(crate) fn pack_group(rows: &[u8], cols: usize, out: &mut [u8]) {
    let (out, row_bytes) = (out.as_chunks_mut::<BYTES>().0, cols * BYTES);
    for start in (0..cols).step_by(COPIED) {
        // A few columns of all rows, so that what is written stays in the first-level cache.
        let end = cols.min(start + COPIED);
        for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
            let elements = row[start * BYTES..end * BYTES].as_chunks::<BYTES>().0;
            let out = out[start * ROWS + r..].iter_mut().step_by(ROWS);
            out.zip(elements).for_each(|(to, from)| *to = *from);
        }
    }
}

/// The place of a column of a chunk of `len`.
#[inline(always)]
pub(crate) fn evens_first(column: usize, len: usize) -> usize {
    column / 2 + if column.is_multiple_of(2) { 0 } else { len.div_ceil(2) }
}

/// How an element is read.
trait Element {
    /// # Safety
    /// `p` is readable for `LANES` elements.
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::V;
}

struct Half;
struct BHalf;

impl Element for Half {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::V {
        // SAFETY: the caller's contract.
        unsafe { s.load_f16(p) }
    }
}

impl Element for BHalf {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::V {
        // SAFETY: the caller's contract.
        unsafe { s.load_bf16(p) }
    }
}

/// Columns `columns` of `width` weight rows from `first` on, a multiple of 16, as f32, `[columns, width]`, the even ones
/// first; rows that do not exist are zeros.
#[inline(always)]
pub(crate) fn unpack<S: Simd>(s: S, weight: &Matrix<'_>, first: usize, columns: Range<usize>, panel: &mut [f32]) {
    match weight.dtype {
        DType::F16 => unpack_as::<S, Half>(s, weight, first, columns, panel),
        _ => unpack_as::<S, BHalf>(s, weight, first, columns, panel),
    }
}

#[inline(always)]
fn unpack_as<S: Simd, E: Element>(s: S, weight: &Matrix<'_>, first: usize, columns: Range<usize>, panel: &mut [f32]) {
    let width = 2 * S::LANES;
    assert!(ROWS.is_multiple_of(S::LANES) && panel.len() >= columns.len() * width);
    for v in 0..2 {
        let row = first + v * S::LANES;
        let to = panel[v * S::LANES..].as_mut_ptr();
        let group = row / ROWS * ROWS * weight.row_bytes;
        let valid = row < weight.rows;
        let from = if valid { &weight.bytes[group..group + ROWS * weight.row_bytes] } else { &[] };
        for column in columns.clone() {
            // SAFETY: the group holds the column, and the panel a row for it (assertion above).
            unsafe {
                let elements = from.as_ptr().wrapping_add((column * ROWS + row % ROWS) * BYTES);
                let to = to.wrapping_add(evens_first(column - columns.start, columns.len()) * width);
                s.store(to, if valid { E::load(s, elements) } else { s.splat(0.0) });
            }
        }
    }
}

/// Groups `range`, times all of `x`.
pub(crate) struct Groups<'a, 'b> {
    pub(crate) weight: &'a Matrix<'a>,
    pub(crate) range: Range<usize>,
    /// `[n, cols]`
    pub(crate) x: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
    /// `[n, rows]`
    pub(crate) out: &'a SharedMut<'b, f32>,
}

impl Kernel for Groups<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.weight.dtype {
            DType::F16 => self.all::<S, Half>(s),
            _ => self.all::<S, BHalf>(s),
        }
    }
}

impl Groups<'_, '_> {
    #[inline(always)]
    fn all<S: Simd, E: Element>(&self, s: S) {
        let n = self.x.len() / self.weight.cols;
        for group in self.range.clone() {
            let mut first = 0;
            while first < n {
                // The sums and the weights of a column fit the registers.
                first += match (ROWS / S::LANES, n - first) {
                    (1, 8..) => self.rows::<S, E, 1, 8>(s, group, first),
                    (1, 4..) => self.rows::<S, E, 1, 4>(s, group, first),
                    (1, 2..) => self.rows::<S, E, 1, 2>(s, group, first),
                    (1, _) => self.rows::<S, E, 1, 1>(s, group, first),
                    (2, 3 | 5..) => self.rows::<S, E, 2, 3>(s, group, first),
                    (2, 2..) => self.rows::<S, E, 2, 2>(s, group, first),
                    (2, _) => self.rows::<S, E, 2, 1>(s, group, first),
                    (_, _) => self.rows::<S, E, 4, 1>(s, group, first),
                };
            }
        }
    }

    /// A group of `V` vectors times `R` rows of x from `first` on.
    #[inline(always)]
    fn rows<S: Simd, E: Element, const V: usize, const R: usize>(&self, s: S, group: usize, first: usize) -> usize {
        let (weight, cols) = (self.weight, self.weight.cols);
        let weights = weight.bytes[group * ROWS * weight.row_bytes..(group + 1) * ROWS * weight.row_bytes].as_ptr();
        assert!(V * S::LANES == ROWS && weight.row_bytes == cols * BYTES);
        let mut x = [self.x.as_ptr(); R];
        x.iter_mut().enumerate().for_each(|(r, x)| *x = self.x[(first + r) * cols..(first + r + 1) * cols].as_ptr());
        let mut totals = [[s.splat(0.0); R]; V];
        for start in (0..cols).step_by(CHUNK) {
            let end = cols.min(start + CHUNK);
            let mut sums = [[[s.splat(0.0); R]; V]; 2];
            // SAFETY: each column has 16 weights and one element in each row of x.
            unsafe {
                for column in (start..end - end % 2).step_by(2) {
                    let at = weights.add(column * ROWS * BYTES);
                    prefetch(at.wrapping_add(AHEAD));
                    add_column::<S, E, V, R>(s, at, x, column, &mut sums[0]);
                    add_column::<S, E, V, R>(s, at.add(ROWS * BYTES), x, column + 1, &mut sums[1]);
                }
                if end % 2 == 1 {
                    add_column::<S, E, V, R>(s, weights.add((end - 1) * ROWS * BYTES), x, end - 1, &mut sums[0]);
                }
            }
            let [even, odd] = &sums;
            for (totals, (even, odd)) in totals.iter_mut().zip(even.iter().zip(odd)) {
                for (total, (&even, &odd)) in totals.iter_mut().zip(even.iter().zip(odd)) {
                    *total = s.add(s.add(*total, even), odd);
                }
            }
        }
        let columns = group * ROWS..weight.rows.min((group + 1) * ROWS);
        for r in 0..R {
            let mut results = [0.0; ROWS];
            for (v, totals) in totals.iter().enumerate() {
                // SAFETY: V vectors are as long as the results (assertion above).
                unsafe { s.store(results.as_mut_ptr().add(v * S::LANES), totals[r]) };
            }
            if let Some(bias) = self.bias {
                results.iter_mut().zip(&bias[columns.clone()]).for_each(|(y, b)| *y += b);
            }
            let at = (first + r) * weight.rows;
            // SAFETY: these columns of the output belong to the task that has this group.
            let out = unsafe { self.out.part(at + columns.start..at + columns.end) };
            out.copy_from_slice(&results[..out.len()]);
        }
        R
    }
}

/// Adds the products of a column of a group, of `weights`, with that of each row of x. No closure, which may not be compiled into
/// the loop and then lacks its instruction set.
/// # Safety
/// `weights` is readable for `V` vectors, each of `x` has the column.
#[inline(always)]
unsafe fn add_column<S: Simd, E: Element, const V: usize, const R: usize>(
    s: S,
    weights: *const u8,
    x: [*const f32; R],
    column: usize,
    sums: &mut [[S::V; R]; V],
) {
    // SAFETY: the caller's contract.
    unsafe {
        for (v, sums) in sums.iter_mut().enumerate() {
            let w = E::load(s, weights.add(v * S::LANES * BYTES));
            for r in 0..R {
                sums[r] = s.mul_add(w, s.splat(*x[r].add(column)), sums[r]);
            }
        }
    }
}
