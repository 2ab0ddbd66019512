//! Products of matrices in the layout of their file with some activation rows: a chunk of some weight rows is decoded once, and
//! multiplied with every row of x by a register tile of dot products. Each adds in the order of [`gemv`](crate::gemv).

use rocmforge_quant::DType;

use crate::decode::{ForFormat, Format, Sink, decode_tail, for_format};
use crate::gemv::{CHUNK, decode_other};
use crate::matrix::{Matrix, Native};
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd};

/// Most rows of x that are multiplied in this way: with more, sums over lanes cost more than what is decoded.
pub(crate) const FEW_ROWS: usize = 64;
/// Weight rows of a panel; a multiple of the tiles' widths.
pub(crate) const PANEL_ROWS: usize = 24;
/// Elements of scratch memory per thread.
pub(crate) const PER_THREAD: usize = PANEL_ROWS * CHUNK;
/// Most elements that a format decodes at a time.
const UNIT: usize = 256;

/// Remembers where elements belong, in the order in which a format gives them.
struct Order {
    at: [u16; UNIT],
    count: usize,
}

impl<S: Simd> Sink<S> for Order {
    #[inline(always)]
    unsafe fn put<const SLOT: usize>(&mut self, _: S, at: usize, _: S::V) {
        debug_assert_eq!(self.count % 2, SLOT);
        self.at[self.count] = at as u16;
        self.count += 1;
    }
}

/// Stores elements in the order in which a format gives them.
struct InOrder(*mut f32);

impl<S: Simd> Sink<S> for InOrder {
    #[inline(always)]
    unsafe fn put<const SLOT: usize>(&mut self, s: S, _: usize, v: S::V) {
        // SAFETY: the caller's contract: there is room for all elements.
        unsafe { s.store(self.0, v) };
        self.0 = self.0.wrapping_add(S::LANES);
    }
}

/// Whether a format gives elements in another order than that in which they lie.
pub(crate) fn arranges(dtype: DType) -> bool {
    dtype.layout().block_elements > 1 && for_format(dtype, Native)
}

/// Copies rows of x, with the elements of each unit of a type in the order in which its format gives them.
pub(crate) struct Arrange<'a> {
    pub(crate) dtype: DType,
    /// `[rows, cols]`
    pub(crate) x: &'a [f32],
    pub(crate) cols: usize,
    pub(crate) out: &'a mut [f32],
}

impl Kernel for Arrange<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for_format(self.dtype, ArrangeAs { s, task: self });
    }
}

struct ArrangeAs<'a, S> {
    s: S,
    task: Arrange<'a>,
}

impl<S: Simd> ForFormat for ArrangeAs<'_, S> {
    type Out = ();

    #[inline(always)]
    fn native<F: Format>(self) {
        let (s, Arrange { x, cols, out, .. }) = (self.s, self.task);
        let mut order = Order { at: [0; UNIT], count: 0 };
        // SAFETY: a block of zeros is as long as any; the sink stores at most as many numbers as there are elements.
        unsafe { F::block(s, [0u8; 4 * UNIT].as_ptr(), 0, &mut order) };
        for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
            out.copy_from_slice(x);
            for (x, out) in x.chunks_exact(F::ELEMENTS).zip(out.chunks_exact_mut(F::ELEMENTS)) {
                for (&at, out) in order.at[..order.count].iter().zip(out.chunks_exact_mut(S::LANES)) {
                    out.copy_from_slice(&x[usize::from(at)..][..S::LANES]);
                }
            }
        }
    }

    #[inline(always)]
    fn other(self) {
        self.task.out.copy_from_slice(self.task.x);
    }
}

/// A panel of weight rows, times all of x.
pub(crate) struct Dots<'a, 'b> {
    pub(crate) weight: &'a Matrix<'a>,
    /// First weight row of the panel.
    pub(crate) first: usize,
    /// `[n, cols]`, [`Arrange`]d.
    pub(crate) x: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
    /// `[n, rows]`
    pub(crate) out: &'a SharedMut<'b, f32>,
    /// At least `PER_THREAD` elements.
    pub(crate) scratch: &'a mut [f32],
}

impl Kernel for Dots<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (cols, n) = (self.weight.cols, self.x.len() / self.weight.cols);
        let count = PANEL_ROWS.min(self.weight.rows - self.first);
        for start in (0..cols).step_by(CHUNK) {
            let len = CHUNK.min(cols - start);
            for (r, out) in self.scratch.chunks_exact_mut(CHUNK).enumerate().take(count) {
                let row = self.weight.row(self.first + r);
                let from = self.weight.dtype.row_bytes(start).unwrap_or(0);
                let until = self.weight.dtype.row_bytes(start + len).unwrap_or(self.weight.row_bytes);
                let (dtype, bytes) = (self.weight.dtype, &row[from..until]);
                for_format(dtype, Fill { s, dtype, bytes, out: &mut out[..len] });
            }
            let chunk = Chunk {
                panel: &*self.scratch,
                count,
                x: &self.x[start..],
                n,
                cols,
                len,
                begins: start == 0,
                bias: self.bias.filter(|_| start + len == cols).map(|bias| &bias[self.first..self.first + count]),
                first: self.first,
                stride: self.weight.rows,
                out: self.out,
            };
            match S::LANES {
                16 => chunk.tiles::<S, 4, 3>(s),
                8 => chunk.tiles::<S, 3, 2>(s),
                _ => chunk.tiles::<S, 2, 2>(s),
            }
        }
    }
}

