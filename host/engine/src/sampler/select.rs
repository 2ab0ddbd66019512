//! Which tokens may be drawn, and the draw.

use std::cmp::Ordering;

use super::run::{self, ByDistance, ByRank, Item, Sequence};
use super::whole::exp;
use super::{SamplingParams, truncate};

/// A token and its logit, or later its weight.
pub(super) type Candidate = (u32, f32);

/// More candidates than these are not sorted.
const MOST_SORTED: usize = 4096;

/// In which order candidates count in a draw.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// In theirs.
    Given,
    /// By rank, which theirs is not.
    ByRank,
    /// By distance, which theirs is not.
    ByDistance(ByDistance),
}

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
    select_top(candidates, k);
    candidates.sort_unstable_by(by_rank);
}

/// The same in any order.
fn select_top(candidates: &mut Vec<Candidate>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, by_rank);
        candidates.truncate(k);
    }
}

/// The tokens that may be drawn, with weights in proportion to their probabilities. `logits` hold bias and penalties
/// already, their maximum is finite, and the temperature is not 0. `scratch` receives the result, `items` is used.
pub(super) fn candidates(
    logits: &[f32],
    params: &SamplingParams,
    scratch: &mut Vec<Candidate>,
    items: &mut Vec<Item>,
) -> Order {
    let (max, _) = maximum(logits);
    let temperature = params.temperature;
    // Nothing is drawn that is impossible.
    let mut least = f32::MIN;
    if params.min_p > 0.0 {
        // p / p_max is the weight, so the threshold needs no sum over the vocabulary.
        least = least.max(max + temperature * params.min_p.ln());
    }
    if params.top_n_sigma > 0.0 {
        least = least.max(max - params.top_n_sigma * truncate::deviation(logits));
    }
    // Every token is written down, the next one over it where it is not kept: no branch that could be guessed wrongly.
    scratch.resize(logits.len(), (0, 0.0));
    let mut kept = 0;
    for (i, &x) in logits.iter().enumerate() {
        scratch[kept] = (i as u32, x);
        kept += usize::from(x >= least || x == max);
    }
    scratch.truncate(kept);
    let mut order = Order::Given;
    if let Some(k) = params.top_k {
        select_top(scratch, k);
        order = sort_few(scratch);
    }
    if params.typical_p < 1.0 {
        let nearest = truncate::keep_typical(scratch, items, params.typical_p, max, temperature);
        order = Order::ByDistance(nearest);
    }
    if params.top_p < 1.0 {
        return keep_top_p(scratch, items, f64::from(params.top_p), max, temperature);
    }
    replace_logits(scratch, max, temperature);
    order
}

fn replace_logits(candidates: &mut [Candidate], max: f32, temperature: f32) {
    weigh(candidates, max, temperature, |part, weights| part.iter_mut().zip(weights).for_each(|(c, &w)| c.1 = w));
}

/// Calls `f` with the candidates, in pieces, and their weights, which are 1 for the logit `max`.
pub(super) fn weigh(
    candidates: &mut [Candidate],
    max: f32,
    temperature: f32,
    mut f: impl FnMut(&mut [Candidate], &[f32]),
) {
    // In pieces, as a loop over numbers alone compiles to vector instructions.
    let mut weights = [0f32; 512];
    for part in candidates.chunks_mut(weights.len()) {
        let weights = &mut weights[..part.len()];
        weights.iter_mut().zip(part.iter()).for_each(|(w, c)| *w = c.1);
        weights.iter_mut().for_each(|w| *w = exp((*w - max) / temperature));
        f(part, weights);
    }
}

/// Sorts the candidates by rank, unless they are so many that it would take long.
fn sort_few(candidates: &mut [Candidate]) -> Order {
    if candidates.len() > MOST_SORTED {
        return Order::ByRank;
    }
    candidates.sort_unstable_by(by_rank);
    Order::Given
}

/// All tokens with weights in proportion to their probabilities; otherwise as [`candidates`].
pub(super) fn weights(logits: &[f32], temperature: f32, scratch: &mut Vec<Candidate>) {
    let (max, _) = maximum(logits);
    scratch.clear();
    scratch.extend(logits.iter().enumerate().map(|(i, &x)| (i as u32, x)));
    replace_logits(scratch, max, temperature);
}

/// Keeps the shortest run of first-ranked candidates whose weights reach this share of all, and their weights in place of
/// their logits.
fn keep_top_p(candidates: &mut Vec<Candidate>, items: &mut Vec<Item>, share: f64, max: f32, temperature: f32) -> Order {
    let mut total = 0.0;
    items.clear();
    weigh(candidates, max, temperature, |part, weights| {
        total += weights.iter().map(|&w| f64::from(w)).sum::<f64>();
        items.extend(part.iter().zip(weights).map(|(&(token, logit), &weight)| Item { token, logit, weight }));
    });
    let last = run::last(items, ByRank, |sum| sum >= share * total);
    let kept = |item: &Item| last.is_none_or(|last| ByRank.order(item, &last).is_le());
    candidates.clear();
    let few = items.iter().filter(|item| kept(item)).count() <= MOST_SORTED;
    if few {
        items.retain(kept);
        items.sort_unstable_by(|a, b| ByRank.order(a, b));
        candidates.extend(items.iter().map(|item| (item.token, item.weight)));
        return Order::Given;
    }
    candidates.extend(items.iter().filter(|item| kept(item)).map(|item| (item.token, item.weight)));
    Order::ByRank
}

/// The candidate at the quantile `u` (in [0, 1)) of the weights in this order. There is at least one; `logits` are those
/// that the candidates come from, `items` is used.
pub(super) fn draw(candidates: &[Candidate], order: Order, logits: &[f32], items: &mut Vec<Item>, u: f64) -> u32 {
    let total: f64 = candidates.iter().map(|c| f64::from(c.1)).sum();
    let mut left = u * total;
    items.clear();
    if !matches!(order, Order::Given) {
        let item = |&(token, weight): &Candidate| Item { token, logit: logits[token as usize], weight };
        items.extend(candidates.iter().map(item));
    }
    let reached = |sum| sum > left;
    let drawn = match order {
        Order::Given => None,
        Order::ByRank => run::last(items, ByRank, reached),
        Order::ByDistance(nearest) => run::last(items, nearest, reached),
    };
    if let Some(drawn) = drawn {
        return drawn.token;
    }
    for &(token, weight) in candidates {
        left -= f64::from(weight);
        if left < 0.0 {
            return token;
        }
    }
    // Rounding can leave a hair of the total: the last token with any weight is meant.
    candidates.iter().rev().find(|c| c.1 > 0.0).map_or(0, |c| c.0)
}
