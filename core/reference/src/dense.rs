//! Linear layers, normalisation and rotary position embedding.

use rocmforge_program::{Rope, RopeStyle, rope};

/// The dot product, summed in f64: products of two f32 are exact there.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// `y = x Wᵀ + b`: rows of `x` have `inputs` elements, `weight` is `[out, inputs]`.
pub(crate) fn linear(x: &[f32], weight: &[f32], bias: Option<&[f32]>, inputs: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len() / inputs * (weight.len() / inputs));
    for row in x.chunks_exact(inputs) {
        for (o, weights) in weight.chunks_exact(inputs).enumerate() {
            let bias = bias.map_or(0.0, |b| f64::from(b[o]));
            out.push((dot(row, weights) + bias) as f32);
        }
    }
    out
}

/// `x / sqrt(mean(x²) + eps) * w` over rows of `width` elements.
pub(crate) fn rms_norm(x: &[f32], weight: Option<&[f32]>, eps: f32, width: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(width) {
        let scale = 1.0 / (dot(row, row) / width as f64 + f64::from(eps)).sqrt();
        out.extend(row.iter().enumerate().map(|(i, &x)| (f64::from(x) * scale * at(weight, i, 1.0)) as f32));
    }
    out
}

/// `(x - mean) / sqrt(var + eps) * w + b` over rows of `width` elements; the variance divides by `width`.
pub(crate) fn layer_norm(x: &[f32], weight: Option<&[f32]>, bias: Option<&[f32]>, eps: f32, width: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(width) {
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / width as f64;
        let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / width as f64;
        let scale = 1.0 / (variance + f64::from(eps)).sqrt();
        let normed = row.iter().map(|&x| (f64::from(x) - mean) * scale);
        out.extend(normed.enumerate().map(|(i, x)| (x * at(weight, i, 1.0) + at(bias, i, 0.0)) as f32));
    }
    out
}

fn at(vector: Option<&[f32]>, i: usize, absent: f64) -> f64 {
    vector.map_or(absent, |v| f64::from(v[i]))
}

/// Rotates the pairs of each head of `x` `[T, heads, head_dim]`.
pub(crate) fn rotate(
    rope: &Rope,
    x: &[f32],
    positions: &[u32],
    factors: Option<&[f32]>,
    heads: usize,
    head_dim: usize,
) -> Vec<f32> {
    let frequencies = rope::frequencies(rope, factors);
    let half = rope.rotary_dim / 2;
    let mut out = x.to_vec();
    for (row, &position) in out.chunks_exact_mut(heads * head_dim).zip(positions) {
        for head in row.chunks_exact_mut(head_dim) {
            for (i, frequency) in frequencies.iter().enumerate() {
                let angle = position as f32 * frequency;
                let (sin, cos) = f64::from(angle).sin_cos();
                let (sin, cos) = (sin * f64::from(rope.magnitude), cos * f64::from(rope.magnitude));
                let (first, second) = match rope.style {
                    RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                    RopeStyle::Half => (i, i + half),
                };
                let (a, b) = (f64::from(head[first]), f64::from(head[second]));
                head[first] = (a * cos - b * sin) as f32;
                head[second] = (b * cos + a * sin) as f32;
            }
        }
    }
    out
}

/// `x * (1 + beta * ln(1 + floor(position / interval)))`, rows of `width` elements.
pub(crate) fn position_scale(x: &[f32], positions: &[u32], beta: f32, interval: u32, width: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for (row, &position) in x.chunks_exact(width).zip(positions) {
        let scale = 1.0 + f64::from(beta) * (1.0 + f64::from(position / interval)).ln();
        out.extend(row.iter().map(|&x| (f64::from(x) * scale) as f32));
    }
    out
}
