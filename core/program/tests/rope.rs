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
    let expected = [0.25, 0.00940150768, 0.000353553361, 1.32957393e-05];
    check(500000.0, 8, RopeScaling::Linear { factor: 4.0 }, None, &expected);
}

#[test]
fn llama3_scaling_keeps_short_wavelengths_and_divides_long_ones() {
    let llama3 = |factor, original_context| RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context,
    };
    let expected =
        [1.0, 0.193922758, 0.0376060307, 0.00729266508, 0.000524846022, 3.42810235e-05, 6.64786967e-06, 1.28917316e-06];
    check(500000.0, 16, llama3(8.0, 8192), None, &expected);
    let expected =
        [1.0, 0.316227764, 0.100000001, 0.0039334991, 0.000312499993, 9.88211832e-05, 3.12500015e-05, 9.88211832e-06];
    check(10000.0, 16, llama3(32.0, 256), None, &expected);
}

#[test]
fn yarn_interpolates_between_fast_and_slow_pairs() {
    let yarn =
        |factor, original_context| RopeScaling::Yarn { factor, original_context, beta_fast: 32.0, beta_slow: 1.0 };
    let expected =
        [1.0, 0.177827939, 0.0316227786, 0.00421755994, 0.000500000024, 4.44569851e-05, 7.90569356e-06, 1.40585337e-06];
    check(1e6, 16, yarn(4.0, 32768), None, &expected);
    let expected =
        [1.0, 0.242111877, 0.0531250015, 0.00938801281, 0.000624999986, 0.000197642366, 6.2500003e-05, 1.97642366e-05];
    check(10000.0, 16, yarn(16.0, 512), None, &expected);
}
