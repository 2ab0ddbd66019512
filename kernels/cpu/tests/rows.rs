//! A row has the same result, bit for bit, beside any others and on any number of threads.

mod common;

use common::{Random, cpus};
use rocmforge_kernels_cpu::{
    Activation, Attention, Cpu, ExpertScratch, Experts, Inputs, KvCache, KvShape, KvType, Linear, Matrix, Norm, Packed,
    Pool, Sequences, Stack, can_decode,
};
use rocmforge_quant::DType;

const COUNTS: [usize; 10] = [1, 2, 3, 5, 8, 16, 17, 33, 64, 200];

/// Some of `n` rows.
fn some(n: usize) -> Vec<usize> {
    let mut rows = vec![0, n / 3, n / 2, n - 1];
    rows.dedup();
    rows
}

#[track_caller]
fn same(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(f.to_bits() == e.to_bits(), "{what}: element {i}: {f} beside others, {e} alone");
    }
}

/// Products of as many rows as `counts` says, against those of one.
fn check_products(cpu: &mut Cpu, matrix: &Matrix<'_>, counts: &[usize], what: &str) {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let mut random = Random(cols as u64);
    let (x, bias) = (random.floats(200 * cols), random.floats(rows));
    for &n in counts {
        // Each time other rows, so that none is always at the same place.
        let from = (7 * n) % (201 - n);
        let x = &x[from * cols..(from + n) * cols];
        for bias in [None, Some(&bias[..])] {
            let mut out = vec![f32::NAN; n * rows];
            cpu.matmul(matrix, x, bias, &mut out).unwrap();
            for row in some(n) {
                let mut alone = vec![f32::NAN; rows];
                cpu.matmul(matrix, &x[row * cols..(row + 1) * cols], bias, &mut alone).unwrap();
                let what = format!("{what}, row {row} of {n}, bias {}", bias.is_some());
                same(&what, &out[row * rows..(row + 1) * rows], &alone);
            }
        }
    }
}

#[test]
fn products_of_every_type() {
    let whole = |d: &DType| !matches!(d, DType::I8 | DType::I16 | DType::I32 | DType::I64);
    let types: Vec<DType> = DType::ALL.iter().copied().filter(|&d| can_decode(d)).filter(whole).collect();
    assert!(types.len() >= 30, "{types:?}");
    for dtype in types {
        let odd = if dtype.layout().block_elements == 1 { 53 } else { 0 };
        let (rows, cols) = (37, 1280 + odd);
        let (bytes, _) = Random(5).weights(dtype, rows * cols);
        let pool = Pool::new(2).unwrap();
        for mut cpu in cpus(3) {
            let matrix = Matrix::as_stored(dtype, rows, cols, &bytes).unwrap();
            let isa = cpu.isa();
            // More go another way.
            let counts = COUNTS.map(|n| n.min(64));
            check_products(&mut cpu, &matrix, &counts, &format!("{dtype} as stored, {isa:?}"));
            if Packed::supports(dtype, cpu.isa()) {
                let packed = Packed::new(&pool, dtype, [1, rows, cols], &bytes).unwrap();
                check_products(&mut cpu, &packed.matrix(0).unwrap(), &COUNTS, &format!("{dtype}, {isa:?}"));
            }
        }
    }
}

#[test]
fn products_of_half_precision_that_may_be_rounded() {
    for dtype in [DType::F16, DType::BF16] {
        let (rows, cols) = (50, 1333);
        let (bytes, _) = Random(5).weights(dtype, rows * cols);
        let packed = Packed::new(&Pool::new(2).unwrap(), dtype, [1, rows, cols], &bytes).unwrap();
        for cpu in cpus(3).into_iter().filter(|cpu| Packed::supports(dtype, cpu.isa())) {
            let what = format!("{dtype}, {:?}", cpu.isa());
            let counts: Vec<usize> = COUNTS.into_iter().filter(|&n| n <= 16).collect();
            check_products(&mut cpu.rounding(true), &packed.matrix(0).unwrap(), &counts, &what);
        }
    }
}

