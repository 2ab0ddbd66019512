//! The formulas of rotary position embedding, shared by every backend so that all rotate by the same angles.
//!
//! Pair `i` of a head at position `p` is rotated by `p * frequencies(..)[i]`, computed in f32 as the models were
//! trained, and sine and cosine are multiplied by [`Rope::magnitude`](crate::Rope::magnitude).

use std::f64::consts::PI;

use crate::op::{Rope, RopeScaling};

/// Angular frequency of each of the `rotary_dim / 2` pairs, in radians per position.
///
/// `factors` are the elements of [`Rope::factors`], if it has any; missing ones count as 1.
pub fn frequencies(rope: &Rope, factors: Option<&[f32]>) -> Vec<f32> {
    let dim = rope.rotary_dim as f64;
    let base = f64::from(rope.base);
    (0..rope.rotary_dim / 2)
        .map(|i| {
            let frequency = base.powf(-2.0 * i as f64 / dim);
            let factor = factors.and_then(|f| f.get(i)).map_or(1.0, |&f| f64::from(f));
            scaled(rope, i, frequency / factor) as f32
        })
        .collect()
}

fn scaled(rope: &Rope, pair: usize, frequency: f64) -> f64 {
    match rope.scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / f64::from(factor),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let (low, high) = (f64::from(low_freq_factor), f64::from(high_freq_factor));
            let rotations = f64::from(original_context) * frequency / (2.0 * PI);
            if rotations < low {
                frequency / f64::from(factor)
            } else if rotations > high {
                frequency
            } else {
                let kept = (rotations - low) / (high - low).max(f64::EPSILON);
                (1.0 - kept) * frequency / f64::from(factor) + kept * frequency
            }
        }
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow } => {
            let dim = rope.rotary_dim as f64;
            // The pair that makes `rotations` turns over the original context (eq. 16 of the paper, solved for it).
            let pair_of = |rotations: f32| {
                let turns = f64::from(original_context) / (f64::from(rotations) * 2.0 * PI);
                dim * turns.ln() / (2.0 * f64::from(rope.base).ln())
            };
            let low = pair_of(beta_fast).floor().max(0.0);
            let high = pair_of(beta_slow).ceil().min(dim - 1.0);
            let ramp = ((pair as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            let interpolated = frequency / f64::from(factor);
            interpolated * ramp + frequency * (1.0 - ramp)
        }
    }
}
