//! Every operation on small operands, against numbers computed with numpy in f64.

mod common;

use common::op::{Case, POSITIONS, TOKENS, check, numbers};
use rocmforge_program::{
    Activation, Custom, InputSource, Lead, Node, Op, Rope, RopeScaling, RopeStyle, ValueId, ValueType,
};

/// `[T, 3]` for the four tokens of the step.
const X: [f32; 12] = [0.5, -1.25, 2.0, 0.75, -0.3, 1.1, -2.5, 0.125, 0.9, 3.0, -0.6, 0.01];
/// As many elements again.
const Y: [f32; 12] = [1.5, 0.2, -0.7, -1.1, 2.25, 0.4, 0.3, -0.9, 1.75, -2.0, 0.6, 0.05];
/// A vector of one element per column.
const V: [f32; 3] = [1.5, -0.5, 0.25];
const U: [f32; 3] = [0.1, 0.2, -0.3];
/// `[2, 3]`.
const W: [f32; 6] = [0.2, -0.4, 1.0, -1.5, 0.3, 0.7];

fn t(dims: &[usize]) -> ValueType {
    ValueType::f32(Lead::T, dims)
}

/// Builds an operation on `X` as `[T, 3]`.
fn on_x(build: impl FnOnce(&mut Case, ValueId) -> Op) -> Vec<f32> {
    let mut case = Case::new();
    let x = case.input(t(&[3]), &X);
    let op = build(&mut case, x);
    let result = case.push(op);
    case.run(result)
}

#[test]
fn embed_looks_rows_up_and_scales_them() {
    let table = [0.5, 1.0, -1.0, 2.0, 0.25, -4.0, 8.0, 0.0];
    let expected = [-3.0, 6.0, 1.5, 3.0, 0.75, -12.0, 24.0, 0.0];
    let mut case = Case::new();
    let table = case.weight(&[4, 2], &table);
    let ids = case.builder.input(InputSource::TokenIds).unwrap();
    let result = case.push(Op::Embed { ids, table, scale: 3.0 });
    check(&format!("rows {TOKENS:?}"), &case.run(result), &expected);
}

#[test]
fn gather_rows_takes_the_rows_that_need_logits() {
    let found = on_x(|case, x| Op::GatherRows { x, rows: case.builder.input(InputSource::LogitsRows).unwrap() });
    check("rows 3 and 1", &found, &[3.0, -0.6f32 as f64, 0.01f32 as f64, 0.75, -0.3f32 as f64, 1.1f32 as f64]);
}

#[test]
fn linear_multiplies_by_the_transposed_weight() {
    let found = on_x(|case, x| Op::Linear { x, weight: case.weight(&[2, 3], &W), bias: None });
    check(
        "without bias",
        &found,
        &numbers("2.60000001 0.274999961 1.37000003 -0.445000004 0.349999968 4.41749997 0.850000022 -4.67300001"),
    );
    let found =
        on_x(|case, x| Op::Linear { x, weight: case.weight(&[2, 3], &W), bias: Some(case.weight(&[2], &[0.5, -2.0])) });
    check(
        "with bias",
        &found,
        &numbers("3.10000001 -1.72500004 1.87000003 -2.445 0.849999968 2.41749997 1.35000002 -6.67300001"),
    );
    let mut case = Case::new();
    let x = case.input(t(&[3, 1]), &X);
    let weight = case.weight(&[2, 1], &[2.0, -1.0]);
    let result = case.push(Op::Linear { x, weight, bias: None });
    let expected: Vec<f64> = X.iter().flat_map(|&x| [f64::from(x) * 2.0, -f64::from(x)]).collect();
    check("over the last dimension of two", &case.run(result), &expected);
}

