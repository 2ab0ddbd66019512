//! What drawing a token on the host takes, in microseconds, by the rule and by how flat the distribution is.
//!
//! `cargo run --release -p rocmforge-engine --example sampling [VOCABULARY [RULE]]`
#![forbid(unsafe_code)]

use std::time::Instant;

use rocmforge_engine::SamplingParams;
use rocmforge_engine::sampler::Sampler;

const DRAWS: usize = 41;

fn main() {
    let vocabulary = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(151_936);
    let wanted = std::env::args().nth(2).unwrap_or_default();
    println!("{:<14} {:>10} {:>10} {:>10}", "rule", "peaked", "trained", "flat");
    let d = || SamplingParams { seed: Some(1), temperature: 0.8, ..SamplingParams::default() };
    let rules = [
        ("temperature", d()),
        ("top-k 40", SamplingParams { top_k: Some(40), ..d() }),
        ("top-p 0.95", SamplingParams { top_p: 0.95, ..d() }),
        ("min-p 0.05", SamplingParams { min_p: 0.05, ..d() }),
        ("typical-p 0.95", SamplingParams { typical_p: 0.95, ..d() }),
    ];
    for (name, params) in rules.into_iter().filter(|rule| rule.0.starts_with(&wanted)) {
        let times = [40.0, 12.0, 1.0].map(|spread| median(&params, vocabulary, spread));
        println!("{name:<14} {:>10.0} {:>10.0} {:>10.0}", times[0], times[1], times[2]);
    }
}

/// Of logits whose rank `r` of `n` lies `spread * ln(r) / ln(n)` below the largest.
fn median(params: &SamplingParams, vocabulary: usize, spread: f32) -> f64 {
    let scale = spread / (vocabulary as f32).ln();
    let rank = |i: usize| (i * 7919 % vocabulary + 1) as f32;
    let logits: Vec<f32> = (0..vocabulary).map(|i| -scale * rank(i).ln()).collect();
    let mut sampler = Sampler::new(params.clone(), &[]);
    let mut times: Vec<f64> = (0..DRAWS)
        .map(|position| {
            let mut row = logits.clone();
            let begin = Instant::now();
            std::hint::black_box(sampler.sample(&mut row, position, &[])).expect("the logits are numbers");
            begin.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[DRAWS / 2]
}
