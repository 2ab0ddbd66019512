//! Attention over a paged cache, against numbers computed with numpy in f64 without any paging.

mod common;

use common::op::{Case, allocate, check, numbers, two_sequences};
use rocmforge_program::{Attention, CacheId, GroupTables, Lead, Op, Step, ValueType};

/// `[T, 4, 2]`, two query heads for each of two key and value heads.
const Q: [f32; 32] = [
    0.5, -1.25, 2.0, 0.75, -0.3, 1.1, -2.5, 0.125, 0.9, 3.0, -0.6, 0.01, 1.5, 0.2, -0.7, -1.1, 2.25, 0.4, 0.3, -0.9,
    1.75, -2.0, 0.6, 0.05, 1.0, -1.0, 0.5, 0.25, -0.75, 2.5, 0.8, -0.4,
];
/// `[T, 2, 2]`.
const K: [f32; 16] = [1.1, -0.2, 0.7, 0.9, -1.5, 0.6, 0.35, -0.45, 0.2, 1.3, -0.8, 1.6, 0.5, 0.5, -1.2, 0.15];
/// `[T, 2, 3]`.
const V: [f32; 24] = [
    0.1, 0.2, 0.3, -0.4, 0.5, -0.6, 1.7, -0.8, 0.9, 2.0, -1.1, 1.2, -1.3, 1.4, 0.15, 1.6, -0.17, 0.18, 0.19, 2.1,
    -0.21, 0.22, -2.3, 0.24,
];
/// Keys and values of positions 0 and 1 of the first sequence.
const PAST_K: [f32; 8] = [0.4, 0.6, -0.9, 0.3, 0.8, -1.4, 0.25, 0.65];
const PAST_V: [f32; 12] = [1.0, -1.0, 0.5, 0.4, 0.3, -0.2, -0.7, 0.6, 0.9, -0.5, 0.45, 1.25];
const SINKS: [f32; 4] = [0.5, -1.0, 2.0, 0.0];

/// The result of the second of two steps: the past is cached by the first. `readers` attentions without keys follow
/// the one that writes, and the last one's result is returned.
fn run(change: impl Fn(&mut Case, &mut Attention), readers: usize) -> Vec<f32> {
    let mut case = Case::new();
    let q = case.input(ValueType::f32(Lead::T, &[4, 2]), &Q);
    let k = case.input(ValueType::f32(Lead::T, &[2, 2]), &K);
    let v = case.input(ValueType::f32(Lead::T, &[2, 3]), &V);
    let cache = case.builder.cache(2, 2, 3, None);
    let mut attention =
        Attention { q, k: Some(k), v: Some(v), cache, scale: 0.7, window: None, softcap: None, sinks: None };
    change(&mut case, &mut attention);
    let mut result = case.push(Op::Attention(attention.clone()));
    (attention.k, attention.v) = (None, None);
    for _ in 0..readers {
        result = case.push(Op::Attention(attention.clone()));
    }
    let (mut interpreter, inputs) = case.interpreter(result);
    let groups = allocate(&mut interpreter);

    let mut past = inputs.named();
    (past[0].data, past[1].data, past[2].data) = (&Q[..16], &PAST_K, &PAST_V);
    let tables = GroupTables { block_tables: &[5], max_blocks: 1, slot_mapping: &[20, 21] };
    let step = Step {
        token_ids: &[0, 0],
        positions: &[0, 1],
        query_start: &[0, 2],
        context_lens: &[2],
        groups: &[tables],
        inputs: &past,
        ..Step::default()
    };
    interpreter.run(&step).expect("the first step");
    let step = Step { inputs: &inputs.named(), groups: &groups, ..two_sequences() };
    interpreter.run(&step).expect("the second step").remove("result").expect("the output")
}

