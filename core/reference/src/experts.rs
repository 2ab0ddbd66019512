//! Mixture of experts.

use rocmforge_program::{GateKind, Router};

use crate::dense::dot;
use crate::elementwise::sigmoid;

/// Softmax in f64, with the largest logit subtracted first.
pub(crate) fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = logits.iter().map(|l| (l - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|e| e / sum).collect()
}

/// Chosen experts `[T, top_k]`, best first, and their weights `[T, top_k]`.
pub(crate) fn route(router: &Router, logits: &[f32], bias: Option<&[f32]>, experts: usize) -> (Vec<u32>, Vec<f32>) {
    let (mut chosen, mut weights) = (Vec::new(), Vec::new());
    for row in logits.chunks_exact(experts) {
        let row: Vec<f64> = row.iter().map(|&l| f64::from(l)).collect();
        let scores = match router.gate {
            GateKind::Softmax => softmax(&row),
            GateKind::SoftmaxTopK => row,
            GateKind::Sigmoid => row.iter().map(|&l| sigmoid(l)).collect(),
        };
        let best = best_experts(&scores, bias, router.top_k);
        let mut picked: Vec<f64> = best.iter().map(|&e| scores[e]).collect();
        if router.gate == GateKind::SoftmaxTopK {
            picked = softmax(&picked);
        }
        if router.renormalize {
            let sum: f64 = picked.iter().sum();
            picked.iter_mut().for_each(|w| *w /= sum);
        }
        chosen.extend(best.iter().map(|&e| e as u32));
        weights.extend(picked.iter().map(|w| (w * f64::from(router.scale)) as f32));
    }
    (chosen, weights)
}

/// The experts with the highest biased scores, best first; of equal ones the lower number.
fn best_experts(scores: &[f64], bias: Option<&[f32]>, top_k: usize) -> Vec<usize> {
    // Adding 0 makes -0 equal to 0, which `total_cmp` would otherwise tell apart.
    let key = |e: usize| scores[e] + bias.map_or(0.0, |b| f64::from(b[e])) + 0.0;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| key(b).total_cmp(&key(a)).then(a.cmp(&b)));
    order.truncate(top_k);
    order
}

/// Sizes of an expert layer.
pub(crate) struct ExpertShape {
    pub(crate) top_k: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Whether each chosen expert has its own row of `x`, rather than all of a token sharing one.
    pub(crate) row_per_expert: bool,
}

/// `x` `[T, in]` or `[T, top_k, in]`, `weight` `[n_experts, out, in]`, `bias` `[n_experts, out]`: `[T, top_k, out]`.
pub(crate) fn linear(
    x: &[f32],
    experts: &[u32],
    weight: &[f32],
    bias: Option<&[f32]>,
    shape: &ExpertShape,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(experts.len() * shape.outputs);
    for (i, &expert) in experts.iter().enumerate() {
        let row = if shape.row_per_expert { i } else { i / shape.top_k };
        let x = &x[row * shape.inputs..(row + 1) * shape.inputs];
        for o in 0..shape.outputs {
            let unit = expert as usize * shape.outputs + o;
            let bias = bias.map_or(0.0, |b| f64::from(b[unit]));
            out.push((dot(x, &weight[unit * shape.inputs..(unit + 1) * shape.inputs]) + bias) as f32);
        }
    }
    out
}

/// Sum over the experts of `x` `[T, top_k, n]` times `weights` `[T, top_k]`: `[T, n]`.
pub(crate) fn combine(x: &[f32], weights: &[f32], top_k: usize, n: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len() / top_k);
    for (rows, weights) in x.chunks_exact(top_k * n).zip(weights.chunks_exact(top_k)) {
        for column in 0..n {
            let products = (0..top_k).map(|e| f64::from(rows[e * n + column]) * f64::from(weights[e]));
            out.push(products.sum::<f64>() as f32);
        }
    }
    out
}
