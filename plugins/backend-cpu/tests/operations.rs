//! Every operation of a program, alone and together, against the reference interpreter.

mod common;

use common::{Plugin, Random, Sizes, StepData, check, weights};
use rocmforge_kernels_cpu::Isa;
use rocmforge_sdk::DType;
use rocmforge_sdk::program::{
    Activation, Attention, Builder, GateKind, InputSource, Lead, ModelInfo, Op, Program, Rope, RopeScaling, RopeStyle,
    Router, ValueId, ValueType,
};

const VOCAB: usize = 50;

fn builder(layers: u32) -> Builder {
    let info =
        ModelInfo { architecture: "test".into(), vocab_size: VOCAB, hidden_size: 64, layers, context_length: 64 };
    Builder::new(info)
}

/// Sequences that start together, go on alone and together, long enough to leave a window of a few tokens.
fn steps(program: &Program) -> Vec<StepData> {
    let (mut random, mut lengths) = (Random(5), [0; 4]);
    let plans: [&[(usize, usize)]; 6] =
        [&[(0, 1)], &[(1, 7), (0, 1), (2, 13)], &[(2, 1)], &[(0, 20), (1, 1), (2, 1), (3, 1)], &[(3, 17)], &[(0, 1)]];
    plans.map(|p| StepData::new(program, 4, &mut lengths, p, &mut random)).into()
}

