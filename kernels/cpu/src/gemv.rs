//! Products with few activation rows: every weight is read once, decoded in registers and used at once.
//!
//! The columns are cut in chunks. In each, products are added up in two vectors in turn, in the order in which a format
//! gives its elements, and then over their lanes; the chunks' sums are added one after the other. [`dots`](crate::dots)
//! has the same order for many rows, so that a row has the same result beside any others.

use std::ops::Range;

use rocmforge_quant::DType;

use crate::decode::{F32, ForFormat, Format, Sink, decode_tail, for_format};
use crate::matrix::{Matrix, other};
use crate::shared::SharedMut;
use crate::simd::{AHEAD, Kernel, Simd, prefetch};

/// Activation rows that are multiplied with a decoded weight at a time.
const GROUP: usize = 4;
/// Columns of a chunk; every block length divides it.
pub(crate) const CHUNK: usize = 1024;

/// Weight rows `range`, times all of `x`.
pub(crate) struct Gemv<'a, 'b> {
    pub(crate) weight: &'a Matrix<'a>,
    pub(crate) range: Range<usize>,
    /// `[n, cols]`
    pub(crate) x: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
    /// `[n, rows]`
    pub(crate) out: &'a SharedMut<'b, f32>,
}

impl Kernel for Gemv<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for_format(self.weight.dtype, GemvAs { s, task: self });
    }
}

struct GemvAs<'a, 'b, S> {
    s: S,
    task: Gemv<'a, 'b>,
}

impl<S: Simd> ForFormat for GemvAs<'_, '_, S> {
    type Out = ();

    #[inline(always)]
    fn native<F: Format>(self) {
        let (s, t) = (self.s, self.task);
        for row in t.range.clone() {
            let n = t.x.len() / t.weight.cols;
            for first in (0..n).step_by(GROUP) {
                match n - first {
                    1 => t.rows::<F, S, 1>(s, row, first),
                    2 => t.rows::<F, S, 2>(s, row, first),
                    3 => t.rows::<F, S, 3>(s, row, first),
                    _ => t.rows::<F, S, GROUP>(s, row, first),
                }
            }
        }
    }

    #[inline(always)]
    fn other(self) {
        let (s, t) = (self.s, self.task);
        let (dtype, cols, n) = (t.weight.dtype, t.weight.cols, t.x.len() / t.weight.cols);
        let mut buffer = [0.0; CHUNK];
        for row in t.range.clone() {
            let mut rest = t.weight.row(row);
            for start in (0..cols).step_by(CHUNK) {
                let len = CHUNK.min(cols - start);
                let (now, later) = rest.split_at(dtype.row_bytes(len).unwrap_or(0).min(rest.len()));
                rest = later;
                decode_other(dtype, now, &mut buffer[..len]);
                for x in 0..n {
                    let at = x * t.weight.rows + row;
                    // SAFETY: column `row` of the output belongs to the task that has weight row `row`.
                    let out = &mut unsafe { t.out.part(at..at + 1) }[0];
                    let mut total = [if start > 0 { *out } else { 0.0 }];
                    let x_row = &t.x[x * cols + start..x * cols + start + len];
                    // SAFETY: both are `len` f32.
                    unsafe { dot::<F32, S, 1>(s, buffer.as_ptr().cast(), len, [x_row.as_ptr()], &mut total) };
                    let bias = t.bias.filter(|_| start + len == cols).map_or(0.0, |b| b[row]);
                    *out = bias + total[0];
                }
            }
        }
    }
}

/// Weights of a type without a decoder of our own, as f32.
pub(crate) fn decode_other(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    if other(dtype, bytes, out).is_err() {
        // Lengths fit by construction and `matmul` has tried the type: never the case.
        out.fill(f32::NAN);
    }
}

impl Gemv<'_, '_> {
    /// Weight row `row` times `R` rows of x from `first` on.
    #[inline(always)]
    fn rows<F: Format, S: Simd, const R: usize>(&self, s: S, row: usize, first: usize) {
        let (bytes, cols) = (self.weight.row(row), self.weight.cols);
        let mut x = [self.x.as_ptr(); R];
        x.iter_mut().enumerate().for_each(|(r, x)| *x = self.x[(first + r) * cols..(first + r + 1) * cols].as_ptr());
        let mut totals = [0.0; R];
        for start in (0..cols).step_by(CHUNK) {
            let weights = bytes[start / F::ELEMENTS * F::BYTES..].as_ptr();
            // SAFETY: a row holds `cols` elements of its format, and so does every row of x.
            unsafe { dot::<F, S, R>(s, weights, CHUNK.min(cols - start), x.map(|x| x.add(start)), &mut totals) };
        }
        let bias = self.bias.map_or(0.0, |b| b[row]);
        for (r, total) in totals.into_iter().enumerate() {
            let at = (first + r) * self.weight.rows + row;
            // SAFETY: column `row` of the output belongs to the task that has weight row `row`.
            unsafe { self.out.part(at..at + 1)[0] = bias + total };
        }
    }
}

/// Products of decoded weights with `R` rows of activations.
struct Dot<S: Simd, const R: usize> {
    x: [*const f32; R],
    sums: [[S::V; R]; 2],
}

impl<S: Simd, const R: usize> Sink<S> for Dot<S, R> {
    #[inline(always)]
    unsafe fn put<const SLOT: usize>(&mut self, s: S, at: usize, v: S::V) {
        for r in 0..R {
            // SAFETY: the rows of x are as long as the weight row.
            let x = unsafe { s.load(self.x[r].add(at)) };
            self.sums[SLOT][r] = s.mul_add(v, x, self.sums[SLOT][r]);
        }
    }
}

/// Adds the products of a chunk of `n` elements of a weight row with rows of x to the totals.
///
/// # Safety
/// `weights` is readable for `n` elements of the format and each of `x` for as many.
#[inline(always)]
unsafe fn dot<F: Format, S: Simd, const R: usize>(
    s: S,
    weights: *const u8,
    n: usize,
    x: [*const f32; R],
    totals: &mut [f32; R],
) {
    let whole = n / F::ELEMENTS;
    let mut sink = Dot::<S, R> { x, sums: [[s.splat(0.0); R]; 2] };
    for b in 0..whole {
        for line in (0..F::BYTES).step_by(64) {
            prefetch(weights.wrapping_add(b * F::BYTES + AHEAD + line));
        }
        // SAFETY: whole units lie inside the row.
        unsafe { F::block(s, weights.add(b * F::BYTES), b * F::ELEMENTS, &mut sink) };
    }
    for (r, total) in totals.iter_mut().enumerate() {
        *total += s.sum(s.add(sink.sums[0][r], sink.sums[1][r]));
    }
    if !n.is_multiple_of(F::ELEMENTS) {
        let mut rest = [0.0; 256];
        // SAFETY: the caller's contract; the tail is shorter than a unit.
        unsafe {
            let valid = decode_tail::<F, S>(s, weights, n, &mut rest);
            for (r, total) in totals.iter_mut().enumerate() {
                for (i, w) in rest.iter().enumerate().take(valid) {
                    *total += w * x[r].add(whole * F::ELEMENTS + i).read();
                }
            }
        }
    }
}