#[test]
fn norms_follow_their_formulas() {
    let eps = 1e-3;
    let found = on_x(|_, x| Op::RmsNorm { x, weight: None, eps });
    check(
        "rms_norm",
        &found,
        &numbers(
            "0.35911794 -0.897794851 1.43647176 0.951095785 -0.380438329 1.39494052 -1.62751944 0.081375972
        0.585906983 1.69813436 -0.339626886 0.00566044775",
        ),
    );
    let found = on_x(|case, x| Op::RmsNorm { x, weight: Some(case.weight(&[3], &V)), eps });
    check(
        "rms_norm with weight",
        &found,
        &numbers(
            "0.538676911 0.448897426 0.35911794 1.42664368 0.190219165 0.348735129 -2.44127916 -0.040687986
        0.146476746 2.54720155 0.169813443 0.00141511194",
        ),
    );
    let found = on_x(|_, x| Op::LayerNorm { x, weight: None, bias: None, eps });
    check(
        "layer_norm",
        &found,
        &numbers(
            "0.0627278019 -1.25455604 1.19182824 0.391679252 -1.37087743 0.979198181 -1.38004344 0.423747784
        0.956295651 1.39609871 -0.891893113 -0.504205597",
        ),
    );
    let found = on_x(|case, x| {
        let (weight, bias) = (Some(case.weight(&[3], &V)), Some(case.weight(&[3], &U)));
        Op::LayerNorm { x, weight, bias, eps }
    });
    check(
        "layer_norm with weight and bias",
        &found,
        &numbers(
            "0.194091704 0.827278022 -0.00204295279 0.68751888 0.885438719 -0.0552004667 -1.97006515
        -0.011873889 -0.0609260991 2.19414807 0.645946559 -0.426051411",
        ),
    );
    let mut case = Case::new();
    let x = case.input(t(&[1, 3]), &X);
    let weight = Some(case.weight(&[3], &V));
    let result = case.push(Op::RmsNorm { x, weight, eps });
    check(
        "rms_norm per head",
        &case.run(result),
        &numbers(
            "0.538676911 0.448897426 0.35911794 1.42664368 0.190219165 0.348735129 -2.44127916 -0.040687986
        0.146476746 2.54720155 0.169813443 0.00141511194",
        ),
    );
}

#[test]
fn binary_operations_are_elementwise_or_repeat_a_last_dimension_of_1() {
    type Binary = fn(ValueId, ValueId) -> Op;
    let table: [(&str, Binary, Vec<f64>, Vec<f64>); 3] = [
        (
            "add",
            |a, b| Op::Add { a, b },
            numbers(
                "2 -1.05 1.30000001 -0.350000024 1.94999999 1.50000003 -2.19999999 -0.774999976 2.64999998 1 0
        0.0600000005",
            ),
            numbers(
                "2 0.25 3.5 0.950000003 -0.100000009 1.30000003 -3.19999999 -0.574999988 0.199999988 1.89999998
        -1.70000005 -1.09000002",
            ),
        ),
        (
            "sub",
            |a, b| Op::Sub { a, b },
            numbers(
                "-1 -1.45 2.69999999 1.85000002 -2.55000001 0.700000018 -2.80000001 1.02499998 -0.850000024 5
        -1.20000005 -0.040000001",
            ),
            numbers(
                "-1 -2.75 0.5 0.549999997 -0.500000015 0.900000021 -1.80000001 0.824999988 1.59999996 4.10000002
        0.5 1.11000002",
            ),
        ),
        (
            "mul",
            |a, b| Op::Mul { a, b },
            numbers(
                "0.75 -0.250000004 -1.39999998 -0.825000018 -0.675000027 0.440000016 -0.75000003 -0.112499997
        1.57499996 -6 -0.360000029 0.000499999996",
            ),
            numbers(
                "0.75 -1.875 3 0.150000002 -0.0600000033 0.220000008 1.74999997 -0.0874999985 -0.629999973
        -3.30000007 0.660000041 -0.011",
            ),
        ),
    ];
    for (name, op, expected, repeated) in table {
        check(name, &on_x(|case, a| op(a, case.input(t(&[3]), &Y))), &expected);
        let found = on_x(|case, a| op(a, case.input(t(&[1]), &Y[..4])));
        check(&format!("{name}, repeated"), &found, &repeated);
    }
}

