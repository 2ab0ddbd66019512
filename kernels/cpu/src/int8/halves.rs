//! Products of weights of half precision with many rows, as integers of 16 bits.
//!
//! Both sides have one scale per row and 64 columns. Weights are rounded to 12 bits beside their sign, relative to the
//! largest of their block, one bit more than f16 has; activations to 13. Sums of 64 such products fit 32 bits.
//! Instructions multiply twice as many of these as floats.

use std::marker::PhantomData;
use std::ops::Range;

use rocmforge_quant::DType;

use super::activations::{TILE, tiles};
use super::format::ROWS;
use super::product::Product;
use super::simd::{Int8, Kernel8};
use super::tiles::{SPARE, Tiles, Unpacked};
use crate::columns::BYTES;
use crate::cpu::Cpu;
use crate::error::KernelError;
use crate::matrix::Matrix;
use crate::shared::SharedMut;
use crate::workspace::{Held, Rounded, floats};

/// Columns of a block.
pub(crate) const BLOCK: usize = 64;
/// Bytes of the codes of a block of a row of x.
pub(super) const X_CODES: usize = 2 * BLOCK;
/// Bytes of a block of a row of x: the codes, and in tiles behind those of all rows an f32, its scale.
pub(super) const X_BLOCK: usize = X_CODES + 4;
/// The largest codes.
const MOST: f32 = 4095.0;
const X_MOST: f32 = 8191.0;
/// Columns of a chunk, whose panel stays in the first-level cache.
const DEPTH: usize = 512;
/// Bytes of the chunk of a panel of 32 rows.
const PANEL: usize = 32 * DEPTH / BLOCK * (2 * BLOCK + 4);
/// Weight rows per task, at most.
const TASK_ROWS: usize = 128;
/// Below this the inverse of a magnitude overflows; nothing is lost beside numbers of ordinary size.
const LEAST: f32 = 1e-30;

/// Bytes of a row of x.
pub(super) fn x_row_bytes(cols: usize) -> usize {
    cols.div_ceil(BLOCK) * X_BLOCK
}

/// Floats of scratch memory for `n` rows of `cols` activations.
pub(crate) fn scratch(n: usize, cols: usize) -> usize {
    n.saturating_mul(x_row_bytes(cols)).div_ceil(4)
}

/// The columns of a block that lie side by side in lane `pair`, low half and high half: those of two vectors of x.
#[inline(always)]
pub(crate) const fn pair_columns<S: Int8>(pair: usize) -> [usize; 2] {
    let first = pair / S::LANES * 2 * S::LANES + pair % S::LANES;
    [first, first + S::LANES]
}

/// Rounds a tile of x, `[rows, cols]`; columns up to the next whole block are zeros. Numbers that are not finite make the
/// scale of their block NaN, and with it every result of the row.
#[inline(always)]
fn round_tile<S: Int8>(s: S, x: &[f32], cols: usize, out: &mut [u8]) {
    let rows = x.len() / cols;
    for (block, out) in out.chunks_exact_mut(rows * X_BLOCK).enumerate() {
        let (codes, scales) = out.split_at_mut(rows * X_CODES);
        let codes = codes.as_chunks_mut::<X_CODES>().0;
        for ((x, codes), scale) in x.chunks_exact(cols).zip(codes).zip(scales.as_chunks_mut::<4>().0) {
            let x = &x[block * BLOCK..cols.min((block + 1) * BLOCK)];
            *scale = match x.as_chunks::<BLOCK>().0.first() {
                Some(x) => round_block(s, x, codes),
                None => {
                    let mut whole = [0.0; BLOCK];
                    whole[..x.len()].copy_from_slice(x);
                    round_block(s, &whole, codes)
                }
            }
            .to_ne_bytes();
        }
    }
}

/// Rounds a block of a row of x, and gives its scale.
#[inline(always)]
fn round_block<S: Int8>(s: S, x: &[f32; BLOCK], codes: &mut [u8; X_CODES]) -> f32 {
    let mut most = s.as_f32(s.zero());
    let mut lanes = [0.0f32; 16];
    // SAFETY: vectors within the block; no vector has more than 16 lanes; a pair of vectors has as many codes.
    unsafe {
        for i in (0..BLOCK).step_by(S::LANES) {
            most = s.most(most, s.floats(x.as_ptr().add(i)));
        }
        s.store(lanes.as_mut_ptr(), most);
        let largest = f32::from_bits(lanes.iter().fold(0, |most, lane| most.max(lane.to_bits())));
        let ordinary = largest.is_finite() && largest >= LEAST;
        let inverse = s.all(if ordinary { X_MOST / largest } else { 0.0 });
        for i in (0..BLOCK).step_by(2 * S::LANES) {
            let a = s.mul(s.floats(x.as_ptr().add(i)), inverse);
            let b = s.mul(s.floats(x.as_ptr().add(i + S::LANES)), inverse);
            s.store(codes.as_mut_ptr().add(2 * i).cast(), s.as_f32(s.halves(a, b)));
        }
        match ordinary {
            true => largest / X_MOST,
            false if largest.is_finite() => 0.0,
            false => f32::NAN,
        }
    }
}

