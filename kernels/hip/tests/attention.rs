//! Rotary embedding, the paged cache, and attention over it, against plain formulas.

mod common;

use common::{Gpu, Random, check, on_both_waves};
use half::f16;
use rocmforge_kernels_hip::*;

const BLOCK: usize = 16;

#[test]
fn rope_turns_pairs_by_exact_angles() {
    on_both_waves("rope_turns_pairs_by_exact_angles", &["rope"], |gpu| {
        let mut random = Random::new(1);
        let positions = [0u32, 1, 77, 4095, 131_071];
        for (dim, rotary, interleaved, norm) in
            [(64usize, 64usize, true, false), (64, 64, false, true), (80, 32, false, false), (24, 10, true, true)]
        {
            let (tokens, heads) = (positions.len(), 3usize);
            let stride = heads * dim + 8;
            let x = random.normals(tokens * stride);
            let weight = random.normals(dim);
            // The fastest pair turns by a radian per position, as in every model.
            let frequencies: Vec<f32> =
                (0..rotary / 2).map(|i| 10_000f64.powf(-2.0 * i as f64 / rotary as f64) as f32).collect();
            let out = gpu.room(tokens * heads * dim * 4);
            let args = RfRopeArgs {
                q: gpu.upload(&x),
                q_out: out,
                q_weight: gpu.upload(&weight),
                positions: gpu.upload(&positions),
                frequencies: gpu.upload(&frequencies),
                tokens: tokens as u32,
                q_heads: heads as u32,
                q_stride: stride as u32,
                q_out_stride: (heads * dim) as u32,
                key_dim: dim as u32,
                value_dim: dim as u32,
                rotary_dim: rotary as u32,
                interleaved: interleaved.into(),
                norm: norm.into(),
                magnitude: 1.5,
                eps: 1e-6,
                ..Default::default()
            };
            gpu.run(launch::rope(&args, gpu.wave));
            let mut expected = vec![];
            for t in 0..tokens {
                for h in 0..heads {
                    let mut row: Vec<f64> = x[t * stride + h * dim..][..dim].iter().map(|v| f64::from(*v)).collect();
                    if norm {
                        let mean = row.iter().map(|v| v * v).sum::<f64>() / dim as f64;
                        row.iter_mut().zip(&weight).for_each(|(v, w)| *v *= f64::from(*w) / (mean + 1e-6).sqrt());
                    }
                    for (i, frequency) in frequencies.iter().enumerate() {
                        let angle = f64::from(positions[t] as f32 * frequency);
                        let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + rotary / 2) };
                        let (x, y) = (row[a], row[b]);
                        row[a] = 1.5 * (x * angle.cos() - y * angle.sin());
                        row[b] = 1.5 * (y * angle.cos() + x * angle.sin());
                    }
                    expected.extend(row);
                }
            }
            let what = format!("dim {dim}, rotary {rotary}, interleaved {interleaved}, norm {norm}");
            check(&what, &gpu.floats(out, expected.len()), &expected, 1e-6, 5e-6);
        }
    });
}

/// Sequences with a paged cache, and the device's copy of the step.
struct Paged {
    args: RfAttentionArgs,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    contexts: Vec<u32>,
    queries: Vec<usize>,
}

struct Shape {
    kind: CacheKind,
    heads: usize,
    kv_heads: usize,
    key_dim: usize,
    value_dim: usize,
    /// Tokens in the cache after the step, and tokens in the step, per sequence.
    sequences: Vec<(u32, usize)>,
}

