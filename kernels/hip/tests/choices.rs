//! What chooses: the router's experts and the sampler's tokens.

mod common;

use common::{Gpu, Random, check, on_both_waves};
use rocmforge_kernels_hip::*;

#[test]
fn routers_choose_the_best_and_weigh_them() {
    on_both_waves("routers_choose_the_best_and_weigh_them", &["experts"], |gpu| {
        let mut random = Random::new(1);
        for (experts, top_k) in [(8usize, 2usize), (70, 6), (33, 1)] {
            let tokens = 4;
            let mut logits = random.normals(tokens * experts);
            // Equal scores: the lower number is better.
            (logits[3], logits[5]) = (9.0, 9.0);
            let bias = random.normals(experts);
            for (gate, biased, renormalize) in [
                (0u32, false, false),
                (0, false, true),
                (1, false, false),
                (2, true, true),
                (2, true, false),
                (1, true, false),
            ] {
                let (chosen, weights) = (gpu.room(tokens * top_k * 4), gpu.room(tokens * top_k * 4));
                let args = RfRouterArgs {
                    logits: gpu.upload(&logits),
                    bias: if biased { gpu.upload(&bias) } else { 0 },
                    chosen,
                    weights,
                    tokens: tokens as u32,
                    experts: experts as u32,
                    top_k: top_k as u32,
                    gate,
                    renormalize: renormalize.into(),
                    stride: experts as u32,
                    scale: 2.5,
                    reserved: 0,
                };
                gpu.run(launch::router(&args, gpu.wave));
                let (mut picks, mut expected) = (vec![], vec![]);
                for row in logits.chunks(experts) {
                    let softmax = |x: &[f64]| -> Vec<f64> {
                        let sum: f64 = x.iter().map(|v| v.exp()).sum();
                        x.iter().map(|v| v.exp() / sum).collect()
                    };
                    let row: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
                    let scores = match gate {
                        0 => softmax(&row),
                        1 => row.clone(),
                        _ => row.iter().map(|v| 1.0 / (1.0 + (-v).exp())).collect(),
                    };
                    let key = |e: usize| scores[e] + if biased { f64::from(bias[e]) } else { 0.0 };
                    let mut order: Vec<usize> = (0..experts).collect();
                    order.sort_by(|a, b| key(*b).total_cmp(&key(*a)).then(a.cmp(b)));
                    order.truncate(top_k);
                    let mut w: Vec<f64> = order.iter().map(|e| scores[*e]).collect();
                    if gate == 1 {
                        w = softmax(&w);
                    }
                    let sum: f64 = if renormalize { w.iter().sum() } else { 1.0 };
                    expected.extend(w.iter().map(|v| v / sum * 2.5));
                    picks.extend(order.iter().map(|e| *e as u32));
                }
                let what = format!("{top_k} of {experts}, gate {gate}, biased {biased}, renormalize {renormalize}");
                assert_eq!(gpu.download::<u32>(chosen, tokens * top_k), picks, "{what}");
                check(&what, &gpu.floats(weights, tokens * top_k), &expected, 1e-5, 1e-4);
            }
        }
    });
}

#[test]
fn routers_choose_experts_even_from_what_is_not_a_number() {
    on_both_waves("routers_choose_experts_even_from_what_is_not_a_number", &["experts"], |gpu| {
        let logits = [f32::NAN, 1.0, f32::NAN, f32::NEG_INFINITY, f32::NAN];
        let (chosen, weights) = (gpu.room(16), gpu.room(16));
        let args = RfRouterArgs {
            logits: gpu.upload(&logits),
            chosen,
            weights,
            tokens: 1,
            experts: 5,
            top_k: 4,
            gate: 2,
            stride: 5,
            scale: 1.0,
            ..Default::default()
        };
        gpu.run(launch::router(&args, gpu.wave));
        let mut chosen = gpu.download::<u32>(chosen, 4);
        assert_eq!(chosen[0], 1);
        chosen.sort_unstable();
        chosen.dedup();
        assert!(chosen.len() == 4 && chosen.iter().all(|e| *e < 5), "{chosen:?}");
    });
}