struct RoundTiles<'a, 'b> {
    x: &'a [f32],
    cols: usize,
    range: Range<usize>,
    out: &'a SharedMut<'b, u8>,
}

impl Kernel8 for RoundTiles<'_, '_> {
    #[inline(always)]
    fn run<S: Int8>(self, s: S) {
        let (n, bytes) = (self.x.len() / self.cols, x_row_bytes(self.cols));
        for (first, height) in tiles(n).filter(|&(first, _)| self.range.contains(&(first / TILE))) {
            let until = first + height;
            // SAFETY: each tile is visited once.
            let out = unsafe { self.out.part(first * bytes..until * bytes) };
            round_tile(s, &self.x[first * self.cols..until * self.cols], self.cols, out);
        }
    }
}

/// Blocks of a panel: of each two columns ([`pair_columns`]) their codes side by side in a lane, vector by vector; then the
/// scales.
pub(super) struct Codes16;

impl Unpacked for Codes16 {
    const X_BYTES: usize = X_BLOCK;

    fn x_row_bytes(cols: usize) -> usize {
        x_row_bytes(cols)
    }
    #[inline(always)]
    fn bytes<S: Int8>() -> usize {
        (BLOCK / 2 + 1) * S::VECTORS * 4 * S::LANES
    }
    #[inline(always)]
    unsafe fn add<S: Int8, const V: usize, const R: usize>(
        s: S,
        panel: *const u8,
        x: *const u8,
        sums: &mut [[S::F; R]; V],
    ) {
        let mut products = [[s.zero(); R]; V];
        let vector = 4 * S::LANES;
        // SAFETY: the caller's contract.
        unsafe {
            for pair in (0..BLOCK / 2).step_by(4) {
                let (weights, x) = (panel.add(pair * V * vector), x.add(4 * pair));
                if !s.four_halves(&mut products, weights, x) {
                    for i in 0..4 {
                        for r in 0..R {
                            let x = s.splat(x.add(X_CODES * r + 4 * i));
                            for (v, products) in products.iter_mut().enumerate() {
                                let w = s.load(weights.add((i * V + v) * vector));
                                products[r] = s.dot_halves(products[r], w, x);
                            }
                        }
                    }
                }
            }
            for (v, (sums, products)) in sums.iter_mut().zip(products).enumerate() {
                let scale = s.floats(panel.add((BLOCK / 2 * V + v) * vector).cast());
                for (r, (sum, product)) in sums.iter_mut().zip(products).enumerate() {
                    let x_scale = s.as_f32(s.splat(x.add(R * X_CODES + 4 * r)));
                    *sum = s.mul_add(s.to_f32(product), s.mul(scale, x_scale), *sum);
                }
            }
        }
    }
}

/// Panels `range` of a matrix whose rows lie side by side, times tiles of x.
struct Panels<'a, 'b> {
    task: Product<'a, 'b>,
    range: Range<usize>,
    scratch: &'a mut [f32],
}

impl Kernel8 for Panels<'_, '_> {
    #[inline(always)]
    fn run<S: Int8>(self, s: S) {
        let Product { rows, cols, weights, x, n, bias, .. } = self.task;
        let width = S::VECTORS * S::LANES;
        assert!(weights.len() >= rows.div_ceil(ROWS) * ROWS * cols * BYTES && x.len() >= n * x_row_bytes(cols));
        assert!(self.scratch.len() >= PANEL / 4 + SPARE && PANEL >= DEPTH / BLOCK * Codes16::bytes::<S>());
        let (panel, spare) = self.scratch.split_at_mut(PANEL / 4);
        let panel = panel.as_mut_ptr().cast::<u8>();
        for start in (0..cols).step_by(DEPTH) {
            let end = cols.min(start + DEPTH);
            for number in self.range.clone() {
                let column = number * width;
                let valid = width.min(rows - column);
                // SAFETY: the group of a row that exists lies in the weights, a chunk fits the scratch memory.
                unsafe {
                    match self.task.dtype {
                        DType::F16 => unpack::<S, false>(s, &self.task, (column, valid), start..end, panel),
                        _ => unpack::<S, true>(s, &self.task, (column, valid), start..end, panel),
                    }
                }
                let next = if number + 1 < self.range.end { (number + 1, start) } else { (self.range.start, end) };
                let from = weights.as_ptr().wrapping_add(((next.0 * width / ROWS * cols) + next.1) * ROWS * BYTES);
                let ahead = [from, from.wrapping_add(cols * ROWS * BYTES)];
                s.enter(Tiles {
                    task: self.task,
                    panel,
                    spare: &mut *spare,
                    tiles: 0..tiles(n).count(),
                    blocks: start / BLOCK..end.div_ceil(BLOCK),
                    column,
                    valid,
                    begin: start == 0,
                    bias: bias.filter(|_| end == cols).map(|bias| &bias[column..column + valid]),
                    ahead: (ahead, BLOCK * ROWS * BYTES),
                    format: PhantomData::<Codes16>,
                });
            }
        }
    }
}