#[test]
fn queries_attend_causally_to_the_past_of_their_sequence() {
    check(
        "grouped heads, values wider than keys",
        &run(|_, _| {}, 0),
        &numbers(
            "-0.331261407 0.34204491 0.709296165 0.221874058 -0.0839323666 0.468755696 -0.179566406
        0.420504143 0.128032409 0.254147539 0.327863567 -0.055070769 0.949080019 -0.72757325 0.543835702
        0.889620477 -0.443823178 0.723873595 0.21902939 0.081725219 0.34351476 0.743592569 -0.157256241
        0.494629003 -0.106852568 0.24507593 0.436667246 -0.143490408 0.250134189 0.649597015 1.23405183
        -0.58123321 0.850525613 0.517609491 0.00560918078 0.382690565 0.189999998 2.0999999 -0.209999993
        0.189999998 2.0999999 -0.209999993 0.219999999 -2.29999995 0.239999995 0.219999999 -2.29999995
        0.239999995",
        ),
    );
}

#[test]
fn a_window_counts_the_query_itself() {
    check(
        "2 tokens",
        &run(|_, a| a.window = Some(2), 0),
        &numbers(
            "-0.476086805 0.488043425 0.732065097 -0.107380079 0.30369005 0.455535065 -0.447551962 0.476224015
        0.279711227 -0.468257375 0.465871306 0.662761388 0.916797589 -0.310498482 0.60629908 1.29969628
        -0.549810163 0.749886078 0.474458434 -0.0829723006 0.0558438306 1.449142 -0.732761353 0.786856533
        -1.13956232 1.28234571 0.190109412 0.262962975 0.253827169 0.540740722 1.9945318 -1.08728645
        1.18605613 1.84055504 -0.729290456 0.793415354 0.189999998 2.0999999 -0.209999993 0.189999998
        2.0999999 -0.209999993 0.219999999 -2.29999995 0.239999995 0.219999999 -2.29999995 0.239999995",
        ),
    );
    check(
        "1 token",
        &run(|_, a| a.window = Some(1), 0),
        &numbers(
            "0.100000001 0.200000003 0.300000012 0.100000001 0.200000003 0.300000012 -0.400000006 0.5
        -0.600000024 -0.400000006 0.5 -0.600000024 1.70000005 -0.800000012 0.899999976 1.70000005
        -0.800000012 0.899999976 2 -1.10000002 1.20000005 2 -1.10000002 1.20000005 -1.29999995 1.39999998
        0.150000006 -1.29999995 1.39999998 0.150000006 1.60000002 -0.170000002 0.180000007 1.60000002
        -0.170000002 0.180000007 0.189999998 2.0999999 -0.209999993 0.189999998 2.0999999 -0.209999993
        0.219999999 -2.29999995 0.239999995 0.219999999 -2.29999995 0.239999995",
        ),
    );
    check("more tokens than there are", &run(|_, a| a.window = Some(100), 0), &run_exact(0));
}

