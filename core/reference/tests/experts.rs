//! Mixture of experts, against numbers computed with numpy in f64.

mod common;

use common::op::{Case, check, check_within, numbers};
use rocmforge_program::{GateKind, Lead, Op, Router, ValueId, ValueType};

/// Logits of four experts for four tokens: a tie of the best, no tie, all equal, ascending.
const LOGITS: [f32; 16] = [0.5, 2.0, -1.0, 2.0, 1.0, 0.25, 3.0, -0.5, -2.0, -2.0, -2.0, -2.0, 0.1, 0.2, 0.3, 0.4];
const BIAS: [f32; 4] = [0.0, -5.0, 0.5, 0.1];
/// `[T, 3]`.
const X: [f32; 12] = [0.5, -1.25, 2.0, 0.75, -0.3, 1.1, -2.5, 0.125, 0.9, 3.0, -0.6, 0.01];
/// `[4, 2, 3]`, and for a second layer `[4, 3, 2]`.
const W: [f32; 24] = [
    0.2, -0.4, 1.0, -1.5, 0.3, 0.7, 1.1, 0.6, -0.2, 0.8, -0.9, 0.05, -0.35, 0.45, 0.55, 2.0, -1.0, 0.15, 0.65, -0.75,
    0.85, -0.95, 1.05, -1.15,
];
/// `[4, 2]`.
const W_BIAS: [f32; 8] = [0.5, -0.5, 0.25, 1.0, -1.5, 0.75, 2.0, -0.125];

fn router(case: &mut Case, gate: GateKind, top_k: usize, renormalize: bool, scale: f32, bias: bool) -> Vec<ValueId> {
    let logits = case.input(ValueType::f32(Lead::T, &[4]), &LOGITS);
    let selection_bias = bias.then(|| case.weight(&[4], &BIAS));
    case.builder.push_many(Op::Router(Router { logits, top_k, gate, renormalize, scale, selection_bias })).unwrap()
}

/// An output must be f32, so the chosen experts are shown by a layer in which expert `e` yields `e`.
fn chosen(case: &mut Case, experts: ValueId) -> ValueId {
    let ones = case.input(ValueType::f32(Lead::T, &[1]), &[1.0; 4]);
    let weight = case.weight(&[4, 1, 1], &[0.0, 1.0, 2.0, 3.0]);
    case.push(Op::ExpertLinear { x: ones, experts, weight, bias: None })
}

#[test]
fn routers_choose_and_weigh_experts() {
    let check_router = |gate, top_k, renormalize, scale, bias, experts: &[u32], weights: &[f64]| {
        let what = format!("{gate:?} top {top_k}, renormalize {renormalize}, scale {scale}, bias {bias}");
        let mut case = Case::new();
        let results = router(&mut case, gate, top_k, renormalize, scale, bias);
        let shown = chosen(&mut case, results[0]);
        let found: Vec<u32> = case.run(shown).iter().map(|&e| e as u32).collect();
        assert_eq!(found, experts, "{what}");
        let mut case = Case::new();
        let results = router(&mut case, gate, top_k, renormalize, scale, bias);
        check(&what, &case.run(results[1]), weights);
    };
    use GateKind::{Sigmoid, Softmax, SoftmaxTopK};
    check_router(
        Softmax,
        2,
        false,
        1.0,
        false,
        &[1, 3, 2, 0, 0, 1, 3, 2],
        &numbers("0.439963228 0.439963228 0.813364868 0.110076965 0.25 0.25 0.288651405 0.261182594"),
    );
    check_router(
        Softmax,
        2,
        true,
        1.0,
        false,
        &[1, 3, 2, 0, 0, 1, 3, 2],
        &numbers("0.5 0.5 0.880797078 0.119202922 0.5 0.5 0.524979186 0.475020814"),
    );
    check_router(
        SoftmaxTopK,
        3,
        false,
        1.0,
        false,
        &[1, 3, 0, 2, 0, 1, 0, 1, 2, 3, 2, 1],
        &numbers(
            "0.449816218 0.449816218 0.100367565 0.833845353 0.112848697 0.05330595 0.333333333 0.333333333
        0.333333333 0.367165401 0.332224995 0.300609604",
        ),
    );
    check_router(
        Sigmoid,
        2,
        true,
        2.5,
        true,
        &[3, 2, 2, 0, 2, 3, 2, 3],
        &numbers("1.91521176 0.58478824 1.41446249 1.08553751 1.25 1.25 1.22416619 1.27583381"),
    );
    check_router(
        Sigmoid,
        1,
        false,
        1.0,
        false,
        &[1, 2, 0, 3],
        &numbers("0.880797078 0.952574127 0.119202922 0.598687662"),
    );
    check_router(
        Softmax,
        4,
        true,
        0.5,
        true,
        &[3, 2, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1],
        &numbers(
            "0.219981614 0.0109522396 0.0490845327 0.219981614 0.406682434 0.0122807454 0.0550384824
        0.0259983382 0.125 0.125 0.125 0.125 0.130591297 0.144325703 0.10691911 0.118163891",
        ),
    );
    check_router(
        SoftmaxTopK,
        2,
        false,
        1.0,
        true,
        &[3, 0, 2, 0, 2, 3, 2, 3],
        &numbers("0.817574476 0.182425524 0.880797078 0.119202922 0.5 0.5 0.475020814 0.524979186"),
    );
}

