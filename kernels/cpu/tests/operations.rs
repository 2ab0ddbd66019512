//! Every other kernel, on every instruction set, against its formula in f64.

mod common;

use common::{Random, close, cpus};
use rocmforge_kernels_cpu::{
    Activation, Attention, Binary, Cpu, ExpertScratch, Experts, Gate, KvCache, KvShape, KvType, Norm, Rope, Router,
    Sequences, Stack,
};
use rocmforge_quant::DType;

const SIZES: &[usize] = &[1, 3, 4, 15, 16, 17, 100, 9000];

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn activation(kind: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match kind {
        Activation::Silu => x * sigmoid(x),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::GeluErf => 0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)),
        Activation::GeluQuick => x * sigmoid(1.702 * x),
        Activation::Relu => x.max(0.0),
        Activation::ReluSquared => x.max(0.0).powi(2),
        Activation::Sigmoid => sigmoid(x),
        Activation::Tanh => x.tanh(),
    }
}

const ACTIVATIONS: &[Activation] = &[
    Activation::Silu,
    Activation::GeluTanh,
    Activation::GeluErf,
    Activation::GeluQuick,
    Activation::Relu,
    Activation::ReluSquared,
    Activation::Sigmoid,
    Activation::Tanh,
];

#[test]
fn activations() {
    for &n in SIZES {
        let mut random = Random(n as u64);
        // Small, ordinary and saturating arguments.
        let x: Vec<f32> = (0..n).map(|i| random.float() * [0.01, 1.0, 10.0, 200.0][i % 4]).collect();
        let up = random.floats(n);
        for cpu in cpus(2) {
            for &kind in ACTIVATIONS {
                let mut out = vec![f32::NAN; n];
                cpu.unary(kind, &x, &mut out).unwrap();
                let expected: Vec<f64> = wide(&x).into_iter().map(|x| activation(kind, x)).collect();
                close(&format!("{kind:?} {:?}", cpu.isa()), &out, &expected, 4e-7);
                cpu.gated(kind, &x, &up, &mut out).unwrap();
                let expected: Vec<f64> = expected.iter().zip(&up).map(|(a, &u)| a * f64::from(u)).collect();
                close(&format!("gated {kind:?} {:?}", cpu.isa()), &out, &expected, 5e-7);
            }
            let mut out = vec![f32::NAN; n];
            cpu.softcap(&x, 30.0, &mut out).unwrap();
            let expected: Vec<f64> = wide(&x).into_iter().map(|x| 30.0 * (x / 30.0).tanh()).collect();
            close("softcap", &out, &expected, 4e-7);
        }
    }
}

#[test]
fn nan_stays_nan() {
    for cpu in cpus(1) {
        for &kind in ACTIVATIONS {
            let mut out = [0.0; 5];
            cpu.unary(kind, &[0.5, f32::NAN, 1.0, 2.0, f32::NAN], &mut out).unwrap();
            assert!(out[1].is_nan() && out[4].is_nan() && !out[0].is_nan(), "{kind:?} {:?}: {out:?}", cpu.isa());
        }
    }
}

#[test]
fn arithmetic_with_and_without_repetition() {
    for &n in SIZES {
        let mut random = Random(n as u64);
        for repeat in [1, 2, 5, 40] {
            let (a, b) = (random.floats(n * repeat), random.floats(n));
            for cpu in cpus(2) {
                for (op, f) in [
                    (Binary::Add, (|a, b| a + b) as fn(f64, f64) -> f64),
                    (Binary::Sub, |a, b| a - b),
                    (Binary::Mul, |a, b| a * b),
                ] {
                    let mut out = vec![f32::NAN; a.len()];
                    cpu.binary(op, &a, &b, repeat, &mut out).unwrap();
                    let expected: Vec<f64> =
                        a.iter().enumerate().map(|(i, &a)| f(a.into(), b[i / repeat].into())).collect();
                    close(&format!("{op:?}"), &out, &expected, 1e-7);
                }
                let mut out = vec![f32::NAN; a.len()];
                cpu.scale(&a, 2.5, -1.0, &mut out).unwrap();
                let expected: Vec<f64> = a.iter().map(|&a| f64::from(a) * 2.5 - 1.0).collect();
                close("scale", &out, &expected, 2e-7);
            }
        }
    }
}

