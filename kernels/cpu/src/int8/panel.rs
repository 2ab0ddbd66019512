//! Products of interleaved weights with many rows of x: a chunk of the columns of a panel of weight rows is unpacked to
//! codes of 8 bits and scales of f32 that stay in the first-level cache, and multiplied with one tile of x after the
//! other.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr;

use super::activations::{BLOCK_BYTES, TILE, row_bytes, tiles};
use super::format::{BLOCK, Codes, ForPacking, Packing, Products, ROWS, code_bytes, for_packing};
use super::pack::{group_bytes, unit_bytes};
use super::product::{Block, Product, block};
use super::scales::{Form, Scales};
use super::simd::{Int8, Kernel8, Token8};

/// Columns of a chunk; every unit divides it.
const DEPTH: usize = 1024;
/// Tiles of x whose chunk stays, beside their results, in the second-level cache.
const TILES: usize = 96;
/// Rows of x up to which weights are read in the order in which they lie in memory.
const IN_ORDER: usize = 64;
/// Bytes of the chunk of a panel: of 32 rows, codes and at most four numbers per block.
const PANEL: usize = 32 * DEPTH / BLOCK * (BLOCK + 16);
/// Elements for a tile of results and biases of a panel that is not whole.
const SPARE: usize = 32 * (TILE + 1);

impl Product<'_, '_> {
    /// Panels `range`, with any number of rows of x; `scratch` is a thread's.
    pub(crate) fn panels(self, token: Token8, range: Range<usize>, scratch: &mut [f32]) {
        for_packing(self.dtype, Panels { token, task: self, range, scratch });
    }
}

struct Panels<'a, 'b> {
    token: Token8,
    task: Product<'a, 'b>,
    range: Range<usize>,
    scratch: &'a mut [f32],
}

impl ForPacking for Panels<'_, '_> {
    type Out = ();

    fn format<P: Packing>(self) {
        let Panels { token, task, range, scratch } = self;
        token.run(PanelsOf { task, range, scratch, format: PhantomData::<P> });
    }

    fn none(self) {}
}

struct PanelsOf<'a, 'b, P> {
    task: Product<'a, 'b>,
    range: Range<usize>,
    scratch: &'a mut [f32],
    format: PhantomData<P>,
}

impl<P: Packing> Kernel8 for PanelsOf<'_, '_, P> {
    #[inline(always)]
    fn run<S: Int8>(mut self, s: S) {
        let Product { rows, cols, weights, x, n, .. } = self.task;
        assert!(weights.len() >= rows.div_ceil(ROWS) * group_bytes::<P>(cols) && x.len() >= n * row_bytes(cols));
        assert!(self.scratch.len() >= PANEL / 4 + SPARE);
        let (chunks, tiles, range) = (cols.div_ceil(DEPTH), tiles(n).count(), self.range.clone());
        for first in (0..tiles).step_by(TILES) {
            let count = TILES.min(tiles - first);
            let turns = chunks * range.len();
            // Panel and first column of a turn.
            let turn = |i: usize| {
                let (panel, chunk) = match n <= IN_ORDER {
                    true => (i / chunks, i % chunks),
                    false => (i % range.len(), i / range.len()),
                };
                (range.start + panel, chunk * DEPTH)
            };
            for i in 0..turns {
                let next = turn((i + 1).min(turns - 1));
                self.chunk(s, turn(i), next, first..first + count);
            }
        }
    }
}

