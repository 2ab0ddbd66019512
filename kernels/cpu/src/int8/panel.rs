//! Products of interleaved weights with many rows of x: a chunk of the columns of a panel of weight rows is unpacked to
//! codes of 8 bits and scales of f32 that stay in the first-level cache, and multiplied with one tile of x after the
//! other.

use std::marker::PhantomData;
use std::ops::Range;

use super::activations::{BLOCK_BYTES, TILE, row_bytes, tiles};
use super::format::{BLOCK, Codes, ForPacking, Packing, Products, ROWS, code_bytes, for_packing};
use super::pack::{group_bytes, unit_bytes};
use super::product::{Product, block};
use super::scales::{Form, Scales};
use super::simd::{Int8, Kernel8, Token8};

/// Columns of a chunk; every unit divides it.
const DEPTH: usize = 512;
/// Rows of x whose chunk stays, beside their results, in the second-level cache; whole tiles.
const ROWS_OF_X: usize = 96 * TILE;
/// Rows of x up to which weights are read in the order in which they lie in memory.
const IN_ORDER: usize = 64;
/// Bytes of the chunk of a panel: of 32 rows, codes and at most four numbers per block.
const SCRATCH: usize = 32 * DEPTH / BLOCK * (BLOCK + 16);

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
        assert!(4 * self.scratch.len() >= SCRATCH);
        let chunks = cols.div_ceil(DEPTH);
        for first in (0..n).step_by(ROWS_OF_X) {
            let count = ROWS_OF_X.min(n - first);
            for i in 0..chunks * self.range.len() {
                let (panel, chunk) = match count <= IN_ORDER {
                    true => (i / chunks, i % chunks),
                    false => (i % self.range.len(), i / self.range.len()),
                };
                self.chunk(s, self.range.start + panel, chunk * DEPTH, first..first + count);
            }
        }
    }
}

impl<P: Packing> PanelsOf<'_, '_, P> {
    /// Columns from `start` on of a panel, times some rows of x.
    #[inline(always)]
    fn chunk<S: Int8>(&mut self, s: S, panel: usize, start: usize, rows_of_x: Range<usize>) {
        let Product { rows, cols, x, bias, .. } = self.task;
        let x_bytes = row_bytes(cols);
        let blocks = start / BLOCK..cols.min(start + DEPTH) / BLOCK;
        let column = panel * S::VECTORS * S::LANES;
        let valid = (S::VECTORS * S::LANES).min(rows - column);
        let panel = self.scratch.as_mut_ptr().cast::<u8>();
        // SAFETY: the blocks of the rows that exist lie in the weights, a chunk fits the scratch memory.
        let ahead = unsafe { self.unpack(s, column, valid, blocks.clone(), panel) };
        for (tile, height) in tiles(rows_of_x.len()) {
            let first = rows_of_x.start + tile;
            let x = &x[first * x_bytes..(first + height) * x_bytes];
            let x = &x[blocks.start * height * BLOCK_BYTES..blocks.end * height * BLOCK_BYTES];
            let bias = bias.filter(|_| start + DEPTH >= cols);
            let place = Place { first, column, valid, begin: start == 0, bias };
            let ahead = (tile == 0).then_some((ahead, unit_bytes::<P>() / P::K::BLOCKS));
            s.enter(Tile::<<P::C as Codes>::Products, <P::K as Scales>::Form> {
                task: self.task,
                panel,
                x,
                height,
                place,
                ahead,
                format: PhantomData,
            });
        }
    }

    /// Unpacks blocks of the `valid` rows from `column` on: of each block the codes, quad by quad and in each the
    /// vectors, then the scales and the minima of the parts, each as vectors of f32. Rows of vectors that do not exist
    /// become zeros. Gives the places of the next blocks.
    /// # Safety
    /// `panel` is writable for as many blocks, and the weights hold them.
    #[inline(always)]
    unsafe fn unpack<S: Int8>(
        &self,
        s: S,
        column: usize,
        valid: usize,
        blocks: Range<usize>,
        panel: *mut u8,
    ) -> [*const u8; 2] {
        let mut ahead = [panel.cast_const(); 2];
        let group_bytes = group_bytes::<P>(self.task.cols);
        let (vectors, vector, stride) = (S::VECTORS, 4 * S::LANES, block_bytes::<S, <P::K as Scales>::Form>());
        for (v, ahead) in ahead.iter_mut().enumerate().take(vectors) {
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
                let from = self.task.weights.as_ptr().add(group * group_bytes);
                *ahead = from.wrapping_add(blocks.end / P::K::BLOCKS * unit_bytes::<P>());
                for unit in blocks.start / P::K::BLOCKS..blocks.end / P::K::BLOCKS {
                    let scales = from.add(unit * unit_bytes::<P>());
                    let head = P::K::head(s, scales, lane);
                    for b in 0..P::K::BLOCKS {
                        let codes = scales.add(P::K::BYTES + b * code_bytes::<P::C>() + 4 * lane);
                        let mut put = |x| {
                            s.store(to.cast(), x);
                            to = to.add(vectors * vector);
                        };
                        for quad in 0..8 {
                            put(s.as_f32(P::C::quad(s, codes, lane, quad)));
                        }
                        for part in 0..P::K::PARTS {
                            let [scale, min] = P::K::get(s, scales, lane, head, (b, part));
                            put(scale);
                            if P::K::MINS {
                                put(min);
                            }
                        }
                    }
                }
            }
        }
        ahead
    }
}

