//! Products of interleaved weights with rows of prompts, as bfloat16 in tiles.
//!
//! Both sides are rounded to 8 bits of significand, activations to a finer grid than as integers of 8 bits. No scale is
//! left to be multiplied after the sums, which is what takes the time of products of integers where tiles are multiplied
//! that fast.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use rocmforge_quant::DType;

use super::amx::{self, Amx, Places, TILE_BYTES};
use super::format::{BLOCK, Codes, ForPacking, Packing, ROWS, code_bytes, for_packing};
use super::pack::{group_bytes, unit_bytes};
use super::scales::Scales;
use super::x86::Vnni512;
use crate::cpu::Cpu;
use crate::error::KernelError;
use crate::inputs::Inputs;
use crate::linear::{Linear, TOGETHER};
use crate::shared::SharedMut;
use crate::workspace::{Held, Rounded, floats};

/// Weight rows of a panel, and vectors of them.
const WIDTH: usize = 2 * ROWS;
const VECTORS: usize = 2;
/// Columns of a chunk, at most, of which a panel stays in the first-level cache.
const DEPTH: usize = 512;
/// Rows of x of which a chunk stays in the second-level cache, beside their sums.
const GROUP: usize = 512;
/// Panels whose sums are made together, at most: they read a chunk of x from outside of the caches once.
const PANELS: usize = 8;
/// Bytes of a chunk of a panel.
const PANEL: usize = WIDTH * DEPTH * 2;
/// Elements of the sums of a panel.
const PANEL_SUMS: usize = GROUP * WIDTH;
/// Rows of x per task that rounds them.
const ROUNDED: usize = amx::ROWS;

/// Floats of scratch memory of a thread.
pub(super) const PER_THREAD: usize = PANEL / 4 + PANELS * PANEL_SUMS;

/// Rounds a row of x; blocks lie `TILE_BYTES` apart.
/// # Safety
/// The processor has the instructions, and `to` is writable for the row's part of each block.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn round_row(x: &[f32], to: *mut u8) {
    for (i, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
        // SAFETY: 32 elements, and the caller's contract.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16)));
            let rounded: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(to.add(i * TILE_BYTES).cast(), rounded);
        }
    }
}

/// The weights of a quad, `codes * scale - min`, as bfloat16: of the first two columns side by side for each row, and of
/// the other two.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pairs(codes: __m512i, scale: __m512, min: __m512) -> [__m512i; 2] {
    // The first of one, the first of the other, and so on.
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        order
    };
    let byte = _mm512_set1_epi32(255);
    let weights = |codes: __m512i| _mm512_fmsub_ps(_mm512_cvtepi32_ps(codes), scale, min);
    let columns = [
        weights(_mm512_and_si512(codes, byte)),
        weights(_mm512_and_si512(_mm512_srli_epi32::<8>(codes), byte)),
        weights(_mm512_and_si512(_mm512_srli_epi32::<16>(codes), byte)),
        weights(_mm512_srli_epi32::<24>(codes)),
    ];
    // SAFETY: 64 bytes each.
    unsafe {
        let order = _mm512_loadu_si512(ORDER.as_ptr().cast());
        [[columns[0], columns[1]], [columns[2], columns[3]]].map(|[first, second]| {
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(second, first));
            _mm512_permutexvar_epi16(order, both)
        })
    }
}

/// Blocks of a panel of weight rows, made floats.
struct Unpack<'a> {
    token: Vnni512,
    weights: &'a [u8],
    cols: usize,
    /// First weight row, and how many of the panel exist.
    column: usize,
    valid: usize,
    blocks: Range<usize>,
    panel: &'a mut [u8],
}

impl ForPacking for Unpack<'_> {
    type Out = ();

    fn format<P: Packing>(self) {
        let groups = (self.column + self.valid).div_ceil(ROWS);
        assert!(self.weights.len() >= groups * group_bytes::<P>(self.cols) && self.blocks.end <= self.cols / BLOCK);
        assert!(self.panel.len() >= self.blocks.len() * VECTORS * TILE_BYTES);
        // SAFETY: the token proves the instructions, with those of tiles come those of bfloat16.
        unsafe { unpack::<P>(self) };
    }

    fn none(self) {}
}