impl Paged {
    /// Writes every key and value through the append kernel, in an order of blocks that is not that of positions.
    fn new(gpu: &Gpu, shape: &Shape, random: &mut Random) -> Paged {
        let (kv, key, value) = (shape.kv_heads, shape.key_dim, shape.value_dim);
        let contexts: Vec<u32> = shape.sequences.iter().map(|s| s.0).collect();
        let max_blocks = contexts.iter().map(|c| (*c as usize).div_ceil(BLOCK)).max().unwrap().max(1);
        let total: usize = contexts.iter().map(|c| (*c as usize).div_ceil(BLOCK)).sum();
        let layout = cache(shape.kind, 0, kv as u32, BLOCK as u32, key as u32, value as u32);
        let base = gpu.room(total * layout.block_bytes as usize + 256).next_multiple_of(256);
        let paged = cache(shape.kind, base, kv as u32, BLOCK as u32, key as u32, value as u32);
        let mut tables = vec![u32::MAX; contexts.len() * max_blocks];
        let (mut next, mut keys, mut values) = (total as u32, vec![], vec![]);
        for (s, context) in contexts.iter().enumerate() {
            let n = *context as usize;
            for b in 0..n.div_ceil(BLOCK) {
                next -= 1;
                tables[s * max_blocks + b] = next;
            }
            let (k, v) = (random.normals(n * kv * key), random.normals(n * kv * value));
            // One more token, which has no slot.
            let slot = |p: usize| tables[s * max_blocks + p / BLOCK] * BLOCK as u32 + (p % BLOCK) as u32;
            let slots: Vec<u32> = (0..n).map(slot).chain([u32::MAX]).collect();
            let append = RfRopeArgs {
                k: gpu.upload(&[k.clone(), vec![7.0; kv * key]].concat()),
                v: gpu.upload(&[v.clone(), vec![7.0; kv * value]].concat()),
                slots: gpu.upload(&slots),
                cache: paged,
                tokens: n as u32 + 1,
                k_heads: kv as u32,
                v_heads: kv as u32,
                k_stride: (kv * key) as u32,
                v_stride: (kv * value) as u32,
                key_dim: key as u32,
                value_dim: value as u32,
                ..Default::default()
            };
            gpu.run(launch::rope(&append, gpu.wave));
            keys.push(k);
            values.push(v);
        }
        let queries: Vec<usize> = shape.sequences.iter().map(|s| s.1).collect();
        let start: Vec<u32> = std::iter::once(0)
            .chain(queries.iter().scan(0, |sum, q| {
                *sum += *q as u32;
                Some(*sum)
            }))
            .collect();
        let tokens: usize = queries.iter().sum();
        let token = |s: usize, i: usize| (contexts[s] as usize + i).saturating_sub(queries[s]) as u32;
        let positions: Vec<u32> =
            (0..contexts.len()).flat_map(|s| (0..queries[s]).map(move |i| (s, i))).map(|(s, i)| token(s, i)).collect();
        let sequence_of: Vec<u32> = (0..contexts.len()).flat_map(|s| vec![s as u32; queries[s]]).collect();
        let args = RfAttentionArgs {
            positions: gpu.upload(&positions),
            sequence_of: gpu.upload(&sequence_of),
            query_start: gpu.upload(&start),
            context_lens: gpu.upload(&contexts),
            block_tables: gpu.upload(&tables),
            cache: paged,
            tokens: tokens as u32,
            sequences: contexts.len() as u32,
            heads: shape.heads as u32,
            q_stride: (shape.heads * key) as u32,
            out_stride: (shape.heads * value) as u32,
            max_blocks: max_blocks as u32,
            splits: 1,
            scale: 1.0 / (key as f32).sqrt(),
            ..Default::default()
        };
        Paged { args, keys, values, contexts, queries }
    }

