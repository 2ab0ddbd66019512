use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// The definition, written for clarity: full sort, no shortcuts. Returns probabilities of the tokens that may be drawn.
fn spec(logits: &[f32], tokens: &[u32], prompt: usize, p: &SamplingParams) -> BTreeMap<u32, f64> {
    let mut x: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
    for &(t, bias) in &p.logit_bias {
        x[t as usize] += f64::from(bias);
    }
    let from = p.repetition_window.map_or(0, |w| tokens.len().saturating_sub(w));
    for (t, x) in x.iter_mut().enumerate() {
        if tokens[from..].contains(&(t as u32)) {
            *x *= f64::from(p.repetition_penalty).powf(if *x > 0.0 { -1.0 } else { 1.0 });
        }
        let count = tokens[prompt..].iter().filter(|&&u| u == t as u32).count() as f64;
        *x -= f64::from(p.frequency_penalty) * count + f64::from(p.presence_penalty) * count.min(1.0);
    }
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[b].total_cmp(&x[a]).then(a.cmp(&b)));
    if p.temperature == 0.0 {
        return BTreeMap::from([(order[0] as u32, 1.0)]);
    }
    let softmax = |order: &[usize]| -> Vec<f64> {
        let e: Vec<f64> = order.iter().map(|&i| ((x[i] - x[order[0]]) / f64::from(p.temperature)).exp()).collect();
        let sum: f64 = e.iter().sum();
        e.iter().map(|e| e / sum).collect()
    };
    let probs = softmax(&order);
    let kept = probs.iter().filter(|&&q| q >= f64::from(p.min_p) * probs[0]).count();
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let deviation = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt();
    let near = |i: &&usize| p.top_n_sigma == 0.0 || x[**i] >= x[order[0]] - f64::from(p.top_n_sigma) * deviation;
    let near = order.iter().filter(near).count();
    order.truncate(kept.min(near).min(p.top_k.unwrap_or(usize::MAX)));
    if p.typical_p < 1.0 {
        order = typical(&order, &softmax(&order), f64::from(p.typical_p));
        order.sort_by(|&a, &b| x[b].total_cmp(&x[a]).then(a.cmp(&b)));
    }
    let probs = softmax(&order);
    let mut sum = 0.0;
    let before = probs.iter().take_while(|&&q| {
        let reached = p.top_p < 1.0 && sum >= f64::from(p.top_p);
        sum += q;
        !reached
    });
    order.truncate(before.count());
    order.iter().map(|&i| i as u32).zip(softmax(&order)).collect()
}

/// The shortest run of tokens in the order of how far their information is from the entropy that reaches `p`.
fn typical(order: &[usize], probs: &[f64], p: f64) -> Vec<usize> {
    let entropy: f64 = probs.iter().map(|q| -q * q.ln()).sum();
    let mut far: Vec<(f64, f64, usize)> =
        order.iter().zip(probs).map(|(&i, q)| ((-q.ln() - entropy).abs(), *q, i)).collect();
    far.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut sum = 0.0;
    let reached = |q: f64, sum: &mut f64| {
        let before = *sum < p;
        *sum += q;
        before
    };
    far.into_iter().take_while(|f| reached(f.1, &mut sum)).map(|f| f.2).collect()
}

/// Logits and parameters on coarse grids of dyadic numbers. Ties between tokens are common.
fn cases() -> impl Strategy<Value = (Vec<f32>, Vec<u32>, usize, SamplingParams)> {
    let params = (
        prop::sample::select(vec![0.0f32, 0.5, 1.0, 2.0]),
        (
            prop::option::of(1usize..40),
            prop::sample::select(vec![0.0f32, 0.0, 0.7, 1.9]),
            prop::sample::select(vec![0.31f32, 0.77, 1.0, 1.0]),
        ),
        prop::sample::select(vec![0.1f32, 0.37, 0.83, 1.0]),
        prop::sample::select(vec![0.0f32, 0.013, 0.21]),
        (prop::sample::select(vec![0.5f32, 1.0, 2.0]), prop::option::of(0usize..6)),
        prop::sample::select(vec![-0.5f32, 0.0, 0.25]),
        prop::sample::select(vec![-0.5f32, 0.0, 1.0]),
        prop::collection::vec((0u32..8, prop::sample::select(vec![-100.0f32, -1.0, 4.0])), 0..3),
    );
    let logits = prop::collection::vec((-40i32..40).prop_map(|i| i as f32 / 8.0), 8..600);
    (logits, prop::collection::vec(0u32..8, 1..10), 0usize..10, params).prop_map(|(logits, tokens, prompt, p)| {
        let params = SamplingParams {
            temperature: p.0,
            top_k: p.1.0,
            top_n_sigma: p.1.1,
            typical_p: p.1.2,
            top_p: p.2,
            min_p: p.3,
            repetition_penalty: p.4.0,
            repetition_window: p.4.1,
            frequency_penalty: p.5,
            presence_penalty: p.6,
            logit_bias: p.7,
            ..Default::default()
        };
        let prompt = prompt.min(tokens.len());
        (logits, tokens, prompt, params)
    })
}

