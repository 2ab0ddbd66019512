//! Rope frequencies against numbers from the functions of transformers' `modeling_rope_utils`, written in numpy.

use rocmforge_program::{Rope, RopeScaling, RopeStyle, ValueId, rope};

fn check(base: f32, rotary_dim: usize, scaling: RopeScaling, factors: Option<&[f32]>, expected: &[f64]) {
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
    assert_eq!(found.len(), expected.len());
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        // Rounded once to f32.
        let close = (f64::from(found) - expected).abs() <= 6.1e-8 * expected;
        assert!(close, "{scaling:?}, pair {i}: expected {expected}, found {found}");
    }
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
    let expected = [0.25, 0.009401507733, 0.0003535533906, 1.329573974e-5];
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
    let expected = [
        1.0,
        0.1939227447,
        0.03760603093,
        0.007292664737,
        0.000524846161,
        3.428102196e-5,
        6.647869871e-6,
        1.289173172e-6,
    ];
    check(500000.0, 16, llama3(8.0, 8192), None, &expected);
    let expected = [1.0, 0.316227766, 0.1, 0.003933498787, 0.0003125, 9.882117688e-5, 3.125e-5, 9.882117688e-6];
    check(10000.0, 16, llama3(32.0, 256), None, &expected);
}

#[test]
fn yarn_interpolates_between_fast_and_slow_pairs() {
    let yarn =
        |factor, original_context| RopeScaling::Yarn { factor, original_context, beta_fast: 32.0, beta_slow: 1.0 };
    let expected =
        [1.0, 0.177827941, 0.0316227766, 0.004217559939, 0.0005, 4.445698525e-5, 7.90569415e-6, 1.405853313e-6];
    check(1e6, 16, yarn(4.0, 32768), None, &expected);
    let expected = [1.0, 0.2421118834, 0.053125, 0.009388011804, 0.000625, 0.0001976423538, 6.25e-5, 1.976423538e-5];
    check(10000.0, 16, yarn(16.0, 512), None, &expected);
}
