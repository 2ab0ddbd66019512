//! The inner loops of attention over the scores of a row.

use crate::math;
use crate::simd::Simd;

/// Multiplies the scores, caps them if asked to, and gives the largest.
#[inline(always)]
pub(super) fn scale_scores<S: Simd>(s: S, scores: &mut [f32], scale: f32, softcap: Option<f32>) -> f32 {
    let mut largest = s.splat(f32::NEG_INFINITY);
    let mut i = 0;
    while i < scores.len() {
        let n = (scores.len() - i).min(S::LANES);
        // SAFETY: `n` elements are left.
        unsafe {
            let p = scores.as_mut_ptr().add(i);
            let mut v = s.mul(s.load_first(p, n), s.splat(scale));
            if let Some(cap) = softcap {
                v = s.mul(s.splat(cap), math::tanh(s, s.div(v, s.splat(cap))));
            }
            s.store_first(p, v, n);
            if n == S::LANES {
                largest = s.max(v, largest);
            }
        }
        i += n;
    }
    let mut lanes = [f32::NEG_INFINITY; 16];
    // SAFETY: no vector has more lanes.
    unsafe { s.store(lanes.as_mut_ptr(), largest) };
    let rest = &scores[scores.len() / S::LANES * S::LANES..];
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Each score becomes `e^(score - max)`; returns their sum.
#[inline(always)]
pub(super) fn exp_in_place<S: Simd>(s: S, scores: &mut [f32], max: f32) -> f32 {
    let mut total = s.splat(0.0);
    let mut i = 0;
    while i < scores.len() {
        let n = (scores.len() - i).min(S::LANES);
        // SAFETY: `n` elements are left.
        unsafe {
            let p = scores.as_mut_ptr().add(i);
            let e = math::exp(s, s.sub(s.load_first(p, n), s.splat(max)));
            if n == S::LANES {
                s.store(p, e);
                total = s.add(total, e);
            } else {
                s.store_first(p, e, n);
                // Loaded again, so that the lanes after the end add nothing.
                total = s.add(total, s.load_first(p, n));
            }
        }
        i += n;
    }
    s.sum(total)
}

/// Multiplies each number.
#[inline(always)]
pub(super) fn multiply<S: Simd>(s: S, numbers: &mut [f32], factor: f32) {
    let mut i = 0;
    while i < numbers.len() {
        let n = (numbers.len() - i).min(S::LANES);
        // SAFETY: `n` elements are left.
        unsafe {
            let p = numbers.as_mut_ptr().add(i);
            s.store_first(p, s.mul(s.load_first(p, n), s.splat(factor)), n);
        }
        i += n;
    }
}