impl<P: Packing> PanelsOf<'_, '_, P> {
    /// Columns from `start` on of a panel, times some tiles of x; `next` are the panel and the columns that come then.
    #[inline(always)]
    fn chunk<S: Int8>(&mut self, s: S, (panel, start): (usize, usize), next: (usize, usize), tiles: Range<usize>) {
        let Product { rows, cols, bias, .. } = self.task;
        let blocks = start / BLOCK..cols.min(start + DEPTH) / BLOCK;
        let column = panel * S::VECTORS * S::LANES;
        let valid = (S::VECTORS * S::LANES).min(rows - column);
        let (panel, spare) = self.scratch.split_at_mut(PANEL / 4);
        let panel = panel.as_mut_ptr().cast::<u8>();
        // SAFETY: the blocks of the rows that exist lie in the weights, a chunk fits the scratch memory.
        unsafe { unpack::<S, P>(s, &self.task, (column, valid), blocks.clone(), panel) };
        let begin = start == 0;
        let bias = bias.filter(|_| start + DEPTH >= cols).map(|bias| &bias[column..column + valid]);
        let mut ahead = [self.task.weights.as_ptr(); 2];
        for (v, ahead) in ahead.iter_mut().enumerate().take(S::VECTORS) {
            let group = (next.0 * S::VECTORS + v) * S::LANES / ROWS;
            let unit = next.1 / BLOCK / P::K::BLOCKS;
            *ahead = ahead.wrapping_add(group * group_bytes::<P>(cols) + unit * unit_bytes::<P>());
        }
        let ahead = (ahead, unit_bytes::<P>() / P::K::BLOCKS);
        let format = PhantomData::<(<P::C as Codes>::Products, <P::K as Scales>::Form)>;
        s.enter(Tiles { task: self.task, panel, spare, tiles, blocks, column, valid, begin, bias, ahead, format });
    }
}

/// Unpacks blocks of the `valid` rows from `column` on: of each block the codes, quad by quad and in each the
/// vectors, then the scales and the minima of the parts, each as vectors of f32. Rows of vectors that do not exist
/// become zeros.
/// # Safety
/// `panel` is writable for as many blocks, and the weights hold them.
#[inline(always)]
unsafe fn unpack<S: Int8, P: Packing>(
    s: S,
    task: &Product<'_, '_>,
    (column, valid): (usize, usize),
    blocks: Range<usize>,
    panel: *mut u8,
) {
    let group_bytes = group_bytes::<P>(task.cols);
    let (vectors, vector, stride) = (S::VECTORS, 4 * S::LANES, block_bytes::<S, <P::K as Scales>::Form>());
    for v in 0..vectors {
        let (group, lane) = ((column + v * S::LANES) / ROWS, (column + v * S::LANES) % ROWS);
        // SAFETY: the caller's contract.
        unsafe {
            let mut to = panel.add(v * vector);
            if v * S::LANES >= valid {
                for _ in 0..blocks.len() * stride / (vectors * vector) {
                    s.store(to.cast(), s.as_f32(s.zero()));
                    to = to.add(vectors * vector);
                }
                continue;
            }
            let from = task.weights.as_ptr().add(group * group_bytes);
            for unit in blocks.start / P::K::BLOCKS..blocks.end / P::K::BLOCKS {
                let scales = from.add(unit * unit_bytes::<P>());
                let head = P::K::head(s, scales, lane);
                for b in 0..P::K::BLOCKS {
                    let codes = scales.add(P::K::BYTES + b * code_bytes::<P::C>() + 4 * lane);
                    for quad in 0..8 {
                        put(s, s.as_f32(P::C::quad(s, codes, lane, quad)), &mut to, vectors * vector);
                    }
                    for part in 0..P::K::PARTS {
                        let [scale, min] = P::K::get(s, scales, lane, head, (b, part));
                        put(s, scale, &mut to, vectors * vector);
                        if P::K::MINS {
                            put(s, min, &mut to, vectors * vector);
                        }
                    }
                }
            }
        }
    }
}

/// Stores a vector, and goes on by some bytes.
/// # Safety
/// `to` is writable for a vector.
#[inline(always)]
unsafe fn put<S: Int8>(s: S, x: S::F, to: &mut *mut u8, bytes: usize) {
    // SAFETY: the caller's contract.
    unsafe { s.store(to.cast(), x) };
    *to = to.wrapping_add(bytes);
}