fn history(tokens: &[u32], prompt: usize, params: &SamplingParams) -> History {
    let mut history = History::new(&tokens[..prompt], params);
    (prompt..tokens.len()).for_each(|n| history.accept(&tokens[..=n], params));
    history
}

proptest! {
    #[test]
    fn distribution_is_that_of_the_definition((logits, tokens, prompt, params) in cases()) {
        let expected = spec(&logits, &tokens, prompt, &params);
        let mut altered = logits.clone();
        history(&tokens, prompt, &params).apply(&mut altered, &params);
        let mut found = Vec::new();
        if params.temperature == 0.0 {
            found.push((select::argmax(&altered), 1.0));
        } else {
            select::candidates(&altered, &params, &mut found, &mut Vec::new());
        }
        let total: f64 = found.iter().map(|c| f64::from(c.1)).sum();
        let found: BTreeMap<u32, f64> = found.iter().map(|c| (c.0, f64::from(c.1) / total)).collect();
        prop_assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (token, p) in expected {
            prop_assert!((found[&token] - p).abs() < 1e-5, "token {}: {} instead of {}", token, found[&token], p);
        }
    }

    #[test]
    fn draw_inverts_the_cumulative_distribution(weights in prop::collection::vec(0u8..4, 1..20), u in 0.0f64..1.0) {
        prop_assume!(weights.iter().any(|&w| w > 0));
        let candidates: Vec<(u32, f32)> = (0u32..).zip(weights.iter().map(|&w| f32::from(w))).collect();
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        let drawn = select::draw(&candidates, Order::Given, &[], &mut Vec::new(), u) as usize;
        let below: f64 = weights[..drawn].iter().map(|&w| f64::from(w)).sum();
        prop_assert!(weights[drawn] > 0);
        prop_assert!(below <= u * total && u * total <= below + f64::from(weights[drawn]));
    }

    #[test]
    fn logprobs_are_the_log_softmax(logits in prop::collection::vec(-30.0f32..30.0, 1..300), top in 0usize..21, t: prop::sample::Index) {
        let token = t.index(logits.len());
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let expected: Vec<f64> = logits.iter().map(|&x| f64::from(x) - sum.ln()).collect();
        let found = logprobs(&logits, token as u32, top);
        prop_assert!((f64::from(found.chosen) - expected[token]).abs() < 1e-4);
        prop_assert_eq!(found.top.len(), top.min(logits.len()));
        let mut sorted = expected.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        for (i, (token, logprob)) in found.top.iter().enumerate() {
            prop_assert!((f64::from(*logprob) - sorted[i]).abs() < 1e-4);
            prop_assert!((f64::from(*logprob) - expected[*token as usize]).abs() < 1e-4);
        }
    }
}

/// The first of `sorted` (tokens and logits) whose weights, `e^(logit / 0.7)`, reach a share of all, with their weights.
fn first_of(sorted: &[(u32, f32)], share: f32) -> Vec<(u32, f32)> {
    let weighted: Vec<(u32, f32)> = sorted.iter().map(|c| (c.0, ((c.1 - 4.0) / 0.7).exp())).collect();
    let total: f64 = weighted.iter().map(|c| f64::from(c.1)).sum();
    let mut sum = 0.0;
    let before = |c: &&(u32, f32)| {
        let before = sum < total * f64::from(share);
        sum += f64::from(c.1);
        before
    };
    let kept = weighted.iter().take_while(before).count();
    weighted[..kept].to_vec()
}

