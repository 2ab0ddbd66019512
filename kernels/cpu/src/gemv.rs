//! Products with few activation rows: every weight is read once, decoded in registers and used at once.

use std::ops::Range;

use crate::decode::{F32, ForFormat, Format, Sink, decode_tail, for_format};
use crate::matrix::{Matrix, other};
use crate::shared::SharedMut;
use crate::simd::{AHEAD, Kernel, Simd, prefetch};

/// Activation rows that are multiplied with a decoded weight at a time.
const GROUP: usize = 4;
/// Elements of a type without a decoder of our own that are decoded at a time; every block length divides it.
const CHUNK: usize = 256;

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
            let bytes = t.weight.row(row);
            let bias = t.bias.map_or(0.0, |b| b[row]);
            let n = t.x.len() / t.weight.cols;
            let mut first = 0;
            while first < n {
                // SAFETY: a row holds `cols` elements of its format, and so does every row of x from `first` on.
                unsafe {
                    match n - first {
                        1 => t.write(row, first, bias, dot::<F, S, 1>(s, bytes, t.x_rows(first))),
                        2 => t.write(row, first, bias, dot::<F, S, 2>(s, bytes, t.x_rows(first))),
                        3 => t.write(row, first, bias, dot::<F, S, 3>(s, bytes, t.x_rows(first))),
                        _ => t.write(row, first, bias, dot::<F, S, GROUP>(s, bytes, t.x_rows(first))),
                    }
                }
                first += GROUP;
            }
        }
    }

    #[inline(always)]
    fn other(self) {
        let (s, t) = (self.s, self.task);
        let (dtype, cols, n) = (t.weight.dtype, t.weight.cols, t.x.len() / t.weight.cols);
        let mut buffer = [0.0; CHUNK];
        for row in t.range.clone() {
            let bias = t.bias.map_or(0.0, |b| b[row]);
            let mut rest = t.weight.row(row);
            for x in 0..n {
                t.write(row, x, bias, [0.0]);
            }
            let mut at = 0;
            while at < cols {
                let len = CHUNK.min(cols - at);
                let (now, later) = rest.split_at(dtype.row_bytes(len).unwrap_or(0).min(rest.len()));
                rest = later;
                if other(dtype, now, &mut buffer[..len]).is_err() {
                    // Lengths fit by construction and `matmul` has tried the type: never the case.
                    buffer[..len].fill(f32::NAN);
                }
                for x in 0..n {
                    let x_row = &t.x[x * cols + at..x * cols + at + len];
                    // SAFETY: both are `len` f32.
                    let [part] = unsafe { dot_f32(s, buffer.as_ptr(), len, [x_row.as_ptr()]) };
                    t.add(row, x, part);
                }
                at += len;
            }
        }
    }
}

impl Gemv<'_, '_> {
    #[inline(always)]
    fn x_rows<const R: usize>(&self, first: usize) -> ([*const f32; R], usize) {
        let mut rows = [self.x.as_ptr(); R];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = self.x[(first + r) * self.weight.cols..].as_ptr();
        }
        (rows, self.weight.cols)
    }

    #[inline(always)]
    fn write<const R: usize>(&self, row: usize, first: usize, bias: f32, sums: [f32; R]) {
        for (r, sum) in sums.into_iter().enumerate() {
            let at = (first + r) * self.weight.rows + row;
            // SAFETY: column `row` of the output belongs to the task that has weight row `row`.
            unsafe { self.out.part(at..at + 1)[0] = bias + sum };
        }
    }

    #[inline(always)]
    fn add(&self, row: usize, x: usize, part: f32) {
        let at = x * self.weight.rows + row;
        // SAFETY: as in `write`.
        unsafe { self.out.part(at..at + 1)[0] += part };
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

/// Dot products of a weight row with rows of x.
///
/// # Safety
/// `bytes` holds `n` elements of the format and each pointer is readable for as many.
#[inline(always)]
unsafe fn dot<F: Format, S: Simd, const R: usize>(s: S, bytes: &[u8], (x, n): ([*const f32; R], usize)) -> [f32; R] {
    let whole = n / F::ELEMENTS;
    let zero = s.splat(0.0);
    let mut sink = Dot::<S, R> { x, sums: [[zero; R]; 2] };
    for b in 0..whole {
        for line in (0..F::BYTES).step_by(64) {
            prefetch(bytes.as_ptr().wrapping_add(b * F::BYTES + AHEAD + line));
        }
        // SAFETY: whole units lie inside the row.
        unsafe { F::block(s, bytes.as_ptr().add(b * F::BYTES), b * F::ELEMENTS, &mut sink) };
    }
    let mut out = [0.0; R];
    for (r, out) in out.iter_mut().enumerate() {
        *out = s.sum(s.add(sink.sums[0][r], sink.sums[1][r]));
    }
    if !n.is_multiple_of(F::ELEMENTS) {
        let mut rest = [0.0; 256];
        // SAFETY: the caller's contract; the tail is shorter than a unit.
        unsafe {
            let valid = decode_tail::<F, S>(s, bytes.as_ptr(), n, &mut rest);
            for (r, sum) in out.iter_mut().enumerate() {
                for (i, w) in rest.iter().enumerate().take(valid) {
                    *sum += w * x[r].add(whole * F::ELEMENTS + i).read();
                }
            }
        }
    }
    out
}

/// Dot products of f32 rows.
///
/// # Safety
/// All pointers are readable for `n` elements.
#[inline(always)]
pub(crate) unsafe fn dot_f32<S: Simd, const R: usize>(s: S, w: *const f32, n: usize, x: [*const f32; R]) -> [f32; R] {
    // SAFETY: as many bytes as `n` f32 take.
    unsafe { dot::<F32, S, R>(s, std::slice::from_raw_parts(w.cast(), 4 * n), (x, n)) }
}