/// A chunk of a panel times rows of x. Formats that are multiplied in the same way share it.
struct Tiles<'a, 'b, M, F> {
    task: Product<'a, 'b>,
    panel: *const u8,
    /// At least `SPARE` elements.
    spare: &'a mut [f32],
    /// Which of those of x.
    tiles: Range<usize>,
    /// The blocks of the chunk.
    blocks: Range<usize>,
    /// First weight row of the panel, and how many of them exist.
    column: usize,
    valid: usize,
    /// Whether results begin, or are added to what is there.
    begin: bool,
    /// What is added at the end, if this is it, for each weight row that exists.
    bias: Option<&'a [f32]>,
    /// What to fetch meanwhile, for each vector, and how many bytes per block.
    ahead: ([*const u8; 2], usize),
    format: PhantomData<(M, F)>,
}

impl<M: Products, F: Form> Kernel8 for Tiles<'_, '_, M, F> {
    #[inline(always)]
    fn run<S: Int8>(mut self, s: S) {
        let x_bytes = row_bytes(self.task.cols);
        for (i, (first, height)) in tiles(self.task.n).enumerate().take(self.tiles.end).skip(self.tiles.start) {
            let x = &self.task.x[first * x_bytes..(first + height) * x_bytes];
            let x = &x[self.blocks.start * height * BLOCK_BYTES..self.blocks.end * height * BLOCK_BYTES];
            let place = (x, first, i == self.tiles.start);
            // SAFETY: x is that of a tile of this height, and the panel has as many vectors.
            unsafe {
                match (S::VECTORS, height) {
                    (2, 1) => self.tile::<S, 2, 1>(s, place),
                    (2, 2) => self.tile::<S, 2, 2>(s, place),
                    (2, 4) => self.tile::<S, 2, 4>(s, place),
                    (2, 5) => self.tile::<S, 2, 5>(s, place),
                    (2, _) => self.tile::<S, 2, TILE>(s, place),
                    (_, 1) => self.tile::<S, 1, 1>(s, place),
                    (_, 2) => self.tile::<S, 1, 2>(s, place),
                    (_, 4) => self.tile::<S, 1, 4>(s, place),
                    (_, 5) => self.tile::<S, 1, 5>(s, place),
                    (_, _) => self.tile::<S, 1, TILE>(s, place),
                }
            }
        }
    }
}

impl<M: Products, F: Form> Tiles<'_, '_, M, F> {
    /// The blocks `x` of a tile whose first row is number `row`; of the first tile it is said, as the weights that come
    /// next are fetched with it.
    /// # Safety
    /// `x` is that of a tile of `R` rows, and the panel has `V` vectors.
    #[inline(always)]
    unsafe fn tile<S: Int8, const V: usize, const R: usize>(&mut self, s: S, (x, row, first): (&[u8], usize, bool)) {
        let (width, stride) = (V * S::LANES, self.task.rows);
        let at = row * stride + self.column;
        let out = self.task.out.pointer(at..at + (R - 1) * stride + self.valid);
        let ahead = first.then_some(self.ahead);
        // SAFETY: these columns of the output belong to the task that has this panel; rows of the spare memory are as
        // long as a panel is wide; the rest is the caller's contract.
        unsafe {
            if self.valid == width {
                let bias = self.bias.map(|bias| bias.as_ptr());
                return self.sums::<S, V, R>(s, x, (out, stride), bias, ahead);
            }
            let spare = self.spare.as_mut_ptr();
            if let Some(bias) = self.bias {
                ptr::copy_nonoverlapping(bias.as_ptr(), spare.add(R * width), self.valid);
            }
            for r in 0..R {
                ptr::copy_nonoverlapping(out.add(r * stride), spare.add(r * width), self.valid);
            }
            let bias = self.bias.map(|_| spare.add(R * width).cast_const());
            self.sums::<S, V, R>(s, x, (spare, width), bias, ahead);
            for r in 0..R {
                ptr::copy_nonoverlapping(spare.add(r * width), out.add(r * stride), self.valid);
            }
        }
    }