#[test]
fn products_of_what_is_made_for_them() {
    let (rows, cols) = (40, 768);
    for dtype in [DType::Q4_K, DType::Q6_K, DType::Q8_0] {
        let mut random = Random(9);
        let packed = [rows, rows].map(|rows| {
            let (bytes, _) = random.weights(dtype, rows * cols);
            Packed::new(&Pool::new(2).unwrap(), dtype, [1, rows, cols], &bytes).unwrap()
        });
        let (x, up, add) = (random.floats(200 * cols), random.floats(200 * cols), random.floats(200 * rows));
        let weight = random.floats(cols);
        for mut cpu in cpus(3).into_iter().filter(|cpu| Packed::supports(dtype, cpu.isa())) {
            let isa = cpu.isa();
            let mut products = |range: std::ops::Range<usize>, gated: bool| {
                let of = |v: &[f32], width: usize| v[range.start * width..range.end * width].to_vec();
                let (x, up, add) = (of(&x, cols), of(&up, cols), of(&add, rows));
                let norm = Norm { width: cols, weight: Some(&weight), bias: None, eps: 1e-5 };
                let inputs =
                    if gated { Inputs::Gated(Activation::Silu, &x, &up) } else { Inputs::Norm(norm, false, &x) };
                let mut outs = [vec![f32::NAN; range.len() * rows], vec![f32::NAN; range.len() * rows]];
                let [a, b] = &mut outs;
                let [first, second] = packed.each_ref().map(|p| p.matrix(0).unwrap());
                let first = Linear { weight: first, bias: None, add: Some(&add), out: a };
                let second = Linear { weight: second, bias: None, add: None, out: b };
                cpu.linears(inputs, [Some(first), Some(second), None, None]).unwrap();
                outs
            };
            for n in COUNTS {
                for gated in [false, true] {
                    let all = products(0..n, gated);
                    for row in some(n) {
                        let alone = products(row..row + 1, gated);
                        for (all, alone) in all.iter().zip(&alone) {
                            let what = format!("{dtype}, {isa:?}, row {row} of {n}, gated {gated}");
                            same(&what, &all[row * rows..(row + 1) * rows], alone);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn experts() {
    let (count, outputs, inputs, top_k) = (5, 19, 256, 2);
    for dtype in [DType::F32, DType::F16, DType::Q4_K, DType::Q8_0] {
        let mut random = Random(3);
        let dims = [count, outputs, inputs];
        let (bytes, _) = random.weights(dtype, count * outputs * inputs);
        let x = random.floats(64 * inputs);
        let chosen: Vec<u32> =
            (0..64 * top_k).map(|i| ((i / top_k + i % top_k * (1 + i % 3)) % count) as u32).collect();
        for mut cpu in cpus(2) {
            let stack = Stack::AsStored { dtype, dims, bytes: &bytes };
            let experts = Experts { stack, bias: None };
            let (isa, mut scratch) = (cpu.isa(), ExpertScratch::default());
            let mut products = |range: std::ops::Range<usize>| {
                let mut out = vec![f32::NAN; range.len() * top_k * outputs];
                let chosen = &chosen[range.start * top_k..range.end * top_k];
                let x = &x[range.start * inputs..range.end * inputs];
                cpu.expert_linear(&experts, chosen, x, top_k, &mut scratch, &mut out).unwrap();
                out
            };
            for n in COUNTS.into_iter().filter(|&n| n <= 64) {
                let all = products(0..n);
                for row in some(n) {
                    let own = &all[row * top_k * outputs..(row + 1) * top_k * outputs];
                    same(&format!("{dtype}, {isa:?}, row {row} of {n}"), own, &products(row..row + 1));
                }
            }
        }
    }
}

struct Case {
    heads: usize,
    shape: KvShape,
    window: Option<u32>,
    softcap: Option<f32>,
    sinks: bool,
    /// Tokens in the cache before the step.
    depth: usize,
}

/// Attention of `n` tokens after some others, all at once, one by one, beside another sequence, and on other numbers of
/// threads.
fn check_attention(kind: KvType, case: &Case, counts: &[usize]) {
    let KvShape { heads: kv_heads, key_dim, value_dim, block_size } = case.shape;
    // Of a sequence of more than 64 tokens backends may round.
    let (longest, long) = (*counts.iter().max().unwrap(), case.depth..case.depth + 100);
    let most = case.depth + longest.max(100);
    let max_blocks = most.div_ceil(block_size);
    let mut random = Random((case.depth + key_dim) as u64);
    let (k, v) = (random.floats(most * kv_heads * key_dim), random.floats(most * kv_heads * value_dim));
    let q = random.floats(most * case.heads * key_dim);
    let sinks = case.sinks.then(|| random.floats(case.heads));
    // The second sequence has the same keys and values, in other blocks.
    let tables: Vec<u32> = (0..2 * max_blocks as u32).rev().collect();
    let attention = Attention {
        heads: case.heads,
        scale: 0.4,
        window: case.window,
        softcap: case.softcap,
        sinks: sinks.as_deref(),
    };
    let mut expected: Vec<Vec<f32>> = vec![];
    for threads in [1, 2, 3] {
        for (which, cpu) in cpus(threads).into_iter().enumerate() {
            let mut cpu = cpu.rounding(longest <= 64);
            let mut cache = KvCache::new(case.shape, kind, 2 * max_blocks).unwrap();
            for table in tables.chunks(max_blocks) {
                let slot = |p: usize| table[p / block_size] * block_size as u32 + (p % block_size) as u32;
                cache.write(&cpu, &k, &v, &(0..most).map(slot).collect::<Vec<_>>()).unwrap();
            }
            let isa = cpu.isa();
            let mut attend = |steps: &[std::ops::Range<usize>]| {
                let positions: Vec<u32> = steps.iter().cloned().flatten().map(|p| p as u32).collect();
                let mut query_start = vec![0];
                steps.iter().for_each(|step| query_start.push(query_start.last().unwrap() + step.len() as u32));
                let width = case.heads * key_dim;
                let q: Vec<f32> =
                    steps.iter().flat_map(|s| q[s.start * width..s.end * width].iter().copied()).collect();
                let mut out = vec![f32::NAN; positions.len() * case.heads * value_dim];
                let sequences = Sequences {
                    positions: &positions,
                    query_start: &query_start,
                    block_tables: &tables[..steps.len() * max_blocks],
                    max_blocks,
                };
                cpu.attention(attention, &cache, sequences, &q, &mut out).unwrap();
                out
            };
            let row = case.heads * value_dim;
            if threads == 1 {
                let now = |p: usize| p..p + 1;
                expected.push((case.depth..most).flat_map(|p| attend(&[now(p)])).collect());
            }
            let alone = &expected[which];
            let what = format!("{kind:?}, {isa:?}, {} heads, {:?}, {threads} threads", case.heads, case.shape);
            for p in [0, (most - case.depth) / 2] {
                let now = case.depth + p..case.depth + p + 1;
                same(&format!("{what}, position {p}"), &attend(&[now]), &alone[p * row..(p + 1) * row]);
            }
            for &n in counts {
                let step = case.depth..case.depth + n;
                same(&format!("{what}, {n} tokens"), &attend(std::slice::from_ref(&step)), &alone[..n * row]);
                let both = attend(&[case.depth..case.depth + 1, step]);
                same(&format!("{what}, {n} tokens beside another"), &both[row..], &alone[..n * row]);
            }
            let many = attend(std::slice::from_ref(&long));
            for n in [1, 3] {
                let both = attend(&[long.clone(), case.depth..case.depth + n]);
                same(&format!("{what}, many tokens beside {n}"), &both[..100 * row], &many);
                same(&format!("{what}, {n} tokens beside many"), &both[100 * row..], &alone[..n * row]);
            }
        }
    }
}

#[test]
fn attention() {
    let shape = |heads, key_dim, value_dim, block_size| KvShape { heads, key_dim, value_dim, block_size };
    let base = Case { heads: 4, shape: shape(2, 32, 32, 16), window: None, softcap: None, sinks: false, depth: 0 };
    let counts = [1, 2, 3, 5, 8, 16, 17, 33];
    for kind in [KvType::F32, KvType::F16, KvType::Q8] {
        // Chunks end within the step, just before and just after it.
        for depth in [0, 100, 250, 256, 511, 1020, 1500] {
            check_attention(kind, &Case { depth, ..base }, &counts);
        }
        check_attention(kind, &Case { heads: 7, shape: shape(1, 64, 64, 16), depth: 505, ..base }, &counts);
        check_attention(kind, &Case { heads: 3, shape: shape(3, 20, 12, 16), depth: 250, ..base }, &counts);
        check_attention(kind, &Case { heads: 1, shape: shape(1, 40, 40, 8), depth: 700, ..base }, &counts);
        check_attention(kind, &Case { shape: shape(4, 24, 24, 7), depth: 600, ..base }, &counts);
        check_attention(kind, &Case { shape: shape(2, 24, 24, 512), depth: 600, ..base }, &counts);
        for depth in [0, 60, 490, 900] {
            check_attention(kind, &Case { window: Some(40), depth, ..base }, &counts);
            check_attention(kind, &Case { window: Some(700), sinks: true, softcap: Some(3.0), depth, ..base }, &counts);
        }
        check_attention(kind, &base, &[64, 200, 600]);
        check_attention(kind, &Case { window: Some(100), sinks: true, ..base }, &[64, 200, 600]);
    }
}