/// Of each block a tile per vector: 16 vectors, each of two columns side by side.
/// # Safety
/// The processor has the instructions; the weights hold the blocks of the rows that exist, and the panel fits them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn unpack<P: Packing>(task: Unpack<'_>) {
    let Unpack { token: s, weights, cols, column, valid, blocks, panel } = task;
    let panel = panel.as_mut_ptr();
    for v in 0..VECTORS {
        // SAFETY: the caller's contract.
        unsafe {
            let mut to = panel.add(v * TILE_BYTES);
            if v * ROWS >= valid {
                for _ in blocks.clone() {
                    to.write_bytes(0, TILE_BYTES);
                    to = to.wrapping_add(VECTORS * TILE_BYTES);
                }
                continue;
            }
            let from = weights.as_ptr().add((column / ROWS + v) * group_bytes::<P>(cols));
            let per_unit = P::K::BLOCKS;
            for unit in blocks.start / per_unit..blocks.end / per_unit {
                let scales = from.add(unit * unit_bytes::<P>());
                let head = P::K::head(s, scales, 0);
                for b in 0..per_unit {
                    let codes = scales.add(P::K::BYTES + b * code_bytes::<P::C>());
                    unpack_block::<P>(s, codes, |part| P::K::get(s, scales, 0, head, (b, part)), to);
                    to = to.wrapping_add(VECTORS * TILE_BYTES);
                }
            }
        }
    }
}

/// A block of 16 rows.
/// # Safety
/// As for `unpack`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn unpack_block<P: Packing>(s: Vnni512, codes: *const u8, numbers: impl Fn(usize) -> [__m512; 2], to: *mut u8) {
    let mut whole = MaybeUninit::<[u8; 64 * 8]>::uninit();
    let quads = whole.as_mut_ptr().cast::<u8>();
    // SAFETY: the caller's contract.
    unsafe {
        let whole = P::C::POINTS && P::C::whole(s, codes, quads);
        for part in 0..P::K::PARTS {
            let [scale, min] = numbers(part);
            let min = if P::K::MINS { min } else { _mm512_mul_ps(scale, _mm512_set1_ps(P::ZERO as f32)) };
            for quad in part * 8 / P::K::PARTS..(part + 1) * 8 / P::K::PARTS {
                let codes = match whole {
                    true => _mm512_loadu_si512(quads.add(64 * quad).cast()),
                    false => P::C::quad(s, codes, 0, quad),
                };
                let [first, second] = pairs(codes, scale, min);
                _mm512_storeu_si512(to.add(128 * quad).cast(), first);
                _mm512_storeu_si512(to.add(128 * quad + 64).cast(), second);
            }
        }
    }
}

/// A matrix times rows of x.
#[derive(Clone, Copy)]
struct Product<'a, 'b> {
    token: Vnni512,
    amx: Amx,
    dtype: DType,
    rows: usize,
    cols: usize,
    weights: &'a [u8],
    /// Tiles of 16 of `n` rows; of each its blocks.
    x: &'a [u8],
    n: usize,
    bias: Option<&'a [f32]>,
    /// `[n, rows]`
    add: Option<&'a [f32]>,
    /// `[n, rows]`
    out: &'a SharedMut<'b, f32>,
}

impl Product<'_, '_> {
    /// Panels `range`; `scratch` has at least `PER_THREAD` elements.
    fn panels(self, range: Range<usize>, scratch: &mut [f32]) {
        let (panel, sums) = scratch[..PER_THREAD].split_at_mut(PANEL / 4);
        // SAFETY: f32 are bytes, of which all values are valid in both.
        let panel = unsafe { std::slice::from_raw_parts_mut(panel.as_mut_ptr().cast::<u8>(), PANEL) };
        for start in range.clone().step_by(PANELS) {
            let panels = start..range.end.min(start + PANELS);
            for first in (0..self.n).step_by(GROUP) {
                let rows = first..self.n.min(first + GROUP);
                self.add_up(panels.clone(), rows.clone(), panel, sums);
                // SAFETY: the token proves the instructions.
                unsafe { self.finish(panels.clone(), rows, sums) };
            }
        }
    }

