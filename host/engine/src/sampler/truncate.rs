//! Further rules for which tokens may be drawn.

use super::select::{Candidate, by_rank};

/// The standard deviation of the logits, those of impossible tokens left out.
pub(super) fn deviation(logits: &[f32]) -> f32 {
    let (mut count, mut sum, mut squares) = (0.0f64, 0.0f64, 0.0f64);
    for x in logits.iter().filter(|x| x.is_finite()).map(|&x| f64::from(x)) {
        count += 1.0;
        sum += x;
        squares += x * x;
    }
    if count == 0.0 {
        return 0.0;
    }
    let mean = sum / count;
    // Rounding can bring the variance of equal numbers below 0.
    (squares / count - mean * mean).max(0.0).sqrt() as f32
}

/// Keeps those candidates whose information content is nearest to the entropy, until they reach the probability `p`.
pub(super) fn keep_typical(candidates: &mut Vec<Candidate>, p: f32, weight: impl Fn(f32) -> f32) {
    let weights: Vec<f64> = candidates.iter().map(|c| f64::from(weight(c.1))).collect();
    let total: f64 = weights.iter().sum();
    // 0 ln 0 is 0.
    let surprise = |w: f64| -(w / total).ln();
    let entropy: f64 = weights.iter().filter(|&&w| w > 0.0).map(|&w| w / total * surprise(w)).sum();
    let mut order: Vec<(f64, f64, Candidate)> =
        candidates.iter().zip(&weights).map(|(&c, &w)| ((surprise(w) - entropy).abs(), w, c)).collect();
    order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(by_rank(&a.2, &b.2)));
    let (target, mut sum) = (total * f64::from(p), 0.0);
    candidates.clear();
    for (_, weight, candidate) in order {
        candidates.push(candidate);
        sum += weight;
        if sum >= target {
            break;
        }
    }
}

/// Leaves out all candidates whose share of the weights reaches `threshold`, but for the least likely of them.
pub(super) fn exclude_top(candidates: &mut Vec<Candidate>, threshold: f32) {
    let total: f64 = candidates.iter().map(|c| f64::from(c.1)).sum();
    let least = f64::from(threshold) * total;
    let reaches = |c: &Candidate| f64::from(c.1) >= least;
    let Some(kept) = candidates.iter().copied().filter(reaches).max_by(by_rank) else { return };
    candidates.retain(|c| !reaches(c) || c.0 == kept.0);
}