fn run_exact(readers: usize) -> Vec<f64> {
    run(|_, _| {}, readers).iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn scores_are_capped_after_scaling() {
    check(
        "cap 1.5",
        &run(|_, a| a.softcap = Some(1.5), 0),
        &numbers(
            "-0.242403453 0.278236467 0.665262076 0.221189368 -0.106555979 0.49606283 -0.178366028 0.420133612
        0.130416986 0.186598971 0.341426632 -0.00463514522 0.893222457 -0.630502166 0.563135839
        0.873011044 -0.435562638 0.720217618 0.241554261 0.0692432552 0.370225281 0.718900991
        -0.143713209 0.481822325 -0.11609032 0.24002469 0.463832193 -0.104277546 0.227724493 0.63159666
        1.15168051 -0.489159645 0.763621746 0.51921223 0.0051949668 0.383237059 0.189999998 2.0999999
        -0.209999993 0.189999998 2.0999999 -0.209999993 0.219999999 -2.29999995 0.239999995 0.219999999
        -2.29999995 0.239999995",
        ),
    );
}

#[test]
fn sinks_take_probability_and_add_no_value() {
    let sinks = |case: &mut Case, a: &mut Attention| a.sinks = Some(case.weight(&[4], &SINKS));
    check(
        "sinks",
        &run(sinks, 0),
        &numbers(
            "-0.267636306 0.276348631 0.573062245 0.212198528 -0.0802722267 0.448314101 -0.0708327065
        0.16587427 0.0505043358 0.217634647 0.280760034 -0.0471588567 0.774366287 -0.593636137
        0.443722368 0.815895366 -0.407042423 0.66388435 0.0939575106 0.0350578437 0.147358268 0.571310268
        -0.120821682 0.380028849 -0.0939765995 0.215543744 0.384047888 -0.135190147 0.235665074
        0.612020809 0.457703628 -0.215576479 0.31545568 0.432887304 0.00469107153 0.320051873
        0.0717327262 0.792835368 -0.079283538 0.14809667 1.63685788 -0.16368579 0.0546341976 -0.571175694
        0.0596009419 0.072317428 -0.756045827 0.0788917383",
        ),
    );
    // Sinks are neither scaled nor capped.
    let all = |case: &mut Case, a: &mut Attention| {
        sinks(case, a);
        (a.window, a.softcap) = (Some(2), Some(1.5));
    };
    check(
        "with window and cap",
        &run(all, 0),
        &numbers(
            "-0.312080074 0.342604303 0.513906428 -0.146861658 0.304555567 0.456833338 -0.136279238 0.14489065
        0.0865342176 -0.240025871 0.241785693 0.305637085 0.566736746 -0.191829276 0.374907453 1.11744261
        -0.470070734 0.64737184 0.167691147 -0.0364142556 0.0288514173 0.853628478 -0.42557032 0.45570165
        -0.530313886 0.641654723 0.136212537 0.183376492 0.193184336 0.394288954 0.529206707 -0.274748832
        0.299600665 1.20523877 -0.477127441 0.519075626 0.0717327262 0.792835368 -0.079283538 0.148010142
        1.63590151 -0.163590154 0.0509332835 -0.532484319 0.055563581 0.0747379342 -0.781351118
        0.0815322904",
        ),
    );
}

#[test]
fn a_cache_can_be_read_again_without_writing() {
    check("reader", &run(|_, _| {}, 1), &run_exact(0));
}

#[test]
fn a_cache_that_forgets_does_not_need_the_blocks_behind_its_window() {
    let mut case = Case::new();
    let q = case.input(ValueType::f32(Lead::T, &[1, 1]), &[1.0]);
    let k = case.input(ValueType::f32(Lead::T, &[1, 1]), &[0.0]);
    let v = case.input(ValueType::f32(Lead::T, &[1, 1]), &[6.0]);
    let cache = case.builder.cache(1, 1, 1, Some(2));
    assert_eq!(cache, CacheId(0));
    let (k, v) = (Some(k), Some(v));
    let attention = Attention { q, k, v, cache, scale: 1.0, window: Some(2), softcap: None, sinks: None };
    let result = case.push(Op::Attention(attention));
    let (mut interpreter, inputs) = case.interpreter(result);
    interpreter.allocate_cache(2, &[2]).expect("a cache");
    let mut run = |position: u32, slot: u32, table: [u32; 3]| {
        let tables = GroupTables { block_tables: &table, max_blocks: 3, slot_mapping: &[slot] };
        let step = Step {
            token_ids: &[0],
            positions: &[position],
            query_start: &[0, 1],
            context_lens: &[position + 1],
            groups: &[tables],
            inputs: &inputs.named(),
            ..Step::default()
        };
        interpreter.run(&step).map(|mut o| o.remove("result").expect("the output"))
    };
    const NONE: u32 = u32::MAX;
    // Position 3 was never written: had it been visible, the result would not be a number.
    assert!(run(4, 2, [NONE, 0, 1]).expect("a step")[0].is_nan());
    assert_eq!(run(5, 3, [NONE, NONE, 1]).expect("a step"), [6.0]);
    let error = run(4, 2, [NONE, NONE, 1]).expect_err("position 3 is inside the window").to_string();
    assert!(error.contains("block 1 of sequence 0"), "{error}");
}
