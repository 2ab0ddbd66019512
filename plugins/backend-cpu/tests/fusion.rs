//! What compilation joins: linear layers of one input, and additions to their results.

mod common;

use common::{Plugin, Random, Sizes, StepData, check, weights};
use rocmforge_kernels_cpu::Isa;
use rocmforge_sdk::DType;
use rocmforge_sdk::program::{Activation, Builder, InputSource, ModelInfo, Op, Program, ValueId};

const WIDTH: usize = 256;

/// A program whose input is an embedding `[T, 256]`; `make` names its outputs.
fn program(make: impl FnOnce(&mut Builder, ValueId)) -> Program {
    let info =
        ModelInfo { architecture: "test".into(), vocab_size: 50, hidden_size: WIDTH, layers: 1, context_length: 64 };
    let mut b = Builder::new(info);
    let ids = b.input(InputSource::TokenIds).unwrap();
    let table = b.weight("table", &[50, WIDTH], DType::F32).unwrap();
    let x = b.push(Op::Embed { ids, table, scale: 1.5 }).unwrap();
    make(&mut b, x);
    b.finish().unwrap()
}

/// One token, many, and many of several sequences.
fn steps(program: &Program) -> Vec<StepData> {
    let (mut random, mut lengths) = (Random(5), [0; 4]);
    let plans: [&[(usize, usize)]; 3] = [&[(0, 1)], &[(1, 7), (0, 1), (2, 13)], &[(3, 21)]];
    plans.map(|p| StepData::new(program, 4, &mut lengths, p, &mut random)).into()
}

fn linear(b: &mut Builder, x: ValueId, name: &str, rows: usize, dtype: DType) -> ValueId {
    let weight = b.weight(name, &[rows, WIDTH], dtype).unwrap();
    let bias = b.weight(&format!("{name}.bias"), &[rows], DType::F32).unwrap();
    b.push(Op::Linear { x, weight, bias: (rows.is_multiple_of(2)).then_some(bias) }).unwrap()
}

#[test]
fn layers_of_one_input_with_other_types_and_sizes() {
    for types in [
        [DType::Q4_0, DType::Q4_0, DType::Q4_0],
        [DType::Q4_K, DType::Q4_K, DType::Q6_K],
        [DType::Q4_0, DType::Q6_K, DType::F16],
        [DType::F16, DType::F16, DType::F32],
    ] {
        let p = program(|b, x| {
            let [q, k, v] = types;
            let q = linear(b, x, "q", 256, q);
            let y = b.push(Op::Unary { x: q, kind: Activation::Tanh }).unwrap();
            // Their nodes come after one that reads another's result.
            let (k, v) = (linear(b, x, "k", 37, k), linear(b, x, "v", 256, v));
            let sum = b.push(Op::Add { a: x, b: v }).unwrap();
            [("y", y), ("k", k), ("sum", sum)].into_iter().for_each(|(name, value)| b.output(name, value));
        });
        for isa in Isa::available() {
            let options = format!(r#"{{"isa": "{}", "threads": 2}}"#, isa.name());
            // One product with activations of 8 bits, see the tests of operations.
            check(&options, &p, &steps(&p), 0.02);
        }
    }
}

#[test]
fn random_programs_of_layers_and_additions() {
    for seed in 0..40 {
        let p = program(|b, x| {
            let (mut random, mut values) = (Random(seed), vec![x]);
            for i in 0..24 {
                let reach = if random.below(4) == 0 { values.len() } else { values.len().min(4) };
                let mut pick = || values[values.len() - 1 - random.below(reach)];
                let (p, q) = (pick(), pick());
                let y = match random.below(5) {
                    0 => b.push(Op::RmsNorm { x: p, weight: None, eps: 1e-3 }).unwrap(),
                    1 | 2 => b.push(Op::Add { a: p, b: q }).unwrap(),
                    _ => linear(b, p, &format!("w{i}"), WIDTH, [DType::F32, DType::F16][i % 2]),
                };
                values.push(y);
                if random.below(8) == 0 {
                    b.output(&format!("value {i}"), y);
                }
            }
            b.output("last", *values.last().unwrap());
        });
        check(r#"{"threads": 2, "activations": "f32"}"#, &p, &steps(&p), 1e-4);
    }
}

/// Norms and gates between layers; with `shown` they are outputs, so that they are operations of their own.
fn norms_and_gates(dtype: DType, shown: bool) -> Program {
    program(|b, x| {
        let weight = Some(b.weight("norm", &[WIDTH], DType::F32).unwrap());
        let bias = Some(b.weight("norm.bias", &[WIDTH], DType::F32).unwrap());
        let first = b.push(Op::RmsNorm { x, weight, eps: 1e-5 }).unwrap();
        let (gate, up) = (linear(b, first, "gate", WIDTH, dtype), linear(b, first, "up", WIDTH, dtype));
        let second = b.push(Op::GatedAct { gate, up, kind: Activation::Silu }).unwrap();
        let y = linear(b, second, "down", WIDTH, dtype);
        let x = b.push(Op::Add { a: x, b: y }).unwrap();
        let third = b.push(Op::LayerNorm { x, weight, bias, eps: 1e-5 }).unwrap();
        let y = linear(b, third, "last", WIDTH, dtype);
        b.output("y", y);
        if shown {
            [("1", first), ("2", second), ("3", third)].into_iter().for_each(|(name, value)| b.output(name, value));
        }
    })
}

#[test]
fn norms_and_gates_are_the_same_apart_and_within_layers() {
    let sizes = Sizes { max_tokens: 64, max_sequences: 4, block_size: 4, blocks: vec![] };
    for dtype in [DType::Q4_0, DType::Q6_K, DType::F16] {
        let (apart, within) = (norms_and_gates(dtype, true), norms_and_gates(dtype, false));
        check(r#"{"threads": 2}"#, &within, &steps(&within), 0.06);
        let all = weights(&apart, 1);
        for isa in Isa::available() {
            let options = format!(r#"{{"isa": "{}", "threads": 2}}"#, isa.name());
            let [apart, within] = [&apart, &within].map(|p| Plugin::load(&options, p, &all, &sizes).unwrap());
            for step in steps(&norms_and_gates(dtype, false)) {
                let [a, b] = step.borrow(|step| [&apart, &within].map(|plugin| plugin.run(step).unwrap()["y"].clone()));
                assert!(a.iter().all(|x| x.is_finite()) && a == b, "{dtype:?}, {options}");
            }
        }
    }
}