#[test]
fn flat_distributions_give_the_tokens_that_sorting_gives() {
    // Some of them equal, one far above, and most of them are kept.
    let mut logits: Vec<f32> = (0..20_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 18) as f32 / 8192.0).collect();
    logits[7] = 4.0;
    let check = |params: SamplingParams| {
        let params = SamplingParams { temperature: 0.7, seed: Some(3), ..params };
        let mut sampler = Sampler::new(params.clone(), &[]);
        let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        sorted.sort_by(select::by_rank);
        sorted.truncate(params.top_k.unwrap_or(usize::MAX));
        if params.typical_p < 1.0 {
            let weighted = first_of(&sorted, 2.0);
            let total: f64 = weighted.iter().map(|c| f64::from(c.1)).sum();
            let information = |i: usize| -(f64::from(weighted[i].1) / total).ln();
            let entropy: f64 = (0..sorted.len()).map(|i| information(i) * f64::from(weighted[i].1) / total).sum();
            // What rounding of the logarithms parts belongs together; the sort is stable.
            let far = |i: usize| ((information(i) - entropy).abs() * 1e6).round() as i64;
            let mut order: Vec<usize> = (0..sorted.len()).collect();
            order.sort_by_key(|&i| far(i));
            sorted = order.into_iter().map(|i| sorted[i]).collect();
            let kept = first_of(&sorted, params.typical_p).len();
            sorted.truncate(kept);
        }
        let kept = first_of(&sorted, params.top_p);
        assert!(kept.len() > 4096, "{}", kept.len());
        for n in 0..200 {
            let u = rng::Rng::new(3).uniform(n as u64);
            let expected = select::draw(&kept, Order::Given, &[], &mut Vec::new(), u);
            assert_eq!(sampler.sample(&mut logits.clone(), n, &[]).unwrap().token, expected, "{params:?} {n}");
        }
    };
    let d = SamplingParams::default;
    check(SamplingParams { top_p: 0.95, ..d() });
    check(SamplingParams { top_p: 0.5, ..d() });
    check(SamplingParams { top_k: Some(10_000), top_p: 0.9, ..d() });
    check(SamplingParams { top_k: Some(10_000), ..d() });
    check(SamplingParams { typical_p: 0.95, ..d() });
    check(SamplingParams { typical_p: 0.5, ..d() });
    check(SamplingParams { top_k: Some(10_000), typical_p: 0.9, ..d() });
}

#[test]
fn draws_follow_the_probabilities() {
    let logits = [1.0f32.ln(), 2.0f32.ln(), 5.0f32.ln()];
    let mut sampler = Sampler::new(SamplingParams { seed: Some(7), ..Default::default() }, &[0]);
    let mut counts = [0u32; 3];
    for n in 0..80_000 {
        counts[sampler.sample(&mut logits.clone(), n, &[]).unwrap().token as usize] += 1;
    }
    for (count, expected) in counts.into_iter().zip([10_000.0f64, 20_000.0, 50_000.0]) {
        // Five standard deviations; the seed is fixed, so this is no matter of luck.
        assert!((f64::from(count) - expected).abs() < 5.0 * (expected * 0.875).sqrt(), "{counts:?}");
    }
}

#[test]
fn top_choices_are_excluded_as_often_as_asked() {
    // Probabilities of 0.4, 0.3, 0.2 and 0.1.
    let logits = [4.0f32.ln(), 3.0f32.ln(), 2.0f32.ln(), 0.0];
    let check = |probability: f32, threshold: f32, expected: [f64; 4]| {
        let xtc = Some(Xtc { probability, threshold });
        let mut sampler = Sampler::new(SamplingParams { seed: Some(5), xtc, ..Default::default() }, &[]);
        let mut counts = [0u32; 4];
        for n in 0..40_000 {
            counts[sampler.sample(&mut logits.clone(), n, &[]).unwrap().token as usize] += 1;
        }
        for (count, share) in counts.into_iter().zip(expected) {
            // Five standard deviations.
            let most = 5.0 * (40_000.0 * share * (1.0 - share)).sqrt();
            assert!((f64::from(count) - 40_000.0 * share).abs() <= most, "{probability} {threshold}: {counts:?}");
        }
    };
    check(0.0, 0.1, [0.4, 0.3, 0.2, 0.1]);
    check(1.0, 0.5, [0.4, 0.3, 0.2, 0.1]);
    check(1.0, 0.25, [0.0, 0.5, 1.0 / 3.0, 1.0 / 6.0]);
    check(1.0, 0.15, [0.0, 0.0, 2.0 / 3.0, 1.0 / 3.0]);
    check(0.5, 0.25, [0.2, 0.4, 0.2 / 2.0 + 1.0 / 6.0, 0.1 / 2.0 + 1.0 / 12.0]);
}

