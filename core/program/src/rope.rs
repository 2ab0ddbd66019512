//! The formulas of rotary position embedding, shared by every backend so that all rotate by the same angles.
//!
//! Pair `i` of a head at position `p` is rotated by `p * frequencies(..)[i]`, computed in f32 as the models were
//! trained, and sine and cosine are multiplied by [`Rope::magnitude`](crate::Rope::magnitude).
//!
//! The order of the roundings is that of the code that models are trained with: at position 32768 the last bit of a
//! frequency near 1 turns a pair by 2e-3.

use std::f64::consts::PI;

use crate::op::{Rope, RopeScaling};

/// Angular frequency of each of the `rotary_dim / 2` pairs, in radians per position.
///
/// `factors` are the elements of [`Rope::factors`], if it has any; missing ones count as 1.
pub fn frequencies(rope: &Rope, factors: Option<&[f32]>) -> Vec<f32> {
    (0..rope.rotary_dim / 2)
        .map(|i| {
            let exponent = 2.0 * i as f32 / rope.rotary_dim as f32;
            let wavelength = f64::from(rope.base).powf(f64::from(exponent)) as f32;
            let factor = factors.and_then(|f| f.get(i)).map_or(1.0, |&f| f);
            scaled(rope, i, factor * wavelength)
        })
        .collect()
}

/// The scaled frequency of a pair with this wavelength over 2 pi.
fn scaled(rope: &Rope, pair: usize, wavelength: f32) -> f32 {
    let frequency = 1.0 / wavelength;
    match rope.scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_context } => {
            let rotations = original_context as f32 / (2.0 * PI as f32 / frequency);
            if rotations < low {
                frequency / factor
            } else if rotations > high {
                frequency
            } else {
                let kept = (rotations - low) / (high - low).max(f32::EPSILON);
                (1.0 - kept) * frequency / factor + kept * frequency
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
            let ramp = ((pair as f32 - low as f32) / (high - low).max(0.001) as f32).clamp(0.0, 1.0);
            let interpolated = 1.0 / (factor * wavelength);
            let kept = 1.0 - ramp;
            interpolated * (1.0 - kept) + frequency * kept
        }
    }
}
