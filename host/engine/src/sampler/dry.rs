//! The penalty for repetitions of several tokens.

use std::collections::HashMap;

use super::params::Dry;

/// How long a repetition each token would prolong: for every earlier place that the end of `tokens` repeats, the token
/// that followed there. Takes time proportional to the number of tokens (the Z algorithm on the reversed sequence).
pub(super) fn repetitions(tokens: &[u32], dry: &Dry) -> HashMap<u32, usize> {
    let mut found = HashMap::new();
    let from = dry.window.map_or(0, |w| tokens.len().saturating_sub(w));
    let tokens = &tokens[from..];
    let count = tokens.len();
    let back = |i: usize| tokens[count - 1 - i];
    // No repetition goes across a breaker.
    let most = (0..count).find(|&i| dry.breakers.contains(&back(i))).unwrap_or(count);
    if most == 0 {
        return found;
    }
    // lengths[i]: how many tokens before place i, going back, are those before the end.
    let mut lengths = vec![0usize; count];
    let (mut left, mut right) = (0, 0);
    for i in 1..count {
        let mut length = if i < right { lengths[i - left].min(right - i) } else { 0 };
        while i + length < count && back(length) == back(i + length) {
            length += 1;
        }
        if i + length > right {
            (left, right) = (i, i + length);
        }
        lengths[i] = length;
        let length = length.min(most);
        if length >= dry.allowed_length.max(1) {
            let longest = found.entry(back(i - 1)).or_insert(0);
            *longest = length.max(*longest);
        }
    }
    found
}

/// What a token loses that prolongs a repetition of so many tokens.
pub(super) fn penalty(dry: &Dry, length: usize) -> f32 {
    let exponent = length.saturating_sub(dry.allowed_length);
    // A penalty that is no number would make the logit none.
    (f64::from(dry.multiplier) * f64::from(dry.base).powf(exponent as f64)).min(1e30) as f32
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn dry(allowed_length: usize, window: Option<usize>, breakers: &[u32]) -> Dry {
        Dry { multiplier: 0.8, base: 1.75, allowed_length, window, breakers: Arc::from(breakers) }
    }

    /// The definition: for every earlier place, compare backwards.
    fn spec(tokens: &[u32], dry: &Dry) -> HashMap<u32, usize> {
        let tokens = &tokens[dry.window.map_or(0, |w| tokens.len().saturating_sub(w))..];
        let mut found = HashMap::new();
        for place in 1..tokens.len() {
            let before = tokens[..place].iter().rev();
            let same = before.zip(tokens.iter().rev()).take_while(|(a, b)| a == b && !dry.breakers.contains(a));
            let length = same.count();
            if length >= dry.allowed_length.max(1) {
                let longest = found.entry(tokens[place]).or_insert(0);
                *longest = length.max(*longest);
            }
        }
        found
    }

    proptest! {
        #[test]
        fn repetitions_are_those_of_the_definition(
            tokens in prop::collection::vec(0u32..4, 0..60),
            allowed in 0usize..4,
            window in prop::option::of(0usize..40),
            breakers in prop::collection::vec(0u32..6, 0..2),
        ) {
            let dry = dry(allowed, window, &breakers);
            prop_assert_eq!(repetitions(&tokens, &dry), spec(&tokens, &dry));
        }
    }

    #[test]
    fn the_penalty_grows_with_the_length() {
        let check = |length, expected: f32| {
            let found = penalty(&dry(2, None, &[]), length);
            assert!((found - expected).abs() < 1e-5, "{length}: {found}");
        };
        check(2, 0.8);
        check(3, 1.4);
        check(4, 2.45);
        assert!(penalty(&dry(0, None, &[]), usize::MAX).is_finite());
    }
}