/// Decodes a chunk of a weight row.
struct Fill<'a, S> {
    s: S,
    dtype: DType,
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl<S: Simd> ForFormat for Fill<'_, S> {
    type Out = ();

    #[inline(always)]
    fn native<F: Format>(self) {
        let (s, n) = (self.s, self.out.len());
        let whole = n / F::ELEMENTS;
        assert!(self.dtype.row_bytes(n) == Some(self.bytes.len()));
        let mut sink = InOrder(self.out.as_mut_ptr());
        for b in 0..whole {
            // SAFETY: the bytes are those of `n` elements, for which there is room.
            unsafe { F::block(s, self.bytes.as_ptr().add(b * F::BYTES), 0, &mut sink) };
        }
        if !n.is_multiple_of(F::ELEMENTS) {
            let mut rest = [0.0; 256];
            // SAFETY: as above.
            let valid = unsafe { decode_tail::<F, S>(s, self.bytes.as_ptr(), n, &mut rest) };
            self.out[whole * F::ELEMENTS..].copy_from_slice(&rest[..valid]);
        }
    }

    fn other(self) {
        decode_other(self.dtype, self.bytes, self.out);
    }
}

/// A chunk of the columns of a panel.
struct Chunk<'a, 'b> {
    /// `[count, CHUNK]`
    panel: &'a [f32],
    count: usize,
    /// `[n, cols]` from the chunk's first column on.
    x: &'a [f32],
    n: usize,
    cols: usize,
    /// Columns.
    len: usize,
    /// Whether totals begin at zero.
    begins: bool,
    /// What is added at the end, if this is it.
    bias: Option<&'a [f32]>,
    /// The panel's first column in the output, whose rows are `stride` long.
    first: usize,
    stride: usize,
    out: &'a SharedMut<'b, f32>,
}

impl Chunk<'_, '_> {
    /// Tiles of `R` rows of x and `W` weight rows.
    #[inline(always)]
    fn tiles<S: Simd, const R: usize, const W: usize>(&self, s: S) {
        assert!(self.n > 0 && self.x.len() >= (self.n - 1) * self.cols + self.len);
        assert!(self.count > 0 && self.panel.len() >= (self.count - 1) * CHUNK + self.len);
        for row in (0..self.n).step_by(R) {
            for column in (0..self.count).step_by(W) {
                self.tile::<S, R, W>(s, row, column);
            }
        }
    }

    /// One tile; rows that do not exist are taken for the last one.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const W: usize>(&self, s: S, row: usize, column: usize) {
        let (mut x, mut w) = ([self.x.as_ptr(); R], [self.panel.as_ptr(); W]);
        for (r, x) in x.iter_mut().enumerate() {
            *x = x.wrapping_add((row + r).min(self.n - 1) * self.cols);
        }
        for (c, w) in w.iter_mut().enumerate() {
            *w = w.wrapping_add((column + c).min(self.count - 1) * CHUNK);
        }
        // Types without a decoder of our own are multiplied in the same units.
        let whole = self.len / 32 * 32;
        // SAFETY: each is readable for the columns of the chunk (assertions in `tiles`).
        let sums = unsafe { products::<S, R, W>(s, x, w, whole) };
        for (r, sums) in sums.iter().enumerate().take(self.n - row) {
            let at = (row + r) * self.stride + self.first;
            // SAFETY: these columns of the output belong to the task that has this panel.
            let out = unsafe { self.out.part(at..at + self.count) };
            for (c, (out, sum)) in out[column..].iter_mut().zip(sums).enumerate() {
                let mut total = if self.begins { 0.0 } else { *out };
                total += sum;
                for i in whole..self.len {
                    // SAFETY: as above.
                    total += unsafe { w[c].add(i).read() * x[r].add(i).read() };
                }
                *out = self.bias.map_or(0.0, |bias| bias[column + c]) + total;
            }
        }
    }
}

/// Dot products of `n` elements, a multiple of 32.
/// # Safety
/// All pointers are readable for as many.
#[inline(always)]
unsafe fn products<S: Simd, const R: usize, const W: usize>(
    s: S,
    x: [*const f32; R],
    w: [*const f32; W],
    n: usize,
) -> [[f32; W]; R] {
    let mut sums = [[[s.splat(0.0); W]; R]; 2];
    for start in (0..n).step_by(2 * S::LANES) {
        for (slot, sums) in sums.iter_mut().enumerate() {
            let at = start + slot * S::LANES;
            // No closures, which may not be compiled into the loop and then lack its instruction set.
            let mut weights = [s.splat(0.0); W];
            // SAFETY: the caller's contract.
            unsafe {
                for c in 0..W {
                    weights[c] = s.load(w[c].add(at));
                }
                for r in 0..R {
                    let x = s.load(x[r].add(at));
                    for c in 0..W {
                        sums[r][c] = s.mul_add(weights[c], x, sums[r][c]);
                    }
                }
            }
        }
    }
    let mut out = [[0.0; W]; R];
    for (r, out) in out.iter_mut().enumerate() {
        for (c, out) in out.iter_mut().enumerate() {
            *out = s.sum(s.add(sums[0][r][c], sums[1][r][c]));
        }
    }
    out
}