    /// Adds up the blocks `x` of a tile in rows of `out`, of which each begins `stride` after the other. Few
    /// instructions surround the loop over blocks: while they pass, the units that multiply would run dry.
    /// # Safety
    /// As for `tile`; the rows of `out`, and `bias`, are as long as the panel is wide.
    #[inline(always)]
    unsafe fn sums<S: Int8, const V: usize, const R: usize>(
        &self,
        s: S,
        x: &[u8],
        (out, stride): (*mut f32, usize),
        bias: Option<*const f32>,
        ahead: Option<([*const u8; 2], usize)>,
    ) {
        let mut panel = self.panel;
        let mut sums = [[s.as_f32(s.zero()); R]; V];
        // SAFETY: the caller's contract.
        unsafe {
            if !self.begin {
                for (v, sums) in sums.iter_mut().enumerate() {
                    for (r, sum) in sums.iter_mut().enumerate() {
                        *sum = s.floats(out.add(r * stride + v * S::LANES));
                    }
                }
            }
            let mut results = out.wrapping_add(R * stride);
            for (i, x) in x.chunks_exact(R * BLOCK_BYTES).enumerate() {
                if let Some((ahead, bytes)) = ahead {
                    for from in &ahead[..V] {
                        let from = from.wrapping_add(i * bytes);
                        for line in (0..bytes).step_by(64) {
                            s.prefetch(from.wrapping_add(line));
                        }
                    }
                }
                // Results of the next tiles: their rows lie so far apart that the processor does not foresee them.
                for v in 0..V {
                    s.prefetch(results.wrapping_add(v * S::LANES).cast());
                }
                results = results.wrapping_add(stride);
                let unpacked = UnpackedBlock::<F, V>(panel, PhantomData);
                block::<S, M, F, _, V, R>(s, unpacked, x.as_ptr(), &mut sums);
                panel = panel.add(block_bytes::<S, F>());
            }
            if let Some(bias) = bias {
                for (v, sums) in sums.iter_mut().enumerate() {
                    let bias = s.floats(bias.add(v * S::LANES));
                    for sum in sums {
                        *sum = s.add(*sum, bias);
                    }
                }
            }
            for (v, sums) in sums.iter().enumerate() {
                for (r, sum) in sums.iter().enumerate() {
                    s.store(out.add(r * stride + v * S::LANES), *sum);
                }
            }
        }
    }
}

/// A block of a panel.
struct UnpackedBlock<F, const V: usize>(*const u8, PhantomData<F>);

impl<F, const V: usize> Clone for UnpackedBlock<F, V> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<F, const V: usize> Copy for UnpackedBlock<F, V> {}

impl<S: Int8, F: Form, const V: usize> Block<S> for UnpackedBlock<F, V> {
    #[inline(always)]
    fn quads(self) -> Option<*const u8> {
        Some(self.0)
    }

    #[inline(always)]
    unsafe fn codes(self, s: S, quad: usize, v: usize) -> S::I {
        // SAFETY: the caller's contract.
        unsafe { s.load(self.0.add((quad * V + v) * 4 * S::LANES)) }
    }

    #[inline(always)]
    unsafe fn scales(self, s: S, part: usize, v: usize) -> [S::F; 2] {
        let vector = 4 * S::LANES;
        let at = (8 + part * numbers::<F>()) * V + v;
        let min = if F::MINS { at + V } else { at };
        // SAFETY: the caller's contract.
        unsafe { [s.floats(self.0.add(at * vector).cast()), s.floats(self.0.add(min * vector).cast())] }
    }
}

/// Numbers per part of a block.
#[inline(always)]
fn numbers<F: Form>() -> usize {
    if F::MINS { 2 } else { 1 }
}

/// Bytes of an unpacked block of a panel.
#[inline(always)]
fn block_bytes<S: Int8, F: Form>() -> usize {
    (8 + F::PARTS * numbers::<F>()) * S::VECTORS * 4 * S::LANES
}
