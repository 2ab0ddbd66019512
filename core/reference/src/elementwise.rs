use std::f64::consts::{FRAC_2_SQRT_PI, PI, SQRT_2};

use rocmforge_program::Activation;

/// `f(x)` for each element, in f64 and rounded once.
pub(crate) fn map(x: &[f32], f: impl Fn(f64) -> f64) -> Vec<f32> {
    x.iter().map(|&x| f(f64::from(x)) as f32).collect()
}

/// `f(a, b)`; `b` has `group` times fewer elements, each used for `group` consecutive elements of `a`.
pub(crate) fn zip(a: &[f32], b: &[f32], group: usize, f: impl Fn(f64, f64) -> f64) -> Vec<f32> {
    a.iter().enumerate().map(|(i, &a)| f(f64::from(a), f64::from(b[i / group])) as f32).collect()
}

/// `cap * tanh(x / cap)`.
pub(crate) fn softcap(x: f64, cap: f64) -> f64 {
    cap * (x / cap).tanh()
}

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub(crate) fn activation(kind: Activation, x: f64) -> f64 {
    match kind {
        Activation::Silu => x * sigmoid(x),
        Activation::GeluTanh => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
        Activation::GeluErf => 0.5 * x * (1.0 + erf(x / SQRT_2)),
        Activation::GeluQuick => x * sigmoid(1.702 * x),
        Activation::Relu => x.max(0.0),
        Activation::ReluSquared => x.max(0.0) * x.max(0.0),
        Activation::Sigmoid => sigmoid(x),
        Activation::Tanh => x.tanh(),
    }
}

/// The error function by its series `2/sqrt(pi) exp(-x^2) sum 2^n x^(2n+1) / (2n+1)!!` (Abramowitz and Stegun, 7.1.6),
/// whose terms all have the same sign.
fn erf(x: f64) -> f64 {
    // 1 - erf(6) is below the resolution of f64.
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > sum.abs() * 1e-17 {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    #[test]
    fn erf_agrees_with_published_values() {
        // Python's math.erf.
        for (x, expected) in [
            (0.0, 0.0),
            (1e-8, 1.1283791670955126e-8),
            (0.5, 0.5204998778130465),
            (-1.0, -0.8427007929497149),
            (2.5, 0.999593047982555),
            (5.9, 1.0),
            (7.0, 1.0),
        ] {
            let found = super::erf(x);
            assert!((found - expected).abs() <= 2e-15, "erf({x}) = {found}, expected {expected}");
        }
        assert!(super::erf(f64::NAN).is_nan());
    }
}
