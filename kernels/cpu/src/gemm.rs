//! Products with many activation rows: a panel of weight rows is decoded once, transposed, and multiplied with every
//! row of x by a register tile of `TILE_ROWS` rows by `2 * LANES` columns.

use rocmforge_quant::DType;

use crate::columns::unpack;
use crate::decode::{ForFormat, Format, decode_row, for_format};
use crate::matrix::{Layout, Matrix, other};
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd};

/// Inputs per panel: with 32 weight rows 128 KiB, so that the panel stays in the second-level cache.
pub(crate) const DEPTH: usize = 1024;
/// Inputs decoded and transposed at a time; every block length divides it.
const SLAB: usize = 256;
/// Widest panel, in weight rows, of any instruction set.
pub(crate) const MOST_WIDTH: usize = 32;
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

/// Copies the rows of one tile, `[rows, cols]` with `rows <= height`, to `out` as `[cols, height]`, padded with zeros.
pub(crate) fn pack_tile(x: &[f32], cols: usize, height: usize, out: &mut [f32]) {
    let rows = x.len() / cols;
    if rows < height {
        out.fill(0.0);
    }
    for (r, row) in x.chunks_exact(cols).enumerate() {
        for (to, &from) in out.chunks_exact_mut(height).zip(row) {
            to[r] = from;
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
        let cols = self.weight.cols;
        for start in (0..cols).step_by(DEPTH) {
            let depth = DEPTH.min(cols - start);
            if self.weight.layout == Layout::Columns {
                unpack(s, self.weight, self.first, start..start + depth, panel);
            }
            for at in (start..start + depth).step_by(SLAB).filter(|_| self.weight.layout != Layout::Columns) {
                let n = SLAB.min(start + depth - at);
                fill_slab(s, self.weight, self.first, valid, at, n, slab);
                transpose_slab(s, slab, n, &mut panel[(at - start) * width..]);
            }
            for (tile, x) in self.packed.chunks_exact(cols * S::TILE_ROWS).enumerate() {
                let x = &x[start * S::TILE_ROWS..(start + depth) * S::TILE_ROWS];
                let place = Place {
                    rows: tile * S::TILE_ROWS..self.n.min((tile + 1) * S::TILE_ROWS),
                    first: self.first,
                    valid,
                    stride: self.weight.rows,
                    out: self.out,
                };
                let start = if start > 0 { Start::Add } else { Start::Bias(self.bias) };
                match S::TILE_ROWS {
                    12 => tile_product::<S, 12>(s, panel, x, &place, start),
                    6 => tile_product::<S, 6>(s, panel, x, &place, start),
                    _ => tile_product::<S, 4>(s, panel, x, &place, start),
                }
            }
        }
    }
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
        if other(self.dtype, self.bytes, self.out).is_err() {
            // Lengths fit by construction and `matmul` has tried the type: never the case.
            self.out.fill(f32::NAN);
        }
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

/// What the results of a tile are added to.
#[derive(Clone, Copy)]
enum Start<'a> {
    /// What is there, from the panel before.
    Add,
    Bias(Option<&'a [f32]>),
}

#[inline(always)]
fn tile_product<S: Simd, const H: usize>(s: S, panel: &[f32], x: &[f32], place: &Place<'_, '_>, start: Start<'_>) {
    let depth = x.len() / H;
    assert!(panel.len() >= depth * 2 * S::LANES);
    let mut sums = [[s.splat(0.0); 2]; H];
    let (mut w, mut x) = (panel.as_ptr(), x.as_ptr());
    for _ in 0..depth {
        // SAFETY: `depth` rows of H elements of x, and of two vectors of the panel (assertion above).
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
    for (r, sum) in place.rows.clone().zip(sums) {
        let at = r * place.stride + place.first;
        // SAFETY: these columns of the output belong to the task that has this panel.
        let out = unsafe { place.out.part(at..at + place.valid) };
        for (half, sum) in sum.into_iter().enumerate() {
            let from = (half * S::LANES).min(out.len());
            let out = &mut out[from..];
            let n = out.len().min(S::LANES);
            // SAFETY: `n` elements are left in `out` and in the bias, which is as long as the output is wide.
            unsafe {
                let before = match start {
                    Start::Add => s.load_first(out.as_ptr(), n),
                    Start::Bias(Some(bias)) => s.load_first(bias[place.first + from..].as_ptr(), n),
                    Start::Bias(None) => s.splat(0.0),
                };
                s.store_first(out.as_mut_ptr(), s.add(sum, before), n);
            }
        }
    }
}