/// `LANES` elements of a column.
/// # Safety
/// `p` is readable for them.
#[inline(always)]
unsafe fn column<S: Int8, const BF16: bool>(s: S, p: *const u8) -> S::F {
    // SAFETY: the caller's contract.
    unsafe { if BF16 { s.bf16s(p) } else { s.f16s(p) } }
}

/// Rounds the columns of the `valid` rows from `first` on, up to whole blocks with zeros. Rows of vectors that do not
/// exist become zeros.
/// # Safety
/// `panel` is writable for as many blocks, and the weights hold the group of each row.
#[inline(always)]
unsafe fn unpack<S: Int8, const BF16: bool>(
    s: S,
    task: &Product<'_, '_>,
    (first, valid): (usize, usize),
    columns: Range<usize>,
    panel: *mut u8,
) {
    let (vector, stride) = (4 * S::LANES, S::VECTORS * 4 * S::LANES);
    for v in 0..S::VECTORS {
        let row = first + v * S::LANES;
        // SAFETY: the caller's contract.
        unsafe {
            let group = task.weights.as_ptr().wrapping_add((row / ROWS * task.cols * ROWS + row % ROWS) * BYTES);
            let mut to = panel.add(v * vector);
            for start in columns.clone().step_by(BLOCK) {
                let count = if v * S::LANES < valid { BLOCK.min(columns.end - start) } else { 0 };
                let from = group.wrapping_add(start * ROWS * BYTES);
                let mut most = s.as_f32(s.zero());
                for i in 0..count {
                    most = s.most(most, column::<S, BF16>(s, from.add(i * ROWS * BYTES)));
                }
                most = s.most(most, s.all(LEAST));
                let inverse = s.div(s.all(MOST), most);
                for i in 0..BLOCK / 2 {
                    let mut pair = [s.as_f32(s.zero()); 2];
                    for (pair, i) in pair.iter_mut().zip(pair_columns::<S>(i)) {
                        if i < count {
                            *pair = s.mul(column::<S, BF16>(s, from.add(i * ROWS * BYTES)), inverse);
                        }
                    }
                    s.store(to.cast(), s.as_f32(s.halves(pair[0], pair[1])));
                    to = to.add(stride);
                }
                s.store(to.cast(), s.mul(most, s.all(1.0 / MOST)));
                to = to.wrapping_add(stride);
            }
        }
    }
}

impl Cpu {
    /// Products with a matrix of half precision whose rows lie side by side; lengths have been checked.
    pub(crate) fn half_products(
        &mut self,
        weight: &Matrix<'_>,
        (x, key): (&[f32], Option<u64>),
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let Matrix { dtype, rows, cols, bytes: weights, .. } = *weight;
        let Some(token) = self.isa.int8() else {
            return Err(KernelError::Weights { dtype, reason: "no products of 16 bits".to_owned() });
        };
        let n = x.len() / cols;
        let wanted = key.map(|key| Held { key, rows: n, cols, rounded: Rounded::Halves });
        let held = wanted.is_some() && self.workspace.holds() == wanted;
        let (scratch, per_thread) = self.workspace.parts(Cpu::matmul_needs(n, cols))?;
        // SAFETY: f32 are bytes, of which all values are valid in both.
        let scratch = unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<u8>(), 4 * scratch.len()) };
        let to = SharedMut::new(&mut scratch[..n * x_row_bytes(cols)]);
        if !held {
            let task = |_, range| token.run(RoundTiles { x, cols, range, out: &to });
            self.pool.parallel_for(n.div_ceil(TILE), 1, task)?;
        }
        let (x, out, width) = (&*scratch, SharedMut::new(out), token.panel_rows());
        let task = Product { dtype, rows, cols, weights, x, n, bias, out: &out };
        let panels = rows.div_ceil(width);
        let grain = (panels / (8 * self.pool.threads())).clamp(1, TASK_ROWS / width);
        self.pool.parallel_for(panels, grain, |thread, range| {
            let mut scratch = per_thread.lock(thread);
            token.run(Panels { task, range, scratch: floats(&mut scratch) });
        })?;
        self.workspace.hold(wanted);
        Ok(())
    }
}