    fn expected(&self, shape: &Shape, q: &[f32], sinks: Option<&[f32]>) -> Vec<f64> {
        let (kv, key, value, heads) = (shape.kv_heads, shape.key_dim, shape.value_dim, shape.heads);
        let (mut out, mut token) = (vec![], 0);
        for s in 0..self.contexts.len() {
            for i in 0..self.queries[s] {
                if self.contexts[s] == 0 {
                    out.extend(vec![0.0; heads * value]);
                    token += 1;
                    continue;
                }
                let position = self.contexts[s] as usize + i - self.queries[s];
                let oldest = match self.args.window {
                    0 => 0,
                    w => (position + 1).saturating_sub(w as usize),
                };
                for h in 0..heads {
                    let q = &q[(token * heads + h) * key..][..key];
                    let head = h / (heads / kv);
                    let mut scores: Vec<f64> = (oldest..=position)
                        .map(|p| {
                            let k = &self.keys[s][(p * kv + head) * key..][..key];
                            let dot: f64 = q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                            let score = dot * f64::from(self.args.scale);
                            let cap = f64::from(self.args.softcap);
                            if cap > 0.0 { cap * (score / cap).tanh() } else { score }
                        })
                        .collect();
                    scores.extend(sinks.map(|s| f64::from(s[h])));
                    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
                    out.extend((0..value).map(|c| {
                        let v = |p: usize| f64::from(self.values[s][(p * kv + head) * value + c]);
                        (oldest..=position).map(|p| (scores[p - oldest] - most).exp() / sum * v(p)).sum::<f64>()
                    }));
                }
                token += 1;
            }
        }
        out
    }
}

/// Runs a shape with a window, a soft cap, sinks, and in parts.
#[track_caller]
fn attend(gpu: &Gpu, shape: Shape, tolerance: (f64, f64)) {
    let mut random = Random::new(shape.heads as u64 * 1000 + shape.key_dim as u64);
    let mut paged = Paged::new(gpu, &shape, &mut random);
    let tokens: usize = paged.queries.iter().sum();
    let q = random.normals(tokens * shape.heads * shape.key_dim);
    let sinks = random.normals(shape.heads);
    let size = tokens * shape.heads * shape.value_dim;
    paged.args.q = gpu.upload(&q);
    let arrived = gpu.upload(&vec![0u32; (tokens + paged.contexts.len()) * shape.kv_heads]);
    for (window, softcap, sink, splits, in_place) in [
        (0u32, 0.0f32, false, 1u32, false),
        (20, 0.0, true, 1, false),
        (0, 3.0, false, 3, false),
        (33, 0.0, true, 3, true),
    ] {
        paged.args.window = window;
        paged.args.softcap = softcap;
        paged.args.sinks = if sink { gpu.upload(&sinks) } else { 0 };
        paged.args.splits = splits;
        paged.args.out = gpu.room(size * 4);
        let bytes = launch::attention_partial_bytes(tokens as u32, shape.heads as u32, splits, shape.value_dim as u32);
        paged.args.partial = gpu.room(bytes as usize);
        paged.args.arrived = if in_place { arrived } else { 0 };
        let fused = launch::attention_fuses(&paged.args) && (splits == 1 || in_place);
        (paged.args.codes, paged.args.scales) = if fused { (gpu.room(size), gpu.room(size / 4)) } else { (0, 0) };
        (paged.args.half, paged.args.powers) = if fused { (gpu.room(size * 2), gpu.room(tokens * 4)) } else { (0, 0) };
        let launches = launch::attention(&paged.args, gpu.wave);
        assert_eq!(
            launches.len(),
            if splits > 1 && !(in_place && launches[0].kernel.source == "flash") { 2 } else { 1 }
        );
        let what = format!(
            "{} {:?} {}/{} heads of {}/{}, window {window}, cap {softcap}, sink {sink}, splits {splits}",
            launches[0].kernel.name, shape.kind, shape.heads, shape.kv_heads, shape.key_dim, shape.value_dim
        );
        launches.into_iter().for_each(|l| gpu.run(l));
        let found = gpu.floats(paged.args.out, size);
        let expected = paged.expected(&shape, &q, sink.then_some(&sinks[..]));
        check(&what, &found, &expected, tolerance.0, tolerance.1);
        if fused {
            let (codes, scales) =
                (gpu.download::<i8>(paged.args.codes, size), gpu.download::<u64>(paged.args.scales, size / 32));
            let value = |(i, q): (usize, &i8)| f32::from(*q) * f32::from_bits(scales[i / 32] as u32);
            let coded: Vec<f32> = codes.iter().enumerate().map(value).collect();
            check(&format!("{what}, quantised"), &coded, &expected, 1e-2, 6e-2);
            let halves: Vec<f32> =
                gpu.download::<u16>(paged.args.half, size).iter().map(|h| f16::from_bits(*h).to_f32()).collect();
            assert_eq!(halves, found.iter().map(|y| f16::from_f32(*y).to_f32()).collect::<Vec<_>>(), "{what}");
            assert_eq!(gpu.floats(paged.args.powers, tokens), vec![1.0; tokens], "{what}");
        }
    }
    assert!(gpu.download::<u32>(arrived, 1) == [0]);
}

