//! Prints the speed of the matrix products, in the layout that is fastest on this processor:
//! `cargo run --release -p rocmforge-kernels-cpu --example bench [threads [isa [type...]]]`.

use std::sync::Arc;
use std::time::Instant;

use rocmforge_kernels_cpu::{Cpu, Isa, Matrix, Packed, Pool};
use rocmforge_quant::DType;

const TYPES: &[DType] = &[
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::Q3_K,
    DType::Q2_K,
    DType::IQ4_XS,
    DType::MXFP4,
];

/// Bytes per second of reading memory: sums of the words of a buffer larger than the caches.
fn read_bandwidth(pool: &Pool) -> f64 {
    let words = vec![1u64; 64 << 20];
    let total = std::sync::atomic::AtomicU64::new(0);
    let seconds = fastest(|| {
        let sums = pool.parallel_for(words.len(), 1 << 18, |_, range| {
            let mut sums = [0u64; 32];
            for chunk in words[range].as_chunks::<32>().0 {
                sums.iter_mut().zip(chunk).for_each(|(s, w)| *s ^= w);
            }
            total.fetch_xor(sums.iter().fold(0, |a, b| a ^ b), std::sync::atomic::Ordering::Relaxed);
        });
        sums.unwrap_or_default();
    });
    8.0 * words.len() as f64 / seconds
}

/// Seconds of the fastest of several calls.
fn fastest(mut call: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    let mut calls = 0;
    while calls < 3 || begin.elapsed().as_secs_f64() < 0.4 {
        let start = Instant::now();
        call();
        best = best.min(start.elapsed().as_secs_f64());
        calls += 1;
    }
    best
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads = std::env::args().nth(1).map_or(Ok(2), |n| n.parse())?;
    let isa = Isa::named(&std::env::args().nth(2).unwrap_or_else(|| "auto".into()))?;
    println!("{threads} threads, {}", isa.name());
    let pool = Arc::new(Pool::new(threads)?);
    println!("reading memory: {:.1} GB/s", read_bandwidth(&pool) / 1e9);
    let mut cpu = Cpu::new(Arc::clone(&pool), isa);
    let only: Vec<String> = std::env::args().skip(3).collect();
    println!(
        "{:8} {:>10} {:>8} {:>10} {:>10} {:>16} {:>14}",
        "type", "1 row GB/s", "Gw/s", "4 rows", "8 rows", "256 rows GFLOP/s", "packing GB/s"
    );
    // Larger than the caches.
    let (rows, cols) = (32768, 2048);
    for &dtype in TYPES.iter().filter(|d| only.is_empty() || only.iter().any(|o| o == d.name())) {
        // Bytes that are finite scales in every format; time does not depend on them.
        let row = dtype.row_bytes(cols).unwrap_or(0);
        let bytes = vec![0x11u8; rows * row];
        let start = Instant::now();
        let packed = [rows, 2048].map(|rows| {
            let bytes = &bytes[..rows * row];
            Packed::supports(dtype, isa).then(|| Packed::new(&pool, dtype, [1, rows, cols], bytes)).transpose()
        });
        let packing = start.elapsed().as_secs_f64();
        let [weight, small] = packed.each_ref().map(|p| p.as_ref().map(Option::as_ref));
        let weight = match weight.map_err(ToString::to_string)? {
            Some(packed) => packed.matrix(0)?,
            None => Matrix::as_stored(dtype, rows, cols, &bytes)?,
        };
        let small = match small.map_err(ToString::to_string)? {
            Some(packed) => packed.matrix(0)?,
            None => Matrix::as_stored(dtype, 2048, cols, &bytes[..2048 * row])?,
        };
        let x: Vec<f32> = (0..256 * cols).map(|i| (i % 97) as f32 - 48.0).collect();
        let mut out = vec![0.0; 8 * rows];
        let mut out256 = vec![0.0; 256 * 2048];
        let one = fastest(|| cpu.matmul(&weight, &x[..cols], None, &mut out[..rows]).unwrap_or_default());
        let four = fastest(|| cpu.matmul(&weight, &x[..4 * cols], None, &mut out[..4 * rows]).unwrap_or_default());
        let eight = fastest(|| cpu.matmul(&weight, &x[..8 * cols], None, &mut out).unwrap_or_default());
        let many = fastest(|| cpu.matmul(&small, &x, None, &mut out256).unwrap_or_default());
        let elements = (rows * cols) as f64;
        println!(
            "{:8} {:10.1} {:8.1} {:10.1} {:10.1} {:10.1} {:10.2}",
            dtype.name(),
            bytes.len() as f64 / one / 1e9,
            elements / one / 1e9,
            8.0 * elements / four / 1e9,
            16.0 * elements / eight / 1e9,
            512.0 * (2048 * cols) as f64 / many / 1e9,
            bytes.len() as f64 / packing / 1e9
        );
    }
    Ok(())
}