#[test]
fn expert_results_are_weighed_and_added() {
    on_both_waves("expert_results_are_weighed_and_added", &["experts"], |gpu| {
        let mut random = Random::new(2);
        let (tokens, slots, n) = (3usize, 4usize, 300usize);
        let (x, weights, residual) =
            (random.normals(tokens * slots * n), random.normals(tokens * slots), random.normals(tokens * n));
        let out = gpu.upload(&residual);
        let args = RfExpertCombineArgs {
            x: gpu.upload(&x),
            weights: gpu.upload(&weights),
            out,
            residual: out,
            tokens: tokens as u32,
            n: n as u32,
            slots: slots as u32,
            x_stride: n as u32,
            out_stride: n as u32,
            residual_stride: n as u32,
        };
        gpu.run(launch::expert_combine(&args, gpu.wave));
        let sum = |t: usize, c: usize| -> f64 {
            let term = |s: usize| f64::from(x[(t * slots + s) * n + c]) * f64::from(weights[t * slots + s]);
            f64::from(residual[t * n + c]) + (0..slots).map(term).sum::<f64>()
        };
        let expected: Vec<f64> =
            (0..tokens).flat_map(|t| (0..n).map(move |c| (t, c))).map(|(t, c)| sum(t, c)).collect();
        check("combined", &gpu.floats(out, tokens * n), &expected, 1e-6, 1e-5);
    });
}

/// The token that the host's sampler draws at this quantile, with weights in f64.
fn host_draw(x: &[f32], r: &RfSampleRequest) -> u32 {
    let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if r.temperature == 0.0 {
        return x.iter().position(|v| *v == most).unwrap() as u32;
    }
    let weight = |i: usize| ((f64::from(x[i]) - f64::from(most)) / f64::from(r.temperature)).exp();
    let mut ids: Vec<usize> = (0..x.len()).collect();
    if r.min_p > 0.0 {
        ids.retain(|i| x[*i] >= most + r.temperature * r.min_p.ln() || x[*i] == most);
    }
    if r.top_k > 0 || r.top_p < 1.0 {
        ids.sort_by(|a, b| x[*b].total_cmp(&x[*a]).then(a.cmp(b)));
    }
    if r.top_k > 0 {
        ids.truncate(r.top_k as usize);
    }
    if r.top_p < 1.0 {
        let target = ids.iter().map(|i| weight(*i)).sum::<f64>() * f64::from(r.top_p);
        let mut sum = 0.0;
        let kept = ids
            .iter()
            .take_while(|i| {
                let more = sum < target;
                sum += weight(**i);
                more
            })
            .count();
        ids.truncate(kept);
    }
    let total: f64 = ids.iter().map(|i| weight(*i)).sum();
    let mut left = total * (r.draw as f64 / 2f64.powi(64));
    for i in &ids {
        left -= weight(*i);
        if left < 0.0 {
            return *i as u32;
        }
    }
    *ids.last().unwrap() as u32
}

fn request(temperature: f32, top_k: u32, top_p: f32, min_p: f32, draw: u64) -> RfSampleRequest {
    RfSampleRequest { temperature, top_p, min_p, top_k, draw }
}

/// The tokens that are drawn from rows of `n` logits, of which each begins `stride` after the other; 0: one row for all.
fn drawn(gpu: &Gpu, logits: &[f32], requests: &[RfSampleRequest], (n, stride): (usize, usize)) -> Vec<u32> {
    let rows = requests.len();
    let tokens = gpu.room(4 * rows);
    let args = RfSampleArgs {
        logits: gpu.upload(logits),
        requests: gpu.upload(requests),
        tokens,
        rows: rows as u32,
        n: n as u32,
        scratch: gpu.room(launch::sample_scratch_bytes(rows as u32, n as u32) as usize),
        stride: stride as u32,
        reserved: 0,
    };
    launch::sample(&args, gpu.wave).into_iter().for_each(|l| gpu.run(l));
    gpu.download(tokens, rows)
}