#[test]
fn attention_of_single_tokens() {
    on_both_waves("attention_of_single_tokens", &["attention", "flash", "rope"], |gpu| {
        let sequences = || vec![(70u32, 1usize), (1, 1), (0, 1), (150, 1)];
        let shape = |heads, kv_heads, dim| Shape {
            kind: CacheKind::F16,
            heads,
            kv_heads,
            key_dim: dim,
            value_dim: dim,
            sequences: sequences(),
        };
        attend(gpu, shape(4, 2, 64), (1e-3, 1e-2));
        attend(gpu, shape(7, 1, 128), (1e-3, 1e-2));
        attend(gpu, shape(2, 2, 40), (1e-3, 1e-2));
    });
}

/// One token per sequence: a single launch gives what the rotation and then attention give, cache included.
#[test]
fn single_tokens_may_be_rotated_where_they_attend() {
    let name = "single_tokens_may_be_rotated_where_they_attend";
    on_both_waves(name, &["attention", "flash", "rope", "decode"], |gpu| {
        for (heads, kv_heads, dim, splits, norm) in [(4, 2, 64, 1, false), (7, 1, 128, 3, true), (2, 2, 40, 2, false)] {
            let sequences = vec![(70u32, 1usize), (1, 1), (0, 1), (150, 1), (64, 1), (65, 1)];
            let count = sequences.len();
            let shape = Shape { kind: CacheKind::F16, heads, kv_heads, key_dim: dim, value_dim: dim, sequences };
            let mut random = Random::new(9);
            let width = (heads + 2 * kv_heads) * dim;
            let qkv = gpu.upload(&random.normals(count * width));
            let frequencies = gpu.upload(&(0..dim / 2).map(|i| 0.7f32.powi(i as i32)).collect::<Vec<_>>());
            let weight = gpu.upload(&random.normals(dim));
            let attend = |fused: bool| {
                let mut paged = Paged::new(gpu, &shape, &mut Random::new(10));
                let tables = gpu.download::<u32>(paged.args.block_tables, count * paged.args.max_blocks as usize);
                let slot = |(s, context): (usize, &u32)| match *context as usize {
                    0 => u32::MAX,
                    n => {
                        let block = tables[s * paged.args.max_blocks as usize + (n - 1) / BLOCK];
                        block * BLOCK as u32 + ((n - 1) % BLOCK) as u32
                    }
                };
                let slots: Vec<u32> = paged.contexts.iter().enumerate().map(slot).collect();
                let q_out = gpu.room(count * heads * dim * 4);
                let rope = RfRopeArgs {
                    q: qkv,
                    k: qkv + 4 * (heads * dim) as u64,
                    v: qkv + 4 * ((heads + kv_heads) * dim) as u64,
                    q_out,
                    q_weight: weight,
                    k_weight: weight,
                    positions: paged.args.positions,
                    frequencies,
                    slots: gpu.upload(&slots),
                    cache: paged.args.cache,
                    tokens: count as u32,
                    q_heads: heads as u32,
                    k_heads: kv_heads as u32,
                    v_heads: kv_heads as u32,
                    q_stride: width as u32,
                    k_stride: width as u32,
                    v_stride: width as u32,
                    q_out_stride: (heads * dim) as u32,
                    key_dim: dim as u32,
                    value_dim: dim as u32,
                    rotary_dim: dim as u32,
                    norm: u32::from(norm),
                    magnitude: 1.0,
                    eps: 1e-5,
                    ..Default::default()
                };
                let args = &mut paged.args;
                (args.q, args.out, args.splits) = (q_out, gpu.room(count * heads * dim * 4), splits);
                let bytes = launch::attention_partial_bytes(count as u32, heads as u32, splits, dim as u32);
                (args.partial, args.arrived) =
                    (gpu.room(bytes as usize), gpu.upload(&vec![0u32; 2 * count * kv_heads]));
                if fused {
                    let args = RfDecodeArgs { attention: RfAttentionArgs { q: 0, ..*args }, rope };
                    gpu.run(launch::decode(&args, gpu.wave).expect("one launch"));
                } else {
                    gpu.run(launch::rope(&rope, gpu.wave));
                    launch::attention(args, gpu.wave).into_iter().for_each(|l| gpu.run(l));
                }
                let blocks: u32 = paged.contexts.iter().map(|c| c.div_ceil(BLOCK as u32)).sum();
                let bytes = u64::from(blocks) * paged.args.cache.block_bytes;
                (
                    gpu.floats(paged.args.out, count * heads * dim),
                    gpu.download::<u8>(paged.args.cache.base, bytes as usize),
                )
            };
            let ((expected, cache), (found, written)) = (attend(false), attend(true));
            assert_eq!(found, expected, "{heads} heads of {dim}");
            assert!(cache == written, "{heads} heads of {dim}: the cache");
        }
    });
}