#[test]
fn expert_layers_use_the_weights_of_the_chosen_experts() {
    let layer = |bias: bool| {
        let mut case = Case::new();
        let experts = router(&mut case, GateKind::Softmax, 2, true, 1.0, false)[0];
        let x = case.input(ValueType::f32(Lead::T, &[3]), &X);
        let weight = case.weight(&[4, 2, 3], &W);
        let bias = bias.then(|| case.weight(&[4, 2], &W_BIAS));
        let result = case.push(Op::ExpertLinear { x, experts, weight, bias });
        case.run(result)
    };
    check(
        "one row per token",
        &layer(false),
        &numbers(
            "-0.600000024 1.62499998 2.96250004 -4.08749989 0.207500029 1.96500002 1.37000003 -0.445000004
        0.349999968 4.41749997 -2.85500005 -2.06750003 2.40849995 -3.49149996 -1.31449999 6.60150002",
        ),
    );
    check(
        "with bias",
        &layer(true),
        &numbers(
            "-0.350000024 2.62499998 4.96250004 -4.21249989 -1.29249997 2.71500002 1.87000003 -0.945000004
        0.849999968 3.91749997 -2.60500005 -1.06750003 4.40849995 -3.61649996 -2.81449999 7.35150002",
        ),
    );
}

#[test]
fn a_second_expert_layer_takes_a_row_per_expert_and_the_results_are_combined() {
    let run = |combine: bool| {
        let mut case = Case::new();
        let chosen = router(&mut case, GateKind::Softmax, 2, true, 1.0, false);
        let x = case.input(ValueType::f32(Lead::T, &[3]), &X);
        let first = case.weight(&[4, 2, 3], &W);
        let second = case.weight(&[4, 3, 2], &W);
        let x = case.push(Op::ExpertLinear { x, experts: chosen[0], weight: first, bias: None });
        let mut result = case.push(Op::ExpertLinear { x, experts: chosen[0], weight: second, bias: None });
        if combine {
            result = case.push(Op::ExpertCombine { x: result, weights: chosen[1] });
        }
        case.run(result)
    };
    // Values between the operations are rounded to f32, and sums may cancel.
    check_within(
        "a row per expert",
        &run(false),
        &numbers(
            "0.314999985 1.42000001 0.621250007 4.99124987 6.40124994 7.81124967 0.811624978 4.04412506
        0.0872499861 0.452000015 2.03750004 0.0995000289 -1.69700002 -6.27624999 3.19724992 -4.38100019
        -1.08300003 2.46612498 4.18414988 5.36414993 6.5441497 3.43074992 12.480025 2.30472503",
        ),
        1e-6,
    );
    check_within(
        "combined",
        &run(true),
        &numbers(
            "2.65312493 3.91062498 4.21624984 0.768756631 3.8049295 0.088710227 -3.03900011 -3.67962501
        2.83168745 3.82626922 8.74433872 4.53033474",
        ),
        1e-6,
    );
}
