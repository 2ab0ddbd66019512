//! The shortest run of items, in some order, whose weights reach a target, without putting all items in order: where a
//! distribution is flat, the run is most of the vocabulary, and sorting that takes longer than a small model's step.
//!
//! Items are counted into buckets by a number that rises with the order, and only the bucket in which the sum of the
//! weights reaches the target is looked into.

use std::cmp::Ordering;

use super::select::by_rank;

const BUCKETS: usize = 4096;
/// So many items are sorted at once.
const FEW: usize = 256;

/// A token with its logit and its weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub token: u32,
    pub logit: f32,
    pub weight: f32,
}

/// An order of items.
pub(super) trait Sequence: Copy {
    /// Never falls from one item to the next. Finite.
    fn key(self, item: &Item) -> f64;
    fn order(self, a: &Item, b: &Item) -> Ordering;
}

/// Larger logits first.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByRank;

impl Sequence for ByRank {
    fn key(self, item: &Item) -> f64 {
        -f64::from(item.logit)
    }

    fn order(self, a: &Item, b: &Item) -> Ordering {
        by_rank(&(a.token, a.logit), &(b.token, b.logit))
    }
}

/// Logits that are nearer to this one first.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByDistance(pub f64);

impl Sequence for ByDistance {
    fn key(self, item: &Item) -> f64 {
        (f64::from(item.logit) - self.0).abs()
    }

    fn order(self, a: &Item, b: &Item) -> Ordering {
        self.key(a).total_cmp(&self.key(b)).then_with(|| ByRank.order(a, b))
    }
}

/// The last item of the shortest run, in this sequence, for which `reached` holds of its weight. None if it holds of no run.
pub(super) fn last(items: &[Item], sequence: impl Sequence, reached: impl Fn(f64) -> bool) -> Option<Item> {
    let (mut before, mut inner) = (0.0, Vec::new());
    let mut all = items;
    let mut sums = vec![0f64; BUCKETS];
    loop {
        let (least, most) = ends(all, sequence);
        if all.len() <= FEW || least >= most {
            let passing = last_of_few(all, sequence, before, &reached);
            // Rounding can leave a hair between the weight of a bucket and the weights within it.
            let weighty = || inner.iter().copied().filter(|item: &Item| item.weight > 0.0);
            return passing.or_else(|| weighty().max_by(|a, b| sequence.order(a, b)));
        }
        // The first item is in the first bucket and the last one in the last, so every round leaves fewer items.
        let scale = BUCKETS as f64 / (most - least);
        let bucket = |item: &Item| (((sequence.key(item) - least) * scale) as usize).min(BUCKETS - 1);
        sums.fill(0.0);
        all.iter().for_each(|item| sums[bucket(item)] += f64::from(item.weight));
        let mut sum = before;
        let passing = sums.iter().position(|weight| {
            before = sum;
            sum += weight;
            reached(sum)
        });
        let passing = match passing {
            None if inner.is_empty() => return None,
            None => sums.iter().rposition(|&weight| weight > 0.0).unwrap_or(BUCKETS - 1),
            Some(passing) => passing,
        };
        inner = all.iter().copied().filter(|item| bucket(item) == passing).collect::<Vec<Item>>();
        all = &inner;
    }
}

/// The least and the greatest key.
fn ends(items: &[Item], sequence: impl Sequence) -> (f64, f64) {
    // In lanes, none of which waits for the one before.
    let mut lanes = [(f64::INFINITY, f64::NEG_INFINITY); 4];
    for part in items.chunks(lanes.len()) {
        for ((least, most), item) in lanes.iter_mut().zip(part) {
            let key = sequence.key(item);
            *least = if key < *least { key } else { *least };
            *most = if key > *most { key } else { *most };
        }
    }
    lanes.into_iter().fold((f64::INFINITY, f64::NEG_INFINITY), |a, b| (a.0.min(b.0), a.1.max(b.1)))
}

fn last_of_few(items: &[Item], sequence: impl Sequence, before: f64, reached: impl Fn(f64) -> bool) -> Option<Item> {
    let mut items = items.to_vec();
    items.sort_unstable_by(|a, b| sequence.order(a, b));
    let mut sum = before;
    items.into_iter().find(|item| {
        sum += f64::from(item.weight);
        reached(sum)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few different logits, so that many are equal; weights that add up without rounding.
    fn items() -> impl Strategy<Value = Vec<Item>> {
        let item = (prop_oneof![-3i32..3, -2000i32..2000, Just(i32::MIN)], 0u8..4);
        prop::collection::vec(item, 1..2000).prop_map(|items| {
            let item = |(token, (logit, weight))| Item { token, logit: logit as f32 / 8.0, weight: f32::from(weight) };
            (0u32..).zip(items).map(item).collect()
        })
    }

    proptest! {
        #[test]
        fn the_last_item_is_that_of_the_sorted_run(items in items(), share in 0.0f64..1.1, centre in -300.0f64..300.0) {
            check(&items, ByRank, share);
            check(&items, ByDistance(centre), share);
            check(&items, ByDistance(f64::from(items[0].logit)), share);
        }
    }

    fn check(items: &[Item], sequence: impl Sequence, share: f64) {
        let total: f64 = items.iter().map(|item| f64::from(item.weight)).sum();
        let target = (share * total).floor();
        let mut sorted = items.to_vec();
        sorted.sort_by(|a, b| sequence.order(a, b));
        for strict in [false, true] {
            let reached = |sum: f64| if strict { sum > target } else { sum >= target };
            let mut sum = 0.0;
            let expected = sorted.iter().find(|item| {
                sum += f64::from(item.weight);
                reached(sum)
            });
            assert_eq!(last(items, sequence, reached).map(|i| i.token), expected.map(|i| i.token));
        }
    }
}