#[test]
fn attention_of_large_heads() {
    on_both_waves("attention_of_large_heads", &["attention", "flash", "rope"], |gpu| {
        for sequences in [vec![(45u32, 1usize)], vec![(40, 20)]] {
            let shape = Shape { kind: CacheKind::F16, heads: 2, kv_heads: 1, key_dim: 256, value_dim: 256, sequences };
            attend(gpu, shape, (1e-3, 1e-2));
        }
    });
}

#[test]
fn attention_of_prompts() {
    on_both_waves("attention_of_prompts", &["attention", "flash", "rope"], |gpu| {
        let sequences = || vec![(90u32, 33usize), (3, 3), (25, 1), (0, 2)];
        let shape = |heads, kv_heads, key_dim, value_dim| Shape {
            kind: CacheKind::F16,
            heads,
            kv_heads,
            key_dim,
            value_dim,
            sequences: sequences(),
        };
        attend(gpu, shape(4, 2, 64, 64), (1e-3, 1e-2));
        attend(gpu, shape(3, 1, 96, 72), (1e-3, 1e-2));
    });
}

#[test]
fn attention_over_other_caches_and_heads() {
    on_both_waves("attention_over_other_caches_and_heads", &["attention", "rope"], |gpu| {
        let shape = |kind, heads, kv_heads, key_dim, value_dim| Shape {
            kind,
            heads,
            kv_heads,
            key_dim,
            value_dim,
            sequences: vec![(37u32, 5usize), (0, 1), (140, 1)],
        };
        attend(gpu, shape(CacheKind::F32, 4, 2, 32, 32), (1e-5, 1e-4));
        attend(gpu, shape(CacheKind::F16, 3, 3, 20, 12), (1e-3, 1e-2));
        attend(gpu, shape(CacheKind::F32, 2, 1, 288, 300), (1e-5, 1e-4));
        attend(gpu, shape(CacheKind::Q8, 4, 2, 48, 40), (2e-2, 1e-1));
    });
}