#[test]
fn mirostat_keeps_the_surprise_near_its_target() {
    let logits: Vec<f32> = (0..2000).map(|i| -1.1 * (i as f32 + 1.0).ln()).collect();
    let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
    let mean = |params: SamplingParams| {
        let mut sampler = Sampler::new(params, &[]);
        let surprise = |n| {
            let token = sampler.sample(&mut logits.clone(), n, &[]).unwrap().token;
            -(f64::from(logits[token as usize]).exp() / sum).log2()
        };
        (0..3000).map(surprise).sum::<f64>() / 3000.0
    };
    let free = mean(SamplingParams { seed: Some(1), ..Default::default() });
    for version in [MirostatVersion::One, MirostatVersion::Two] {
        let at = |tau| {
            let mirostat = Some(Mirostat { version, tau, eta: 0.1 });
            mean(SamplingParams { seed: Some(1), mirostat, ..Default::default() })
        };
        let (low, high) = (at(2.0), at(4.0));
        // The surprise that is steered is that among the tokens kept, which is less than that among all.
        assert!((1.5..3.5).contains(&low) && (3.5..5.5).contains(&high), "{version:?}: {low} {high}");
        assert!(high < free, "{version:?}: {high} is not below {free}");
    }
}

#[test]
fn a_repetition_of_several_tokens_costs_more_the_longer_it_is() {
    let dry = Dry { multiplier: 1.0, base: 2.0, allowed_length: 2, window: None, breakers: [9].into() };
    let params = SamplingParams { dry: Some(dry), ..SamplingParams::greedy() };
    let check = |tokens: &[u32], expected: &[(usize, f32)]| {
        let mut logits = vec![0.0; 10];
        history(tokens, 1, &params).apply(&mut logits, &params);
        let found: Vec<(usize, f32)> = logits.iter().map(|x| -x).enumerate().filter(|e| e.1 != 0.0).collect();
        assert_eq!(found, expected, "{tokens:?}");
    };
    check(&[1, 2, 3], &[]);
    check(&[1, 2, 3, 1], &[]);
    check(&[1, 2, 3, 1, 2], &[(3, 1.0)]);
    check(&[5, 1, 2, 3, 4, 5, 1, 2], &[(3, 2.0)]);
    check(&[1, 9, 3, 1, 9], &[]);
    check(&[1, 2, 9, 3, 1, 2, 9], &[]);
}

#[test]
fn tokens_that_are_not_allowed_are_never_drawn() {
    let check = |allowed: Option<&[u32]>, suppressed: &[u32], expected: u32| {
        let params = SamplingParams { allowed_tokens: allowed.map(Into::into), ..SamplingParams::greedy() };
        let mut logits = [5.0, 4.0, 3.0, f32::NEG_INFINITY];
        let found = Sampler::new(params, &[]).sample(&mut logits, 0, suppressed).unwrap().token;
        assert_eq!(found, expected, "{allowed:?} {suppressed:?}");
    };
    check(None, &[], 0);
    check(Some(&[2, 1]), &[], 1);
    check(Some(&[2, 1]), &[1], 2);
    check(None, &[0, 9], 1);
    // Something must be drawn.
    check(Some(&[3]), &[], 0);
    check(None, &[0, 1, 2], 0);
}

#[test]
fn seed_and_position_alone_decide_the_draw() {
    let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 / 4.0).collect();
    let draw = |seed: u64, positions: &[usize]| -> Vec<u32> {
        let mut sampler = Sampler::new(SamplingParams { seed: Some(seed), ..Default::default() }, &[]);
        positions.iter().map(|&p| sampler.sample(&mut logits.clone(), p, &[]).unwrap().token).collect()
    };
    let ascending: Vec<usize> = (0..40).collect();
    let descending: Vec<usize> = (0..40).rev().collect();
    let mut reversed = draw(3, &descending);
    reversed.reverse();
    assert_eq!(draw(3, &ascending), reversed);
    assert_ne!(draw(3, &ascending), draw(4, &ascending));
    assert_ne!(draw(3, &ascending)[1..], draw(4, &ascending)[..39], "neighbouring seeds must not overlap");
}