#[test]
fn activations_are_exact() {
    for (kind, expected) in [
        (
            Activation::Silu,
            numbers(
                "0.311229666 -0.278375174 1.76159416 0.509384024 -0.127667249 0.825286139 -0.18964545 0.0664011717
        0.639854531 2.85772238 -0.212606221 0.00502499968",
            ),
        ),
        (
            Activation::GeluTanh,
            numbers(
                "0.34571401 -0.132285797 1.95459769 0.579960555 -0.11462908 0.950581072 -0.0150842661 0.0687171986
        0.734228464 2.99636261 -0.164584803 0.00503989345",
            ),
        ),
        (
            Activation::GeluErf,
            numbers(
                "0.345731231 -0.132062217 1.95449974 0.580029486 -0.114626577 0.950767359 -0.0155241633
        0.0687172781 0.734345862 2.99595031 -0.164551872 0.00503989345",
            ),
        ),
        (
            Activation::GeluQuick,
            numbers(
                "0.350388437 -0.133065699 1.93565862 0.586390058 -0.112515868 0.95338392 -0.034986165 0.0691234734
        0.740042546 2.98192869 -0.158876234 0.00504254886",
            ),
        ),
        (Activation::Relu, numbers("0.5 0 2 0.75 0 1.10000002 0 0.125 0.899999976 3 0 0.00999999978")),
        (Activation::ReluSquared, numbers("0.25 0 4 0.5625 0 1.21000005 0 0.015625 0.809999957 9 0 9.99999955e-05")),
        (
            Activation::Sigmoid,
            numbers(
                "0.622459331 0.222700139 0.880797078 0.679178699 0.42555748 0.75026011 0.07585818 0.531209373
        0.710949498 0.952574127 0.354343688 0.502499979",
            ),
        ),
        (
            Activation::Tanh,
            numbers(
                "0.462117157 -0.84828364 0.96402758 0.635148952 -0.291312623 0.80049903 -0.986614298 0.124353002
        0.716297859 0.995054754 -0.537049584 0.00999966646",
            ),
        ),
    ] {
        check(&format!("{kind:?}"), &on_x(|_, x| Op::Unary { x, kind }), &expected);
        let gated: Vec<f64> = expected.iter().zip(Y).map(|(f, y)| f * f64::from(y)).collect();
        let found = on_x(|case, gate| Op::GatedAct { gate, up: case.input(t(&[3]), &Y), kind });
        check(&format!("gated {kind:?}"), &found, &gated);
    }
}

#[test]
fn activations_stay_finite_far_from_zero() {
    let mut case = Case::new();
    let x = case.input(t(&[1]), &[-1e4, 1e4, -120.0, 120.0]);
    let silu = case.push(Op::Unary { x, kind: Activation::Silu });
    check("silu", &case.run(silu), &[0.0, 1e4, 0.0, 120.0]);
}

#[test]
fn scale_and_softcap() {
    check(
        "scale",
        &on_x(|_, x| Op::Scale { x, mul: -1.5, add: 0.25 }),
        &numbers("-0.5 2.125 -2.75 -0.875 0.700000018 -1.40000004 4 0.0625 -1.09999996 -4.25 1.15000004 0.235"),
    );
    check(
        "softcap",
        &on_x(|_, x| Op::Softcap { x, cap: 1.5 }),
        &numbers(
            "0.482269106 -1.02339269 1.30509249 0.693175736 -0.296062992 0.937650636 -1.39666441 0.12471145
        0.805574334 1.44604137 -0.569923464 0.00999985163",
        ),
    );
}

