use rocmforge_program::{NO_TOKEN, RowSampling};

/// The token that `sampling` draws from a row of logits, or [`NO_TOKEN`].
pub fn sample(logits: &[f32], sampling: &RowSampling) -> u32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !largest.is_finite() || logits.iter().any(|x| x.is_nan()) {
        return NO_TOKEN;
    }
    if sampling.temperature == 0.0 {
        return logits.iter().position(|&x| x == largest).map_or(NO_TOKEN, |i| i as u32);
    }
    let weight = |x: f32| ((f64::from(x) - f64::from(largest)) / f64::from(sampling.temperature)).exp();
    let mut kept: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).filter(|c| c.1.is_finite()).collect();
    if sampling.min_p > 0.0 {
        let least = largest + sampling.temperature * sampling.min_p.ln();
        kept.retain(|c| c.1 >= least || c.1 == largest);
    }
    if sampling.top_k > 0 || sampling.top_p < 1.0 {
        kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    }
    if sampling.top_k > 0 {
        kept.truncate(sampling.top_k as usize);
    }
    if sampling.top_p < 1.0 {
        let target = f64::from(sampling.top_p) * kept.iter().map(|c| weight(c.1)).sum::<f64>();
        let mut sum = 0.0;
        let before = kept.iter().position(|c| {
            sum += weight(c.1);
            sum >= target
        });
        kept.truncate(before.map_or(kept.len(), |i| i + 1));
    }
    let goal = kept.iter().map(|c| weight(c.1)).sum::<f64>() * (sampling.draw as f64 / 2f64.powi(64));
    let mut sum = 0.0;
    let drawn = kept.iter().find(|c| {
        sum += weight(c.1);
        sum > goal
    });
    // Rounding can leave a hair of the total.
    drawn.or(kept.last()).map_or(NO_TOKEN, |c| c.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_drawn_in_order_after_the_filters() {
        // Weights 1/2, 1, 1/4, 1/4 of the largest at temperature 1.
        let logits = [0.5f32, 1.0, 0.25, 0.25].map(f32::ln);
        let all = RowSampling { temperature: 1.0, top_p: 1.0, ..RowSampling::default() };
        let at = |quantile: f64| (quantile * 2f64.powi(64)) as u64;
        let check = |sampling: RowSampling, draws: &[(f64, u32)]| {
            for &(quantile, token) in draws {
                let sampling = RowSampling { draw: at(quantile), ..sampling };
                assert_eq!(sample(&logits, &sampling), token, "{sampling:?}");
            }
        };
        check(all, &[(0.0, 0), (0.24, 0), (0.26, 1), (0.74, 1), (0.76, 2), (0.99, 3)]);
        // By rank: 1, 0, 2, 3.
        check(RowSampling { top_k: 4, ..all }, &[(0.0, 1), (0.49, 1), (0.51, 0), (0.76, 2), (0.99, 3)]);
        check(RowSampling { top_k: 3, ..all }, &[(0.0, 1), (0.56, 1), (0.58, 0), (0.99, 2)]);
        check(RowSampling { top_p: 0.6, ..all }, &[(0.0, 1), (0.66, 1), (0.67, 0), (0.99, 0)]);
        check(RowSampling { min_p: 0.4, ..all }, &[(0.0, 0), (0.32, 0), (0.34, 1), (0.99, 1)]);
        check(RowSampling { temperature: 0.0, ..all }, &[(0.0, 1), (0.99, 1)]);
        check(RowSampling { temperature: 0.01, ..all }, &[(0.01, 1), (0.99, 1)]);
    }

    #[test]
    fn rows_without_a_largest_logit_have_no_token() {
        let all = RowSampling { temperature: 1.0, top_p: 1.0, ..RowSampling::default() };
        for bad in [[0.0, f32::NAN], [0.0, f32::INFINITY], [f32::NEG_INFINITY; 2]] {
            assert_eq!(sample(&bad, &all), NO_TOKEN, "{bad:?}");
        }
        assert_eq!(sample(&[f32::NEG_INFINITY, 3.0], &all), 1);
    }
}