#[test]
fn greedy_takes_the_first_of_equals() {
    let check = |logits: &[f32], expected: u32| {
        let mut sampler = Sampler::new(SamplingParams::greedy(), &[]);
        assert_eq!(sampler.sample(&mut logits.to_vec(), 0, &[]).unwrap().token, expected, "{logits:?}");
    };
    check(&[1.0, 3.0, 3.0], 1);
    check(&[-5.0], 0);
    check(&[f32::NEG_INFINITY, f32::NEG_INFINITY, -1e30], 2);
}

#[test]
fn logprobs_are_taken_before_bias_and_penalties() {
    let params = SamplingParams { logit_bias: vec![(0, 100.0)], logprobs: Some(1), ..SamplingParams::greedy() };
    let sampled = Sampler::new(params, &[]).sample(&mut [0.0, 0.0, 1.0], 0, &[]).unwrap();
    let reported = sampled.logprobs.unwrap();
    assert_eq!((sampled.token, reported.top[0].0), (0, 2));
    assert_eq!(reported.chosen, (1.0 / (2.0 + 1.0f64.exp())).ln() as f32);
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    let check = |logits: &[f32], token: usize| {
        for temperature in [0.0, 1.0] {
            let params = SamplingParams { temperature, ..Default::default() };
            let found = Sampler::new(params, &[]).sample(&mut logits.to_vec(), 9, &[]);
            assert!(
                matches!(found, Err(EngineError::Logits { position: 9, token: t, .. }) if t == token),
                "{logits:?}: {found:?}"
            );
        }
    };
    check(&[0.0, f32::NAN, 1.0], 1);
    check(&[0.0, 1.0, f32::INFINITY], 2);
    check(&[f32::NEG_INFINITY, f32::NEG_INFINITY], 0);
}

#[test]
fn parameters_out_of_range_are_refused_by_name() {
    let check = |params: SamplingParams, name: &str| {
        let found = params.check(10);
        assert!(matches!(&found, Err(EngineError::Request { field, .. }) if *field == name), "{name}: {found:?}");
    };
    let d = SamplingParams::default;
    assert_eq!(d().check(10), Ok(()));
    check(SamplingParams { temperature: -1.0, ..d() }, "temperature");
    check(SamplingParams { temperature: f32::NAN, ..d() }, "temperature");
    check(SamplingParams { top_k: Some(0), ..d() }, "top_k");
    check(SamplingParams { top_p: 0.0, ..d() }, "top_p");
    check(SamplingParams { min_p: 1.5, ..d() }, "min_p");
    check(SamplingParams { top_n_sigma: -1.0, ..d() }, "top_n_sigma");
    check(SamplingParams { typical_p: 0.0, ..d() }, "typical_p");
    check(SamplingParams { xtc: Some(Xtc { probability: 1.5, threshold: 0.1 }), ..d() }, "xtc_probability");
    check(SamplingParams { xtc: Some(Xtc { probability: 0.5, threshold: 0.0 }), ..d() }, "xtc_threshold");
    let mirostat = |tau, eta| Some(Mirostat { version: MirostatVersion::Two, tau, eta });
    check(SamplingParams { mirostat: mirostat(-1.0, 0.1), ..d() }, "mirostat_tau");
    check(SamplingParams { mirostat: mirostat(5.0, f32::NAN), ..d() }, "mirostat_eta");
    let dry = |multiplier, base| Some(Dry { multiplier, base, allowed_length: 2, window: None, breakers: [].into() });
    check(SamplingParams { dry: dry(f32::NAN, 1.75), ..d() }, "dry_multiplier");
    check(SamplingParams { dry: dry(0.8, 0.5), ..d() }, "dry_base");
    check(SamplingParams { allowed_tokens: Some([].into()), ..d() }, "allowed_token_ids");
    check(SamplingParams { allowed_tokens: Some([1, 10].into()), ..d() }, "allowed_token_ids");
    check(SamplingParams { repetition_penalty: 0.0, ..d() }, "repetition_penalty");
    check(SamplingParams { frequency_penalty: 2.5, ..d() }, "frequency_penalty");
    check(SamplingParams { presence_penalty: f32::INFINITY, ..d() }, "presence_penalty");
    check(SamplingParams { logit_bias: vec![(10, 1.0)], ..d() }, "logit_bias");
    check(SamplingParams { logit_bias: vec![(1, f32::NAN)], ..d() }, "logit_bias");
    check(SamplingParams { logprobs: Some(21), ..d() }, "top_logprobs");
}