    /// Sums of some panels with some rows of x, chunk after chunk of the columns.
    fn add_up(&self, panels: Range<usize>, rows: Range<usize>, panel: &mut [u8], sums: &mut [f32]) {
        let blocks = self.cols / BLOCK;
        let unit = for_packing(self.dtype, UnitBlocks);
        // As many in each chunk, of whole units.
        let depth = blocks.div_ceil(blocks.div_ceil(DEPTH / BLOCK)).next_multiple_of(unit).min(DEPTH / BLOCK);
        for start in (0..blocks).step_by(depth) {
            let chunk = start..blocks.min(start + depth);
            for (number, sums) in panels.clone().zip(sums.chunks_exact_mut(PANEL_SUMS)) {
                let column = number * WIDTH;
                let Product { token, weights, cols, .. } = *self;
                let (valid, blocks) = (WIDTH.min(self.rows - column), chunk.clone());
                let unpack = Unpack { token, weights, cols, column, valid, blocks, panel: &mut *panel };
                for_packing(self.dtype, unpack);
                self.chunk(&chunk, panel, rows.clone(), sums);
            }
        }
    }

    /// A chunk of a panel times some rows of x, two tiles at a time.
    fn chunk(&self, blocks: &Range<usize>, panel: &[u8], rows: Range<usize>, sums: &mut [f32]) {
        let (begin, tile) = (blocks.start == 0, |row: usize| row / amx::ROWS);
        let at = |tile: usize| (tile * (self.cols / BLOCK) + blocks.start) * TILE_BYTES;
        let last = tile(rows.end - 1);
        assert!(self.x.len() >= at(last) + blocks.len() * TILE_BYTES && panel.len() >= blocks.len() * 2 * TILE_BYTES);
        assert!(sums.len() >= (last + 1 - tile(rows.start)) * 2 * TILE_BYTES / 4);
        let sums = sums.as_mut_ptr();
        let places = |first: usize, second: usize| Places {
            x: [first, second].map(|tile| self.x[at(tile)..].as_ptr()),
            weights: panel.as_ptr(),
            steps: blocks.len(),
            sums: sums.wrapping_add((first - tile(rows.start)) * 2 * TILE_BYTES / 4),
        };
        let whole = tile(rows.start)..tile(rows.end);
        if !whole.is_empty() {
            let shaped = self.amx.shape(amx::ROWS);
            for first in whole.clone().step_by(2) {
                let second = (first + 1).min(whole.end - 1);
                // SAFETY: as asserted.
                unsafe {
                    match second > first {
                        true => shaped.two(places(first, second), begin),
                        false => shaped.one(places(first, first), begin),
                    }
                }
            }
        }
        if !rows.end.is_multiple_of(amx::ROWS) {
            // SAFETY: as asserted.
            unsafe { self.amx.shape(rows.end % amx::ROWS).one(places(last, last), begin) };
        }
    }

