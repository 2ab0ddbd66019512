//! Further rules for which tokens may be drawn.

use std::cmp::Ordering;

use super::run::{self, Item};
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

/// Keeps those candidates whose information content is nearest to the entropy, until they reach the probability `p`.
pub(super) fn keep_typical(candidates: &mut Vec<Candidate>, p: f32, max: f32, temperature: f32) {
    let (mut items, mut total) = (Vec::with_capacity(candidates.len()), 0.0);
    weigh(candidates, max, temperature, |part, weights| {
        let weights = weights.iter().map(|&w| f64::from(w));
        total += weights.clone().sum::<f64>();
        items.extend(part.iter().zip(weights).map(|(&candidate, weight)| Typical { distance: 0.0, weight, candidate }));
    });
    let mut entropy = 0.0;
    for item in &mut items {
        let share = item.weight / total;
        item.distance = -share.ln();
        // 0 ln 0 is 0.
        entropy += if share > 0.0 { share * item.distance } else { 0.0 };
    }
    items.iter_mut().for_each(|item| item.distance = (item.distance - entropy).abs());
    let target = total * f64::from(p);
    if let Some(last) = run::last(&items, |sum| sum >= target) {
        items.retain(|item| item.order(&last).is_le());
    }
    items.sort_unstable_by(Typical::order);
    candidates.clear();
    candidates.extend(items.iter().map(|item| item.candidate));
}

/// A candidate by how far its information content is from the entropy.
#[derive(Clone, Copy)]
struct Typical {
    distance: f64,
    weight: f64,
    candidate: Candidate,
}

impl Item for Typical {
    fn key(&self) -> f64 {
        // That of an impossible token is infinite.
        self.distance.min(f64::from(f32::MAX))
    }

    fn weight(&self) -> f64 {
        self.weight
    }

    fn order(&self, other: &Self) -> Ordering {
        self.distance.total_cmp(&other.distance).then(by_rank(&self.candidate, &other.candidate))
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
