use super::select::{Candidate, keep_top, maximum};

/// Log-probabilities (natural logarithm) at one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// That of the token that was drawn, or that follows in the prompt.
    pub chosen: f32,
    /// 1 for the likeliest token, and one more for each that is likelier.
    pub rank: usize,
    /// The likeliest tokens, best first, the smaller id first among equals.
    pub top: Vec<(u32, f32)>,
}

/// `ln(sum(exp(logits)))`. The logits must be checked.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let (max, _) = maximum(logits);
    let sum: f64 = logits.iter().map(|&x| f64::from((x - max).exp())).sum();
    f64::from(max) + sum.ln()
}

/// Log-softmax of a row of logits at `token` and at the `top` likeliest tokens. The logits must be checked.
pub fn logprobs(logits: &[f32], token: u32, top: usize) -> Logprobs {
    let norm = log_sum_exp(logits);
    let normalise = |x: f32| (f64::from(x) - norm) as f32;
    let mut best: Vec<Candidate> = Vec::new();
    if top > 0 {
        best = logits.iter().enumerate().map(|(i, &x)| (i as u32, x)).collect();
        keep_top(&mut best, top);
        best.iter_mut().for_each(|c| c.1 = normalise(c.1));
    }
    let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    let rank = 1 + logits.iter().filter(|&&x| x > logit).count();
    Logprobs { chosen: normalise(logit), rank, top: best }
}