fn every_isa(program: &Program, tolerance: f32) {
    for isa in Isa::available() {
        let options = format!(r#"{{"isa": "{}", "threads": 2}}"#, isa.name());
        check(&options, program, &steps(program), tolerance);
    }
}

/// Activations in 8 bits are off by a 127th of their block's largest number over √12, rms. Of numbers that are spread
/// evenly, as those of these tests are, that is 0.4 % of their own rms, and so is the error of a product in relation to
/// the norms of x and w, which are what the largest output of several has at least. This is five times as much.
const ONE_INT8_PRODUCT: f32 = 0.02;

/// As [`every_isa`] with activations in f32; with 8 bits, `products` of them one after the other.
fn every_isa_and_precision(program: &Program, tolerance: f32, products: f32) {
    for isa in Isa::available() {
        for (activations, tolerance) in [("f32", tolerance), ("int8", ONE_INT8_PRODUCT * products)] {
            let options = format!(r#"{{"isa": "{}", "threads": 2, "activations": "{activations}"}}"#, isa.name());
            check(&options, program, &steps(program), tolerance);
        }
    }
}

/// A program whose input is an embedding `[T, 64]`; `make` names its outputs.
fn program(make: impl FnOnce(&mut Builder, ValueId)) -> Program {
    let mut b = builder(1);
    let ids = b.input(InputSource::TokenIds).unwrap();
    let table = b.weight("table", &[VOCAB, 64], DType::F32).unwrap();
    let x = b.push(Op::Embed { ids, table, scale: 1.5 }).unwrap();
    make(&mut b, x);
    b.finish().unwrap()
}

fn reshape(b: &mut Builder, x: ValueId, dims: &[usize]) -> ValueId {
    b.push(Op::Reshape { x, dims: dims.to_vec() }).unwrap()
}

#[test]
fn elementwise() {
    let kinds = [
        Activation::Silu,
        Activation::GeluTanh,
        Activation::GeluErf,
        Activation::GeluQuick,
        Activation::Relu,
        Activation::ReluSquared,
        Activation::Sigmoid,
        Activation::Tanh,
    ];
    let p = program(|b, x| {
        let wide = b.push(Op::Scale { x, mul: 4.0, add: -0.5 }).unwrap();
        b.output("scale", wide);
        for kind in kinds {
            let y = b.push(Op::Unary { x: wide, kind }).unwrap();
            b.output(&format!("{kind:?}"), y);
            let y = b.push(Op::GatedAct { gate: wide, up: x, kind }).unwrap();
            b.output(&format!("gated {kind:?}"), y);
        }
        let y = b.push(Op::Softcap { x: wide, cap: 2.0 }).unwrap();
        b.output("softcap", y);
        let narrow = b.push(Op::Slice { x, start: 7, len: 1 }).unwrap();
        for (name, op) in [
            ("add", Op::Add { a: x, b: wide }),
            ("sub", Op::Sub { a: x, b: wide }),
            ("mul", Op::Mul { a: x, b: x }),
            ("add one", Op::Add { a: x, b: narrow }),
            ("sub one", Op::Sub { a: wide, b: narrow }),
            ("mul one", Op::Mul { a: x, b: narrow }),
        ] {
            let y = b.push(op).unwrap();
            b.output(name, y);
        }
        let (a, one) = (reshape(b, x, &[4, 16]), reshape(b, wide, &[4, 16]));
        let one = b.push(Op::Slice { x: one, start: 3, len: 1 }).unwrap();
        let y = b.push(Op::Mul { a, b: one }).unwrap();
        b.output("mul per head", y);
    });
    every_isa(&p, 1e-6);
}

#[test]
fn layout_rows_and_norms() {
    let p = program(|b, x| {
        let parts = b.push_many(Op::Split { x, sizes: vec![10, 1, 53] }).unwrap();
        let joined = b.push(Op::Concat { xs: vec![parts[2], parts[0], parts[1], x] }).unwrap();
        b.output("joined", joined);
        let heads = reshape(b, x, &[4, 16]);
        let y = b.push(Op::Slice { x: heads, start: 5, len: 9 }).unwrap();
        b.output("slice", y);
        let halves = b.push_many(Op::Split { x: heads, sizes: vec![8, 8] }).unwrap();
        let swapped = b.push(Op::Concat { xs: vec![halves[1], halves[0]] }).unwrap();
        b.output("swapped", swapped);
        let rows = b.input(InputSource::LogitsRows).unwrap();
        let gathered = b.push(Op::GatherRows { x: heads, rows }).unwrap();
        b.output("gathered", gathered);
        for (name, op) in [("mean", Op::MeanPool { x }), ("last", Op::LastPool { x })] {
            let y = b.push(op).unwrap();
            b.output(name, y);
        }
        let (w, bias) = (b.weight("w", &[64], DType::F32).unwrap(), b.weight("b", &[64], DType::F16).unwrap());
        let head = b.weight("head", &[16], DType::BF16).unwrap();
        for (name, op) in [
            ("rms", Op::RmsNorm { x, weight: Some(w), eps: 1e-5 }),
            ("plain rms", Op::RmsNorm { x: gathered, weight: None, eps: 1e-6 }),
            ("rms per head", Op::RmsNorm { x: heads, weight: Some(head), eps: 1e-6 }),
            ("layer norm", Op::LayerNorm { x, weight: Some(w), bias: Some(bias), eps: 1e-5 }),
            ("plain layer norm", Op::LayerNorm { x: swapped, weight: None, bias: None, eps: 1e-5 }),
        ] {
            let y = b.push(op).unwrap();
            b.output(name, y);
        }
    });
    every_isa(&p, 2e-6);
}

#[test]
fn linear_of_every_type() {
    let p = program(|b, x| {
        let wide = b.push(Op::Concat { xs: vec![x, x, x, x] }).unwrap();
        for (i, &dtype) in DType::ALL.iter().enumerate() {
            if matches!(dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::F64) {
                continue;
            }
            let rows = 5 + i % 7;
            let weight = b.weight(&format!("w{dtype}"), &[rows, 256], dtype).unwrap();
            let bias = b.weight(&format!("b{dtype}"), &[rows], DType::F32).unwrap();
            let bias = (i % 2 == 0).then_some(bias);
            let y = b.push(Op::Linear { x: wide, weight, bias }).unwrap();
            b.output(&dtype.to_string(), y);
        }
        let heads = reshape(b, x, &[2, 32]);
        let weight = b.weight("per head", &[3, 32], DType::Q8_0).unwrap();
        let y = b.push(Op::Linear { x: heads, weight, bias: None }).unwrap();
        b.output("per head", y);
    });
    every_isa_and_precision(&p, 5e-6, 1.0);
}

fn rope_of(x: ValueId, positions: ValueId, style: RopeStyle, rotary_dim: usize, scaling: RopeScaling) -> Rope {
    Rope { x, positions, style, rotary_dim, base: 10_000.0, scaling, magnitude: 1.25, factors: None, sections: None }
}

#[test]
fn rope_and_position_scale() {
    let p = program(|b, x| {
        let x = reshape(b, x, &[4, 16]);
        let positions = b.input(InputSource::Positions).unwrap();
        let factors = b.weight("factors", &[6], DType::F32).unwrap();
        let yarn = RopeScaling::Yarn { factor: 4.0, original_context: 16, beta_fast: 32.0, beta_slow: 1.0 };
        let llama3 =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 32 };
        let mut n = 0;
        for style in [RopeStyle::Interleaved, RopeStyle::Half] {
            for scaling in [RopeScaling::None, RopeScaling::Linear { factor: 2.0 }, yarn, llama3] {
                let y = b.push(Op::Rope(rope_of(x, positions, style, 16, scaling))).unwrap();
                b.output(&format!("rope {n}"), y);
                let mut partial = rope_of(x, positions, style, 12, scaling);
                partial.factors = Some(factors);
                let y = b.push(Op::Rope(partial)).unwrap();
                b.output(&format!("partial rope {n}"), y);
                n += 1;
            }
        }
        let y = b.push(Op::PositionScale { x, positions, beta: 0.3, interval: 5 }).unwrap();
        b.output("position scale", y);
    });
    // Factors near 0 make angles of thousands of turns, where one unit in the last place of a frequency shows.
    every_isa(&p, 2e-5);
}

#[test]
fn experts_with_every_gate() {
    let p = program(|b, x| {
        let gate_weight = b.weight("gate", &[6, 64], DType::F32).unwrap();
        let logits = b.push(Op::Linear { x, weight: gate_weight, bias: None }).unwrap();
        let selection = b.weight("selection", &[6], DType::F32).unwrap();
        let up = b.weight("up", &[6, 32, 64], DType::Q8_0).unwrap();
        let up_bias = b.weight("up bias", &[6, 32], DType::F32).unwrap();
        let down = b.weight("down", &[6, 64, 32], DType::Q4_0).unwrap();
        for (i, gate) in [GateKind::Softmax, GateKind::SoftmaxTopK, GateKind::Sigmoid].into_iter().enumerate() {
            let router = Router {
                logits,
                top_k: 2 + i,
                gate,
                renormalize: i != 1,
                scale: 1.5,
                selection_bias: (i == 2).then_some(selection),
            };
            let chosen = b.push_many(Op::Router(router)).unwrap();
            let experts = chosen[0];
            let h = b.push(Op::ExpertLinear { x, experts, weight: up, bias: Some(up_bias) }).unwrap();
            let h = b.push(Op::Unary { x: h, kind: Activation::Silu }).unwrap();
            let h = b.push(Op::ExpertLinear { x: h, experts, weight: down, bias: None }).unwrap();
            b.output(&format!("weights {i}"), chosen[1]);
            let y = b.push(Op::ExpertCombine { x: h, weights: chosen[1] }).unwrap();
            b.output(&format!("experts {i}"), y);
        }
    });
    every_isa_and_precision(&p, 5e-6, 2.0);
}

/// Attention layers: full and sliding windows, shared caches, soft caps, sinks, odd head sizes.
fn attention_program() -> Program {
    program(|b, x| {
        b.set_layer(Some(0));
        let sinks = b.weight("sinks", &[6], DType::F32).unwrap();
        let layers = [(2, 16, 16, None), (6, 8, 12, Some(5)), (1, 24, 20, None), (3, 16, 7, Some(11))];
        for (n, (kv_heads, key_dim, value_dim, window)) in layers.into_iter().enumerate() {
            let project = |b: &mut Builder, name: &str, heads: usize, dim: usize| {
                let weight = b.weight(&format!("{name}{n}"), &[heads * dim, 64], DType::F32).unwrap();
                let y = b.push(Op::Linear { x, weight, bias: None }).unwrap();
                reshape(b, y, &[heads, dim])
            };
            let q = project(b, "q", 6, key_dim);
            let (k, v) = (project(b, "k", kv_heads, key_dim), project(b, "v", kv_heads, value_dim));
            let cache = b.cache(kv_heads, key_dim, value_dim, window);
            let plain = Attention {
                q,
                k: Some(k),
                v: Some(v),
                cache,
                scale: 0.6,
                window,
                softcap: (n == 1).then_some(1.5),
                sinks: None,
            };
            let y = b.push(Op::Attention(plain.clone())).unwrap();
            b.output(&format!("attention {n}"), y);
            let again = Attention { k: None, v: None, window: window.or(Some(3)), sinks: Some(sinks), ..plain };
            let y = b.push(Op::Attention(again)).unwrap();
            b.output(&format!("shared cache {n}"), y);
        }
    })
}

#[test]
fn attention_over_several_groups() {
    every_isa(&attention_program(), 3e-6);
}

#[test]
fn a_half_precision_cache_is_near() {
    let program = attention_program();
    check(r#"{"kv_type": "f16"}"#, &program, &steps(&program), 2e-3);
    let sizes = Sizes { max_tokens: 64, max_sequences: 4, block_size: 4, blocks: vec![64; 3] };
    let weights = weights(&program, 1);
    let bytes = |options| -> Vec<u64> {
        Plugin::load(options, &program, &weights, &sizes).unwrap().memory().cache_block.into_iter().collect()
    };
    let single = bytes(r#"{"kv_type": "f32"}"#);
    // Group 0 holds 2 * (16 + 16) + 1 * (24 + 20) elements per token.
    assert_eq!(single, [4 * 4 * 108, 4 * 4 * 6 * 20, 4 * 4 * 3 * 23]);
    assert_eq!(bytes(r#"{"kv_type": "f16"}"#), single.iter().map(|b| b / 2).collect::<Vec<_>>());
}

#[test]
fn values_reuse_memory_only_when_free() {
    for seed in 0..40 {
        let p = program(|b, x| {
            let mut random = Random(seed);
            let rows = b.input(InputSource::LogitsRows).unwrap();
            let mut values = vec![x];
            for i in 0..30 {
                // Mostly recent values, now and then one from long before.
                let reach = if random.below(4) == 0 { values.len() } else { values.len().min(3) };
                let mut pick = || values[values.len() - 1 - random.below(reach)];
                let (p, q) = (pick(), pick());
                let op = match random.below(7) {
                    0 => Op::Add { a: p, b: q },
                    1 => Op::Sub { a: p, b: q },
                    2 => Op::Unary { x: p, kind: Activation::Tanh },
                    3 => Op::RmsNorm { x: p, weight: None, eps: 1e-3 },
                    4 => Op::Scale { x: p, mul: 0.5, add: 0.25 },
                    5 => {
                        let parts = b.push_many(Op::Split { x: p, sizes: vec![20, 4, 40] }).unwrap();
                        Op::Concat { xs: vec![parts[2], parts[0], parts[1]] }
                    }
                    _ => {
                        let shaped = reshape(b, p, &[8, 8]);
                        Op::Reshape { x: shaped, dims: vec![64] }
                    }
                };
                let y = b.push(op).unwrap();
                values.push(y);
                if random.below(6) == 0 {
                    b.output(&format!("value {i}"), y);
                }
            }
            let last = *values.last().unwrap();
            let gathered = b.push(Op::GatherRows { x: last, rows }).unwrap();
            b.output("last", last);
            b.output("gathered", gathered);
        });
        check("{}", &p, &steps(&p), 1e-4);
    }
}

#[test]
fn a_named_input_replaces_the_embedding() {
    let mut b = builder(0);
    let ty = ValueType::f32(Lead::T, &[64]);
    let x = b.input(InputSource::Named { name: "hidden".into(), ty }).unwrap();
    let y = b.push(Op::Scale { x, mul: 2.0, add: 1.0 }).unwrap();
    b.output("hidden", y);
    let p = b.finish().unwrap();
    let mut random = Random(3);
    let steps: Vec<StepData> = steps(&p)
        .into_iter()
        .map(|s| {
            let data = random.floats(64 * s.tokens());
            s.with_input("hidden", data)
        })
        .collect();
    check("{}", &p, &steps, 1e-6);
    let sizes = Sizes { max_tokens: 64, max_sequences: 4, block_size: 4, blocks: vec![] };
    let plugin = Plugin::load("{}", &p, &weights(&p, 1), &sizes).unwrap();
    let without = StepData::new(&p, 4, &mut [0], &[(0, 3)], &mut random);
    let error = without.borrow(|s| plugin.run(s)).unwrap_err();
    assert!(error.contains("hidden"), "{error}");
}

#[test]
fn no_rows_and_many_rows_with_logits() {
    let p = program(|b, x| {
        let rows = b.input(InputSource::LogitsRows).unwrap();
        let x = b.push(Op::GatherRows { x, rows }).unwrap();
        let weight = b.weight("head", &[VOCAB, 64], DType::Q8_0).unwrap();
        let y = b.push(Op::Linear { x, weight, bias: None }).unwrap();
        b.output("logits", y);
    });
    let (mut lengths, mut random) = ([0], Random(1));
    let mut steps: Vec<StepData> =
        (0..3).map(|_| StepData::new(&p, 4, &mut lengths, &[(0, 10)], &mut random)).collect();
    steps[0].logits_rows = vec![];
    // More than the four sequences that memory was set aside for, and repeated.
    steps[1].logits_rows = (0..10).chain(0..10).collect();
    check(r#"{"activations": "f32"}"#, &p, &steps, 5e-6);
    check("{}", &p, &steps, ONE_INT8_PRODUCT);
}

#[test]
fn wrong_options_are_errors_that_say_what_is_right() {
    let p = program(|b, x| b.output("x", x));
    let weights = weights(&p, 1);
    let check = |options: &str, expected: &[&str]| {
        let sizes = Sizes { max_tokens: 4, max_sequences: 1, block_size: 4, blocks: vec![] };
        let error = Plugin::load(options, &p, &weights, &sizes).err().expect("an error");
        assert!(expected.iter().all(|e| error.contains(e)), "{options}: {error}");
    };
    check(r#"{"thread": 2}"#, &["thread", "threads", "isa", "kv_type"]);
    check(r#"{"threads": 0}"#, &["threads", "at least 1"]);
    check(r#"{"isa": "mmx"}"#, &["isa", "mmx", "scalar"]);
    check(r#"{"kv_type": "f8"}"#, &["f8", "f32", "f16", "q8_0"]);
    check(r#"{"activations": "int4"}"#, &["int4", "int8", "f32"]);
}

#[test]
fn memory_is_counted_exactly() {
    let p = program(|b, x| {
        let weight = b.weight("norm", &[64], DType::F16).unwrap();
        let y = b.push(Op::RmsNorm { x, weight: Some(weight), eps: 1e-5 }).unwrap();
        let z = b.push(Op::Add { a: y, b: y }).unwrap();
        let z = b.push(Op::Add { a: z, b: z }).unwrap();
        b.output("y", z);
    });
    let sizes = Sizes { max_tokens: 7, max_sequences: 2, block_size: 4, blocks: vec![] };
    let need = Plugin::load("{}", &p, &weights(&p, 1), &sizes).unwrap().memory();
    // The norm's weight as f32; the table stays in the file.
    assert_eq!(need.weights, 4 * 64);
    // Two values at a time and the token ids, and one factor per token.
    assert_eq!(need.activations, 4 * 7 * (2 * 64 + 1) + 4 * 7);
}

#[test]
fn interleaved_weights_are_counted() {
    let p = program(|b, x| {
        let weight = b.weight("w", &[20, 64], DType::Q8_0).unwrap();
        let y = b.push(Op::Linear { x, weight, bias: None }).unwrap();
        b.output("y", y);
    });
    let sizes = Sizes { max_tokens: 7, max_sequences: 2, block_size: 4, blocks: vec![] };
    let check = |options: &str, expected| {
        assert_eq!(Plugin::load(options, &p, &weights(&p, 1), &sizes).unwrap().memory().weights, expected, "{options}");
    };
    check(r#"{"activations": "f32"}"#, 0);
    check(r#"{"isa": "scalar"}"#, 0);
    if Isa::available().len() > 1 {
        // Two groups of 16 rows with 64 columns and two scales each, and the alignment.
        check("{}", 2 * 16 * (64 + 4) + 64);
    }
}

#[test]
fn a_step_without_memory_is_an_error() {
    let mut b = builder(0);
    let ty = ValueType::f32(Lead::T, &[1 << 24]);
    let x = b.input(InputSource::Named { name: "hidden".into(), ty }).unwrap();
    b.output("hidden", x);
    let p = b.finish().unwrap();
    // 2^58 bytes, more than a processor can address.
    let sizes = Sizes { max_tokens: u32::MAX, max_sequences: 1, block_size: 4, blocks: vec![] };
    let error = Plugin::load("{}", &p, &weights(&p, 1), &sizes).err().expect("an error");
    assert!(error.contains("MiB") && error.contains("fewer tokens"), "{error}");
}
