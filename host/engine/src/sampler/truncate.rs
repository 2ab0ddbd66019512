//! Further rules for which tokens may be drawn.

use super::run::{self, ByDistance, Item, Sequence};
use super::select::{Candidate, by_rank, weigh};

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

/// Keeps those candidates whose information content is nearest to the entropy, until they reach the probability `p`, in
/// any order; the returned one is theirs. `items` is used.
pub(super) fn keep_typical(
    candidates: &mut Vec<Candidate>,
    items: &mut Vec<Item>,
    p: f32,
    max: f32,
    temperature: f32,
) -> ByDistance {
    let (mut total, mut logits) = (0.0, 0.0);
    items.clear();
    weigh(candidates, max, temperature, |part, weights| {
        for (&(token, logit), &weight) in part.iter().zip(weights) {
            total += f64::from(weight);
            logits += f64::from(weight) * f64::from(logit);
            items.push(Item { token, logit, weight });
        }
    });
    // Information falls as the logit rises, in a line: the entropy, its mean, is that of the mean logit.
    let nearest = ByDistance(logits / total);
    if let Some(last) = run::last(items, nearest, |sum| sum >= total * f64::from(p)) {
        items.retain(|item| nearest.order(item, &last).is_le());
    }
    candidates.clear();
    candidates.extend(items.iter().map(|item| (item.token, item.logit)));
    nearest
}

/// Leaves out all candidates whose share of the weights reaches `threshold`, but for the least likely of them.
pub(super) fn exclude_top(candidates: &mut Vec<Candidate>, threshold: f32) {
    let total: f64 = candidates.iter().map(|c| f64::from(c.1)).sum();
    let least = f64::from(threshold) * total;
    let reaches = |c: &Candidate| f64::from(c.1) >= least;
    let Some(kept) = candidates.iter().copied().filter(reaches).max_by(by_rank) else { return };
    candidates.retain(|c| !reaches(c) || c.0 == kept.0);
}