/// Where results go: rows of x from `first` on, columns from `column` on, of which `valid` exist; whether they begin, or
/// are added to what is there; and the bias, if this is the end.
#[derive(Clone, Copy)]
struct Place<'a> {
    first: usize,
    column: usize,
    valid: usize,
    begin: bool,
    bias: Option<&'a [f32]>,
}

/// A chunk of a panel times a tile of x. Formats that are multiplied in the same way share it.
struct Tile<'a, 'b, M, F> {
    task: Product<'a, 'b>,
    panel: *const u8,
    /// The blocks of the chunk of the tile.
    x: &'a [u8],
    height: usize,
    place: Place<'a>,
    /// What to fetch meanwhile, for each vector, and how many bytes per block.
    ahead: Option<([*const u8; 2], usize)>,
    format: PhantomData<(M, F)>,
}

impl<M: Products, F: Form> Kernel8 for Tile<'_, '_, M, F> {
    #[inline(always)]
    fn run<S: Int8>(self, s: S) {
        // SAFETY: panel and x hold as many blocks, x those of a tile of this height.
        unsafe {
            match (S::VECTORS, self.height) {
                (2, 1) => self.tile::<S, 2, 1>(s),
                (2, 2) => self.tile::<S, 2, 2>(s),
                (2, 4) => self.tile::<S, 2, 4>(s),
                (2, _) => self.tile::<S, 2, TILE>(s),
                (_, 1) => self.tile::<S, 1, 1>(s),
                (_, 2) => self.tile::<S, 1, 2>(s),
                (_, 4) => self.tile::<S, 1, 4>(s),
                (_, _) => self.tile::<S, 1, TILE>(s),
            }
        }
    }
}

impl<M: Products, F: Form> Tile<'_, '_, M, F> {
    /// # Safety
    /// `panel` holds as many blocks as `x`, which is those of a tile of `R` rows.
    #[inline(always)]
    unsafe fn tile<S: Int8, const V: usize, const R: usize>(&self, s: S) {
        let (place, mut panel) = (self.place, self.panel);
        let mut sums = [[s.as_f32(s.zero()); R]; V];
        if !place.begin {
            self.each_row(R, V * S::LANES, |r, out| {
                // SAFETY: `each_row` gives whole vectors.
                (0..V).for_each(|v| sums[v][r] = unsafe { s.floats(out.as_ptr().add(v * S::LANES)) });
            });
        }
        let vector = 4 * S::LANES;
        for (i, x) in self.x.chunks_exact(R * BLOCK_BYTES).enumerate() {
            if let Some((ahead, bytes)) = self.ahead {
                for from in &ahead[..V] {
                    let from = from.wrapping_add(i * bytes);
                    (0..bytes).step_by(64).for_each(|line| s.prefetch(from.wrapping_add(line)));
                }
            }
            // SAFETY: the caller's contract.
            unsafe {
                let codes = |quad, v| s.load(panel.add((quad * V + v) * vector));
                let scales = |part, v| {
                    let at = (8 + part * numbers::<F>()) * V + v;
                    let min = if F::MINS { at + V } else { at };
                    [s.floats(panel.add(at * vector).cast()), s.floats(panel.add(min * vector).cast())]
                };
                block::<S, M, F, V, R>(s, codes, scales, x.as_ptr(), &mut sums);
                panel = panel.add(block_bytes::<S, F>());
            }
        }
        self.each_row(R, V * S::LANES, |r, out| {
            // SAFETY: `each_row` gives whole vectors.
            (0..V).for_each(|v| unsafe { s.store(out.as_mut_ptr().add(v * S::LANES), sums[v][r]) });
            if let Some(bias) = place.bias {
                out.iter_mut().zip(&bias[place.column..]).for_each(|(y, b)| *y += b);
            }
        });
    }

    /// Calls `f` with the results of each row of a tile, lengthened to a panel's width if some do not exist.
    #[inline(always)]
    fn each_row(&self, rows: usize, width: usize, mut f: impl FnMut(usize, &mut [f32])) {
        let place = self.place;
        for r in 0..rows {
            let at = (place.first + r) * self.task.rows + place.column;
            // SAFETY: these columns of the output belong to the task that has this panel.
            let out = unsafe { self.task.out.part(at..at + place.valid) };
            if place.valid == width {
                f(r, out);
            } else {
                let mut whole = [0.0; 32];
                whole[..place.valid].copy_from_slice(out);
                f(r, &mut whole);
                out.copy_from_slice(&whole[..place.valid]);
            }
        }
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
