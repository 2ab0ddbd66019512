//! Products with many activation rows, as floats: a panel of weight rows is decoded once and multiplied with every row of x by a
//! register tile of `TILE_ROWS` rows by `2 * LANES` columns. Matrices of half precision whose rows lie side by side come with
//! any number of rows, others with more than few.

use rocmforge_quant::DType;

use crate::columns::{CHUNK, evens_first, unpack};
use crate::decode::{ForFormat, Format, decode_row, for_format};
use crate::gemv::decode_other;
use crate::matrix::{Layout, Matrix};
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd};

/// Inputs per panel: with 32 weight rows 128 KiB, so that the panel stays in the second-level cache.
const DEPTH: usize = CHUNK;
/// Inputs decoded and transposed at a time; every block length divides it.
const SLAB: usize = 256;
/// Widest panel, in weight rows, of any instruction set.
const MOST_WIDTH: usize = 32;
/// Tallest register tile of any instruction set.
pub(crate) const MOST_TILE_ROWS: usize = 12;
/// Elements of scratch memory per thread.
pub(crate) const PER_THREAD: usize = MOST_WIDTH * (DEPTH + SLAB);

/// Width of a panel and height of a tile.
pub(crate) struct TileShape;

impl Kernel for TileShape {
    type Out = (usize, usize);

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (usize, usize) {
        (2 * S::LANES, S::TILE_ROWS)
    }
}

/// Copies the rows of one tile, `[rows, cols]` with `rows <= height`, to `out` as `[cols, height]`, padded with zeros; of each
/// chunk, for matrices whose rows lie side by side, the even columns first.
pub(crate) fn pack_tile(x: &[f32], cols: usize, height: usize, layout: Layout, out: &mut [f32]) {
    let rows = x.len() / cols;
    if rows < height {
        out.fill(0.0);
    }
    for (r, row) in x.chunks_exact(cols).enumerate() {
        for (row, out) in row.chunks(DEPTH).zip(out.chunks_mut(DEPTH * height)) {
            match layout {
                Layout::Columns => {
                    row.iter().enumerate().for_each(|(c, &x)| out[evens_first(c, row.len()) * height + r] = x);
                }
                _ => row.iter().zip(out.chunks_exact_mut(height)).for_each(|(&x, to)| to[r] = x),
            }
        }
    }
}

/// One panel of weight rows, times all of x.
pub(crate) struct Panel<'a, 'b> {
    pub(crate) weight: &'a Matrix<'a>,
    /// First weight row of the panel.
    pub(crate) first: usize,
    /// Tiles of x, `[tiles, cols, TILE_ROWS]`.
    pub(crate) packed: &'a [f32],
    /// Rows of x.
    pub(crate) n: usize,
    pub(crate) bias: Option<&'a [f32]>,
    /// `[n, rows]`
    pub(crate) out: &'a SharedMut<'b, f32>,
    /// At least `PER_THREAD` elements.
    pub(crate) scratch: &'a mut [f32],
}

impl Kernel for Panel<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = 2 * S::LANES;
        let (panel, slab) = self.scratch.split_at_mut(width * DEPTH);
        let valid = (self.weight.rows - self.first).min(width);
        let (cols, columns) = (self.weight.cols, self.weight.layout == Layout::Columns);
        for start in (0..cols).step_by(DEPTH) {
            let end = cols.min(start + DEPTH);
            if columns {
                unpack(s, self.weight, self.first, start..end, panel);
            }
            for at in (start..end).step_by(SLAB).filter(|_| !columns) {
                let n = SLAB.min(end - at);
                fill_slab(s, self.weight, self.first, valid, at, n, slab);
                transpose_slab(s, slab, n, &mut panel[(at - start) * width..]);
            }
            let part = Part {
                spans: if columns { [(end - start).div_ceil(2), (end - start) / 2] } else { [end - start, 0] },
                begins: start == 0,
                bias: self.bias.filter(|_| end == cols),
            };
            for (tile, x) in self.packed.chunks_exact(cols * S::TILE_ROWS).enumerate() {
                let x = &x[start * S::TILE_ROWS..end * S::TILE_ROWS];
                let place = Place {
                    rows: tile * S::TILE_ROWS..self.n.min((tile + 1) * S::TILE_ROWS),
                    first: self.first,
                    valid,
                    stride: self.weight.rows,
                    out: self.out,
                };
                match S::TILE_ROWS {
                    12 => tile_product::<S, 12>(s, panel, x, &place, &part),
                    6 => tile_product::<S, 6>(s, panel, x, &place, &part),
                    _ => tile_product::<S, 4>(s, panel, x, &place, &part),
                }
            }
        }
    }
}

/// A part of the columns.
struct Part<'a> {
    /// Columns whose products are added up from zero, one after the other.
    spans: [usize; 2],
    /// Whether it is the first.
    begins: bool,
    /// What is added at the end, if it is the last.
    bias: Option<&'a [f32]>,
}

/// Decodes columns `at..at + n` of `valid` weight rows to `slab`, `[width, SLAB]`, padded with zeros.
#[inline(always)]
fn fill_slab<S: Simd>(s: S, weight: &Matrix<'_>, first: usize, valid: usize, at: usize, n: usize, slab: &mut [f32]) {
    for (r, out) in slab[..2 * S::LANES * SLAB].chunks_exact_mut(SLAB).enumerate() {
        if r < valid {
            // `at` is a multiple of SLAB and so of the block length.
            let from = weight.dtype.row_bytes(at).unwrap_or(0);
            let until = weight.dtype.row_bytes(at + n).unwrap_or(weight.row_bytes);
            let bytes = &weight.row(first + r)[from..until];
            for_format(weight.dtype, FillRow { s, dtype: weight.dtype, bytes, out: &mut out[..n] });
            out[n..].fill(0.0);
        } else {
            out.fill(0.0);
        }
    }
}

