//! Scores of a panel of rows to weights, as products with values take them.

use std::ops::Range;

use super::staging::weight_factor;
use super::wide::{BLOCKS, LOWEST, SPAN, State, Wide};
use crate::int8::Int8;
use crate::int8::words::{self, BLOCK, MOST_WIDTH, PAIRS, panel_floats, width};
use crate::math;
use crate::simd::Simd;

/// The keys of a span that a panel sees: positions are relative to the span's first key.
pub(super) struct Seen<'a> {
    pub(super) panel: usize,
    /// Last and first key of each row, and of all rows.
    pub(super) last: &'a [f32; MOST_WIDTH],
    pub(super) first: &'a [f32; MOST_WIDTH],
    /// Keys that all rows see.
    pub(super) by_all: Range<usize>,
    pub(super) blocks: Range<usize>,
}

impl Wide<'_, '_> {
    /// Scores to weights, and what is there fades.
    #[inline(always)]
    pub(super) fn weigh<S: Int8>(&self, s: S, seen: &Seen<'_>, state: &mut State<'_>) {
        let (width, simd, dim) = (width::<S>(), s.simd(), self.task.cache.shape.value_dim);
        let values = &mut state.values[seen.panel * dim * width..][..dim * width];
        assert!(seen.blocks.end <= BLOCKS && state.scores.len() >= SPAN * width);
        for lane in (0..width).step_by(S::LANES) {
            let at = seen.panel * width + lane;
            let (maxima, sums) = (&mut state.max[at..at + S::LANES], &mut state.sum[at..at + S::LANES]);
            // SAFETY: as many lanes; scores and weights have as many blocks of rows.
            unsafe {
                let before = s.floats(maxima.as_ptr());
                let (mut largest, mut max) = ([before; BLOCKS], before);
                for block in seen.blocks.clone() {
                    let scores = state.scores.as_mut_ptr().add(block * BLOCK * width + lane);
                    largest[block] = self.largest(s, seen, (block, lane), scores);
                    max = simd.max(largest[block], max);
                }
                let fade = math::exp2(simd, simd.sub(before, max));
                let mut sum = simd.mul(s.floats(sums.as_ptr()), fade);
                for block in seen.blocks.clone() {
                    let scores = state.scores.as_mut_ptr().add(block * BLOCK * width + lane);
                    let weights = state.weights.as_mut_ptr().add(block * panel_floats(width) + lane);
                    let relative = math::exp2(simd, simd.sub(largest[block], max));
                    let total = weights_of(s, largest[block], relative, scores, weights);
                    sum = simd.mul_add(total, relative, sum);
                }
                s.store(maxima.as_mut_ptr(), max);
                s.store(sums.as_mut_ptr(), sum);
                for values in values.chunks_exact_mut(width) {
                    let values = values.as_mut_ptr().add(lane);
                    s.store(values, s.mul(s.floats(values), fade));
                }
            }
        }
    }

    /// Caps and masks the scores of a block of keys, and gives the largest of each row.
    /// # Safety
    /// The scores are those of `LANES` rows.
    #[inline(always)]
    unsafe fn largest<S: Int8>(&self, s: S, seen: &Seen<'_>, (block, lane): (usize, usize), scores: *mut f32) -> S::F {
        const CHAINS: usize = 4;
        let (width, simd, first) = (width::<S>(), s.simd(), block * BLOCK);
        let masked = first < seen.by_all.start || first + BLOCK > seen.by_all.end;
        // SAFETY: the caller's contract; there are numbers for each lane of a panel.
        unsafe {
            if let Some(cap) = self.task.attention.softcap {
                let cap = simd.splat(cap * std::f32::consts::LOG2_E);
                for i in 0..BLOCK {
                    let x = scores.add(i * width);
                    s.store(x, simd.mul(cap, math::tanh(simd, s.floats(x))));
                }
            }
            if masked {
                let (last, oldest) = (s.floats(seen.last[lane..].as_ptr()), s.floats(seen.first[lane..].as_ptr()));
                let never = simd.splat(f32::NEG_INFINITY);
                for i in 0..BLOCK {
                    let (x, key) = (scores.add(i * width), simd.splat((first + i) as f32));
                    let score = simd.if_less(last, key, never, s.floats(x));
                    s.store(x, simd.if_less(key, oldest, never, score));
                }
            }
            let mut most = [simd.splat(LOWEST); CHAINS];
            for i in (0..BLOCK).step_by(CHAINS) {
                for (chain, most) in most.iter_mut().enumerate() {
                    *most = simd.max(s.floats(scores.add((i + chain) * width)), *most);
                }
            }
            simd.max(simd.max(most[0], most[1]), simd.max(most[2], most[3]))
        }
    }
}

/// Weights of a block of keys relative to the largest score, rounded to a block of a panel with `relative` in the scales.
/// Gives their sums.
/// # Safety
/// The scores are those of `LANES` rows, and so are the weights.
#[inline(always)]
unsafe fn weights_of<S: Int8>(s: S, largest: S::F, relative: S::F, scores: *mut f32, weights: *mut f32) -> S::F {
    const CHAINS: usize = 4;
    let (width, simd) = (width::<S>(), s.simd());
    let mut sums = [simd.splat(0.0); CHAINS];
    // SAFETY: the caller's contract.
    unsafe {
        for i in (0..BLOCK).step_by(CHAINS) {
            for (chain, sum) in sums.iter_mut().enumerate() {
                let x = scores.add((i + chain) * width);
                let weight = math::exp2(simd, simd.sub(s.floats(x), largest));
                s.store(x, weight);
                *sum = s.add(*sum, weight);
            }
        }
        let sum = s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]));
        let factor = weight_factor(s, sum);
        for i in 0..PAIRS {
            let pair = words::pair_columns::<S>(i).map(|key| s.mul(s.floats(scores.add(key * width)), factor));
            s.store(weights.add(i * width), s.as_f32(s.halves(pair[0], pair[1])));
        }
        s.store(weights.add(PAIRS * width), simd.div(relative, factor));
        sum
    }
}
