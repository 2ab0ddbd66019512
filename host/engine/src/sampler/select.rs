//! Which tokens may be drawn, and the draw.

use std::cmp::Ordering;

use super::{SamplingParams, truncate};

/// A token and its logit, or later its weight.
pub(super) type Candidate = (u32, f32);

/// The largest logit and whether there is a NaN, in lanes that compile to vector instructions: rows are long.
pub(super) fn maximum(logits: &[f32]) -> (f32, bool) {
    const LANES: usize = 16;
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut nan = [0u32; LANES];
    let mut lane = |i: usize, x: f32| {
        max[i] = if x > max[i] { x } else { max[i] };
        nan[i] |= u32::from(x.is_nan());
    };
    let (chunks, rest) = logits.as_chunks::<LANES>();
    chunks.iter().for_each(|chunk| (0..LANES).for_each(|i| lane(i, chunk[i])));
    rest.iter().enumerate().for_each(|(i, &x)| lane(i, x));
    (max.into_iter().fold(f32::NEG_INFINITY, f32::max), nan.into_iter().any(|n| n != 0))
}

/// Index of the largest logit, the first one of equals.
pub(super) fn argmax(logits: &[f32]) -> u32 {
    let (max, _) = maximum(logits);
    logits.iter().position(|&x| x == max).unwrap_or(0) as u32
}

/// Larger logits first, smaller tokens first among equals: a total order without NaN.
pub(super) fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// The `k` first of `candidates` by rank, sorted, without sorting the rest.
pub(super) fn keep_top(candidates: &mut Vec<Candidate>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, by_rank);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(by_rank);
}

/// The tokens that may be drawn, with weights in proportion to their probabilities. `logits` hold bias and penalties
/// already, their maximum is finite, and the temperature is not 0. `scratch` receives the result.
pub(super) fn candidates(logits: &[f32], params: &SamplingParams, scratch: &mut Vec<Candidate>) {
    let (max, _) = maximum(logits);
    let weight = |x: f32| ((x - max) / params.temperature).exp();
    // Nothing is drawn that is impossible.
    let mut least = f32::MIN;
    if params.min_p > 0.0 {
        // p / p_max is the weight, so the threshold needs no sum over the vocabulary.
        least = least.max(max + params.temperature * params.min_p.ln());
    }
    if params.top_n_sigma > 0.0 {
        least = least.max(max - params.top_n_sigma * truncate::deviation(logits));
    }
    scratch.clear();
    let all = logits.iter().enumerate().map(|(i, &x)| (i as u32, x));
    scratch.extend(all.filter(|c| c.1 >= least || c.1 == max));
    if let Some(k) = params.top_k {
        keep_top(scratch, k);
    }
    if params.typical_p < 1.0 {
        truncate::keep_typical(scratch, params.typical_p, weight);
    }
    if params.top_p < 1.0 {
        let total: f64 = scratch.iter().map(|c| f64::from(weight(c.1))).sum();
        keep_top_p(scratch, total * f64::from(params.top_p), weight);
    }
    scratch.iter_mut().for_each(|c| c.1 = weight(c.1));
}

/// All tokens with weights in proportion to their probabilities; otherwise as [`candidates`].
pub(super) fn weights(logits: &[f32], temperature: f32, scratch: &mut Vec<Candidate>) {
    let (max, _) = maximum(logits);
    scratch.clear();
    scratch.extend(logits.iter().enumerate().map(|(i, &x)| (i as u32, ((x - max) / temperature).exp())));
}

/// Keeps the shortest run of first-ranked candidates whose weights reach `target`. Nearly always these are few, so
/// more and more of them are ranked until they suffice.
fn keep_top_p(candidates: &mut Vec<Candidate>, target: f64, weight: impl Fn(f32) -> f32) {
    let mut ranked = 0;
    let mut sum = 0.0;
    while ranked < candidates.len() {
        let rest = &mut candidates[ranked..];
        let next = (ranked * 8).max(256).min(rest.len());
        if next < rest.len() {
            rest.select_nth_unstable_by(next, by_rank);
        }
        rest[..next].sort_unstable_by(by_rank);
        for (i, c) in rest[..next].iter().enumerate() {
            sum += f64::from(weight(c.1));
            if sum >= target {
                candidates.truncate(ranked + i + 1);
                return;
            }
        }
        ranked += next;
    }
}

/// The candidate at the quantile `u` (in [0, 1)) of the weights in their order. There is at least one.
pub(super) fn draw(candidates: &[Candidate], u: f64) -> u32 {
    let total: f64 = candidates.iter().map(|c| f64::from(c.1)).sum();
    let mut left = u * total;
    for &(token, weight) in candidates {
        left -= f64::from(weight);
        if left < 0.0 {
            return token;
        }
    }
    // Rounding can leave a hair of the total: the last token with any weight is meant.
    candidates.iter().rev().find(|c| c.1 > 0.0).map_or(0, |c| c.0)
}