#[test]
fn tokens_are_those_that_the_host_draws() {
    on_both_waves("tokens_are_those_that_the_host_draws", &["sample"], |gpu| {
        let mut random = Random::new(3);
        for n in [7usize, 2500] {
            let mut requests = vec![];
            for (temperature, top_k, top_p, min_p) in [
                (0.0, 0, 1.0, 0.0),
                (1.0, 0, 1.0, 0.0),
                (0.7, 40, 1.0, 0.0),
                (1.0, 0, 0.9, 0.0),
                (1.3, 1, 1.0, 0.0),
                (0.8, 64, 0.8, 0.05),
                (5.0, 2000, 0.99, 0.0),
                (1.0, 0, 1.0, 0.2),
                (0.01, 3, 0.5, 0.0),
            ] {
                requests.push(request(temperature, top_k, top_p, min_p, random.bits()));
            }
            let x: Vec<f32> = random.normals(requests.len() * n).iter().map(|v| v * 3.0).collect();
            let found = drawn(gpu, &x, &requests, (n, n));
            for (row, r) in requests.iter().enumerate() {
                assert_eq!(found[row], host_draw(&x[row * n..][..n], r), "{r:?} of {n}");
            }
        }
    });
}

#[test]
fn equal_logits_are_ranked_by_id_however_many() {
    on_both_waves("equal_logits_are_ranked_by_id_however_many", &["sample"], |gpu| {
        // More equal tokens than are ranked by comparing all with all.
        let n = 3000usize;
        let x = vec![1.25f32; n];
        let half = 1u64 << 63;
        let requests = [
            request(1.0, 0, 1.0, 0.0, half),
            request(1.0, 2000, 1.0, 0.0, half),
            request(1.0, 0, 0.5, 0.0, half),
            request(0.0, 0, 1.0, 0.0, half),
        ];
        assert_eq!(drawn(gpu, &x, &requests, (n, 0)), [1500, 1000, 750, 0]);
    });
}

#[test]
fn rows_that_cannot_be_drawn_from_are_reported() {
    on_both_waves("rows_that_cannot_be_drawn_from_are_reported", &["sample"], |gpu| {
        let n = 64;
        let row = |special: f32, others: f32| {
            let mut row = vec![others; n];
            row[17] = special;
            row
        };
        let none = f32::NEG_INFINITY;
        let x = [row(f32::NAN, 0.0), row(f32::INFINITY, 0.0), row(none, none), row(2.0, none)].concat();
        let failed = launch::SAMPLE_FAILED;
        let requests = [request(1.0, 0, 1.0, 0.0, 5); 4];
        assert_eq!(drawn(gpu, &x, &requests, (n, n)), [failed, failed, failed, 17]);
    });
}

#[test]
fn draws_have_the_distribution_of_their_weights() {
    on_both_waves("draws_have_the_distribution_of_their_weights", &["sample"], |gpu| {
        let mut random = Random::new(4);
        let (n, draws) = (8usize, 120usize);
        let x: Vec<f32> = (0..n).map(|i| (1.0 + (i * 5 % 8) as f32).ln()).collect();
        // Shares of the tokens that are left, and of none the others: all weights are 1 to 8.
        for (top_k, top_p, kept) in [(0u32, 1.0f32, 8usize), (5, 1.0, 5), (0, 0.7, 4)] {
            let requests: Vec<RfSampleRequest> =
                (0..draws).map(|_| request(1.0, top_k, top_p, 0.0, random.bits())).collect();
            let found = drawn(gpu, &x, &requests, (n, 0));
            let least = x.iter().map(|v| v.exp()).fold(0.0, f32::max) - kept as f32;
            let weights: Vec<f64> = x.iter().map(|v| f64::from(v.exp())).collect();
            let left = |w: f64| if w > f64::from(least) + 0.5 { w } else { 0.0 };
            let total: f64 = weights.iter().map(|&w| left(w)).sum();
            let mut chi_square = 0.0;
            for (token, &w) in weights.iter().enumerate() {
                let expected = draws as f64 * left(w) / total;
                let observed = found.iter().filter(|&&t| t as usize == token).count() as f64;
                match expected {
                    0.0 => assert_eq!(observed, 0.0, "token {token} was left out"),
                    _ => chi_square += (observed - expected).powi(2) / expected,
                }
            }
            // Of 7 degrees of freedom one in a thousand is beyond.
            assert!(chi_square < 24.3, "top_k {top_k}, top_p {top_p}: {chi_square}");
        }
    });
}