#[test]
fn layout_operations_move_elements_only() {
    const TALL: [f32; 16] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
    let run = |result: &dyn Fn(&mut Case, ValueId) -> ValueId| {
        let mut case = Case::new();
        let x = case.input(t(&[2, 2]), &TALL);
        let result = result(&mut case, x);
        case.run(result)
    };
    let part = |i: u32| {
        run(&move |case, x| {
            let x = case.push(Op::Reshape { x, dims: vec![4] });
            let parts = case.builder.push_many(Op::Split { x, sizes: vec![1, 3] }).unwrap();
            parts[i as usize]
        })
    };
    check("first part", &part(0), &[0., 4., 8., 12.]);
    check("second part", &part(1), &[1., 2., 3., 5., 6., 7., 9., 10., 11., 13., 14., 15.]);
    let last = run(&|case, x| case.push(Op::Slice { x, start: 1, len: 1 }));
    check("slice of the last of two dimensions", &last, &[1., 3., 5., 7., 9., 11., 13., 15.]);
    let joined = run(&|case, x| {
        let part = case.push(Op::Slice { x, start: 1, len: 1 });
        case.push(Op::Concat { xs: vec![part, x, part] })
    });
    let row = |a: f64| [a + 1., a, a + 1., a + 1., a + 3., a + 2., a + 3., a + 3.];
    check("concat", &joined, &[row(0.), row(4.), row(8.), row(12.)].concat());
}

fn rope(x: ValueId, positions: ValueId) -> Rope {
    Rope {
        x,
        positions,
        style: RopeStyle::Interleaved,
        rotary_dim: 4,
        base: 100.0,
        scaling: RopeScaling::None,
        magnitude: 1.0,
        factors: None,
        sections: None,
    }
}

/// `[T, 1, 6]`. The expected numbers use f32 frequencies and angles, as the definition says, and complex numbers.
const HEADS: [f32; 24] = [
    0.5, -1.25, 2.0, 0.75, -0.3, 1.1, -2.5, 0.125, 0.9, 3.0, -0.6, 0.01, 1.5, 0.2, -0.7, -1.1, 2.25, 0.4, 0.3, -0.9,
    1.75, -2.0, 0.6, 0.05,
];

#[test]
fn rope_rotates_pairs_by_position_and_passes_the_rest() {
    let check_rope = |what: &str, change: &dyn Fn(&mut Case, &mut Rope), dims: &[usize], expected: &[f64]| {
        let mut case = Case::new();
        let x = case.input(t(dims), &HEADS);
        let mut rope = rope(x, case.positions());
        change(&mut case, &mut rope);
        let result = case.push(Op::Rope(rope));
        check(&format!("{what} at positions {POSITIONS:?}"), &case.run(result), expected);
    };
    let half: &dyn Fn(&mut Case, &mut Rope) = &|_, r| r.style = RopeStyle::Half;
    check_rope(
        "interleaved, 4 of 6",
        &|_, _| {},
        &[1, 6],
        &numbers(
            "0.928548365 0.974832259 1.81113115 1.1323886 -0.300000012 1.10000002 2.45734124 -0.476549082
        -0.0267578399 3.13197765 -0.600000024 0.00999999978 -0.82910493 -1.26593247 -0.216382491
        -1.28575995 2.25 0.400000006 0.300000012 -0.899999976 1.75 -2 0.600000024 0.0500000007",
        ),
    );
    check_rope(
        "half, 4 of 6",
        half,
        &[1, 6],
        &numbers(
            "-2.02666827 -1.37408522 -0.37764496 0.486713266 -0.300000012 1.10000002 2.34797324 -0.767143593
        -1.24379324 2.90294948 -0.600000024 0.00999999978 -1.51022717 0.612572393 -0.677653216
        -0.935283442 2.25 0.400000006 0.300000012 -0.899999976 1.75 -2 0.600000024 0.0500000007",
        ),
    );
    let two_heads: &dyn Fn(&mut Case, &mut Rope) = &|_, r| (r.rotary_dim, r.style) = (2, RopeStyle::Half);
    check_rope(
        "half, 2 of 3, two heads",
        two_heads,
        &[2, 3],
        &numbers(
            "0.928548365 0.974832259 2 -0.0393208885 0.806817126 1.10000002 2.45734124 -0.476549082
        0.899999976 -2.88530548 1.01735555 0.00999999978 -0.82910493 -1.26593247 -0.699999988 2.42181361
        -0.638215384 0.400000006 0.300000012 -0.899999976 1.75 -2 0.600000024 0.0500000007",
        ),
    );
    let scaled: &dyn Fn(&mut Case, &mut Rope) = &|case, r| {
        r.rotary_dim = 6;
        r.magnitude = 1.25;
        r.scaling = RopeScaling::Linear { factor: 2.0 };
        r.factors = Some(case.weight(&[3], &[1.0, 2.0, 8.0]));
    };
    check_rope(
        "linear, with factors and magnitude",
        scaled,
        &[1, 6],
        &numbers(
            "1.65248735 -0.318302987 2.38471513 1.20084969 -0.382971389 1.37280115 -0.376912347 -3.10611915
        0.50704419 3.88214259 -0.750080413 0.00597237461 -1.00759968 1.60089596 -0.560823048 -1.53027042
        2.80650879 0.532601783 0.375000015 -1.12499997 2.1875 -2.5 0.75000003 0.0625000009",
        ),
    );
}

