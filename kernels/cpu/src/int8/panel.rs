//! Products of interleaved weights with many rows of x: a chunk of the columns of a panel of weight rows is unpacked to
//! codes of 8 bits and scales of f32 that stay in the first-level cache, and multiplied with one tile of x after the
//! other.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::activations::{BLOCK_BYTES, row_bytes, tiles};
use super::format::{BLOCK, Codes, ForPacking, NATURAL, Order, Packing, Products, ROWS, code_bytes, for_packing};
use super::pack::{group_bytes, unit_bytes};
use super::product::{Block, Product, block};
use super::scales::{Form, Scales};
use super::simd::{Int8, Kernel8, Token8};
use super::tiles::{SPARE, Tiles, Unpacked};

/// Columns of a chunk; every unit divides it.
const DEPTH: usize = 1024;
/// Tiles of x whose chunk stays, beside their results, in the second-level cache.
const TILES: usize = 96;
/// Rows of x up to which weights are read in the order in which they lie in memory.
const IN_ORDER: usize = 64;
/// Bytes of the chunk of a panel: of 32 rows, codes and at most four numbers per block.
const PANEL: usize = 32 * DEPTH / BLOCK * (BLOCK + 16);

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
        let format = PhantomData::<Codes8<P::Products, <P::K as Scales>::Form>>;
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
                    let mut whole = MaybeUninit::<[u8; 64 * 8]>::uninit();
                    let quads = whole.as_mut_ptr().cast::<u8>();
                    // Vectors are as many rows as `whole` unpacks.
                    let whole = P::C::POINTS && S::LANES == ROWS && P::C::whole(s, codes, quads);
                    for quad in 0..8 {
                        let codes = match whole {
                            true => s.load(quads.add(64 * quad)),
                            false => P::C::quad(s, codes, lane, quad),
                        };
                        put(s, s.as_f32(codes), &mut to, vectors * vector);
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

/// Blocks of codes of 8 bits.
struct Codes8<M, F>(PhantomData<(M, F)>);

impl<M: Products, F: Form> Unpacked for Codes8<M, F> {
    const X_BYTES: usize = BLOCK_BYTES;

    #[inline(always)]
    fn x_row_bytes(cols: usize) -> usize {
        row_bytes(cols)
    }
    #[inline(always)]
    fn bytes<S: Int8>() -> usize {
        block_bytes::<S, F>()
    }
    #[inline(always)]
    unsafe fn add<S: Int8, const V: usize, const R: usize>(
        s: S,
        panel: *const u8,
        x: *const u8,
        sums: &mut [[S::F; R]; V],
    ) {
        // SAFETY: the caller's contract.
        unsafe { block::<S, M, F, _, V, R>(s, UnpackedBlock::<F, V>(panel, PhantomData), x, sums) }
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
    const ORDER: Order = NATURAL;

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
