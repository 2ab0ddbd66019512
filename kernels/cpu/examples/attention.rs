//! Speed of attention: one token after contexts of some lengths, and prompts of some lengths.
//!
//! usage: attention [HEADS KV_HEADS DIM [LAYERS]]; 14 2 64 24 without. Prompts with products of floats, and rounded to 16 bits.

use std::sync::Arc;
use std::time::Instant;

use rocmforge_kernels_cpu::{Attention, Cpu, Isa, KvCache, KvShape, KvType, Pool, Sequences};

const BLOCK: usize = 16;

/// Seconds per layer of one step of `tokens` after `depth`, as the least of some rounds over all layers.
fn seconds(cpu: &mut Cpu, (heads, dim): (usize, usize), caches: &[KvCache], depth: usize, tokens: usize) -> f64 {
    let positions: Vec<u32> = (depth..depth + tokens).map(|p| p as u32).collect();
    let tables: Vec<u32> = (0..(depth + tokens).div_ceil(BLOCK) as u32).collect();
    let query_start = [0, tokens as u32];
    let sequences =
        Sequences { positions: &positions, query_start: &query_start, block_tables: &tables, max_blocks: tables.len() };
    let attention = Attention { heads, scale: (dim as f32).powf(-0.5), window: None, softcap: None, sinks: None };
    let q: Vec<f32> = (0..tokens * heads * dim).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect();
    let mut out = vec![0.0; q.len()];
    let rounds = (0..7).map(|_| {
        let start = Instant::now();
        for cache in caches {
            cpu.attention(attention, cache, sequences, &q, &mut out).expect("attention");
        }
        start.elapsed().as_secs_f64() / caches.len() as f64
    });
    rounds.fold(f64::INFINITY, f64::min)
}

fn main() {
    let given: Vec<usize> = std::env::args().skip(1).map(|a| a.parse().expect("a number")).collect();
    let of = |i: usize, default| given.get(i).copied().unwrap_or(default);
    let (heads, kv_heads, dim, layers) = (of(0, 14), of(1, 2), of(2, 64), of(3, 24));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let pool = Arc::new(Pool::new(threads).expect("threads"));
    let mut cpu = Cpu::new(Arc::clone(&pool), Isa::detect());
    let shape = KvShape { heads: kv_heads, key_dim: dim, value_dim: dim, block_size: BLOCK };
    for (name, kind, bytes) in [("f32", KvType::F32, 4), ("f16", KvType::F16, 2), ("q8_0", KvType::Q8, 1)] {
        let most = 8192 + BLOCK;
        let mut caches: Vec<KvCache> =
            (0..layers).map(|_| KvCache::new(shape, kind, most / BLOCK).expect("memory")).collect();
        let rows: Vec<f32> = (0..most * kv_heads * dim).map(|i| (i % 13) as f32 / 13.0 - 0.5).collect();
        let slots: Vec<u32> = (0..most as u32).collect();
        caches.iter_mut().for_each(|cache| cache.write(&cpu, &rows, &rows, &slots).expect("write"));
        for depth in [512, 2048, 8191] {
            let time = seconds(&mut cpu, (heads, dim), &caches, depth, 1);
            let read = (2 * (depth + 1) * kv_heads * dim * bytes) as f64 / time;
            println!("{name}: a token after {depth:5}: {:8.1} us per layer, {:5.1} GB/s", time * 1e6, read / 1e9);
        }
        for (depth, tokens) in [(0, 512), (0, 2048), (4096, 512)] {
            let operations = (tokens * (2 * depth + tokens + 1) / 2 * heads * dim * 4) as f64;
            for (how, rounds) in [("floats", false), ("16 bits", true)] {
                let mut cpu = Cpu::new(Arc::clone(&pool), Isa::detect()).rounding(rounds);
                let time = seconds(&mut cpu, (heads, dim), &caches[..2], depth, tokens);
                let (micros, rate) = (time * 1e6, operations / time / 1e9);
                println!(
                    "{name}: {tokens:4} tokens after {depth:4}, {how:7}: {micros:8.1} us per layer, {rate:5.1} GFLOP/s"
                );
            }
        }
    }
}