#[test]
fn position_scale_grows_with_the_interval() {
    let found = on_x(|case, x| Op::PositionScale { x, positions: case.positions(), beta: 0.1, interval: 2 });
    check(
        "floor of 2, 3, 4 and 0 by 2",
        &found,
        &numbers(
            "0.53465736 -1.3366434 2.13862944 0.801986039 -0.320794428 1.17624622 -2.77465308 0.138732654
        0.998875081 3 -0.600000024 0.00999999978",
        ),
    );
}

#[test]
fn pools_reduce_the_rows_of_each_sequence() {
    check(
        "mean_pool",
        &on_x(|_, x| Op::MeanPool { x }),
        &numbers("-0.416666667 -0.475000004 1.33333333 3 -0.600000024 0.00999999978"),
    );
    let last: Vec<f64> = X[6..].iter().map(|&x| f64::from(x)).collect();
    check("last_pool", &on_x(|_, x| Op::LastPool { x }), &last);
}

#[test]
fn custom_operations_mean_their_decomposition() {
    let node = |op| Node { op, layer: None };
    let custom = |name: &str, inputs: Vec<ValueId>, decomposition: Vec<Node>, results: Vec<ValueId>| Custom {
        domain: "example.org".into(),
        name: name.into(),
        version: 1,
        attrs: serde_json::Value::Null,
        inputs,
        outputs: vec![t(&[3]); results.len()],
        decomposition,
        results,
    };
    // Local values: %0 and %1 are the inputs, %2 = %0 - %1, %3 = 2 * %2. Results in another order than computed.
    let (a, b) = (ValueId(0), ValueId(1));
    let inner = vec![node(Op::Sub { a, b }), node(Op::Scale { x: ValueId(2), mul: 2.0, add: 0.0 })];
    let inner = node(Op::Custom(custom("twice_difference", vec![b, a], inner, vec![ValueId(3), ValueId(2)])));
    // Outside: %2 = 2 (%1 - %0), %3 = %1 - %0, %4 = %2 * %0.
    let outer = vec![inner, node(Op::Mul { a: ValueId(2), b: a })];
    let mut case = Case::new();
    // Small integers, so that every intermediate is exact.
    let integers = |first: i16, step: i16| (0..12).map(|i| f32::from((first + i * step) % 7)).collect::<Vec<_>>();
    let (xs, ys) = (integers(-3, 5), integers(4, -2));
    let (x, y) = (case.input(t(&[3]), &xs), case.input(t(&[3]), &ys));
    let outer = Op::Custom(custom("nested", vec![x, y], outer, vec![ValueId(3), ValueId(4)]));
    let results = case.builder.push_many(outer).unwrap();
    let result = case.push(Op::Add { a: results[0], b: results[1] });
    let expected: Vec<f64> = xs.iter().zip(&ys).map(|(x, y)| f64::from((y - x) + 2.0 * (y - x) * x)).collect();
    check("(y - x) + 2 (y - x) x", &case.run(result), &expected);
}