struct FillRow<'a, S> {
    s: S,
    dtype: DType,
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl<S: Simd> ForFormat for FillRow<'_, S> {
    type Out = ();

    #[inline(always)]
    fn native<F: Format>(self) {
        debug_assert_eq!(self.dtype.row_bytes(self.out.len()), Some(self.bytes.len()));
        // SAFETY: the bytes are those of as many elements as `out` has.
        unsafe { decode_row::<F, S>(self.s, self.bytes.as_ptr(), self.out.len(), self.out.as_mut_ptr()) }
    }

    fn other(self) {
        decode_other(self.dtype, self.bytes, self.out);
    }
}

/// `[width, SLAB]` to `[n, width]`; `n` is rounded up to 8.
#[inline(always)]
fn transpose_slab<S: Simd>(s: S, slab: &[f32], n: usize, panel: &mut [f32]) {
    let width = 2 * S::LANES;
    assert!(slab.len() >= width * SLAB && n <= SLAB && panel.len() >= n.next_multiple_of(8) * width);
    for r in (0..width).step_by(8) {
        for c in (0..n).step_by(8) {
            let mut rows = [slab.as_ptr(); 8];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = slab[(r + i) * SLAB + c..].as_ptr();
            }
            // SAFETY: SLAB and the width are multiples of 8, so 8 elements of 8 rows lie inside the slab, and the
            // assertion above covers the panel up to its row `c + 7`.
            unsafe { s.transpose8(rows, panel.as_mut_ptr().add(c * width + r), width) };
        }
    }
}

/// Where the results of a tile go.
struct Place<'a, 'b> {
    /// Rows of the output.
    rows: std::ops::Range<usize>,
    /// First column.
    first: usize,
    /// Columns that exist.
    valid: usize,
    stride: usize,
    out: &'a SharedMut<'b, f32>,
}

/// Adds the sums of the spans of a panel, one after the other, to what is there, if they are not the first, and at the end
/// the bias.
#[inline(always)]
fn tile_product<S: Simd, const H: usize>(s: S, panel: &[f32], x: &[f32], place: &Place<'_, '_>, part: &Part<'_>) {
    assert!(panel.len() >= x.len() / H * 2 * S::LANES && part.spans[0] + part.spans[1] <= x.len() / H);
    let mut totals = [[s.splat(0.0); 2]; H];
    if !part.begins {
        for (r, totals) in totals.iter_mut().enumerate().take(place.rows.len()) {
            for (half, total) in totals.iter_mut().enumerate() {
                let (out, n) = place.at::<S>(r, half);
                // SAFETY: these columns of the output belong to the task that has this panel.
                *total = unsafe { s.load_first(out, n) };
            }
        }
    }
    let (mut w, mut x) = (panel.as_ptr(), x.as_ptr());
    for depth in part.spans {
        // SAFETY: as many rows of the panel as of x (assertion above), and as many as there are columns.
        unsafe { add_span::<S, H>(s, w, x, depth, &mut totals) };
        (w, x) = (w.wrapping_add(depth * 2 * S::LANES), x.wrapping_add(depth * H));
    }
    for (r, totals) in totals.iter().enumerate().take(place.rows.len()) {
        for (half, &total) in totals.iter().enumerate() {
            let ((out, n), mut total) = (place.at::<S>(r, half), total);
            // SAFETY: as above; the bias is as long as the output is wide.
            unsafe {
                if let Some(bias) = part.bias {
                    let bias = bias[(place.first + half * S::LANES).min(bias.len())..].as_ptr();
                    total = s.add(total, s.load_first(bias, n));
                }
                s.store_first(out, total, n);
            }
        }
    }
}

impl Place<'_, '_> {
    /// The results of a half of a row of the tile, as many as exist.
    #[inline(always)]
    fn at<S: Simd>(&self, row: usize, half: usize) -> (*mut f32, usize) {
        let at = (self.rows.start + row) * self.stride + self.first;
        let (from, until) = ((half * S::LANES).min(self.valid), ((half + 1) * S::LANES).min(self.valid));
        (self.out.pointer(at + from..at + until), until - from)
    }
}

/// Adds the sums of a span of `depth` columns to the totals.
/// # Safety
/// `depth` rows of two vectors of the panel and of `H` elements of x are readable.
#[inline(always)]
unsafe fn add_span<S: Simd, const H: usize>(
    s: S,
    mut w: *const f32,
    mut x: *const f32,
    depth: usize,
    totals: &mut [[S::V; 2]; H],
) {
    let mut sums = [[s.splat(0.0); 2]; H];
    for _ in 0..depth {
        // SAFETY: the caller's contract.
        unsafe {
            let (w0, w1) = (s.load(w), s.load(w.add(S::LANES)));
            for (r, sum) in sums.iter_mut().enumerate() {
                let x = s.splat(*x.add(r));
                *sum = [s.mul_add(x, w0, sum[0]), s.mul_add(x, w1, sum[1])];
            }
            w = w.add(2 * S::LANES);
            x = x.add(H);
        }
    }
    for (total, sum) in totals.iter_mut().zip(&sums) {
        *total = [s.add(total[0], sum[0]), s.add(total[1], sum[1])];
    }
}
