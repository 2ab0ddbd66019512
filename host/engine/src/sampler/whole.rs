//! The draw where every token may come: no list of candidates is made, and the vocabulary is gone through once.

use rocmforge_program::LEAST_TEMPERATURE;

use super::SamplingParams;
use super::select::maximum;

/// Logits whose weights are added up before they count into the total.
const BLOCK: usize = 512;
const LANES: usize = 16;
/// Below it weights count as 0. The largest one is 1.
const LEAST: f32 = -87.0;

/// Whether the parameters leave every token in.
pub(super) fn applies(params: &SamplingParams) -> bool {
    // Of a temperature whose inverse is no number weights are none either.
    params.temperature >= LEAST_TEMPERATURE
        && params.top_k.is_none()
        && params.top_p >= 1.0
        && params.min_p <= 0.0
        && params.top_n_sigma <= 0.0
        && params.typical_p >= 1.0
        && params.xtc.is_none()
        && params.mirostat.is_none()
}

/// `e^x` for `x` up to 0, within 2e-7 of it, in operations that compile to vector instructions; 0 below [`LEAST`].
#[inline]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding and subtracting it rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let bounded = if x > LEAST { x } else { LEAST };
    let rounded = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    // ln 2 in two parts, of which the first has so few digits that its product is exact.
    let r = (bounded - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = (p * r) * r + r + 1.0;
    // The low bits of `rounded` are the number already; a cast, which saturates, would not become a vector instruction.
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    if x > LEAST { p * scale } else { 0.0 }
}

/// Draws the token at the quantile `u` (in [0, 1)) of the probabilities in the order of the tokens. The maximum of the
/// logits is finite, and the temperature is not 0. `sums` is scratch.
pub(super) fn draw(logits: &[f32], temperature: f32, u: f64, sums: &mut Vec<f64>) -> u32 {
    let (max, _) = maximum(logits);
    let scale = 1.0 / temperature;
    let weight = |x: f32| exp((x - max) * scale);
    sums.clear();
    // Weights first and sums then, as the loop over a block compiles to vector instructions by itself and its parts do not.
    let mut weights = [0f32; BLOCK];
    sums.extend(logits.chunks(BLOCK).map(|block| {
        let weights = &mut weights[..block.len()];
        weights.iter_mut().zip(block).for_each(|(w, &x)| *w = weight(x));
        let mut lanes = [0f32; LANES];
        let (chunks, rest) = weights.as_chunks::<LANES>();
        chunks.iter().for_each(|chunk| (0..LANES).for_each(|i| lanes[i] += chunk[i]));
        lanes.into_iter().chain(rest.iter().copied()).map(f64::from).sum::<f64>()
    }));
    let mut left = u * sums.iter().sum::<f64>();
    let mut latest = 0;
    for (b, (block, &sum)) in logits.chunks(BLOCK).zip(sums.iter()).enumerate() {
        if left >= sum {
            left -= sum;
            continue;
        }
        for (i, &x) in block.iter().enumerate() {
            let weight = weight(x);
            if weight > 0.0 {
                latest = b * BLOCK + i;
            }
            left -= f64::from(weight);
            if left < 0.0 {
                return latest as u32;
            }
        }
        // Rounding can leave a hair of the sum: the last token of the block that has any weight is meant.
        return latest as u32;
    }
    // The same for the total: the last token of all.
    logits.iter().rposition(|&x| weight(x) > 0.0).unwrap_or(0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_close_everywhere() {
        let mut x = 0.0f32;
        while x > LEAST {
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) - expected).abs() <= 2e-7 * expected, "{x}: {} {expected}", exp(x));
            x -= 0.001_7;
        }
        for none in [LEAST, -1e9, f32::NEG_INFINITY] {
            assert_eq!(exp(none), 0.0, "{none}");
        }
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn draws_invert_the_cumulative_distribution() {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 24)
        };
        for n in [1, 3, 511, 512, 513, 5000] {
            let mut logits: Vec<f32> = (0..n).map(|_| (next() * 12.0 - 6.0) as f32).collect();
            (0..n).step_by(7).skip(1).for_each(|i| logits[i] = f32::NEG_INFINITY);
            let weights: Vec<f64> = logits.iter().map(|&x| (f64::from(x) / 0.8).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut sums = Vec::new();
            for _ in 0..200 {
                let u = next();
                let token = draw(&logits, 0.8, u, &mut sums) as usize;
                let below: f64 = weights[..token].iter().sum::<f64>() / total;
                let above = below + weights[token] / total;
                assert!(
                    weights[token] > 0.0 && below - 1e-6 <= u && u <= above + 1e-6,
                    "{n} {u} {token} {below} {above}"
                );
            }
        }
    }
}
