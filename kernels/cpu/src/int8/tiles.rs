//! A chunk of a panel of weight rows, unpacked, times one tile of x after the other.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr;

use super::activations::{TILE, tiles};
use super::format::ROWS;
use super::product::Product;
use super::simd::{Int8, Kernel8};

/// Elements for a tile of results and biases of a panel that is not whole.
pub(super) const SPARE: usize = 32 * (TILE + 1);

/// Tiles of x with which the next weights are fetched.
const SHARES: usize = 4;

/// How the blocks of a panel are unpacked, and how they are multiplied.
pub(super) trait Unpacked {
    /// Bytes of a block of a row of x.
    const X_BYTES: usize;

    /// Bytes of a row of x.
    fn x_row_bytes(cols: usize) -> usize;
    /// Bytes of a block of a panel.
    fn bytes<S: Int8>() -> usize;
    /// Adds the products of a block with `V` vectors of weight rows and a tile of `R` rows of x.
    /// # Safety
    /// Such blocks are readable at `panel` and `x`.
    unsafe fn add<S: Int8, const V: usize, const R: usize>(
        s: S,
        panel: *const u8,
        x: *const u8,
        sums: &mut [[S::F; R]; V],
    );
}

/// A chunk of a panel times rows of x. Formats that are multiplied in the same way share it.
pub(super) struct Tiles<'a, 'b, U> {
    pub(super) task: Product<'a, 'b>,
    pub(super) panel: *const u8,
    /// At least `SPARE` elements.
    pub(super) spare: &'a mut [f32],
    /// Which of those of x.
    pub(super) tiles: Range<usize>,
    /// The blocks of the chunk.
    pub(super) blocks: Range<usize>,
    /// First weight row of the panel, and how many of them exist.
    pub(super) column: usize,
    pub(super) valid: usize,
    /// Whether results begin, or are added to what is there.
    pub(super) begin: bool,
    /// What is added at the end, if this is it, for each weight row that exists.
    pub(super) bias: Option<&'a [f32]>,
    /// What to fetch meanwhile, for each vector, and how many bytes per block.
    pub(super) ahead: ([*const u8; 2], usize),
    pub(super) format: PhantomData<U>,
}

impl<U: Unpacked> Kernel8 for Tiles<'_, '_, U> {
    #[inline(always)]
    fn run<S: Int8>(mut self, s: S) {
        let x_bytes = U::x_row_bytes(self.task.cols);
        for (i, (first, height)) in tiles(self.task.n).enumerate().take(self.tiles.end).skip(self.tiles.start) {
            let x = &self.task.x[first * x_bytes..(first + height) * x_bytes];
            let x = &x[self.blocks.start * height * U::X_BYTES..self.blocks.end * height * U::X_BYTES];
            let place = (x, first, i - self.tiles.start);
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

impl<U: Unpacked> Tiles<'_, '_, U> {
    /// The blocks `x` of tile `number` of the range, whose first row is number `row`. With the first few tiles the weights
    /// are fetched that come next, a share with each, or they would be asked for faster than memory gives them.
    /// # Safety
    /// `x` is that of a tile of `R` rows, and the panel has `V` vectors.
    #[inline(always)]
    unsafe fn tile<S: Int8, const V: usize, const R: usize>(&mut self, s: S, (x, row, number): (&[u8], usize, usize)) {
        let (width, stride) = (V * S::LANES, self.task.rows);
        let at = row * stride + self.column;
        let out = self.task.out.pointer(at..at + (R - 1) * stride + self.valid);
        let (shares, lines) = (self.tiles.len().min(SHARES), self.ahead.1.div_ceil(64));
        let share = number * lines / shares * 64..(number + 1) * lines / shares * 64;
        let ahead = (number < shares).then_some((self.ahead.0, self.ahead.1, share));
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
        ahead: Option<([*const u8; 2], usize, Range<usize>)>,
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
            for (i, x) in x.chunks_exact(R * U::X_BYTES).enumerate() {
                if let Some((ahead, bytes, share)) = &ahead {
                    // One for each group of which there are vectors.
                    for from in ahead[..V].iter().step_by(ROWS / S::LANES) {
                        let from = from.wrapping_add(i * bytes);
                        for line in share.clone().step_by(64) {
                            s.prefetch(from.wrapping_add(line));
                        }
                    }
                }
                // Results of the next tiles: their rows lie so far apart that the processor does not foresee them.
                for v in 0..V {
                    s.prefetch(results.wrapping_add(v * S::LANES).cast());
                }
                results = results.wrapping_add(stride);
                U::add::<S, V, R>(s, panel, x.as_ptr(), &mut sums);
                panel = panel.add(U::bytes::<S>());
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
