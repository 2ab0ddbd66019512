//! Rope frequencies against what the functions of transformers' `modeling_rope_utils` return in float32.

use rocmforge_program::{Rope, RopeScaling, RopeStyle, ValueId, rope};

fn check(base: f32, rotary_dim: usize, scaling: RopeScaling, factors: Option<&[f32]>, expected: &[f32]) {
    let rope = Rope {
        x: ValueId(0),
        positions: ValueId(1),
        style: RopeStyle::Half,
        rotary_dim,
        base,
        scaling,
        magnitude: 1.0,
        factors: None,
        sections: None,
    };
    let found = rope::frequencies(&rope, factors);
    assert_eq!(found, expected, "{scaling:?}");
}

#[test]
fn frequencies_are_a_geometric_series() {
    check(10000.0, 8, RopeScaling::None, None, &[1.0, 0.1, 0.01, 0.001]);
    check(10000.0, 2, RopeScaling::None, None, &[1.0]);
}

#[test]
fn factors_divide_and_missing_ones_count_as_1() {
    check(10000.0, 8, RopeScaling::None, Some(&[1.0, 2.0, 4.0, 8.0]), &[1.0, 0.05, 0.0025, 0.000125]);
    check(10000.0, 8, RopeScaling::None, Some(&[2.0]), &[0.5, 0.1, 0.01, 0.001]);
}

#[test]
fn linear_scaling_divides_every_frequency() {
    let expected = [0.25, 0.009401508, 3.5355336e-4, 1.3295739e-5];
    check(500000., 8, RopeScaling::Linear { factor: 4.0 }, None, &expected);
}

#[test]
fn llama3_scaling_keeps_short_wavelengths_and_divides_long_ones() {
    let llama3 = |factor, original_context| RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context,
    };
    let expected = [1.0, 0.19392276, 0.03760603, 0.007292665, 5.24846e-4, 3.4281024e-5, 6.6478697e-6, 1.2891732e-6];
    check(500000., 16, llama3(8.0, 8192), None, &expected);
    let expected = [1.0, 0.31622776, 0.1, 0.003933499, 3.125e-4, 9.882118e-5, 3.125e-5, 9.882118e-6];
    check(10000., 16, llama3(32.0, 256), None, &expected);
}

#[test]
fn yarn_interpolates_between_fast_and_slow_pairs() {
    let yarn =
        |factor, original_context| RopeScaling::Yarn { factor, original_context, beta_fast: 32.0, beta_slow: 1.0 };
    let expected = [1.0, 0.17782794, 0.03162278, 0.00421756, 5e-4, 4.4456985e-5, 7.905694e-6, 1.4058534e-6];
    check(1e6, 16, yarn(4.0, 32768), None, &expected);
    let expected = [1.0, 0.24211188, 0.053125, 0.009388013, 6.25e-4, 1.9764237e-4, 6.25e-5, 1.9764237e-5];
    check(10000., 16, yarn(16.0, 512), None, &expected);
}