#[test]
fn norms() {
    for &width in SIZES {
        let mut random = Random(width as u64);
        let x = random.floats(3 * width);
        let (weight, bias) = (random.floats(width), random.floats(width));
        for cpu in cpus(2) {
            for (w, b) in [(None, None), (Some(&weight[..]), None), (Some(&weight[..]), Some(&bias[..]))] {
                for centre in [false, true] {
                    let norm = Norm { width, weight: w, bias: b, eps: 1e-5 };
                    let mut out = vec![f32::NAN; x.len()];
                    let run = if centre { Cpu::layer_norm } else { Cpu::rms_norm };
                    run(&cpu, norm, &x, &mut out).unwrap();
                    let mut expected = vec![];
                    for row in wide(&x).chunks_exact(width) {
                        let mean = if centre { row.iter().sum::<f64>() / width as f64 } else { 0.0 };
                        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                        expected.extend(row.iter().enumerate().map(|(i, x)| {
                            let v = (x - mean) / (variance + f64::from(1e-5f32)).sqrt();
                            v * w.map_or(1.0, |w| w[i].into()) + b.map_or(0.0, |b| b[i].into())
                        }));
                    }
                    close(&format!("norm of {width}"), &out, &expected, 2e-6);
                }
            }
        }
    }
}

#[test]
fn rope_of_both_styles() {
    for (heads, head_dim, pairs) in [(1, 2, 1), (3, 10, 4), (2, 64, 32), (5, 80, 20), (4, 33, 16)] {
        let mut random = Random(head_dim as u64);
        let tokens = 7;
        let x = random.floats(tokens * heads * head_dim);
        let angles: Vec<f64> = (0..tokens * pairs).map(|_| f64::from(random.float()) * 3.0).collect();
        let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
        for cpu in cpus(2) {
            for interleaved in [false, true] {
                let mut out = vec![f32::NAN; x.len()];
                let rope = Rope { heads, head_dim, interleaved, pairs, cos: &cos, sin: &sin };
                cpu.rope(rope, &x, &mut out).unwrap();
                let mut expected = wide(&x);
                for (i, head) in expected.chunks_exact_mut(head_dim).enumerate() {
                    for k in 0..pairs {
                        let (a, b) = if interleaved { (2 * k, 2 * k + 1) } else { (k, k + pairs) };
                        let (sin, cos) = angles[i / heads * pairs + k].sin_cos();
                        (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
                    }
                }
                close(&format!("rope {heads} {head_dim} {pairs} {interleaved}"), &out, &expected, 3e-7);
            }
        }
    }
}

#[test]
fn router_chooses_the_best_and_prefers_low_numbers() {
    let logits = [0.0, 2.0, 1.0, 2.0];
    let e = |x: f32| x.exp();
    let all: f32 = logits.iter().map(|&l| e(l)).sum();
    let best = [e(2.0) / all, e(2.0) / all, e(1.0) / all];
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    let top = 2.0 * e(2.0) + e(1.0);
    let check = |gate, renormalize, bias: Option<&[f32]>, chosen: [u32; 3], weights: [f32; 3]| {
        for cpu in cpus(1) {
            let router = Router { experts: 4, top_k: 3, gate, renormalize, scale: 2.0, bias };
            let (mut c, mut w) = ([9; 3], [9.0; 3]);
            cpu.router(router, &logits, &mut [0.0; 4], &mut c, &mut w).unwrap();
            assert_eq!(c, chosen);
            close("router", &w, &wide(&weights.map(|w| 2.0 * w)), 1e-6);
        }
    };
    let sum: f32 = best.iter().sum();
    check(Gate::Softmax, false, None, [1, 3, 2], best);
    check(Gate::Softmax, true, None, [1, 3, 2], best.map(|w| w / sum));
    check(Gate::SoftmaxTopK, false, None, [1, 3, 2], [e(2.0) / top, e(2.0) / top, e(1.0) / top]);
    check(Gate::Sigmoid, false, None, [1, 3, 2], [2.0, 2.0, 1.0].map(sigmoid));
    check(Gate::Sigmoid, false, Some(&[9.0, 0.0, 0.0, 0.0]), [0, 1, 3], [0.0, 2.0, 2.0].map(sigmoid));
}

#[test]
fn router_survives_nan() {
    for cpu in cpus(1) {
        let router = Router { experts: 3, top_k: 3, gate: Gate::Softmax, renormalize: true, scale: 1.0, bias: None };
        let (mut chosen, mut weights) = ([9; 3], [0.0; 3]);
        cpu.router(router, &[f32::NAN; 3], &mut [0.0; 3], &mut chosen, &mut weights).unwrap();
        chosen.sort();
        assert_eq!(chosen, [0, 1, 2]);
    }
}

#[test]
fn experts_are_chosen_per_token() {
    let (count, outputs, inputs, top_k) = (5, 9, 32, 3);
    for tokens in [1, 4, 40] {
        for share in [1, top_k] {
            let mut random = Random(tokens as u64);
            let (bytes, weights) = random.weights(DType::Q8_0, count * outputs * inputs);
            let bias = random.floats(count * outputs);
            let x = random.floats(tokens * top_k / share * inputs);
            let chosen: Vec<u32> = (0..tokens * top_k).map(|_| random.below(count) as u32).collect();
            let mut expected = vec![];
            for (i, &e) in chosen.iter().enumerate() {
                for o in 0..outputs {
                    let unit = e as usize * outputs + o;
                    let products = (0..inputs)
                        .map(|c| f64::from(weights[unit * inputs + c]) * f64::from(x[i / share * inputs + c]));
                    expected.push(products.sum::<f64>() + f64::from(bias[unit]));
                }
            }
            for mut cpu in cpus(2) {
                let dims = [count, outputs, inputs];
                let stack = Stack::AsStored { dtype: DType::Q8_0, dims, bytes: &bytes };
                let experts = Experts { stack, bias: Some(&bias) };
                let mut out = vec![f32::NAN; expected.len()];
                let mut scratch = ExpertScratch::default();
                cpu.expert_linear(&experts, &chosen, &x, share, &mut scratch, &mut out).unwrap();
                let largest = expected.iter().fold(1.0, |m: f64, e| m.max(e.abs()));
                close("experts", &out, &expected, 2e-6 * largest);
                let bad = cpu.expert_linear(&experts, &vec![5; chosen.len()], &x, share, &mut scratch, &mut out);
                assert!(bad.is_err());
            }
        }
    }
}

#[test]
fn expert_outputs_are_combined() {
    let (tokens, top_k, width) = (5, 3, 19);
    let mut random = Random(1);
    let (x, weights) = (random.floats(tokens * top_k * width), random.floats(tokens * top_k));
    let mut expected = vec![0.0; tokens * width];
    for (i, v) in x.iter().enumerate() {
        expected[i / (top_k * width) * width + i % width] += f64::from(*v) * f64::from(weights[i / width]);
    }
    for cpu in cpus(2) {
        let mut out = vec![f32::NAN; expected.len()];
        cpu.expert_combine(&x, &weights, top_k, width, &mut out).unwrap();
        close("combine", &out, &expected, 3e-7);
    }
}

struct AttentionCase {
    heads: usize,
    shape: KvShape,
    kind: KvType,
    window: Option<u32>,
    softcap: Option<f32>,
    sinks: bool,
    /// Whether products may be rounded.
    rounds: bool,
    /// Tokens in the cache before, and tokens in the step, of each sequence.
    sequences: &'static [(usize, usize)],
}

/// What a cache holds of keys or values of `dim` elements.
fn rounded(kind: KvType, dim: usize, x: &[f32]) -> Vec<f32> {
    let half = |x: f32| half::f16::from_f32(x).to_f32();
    match kind {
        KvType::F32 => x.to_vec(),
        KvType::F16 => x.iter().map(|&x| half(x)).collect(),
        KvType::Q8 => {
            let groups = x.chunks(dim).flat_map(|row| row.chunks(32));
            let each = groups.flat_map(|group| {
                let scale = half(group.iter().fold(0.0, |m: f32, x| m.max(x.abs())) / 127.0);
                group.iter().map(move |x| (x * (1.0 / scale)).round_ties_even() * scale)
            });
            each.collect()
        }
    }
}

/// Queries as they are multiplied with keys of 8 bits: 15 bits and a sign, a scale for 32 elements.
fn rounded_queries(kind: KvType, dim: usize, q: &[f32]) -> Vec<f64> {
    let groups = q.chunks(dim).flat_map(|row| row.chunks(32));
    let each = groups.flat_map(|group| {
        let largest = group.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
        let code = move |x: f32| f64::from((x * (32767.0 / largest)).round_ties_even() * (largest / 32767.0));
        group.iter().map(move |&x| if kind == KvType::Q8 { code(x) } else { f64::from(x) })
    });
    each.collect()
}

fn check_attention(case: &AttentionCase) {
    let KvShape { heads: kv_heads, key_dim, value_dim, block_size } = case.shape;
    let mut random = Random(key_dim as u64);
    let max_blocks = case.sequences.iter().map(|(a, b)| (a + b).div_ceil(block_size)).max().unwrap() + 1;
    // Blocks are handed out in a scattered order; what a window has passed is given a number that does not exist.
    let mut free: Vec<u32> = (0..(max_blocks * case.sequences.len()) as u32).collect();
    let blocks = free.len();
    let (mut tables, mut positions, mut query_start) = (vec![], vec![], vec![0u32]);
    let (mut keys, mut values) = (vec![], vec![]);
    let sinks = case.sinks.then(|| random.floats(case.heads));
    let cpu_list: Vec<_> = cpus(2).into_iter().map(|cpu| cpu.rounding(case.rounds)).collect();
    let mut caches: Vec<KvCache> =
        cpu_list.iter().map(|_| KvCache::new(case.shape, case.kind, blocks).unwrap()).collect();
    for &(before, now) in case.sequences {
        let table: Vec<u32> = (0..max_blocks).map(|_| free.swap_remove(random.below(free.len()))).collect();
        let total = before + now;
        let k = random.floats(total * kv_heads * key_dim);
        let v = random.floats(total * kv_heads * value_dim);
        let slots: Vec<u32> =
            (0..total).map(|p| table[p / block_size] * block_size as u32 + (p % block_size) as u32).collect();
        for (cpu, cache) in cpu_list.iter().zip(&mut caches) {
            cache.write(cpu, &k, &v, &slots).unwrap();
        }
        let oldest = case.window.map_or(0, |w| (before + 1).saturating_sub(w as usize)) / block_size;
        tables.extend(table.iter().enumerate().map(|(i, &b)| if i < oldest { u32::MAX } else { b }));
        positions.extend((before..total).map(|p| p as u32));
        query_start.push(positions.len() as u32);
        keys.push(rounded(case.kind, key_dim, &k));
        values.push(rounded(case.kind, value_dim, &v));
    }
    let q = random.floats(positions.len() * case.heads * key_dim);
    let queries = rounded_queries(case.kind, key_dim, &q);
    let scale = 0.7;
    let mut expected = vec![];
    for (sequence, bounds) in query_start.windows(2).enumerate() {
        for t in bounds[0] as usize..bounds[1] as usize {
            for head in 0..case.heads {
                let kv = head / (case.heads / kv_heads);
                let p = positions[t] as usize;
                let first = case.window.map_or(0, |w| (p + 1).saturating_sub(w as usize));
                let score = |j: usize| {
                    let dot: f64 = (0..key_dim)
                        .map(|d| {
                            queries[(t * case.heads + head) * key_dim + d]
                                * f64::from(keys[sequence][(j * kv_heads + kv) * key_dim + d])
                        })
                        .sum();
                    let s = dot * f64::from(scale as f32);
                    case.softcap.map_or(s, |c| f64::from(c) * (s / f64::from(c)).tanh())
                };
                let weights: Vec<f64> = (first..=p).map(|j| score(j).exp()).collect();
                let sum = weights.iter().sum::<f64>() + sinks.as_ref().map_or(0.0, |s| f64::from(s[head]).exp());
                for d in 0..value_dim {
                    let value = |j: usize| f64::from(values[sequence][(j * kv_heads + kv) * value_dim + d]);
                    expected.push((first..=p).map(|j| weights[j - first] * value(j)).sum::<f64>() / sum);
                }
            }
        }
    }
    for (mut cpu, cache) in cpu_list.into_iter().zip(&caches) {
        let mut out = vec![f32::NAN; expected.len()];
        let attention = Attention {
            heads: case.heads,
            scale: scale as f32,
            window: case.window,
            softcap: case.softcap,
            sinks: sinks.as_deref(),
        };
        let sequences =
            Sequences { positions: &positions, query_start: &query_start, block_tables: &tables, max_blocks };
        cpu.attention(attention, cache, sequences, &q, &mut out).unwrap();
        let what = format!("{} heads, {:?}, {:?}, {:?}", case.heads, case.shape, case.kind, cpu.isa());
        // With scores of up to 15, a third of what keys in half precision would differ by.
        close(&what, &out, &expected, if case.rounds { 3e-4 } else { 2e-6 });
    }
}

#[test]
fn attention_over_scattered_blocks() {
    let shape = |heads, key_dim, value_dim, block_size| KvShape { heads, key_dim, value_dim, block_size };
    let base = AttentionCase {
        heads: 4,
        shape: shape(2, 16, 16, 4),
        kind: KvType::F32,
        window: None,
        softcap: None,
        sinks: false,
        rounds: false,
        sequences: &[(0, 9), (20, 1), (3, 40)],
    };
    for kind in [KvType::F32, KvType::F16, KvType::Q8] {
        check_attention(&AttentionCase { kind, ..base });
        check_attention(&AttentionCase { kind, heads: 7, shape: shape(1, 24, 40, 16), ..base });
        check_attention(&AttentionCase { kind, heads: 3, shape: shape(3, 5, 3, 1), ..base });
        check_attention(&AttentionCase { kind, heads: 96, shape: shape(2, 8, 9, 7), ..base });
        check_attention(&AttentionCase { kind, window: Some(6), ..base });
        check_attention(&AttentionCase { kind, window: Some(1), ..base });
        check_attention(&AttentionCase { kind, softcap: Some(1.5), sinks: true, window: Some(13), ..base });
        check_attention(&AttentionCase { kind, sinks: true, sequences: &[(0, 1)], ..base });
        check_attention(&AttentionCase {
            kind,
            shape: shape(4, 64, 64, 32),
            sequences: &[(100, 70), (200, 1)],
            ..base
        });
        // Few tasks and a long context: in parts.
        let long = AttentionCase { kind, heads: 6, shape: shape(2, 32, 40, 16), sequences: &[(1500, 1)], ..base };
        check_attention(&AttentionCase { sinks: true, ..long });
        check_attention(&AttentionCase { window: Some(600), sequences: &[(1500, 3)], ..long });
    }
}

/// Prompts that are rounded to 16 bits, beside sequences that are not.
#[test]
fn attention_of_many_tokens() {
    let shape = |heads, key_dim, value_dim, block_size| KvShape { heads, key_dim, value_dim, block_size };
    let base = AttentionCase {
        heads: 4,
        shape: shape(2, 64, 64, 16),
        kind: KvType::F32,
        window: None,
        softcap: None,
        sinks: false,
        rounds: true,
        sequences: &[(0, 65), (5, 3), (0, 64), (300, 130)],
    };
    for kind in [KvType::F32, KvType::F16, KvType::Q8] {
        check_attention(&AttentionCase { kind, ..base });
        check_attention(&AttentionCase { kind, heads: 7, shape: shape(1, 24, 40, 16), ..base });
        check_attention(&AttentionCase { kind, heads: 3, shape: shape(3, 5, 3, 1), ..base });
        check_attention(&AttentionCase {
            kind,
            heads: 66,
            shape: shape(2, 72, 130, 7),
            sequences: &[(90, 70)],
            ..base
        });
        check_attention(&AttentionCase { kind, window: Some(6), ..base });
        check_attention(&AttentionCase { kind, window: Some(1), ..base });
        check_attention(&AttentionCase { kind, window: Some(270), sinks: true, sequences: &[(700, 100)], ..base });
        check_attention(&AttentionCase { kind, softcap: Some(1.5), sinks: true, window: Some(13), ..base });
    }
}

/// What is not finite reaches those that see it, and few others.
#[test]
fn attention_of_many_tokens_with_infinity() {
    let (tokens, bad) = (100, 70);
    let shape = KvShape { heads: 1, key_dim: 8, value_dim: 8, block_size: 16 };
    let positions: Vec<u32> = (0..tokens as u32).collect();
    let tables: Vec<u32> = (0..7).collect();
    let sequences = Sequences {
        positions: &positions,
        query_start: &[0, tokens as u32],
        block_tables: &tables,
        max_blocks: tables.len(),
    };
    let attention = Attention { heads: 2, scale: 0.5, window: None, softcap: None, sinks: None };
    for mut cpu in cpus(2).into_iter().map(|cpu| cpu.rounding(true)) {
        for keys_bad in [false, true] {
            let mut random = Random(7);
            let (mut keys, mut values) = (random.floats(tokens * 8), random.floats(tokens * 8));
            let changed = if keys_bad { &mut keys } else { &mut values };
            changed[bad * 8 + 3] = f32::INFINITY;
            let mut cache = KvCache::new(shape, KvType::F32, tables.len()).unwrap();
            cache.write(&cpu, &keys, &values, &positions).unwrap();
            let (q, mut out) = (random.floats(tokens * 16), vec![0.0; tokens * 16]);
            cpu.attention(attention, &cache, sequences, &q, &mut out).unwrap();
            let finite: Vec<bool> = out.chunks(16).map(|row| row.iter().all(|x| x.is_finite())).collect();
            // Those that are computed with it do not tell it from what they see.
            assert!(finite[..bad - 16].iter().all(|&f| f), "{:?}", cpu.isa());
            assert!(keys_bad || finite[bad..].iter().all(|&f| !f), "{:?}", cpu.isa());
        }
    }
}

#[test]
fn a_block_that_does_not_exist_is_an_error() {
    let shape = KvShape { heads: 1, key_dim: 4, value_dim: 4, block_size: 2 };
    for mut cpu in cpus(2) {
        let mut cache = KvCache::new(shape, KvType::F32, 1).unwrap();
        assert!(cache.write(&cpu, &[0.0; 4], &[0.0; 4], &[2]).is_err());
        let attention = Attention { heads: 1, scale: 1.0, window: None, softcap: None, sinks: None };
        let sequences = Sequences { positions: &[0], query_start: &[0, 1], block_tables: &[1], max_blocks: 1 };
        let error = cpu.attention(attention, &cache, sequences, &[0.0; 4], &mut [0.0; 4]).unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
    }
}