    /// Puts sums of some panels to their places, with what is added to them.
    /// # Safety
    /// The processor has the instructions.
    #[target_feature(enable = "avx512f")]
    unsafe fn finish(&self, panels: Range<usize>, rows: Range<usize>, sums: &[f32]) {
        let (bias, add) = (self.bias.map(<[f32]>::as_ptr), self.add.map(<[f32]>::as_ptr));
        let column = panels.start * WIDTH;
        let width = self.rows.min(panels.end * WIDTH) - column;
        for (i, row) in rows.enumerate() {
            let place = row * self.rows + column;
            let out = self.out.pointer(place..place + width);
            for at in (0..width).step_by(ROWS) {
                let sum = at / WIDTH * PANEL_SUMS + (i / amx::ROWS * 2 + at % WIDTH / ROWS) * TILE_BYTES / 4;
                let sum = &sums[sum + i % amx::ROWS * ROWS..][..ROWS];
                let mask = u16::MAX >> (ROWS - ROWS.min(width - at));
                // SAFETY: these columns of the output belong to the task that has these panels, and what is added to them
                // is as large.
                unsafe {
                    let mut y = _mm512_loadu_ps(sum.as_ptr());
                    let (bias, add) = (bias.map(|bias| bias.add(column + at)), add.map(|add| add.add(place + at)));
                    for added in bias.into_iter().chain(add) {
                        y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, added));
                    }
                    _mm512_mask_storeu_ps(out.add(at), mask, y);
                }
            }
        }
    }
}

/// Blocks of a unit.
struct UnitBlocks;

impl ForPacking for UnitBlocks {
    type Out = usize;

    fn format<P: Packing>(self) -> usize {
        P::K::BLOCKS
    }

    fn none(self) -> usize {
        1
    }
}

impl Cpu {
    /// Products of rows of prompts with interleaved weights; lengths have been checked.
    pub(super) fn bfloat_products(
        &mut self,
        (token, amx): (Vnni512, Amx),
        inputs: Inputs<'_>,
        cols: usize,
        linears: &mut [Option<Linear<'_>>; TOGETHER],
    ) -> Result<(), KernelError> {
        let (isa, n) = (self.isa, inputs.len() / cols);
        let wanted = inputs.key().map(|key| Held { key, rows: n, cols, rounded: Rounded::Bfloats });
        let held = wanted.is_some() && self.workspace.holds() == wanted;
        let (scratch, per_thread) = self.workspace.parts(Cpu::matmul_needs(n, cols))?;
        // SAFETY: f32 are bytes, of which all values are valid in both.
        let scratch = unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<u8>(), 4 * scratch.len()) };
        if !held {
            let to = SharedMut::new(&mut *scratch);
            self.pool.parallel_for(n, ROUNDED, |thread, range| {
                let mut made = per_thread.lock(thread);
                let made = &mut floats(&mut made)[..cols];
                for row in range {
                    let x = inputs.make(isa, row * cols..(row + 1) * cols, made);
                    let (tile, row) = (row / amx::ROWS * cols / BLOCK * TILE_BYTES, row % amx::ROWS * amx::ROW_BYTES);
                    let to = to.pointer(tile + row..tile + cols / BLOCK * TILE_BYTES);
                    // SAFETY: the token proves the instructions; rows of a tile lie apart, and each is visited once.
                    unsafe { round_row(x, to) };
                }
            })?;
        }
        let x = &*scratch;
        let outs = linears.each_mut().map(|l| l.as_mut().map(|l| (SharedMut::new(l.out), l.weight, l.bias, l.add)));
        let mut items = 0;
        let parts = outs.each_ref().map(|one| {
            let (out, weight, bias, add) = one.as_ref()?;
            let (dtype, rows, weights) = (weight.dtype, weight.rows, weight.bytes);
            let first = items;
            items += rows.div_ceil(WIDTH);
            let product = Product { token, amx, dtype, rows, cols, weights, x, n, bias: *bias, add: *add, out };
            Some((product, first..items))
        });
        // At least two tasks per thread, all of as many panels.
        let rounds = items.div_ceil(self.pool.threads() * PANELS).max(2);
        let grain = items.div_ceil(self.pool.threads() * rounds);
        self.pool.parallel_for(items, grain, |thread, range| {
            let mut scratch = per_thread.lock(thread);
            for (product, items) in parts.iter().flatten() {
                let (start, end) = (range.start.max(items.start), range.end.min(items.end));
                if start < end {
                    product.panels(start - items.start..end - items.start, floats(&mut scratch));
                }
            }
        })?;
        self.workspace.hold(wanted);
        Ok(())
    }
}
