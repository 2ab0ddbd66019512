//! Prints the speed of the matrix products: `cargo run --release -p rocmforge-kernels-cpu --example bench [threads]`.

use std::sync::Arc;
use std::time::Instant;

use rocmforge_kernels_cpu::{Cpu, Isa, Matrix, Pool};
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
    DType::IQ4_XS,
];

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
    let mut cpu = Cpu::new(Arc::new(Pool::new(threads)?), isa);
    println!(
        "{:8} {:>10} {:>8} {:>10} {:>10} {:>10}",
        "type", "1 row GB/s", "Gw/s", "4 rows", "8 rows", "256 rows GFLOP/s"
    );
    // Larger than the caches.
    let (rows, cols) = (32768, 2048);
    for &dtype in TYPES {
        // Bytes that are finite scales in every format; time does not depend on them.
        let row = dtype.row_bytes(cols).unwrap_or(0);
        let bytes = vec![0x11u8; rows * row];
        let weight = Matrix::as_stored(dtype, rows, cols, &bytes)?;
        let small = Matrix::as_stored(dtype, 2048, cols, &bytes[..2048 * row])?;
        let x = vec![0.5f32; 256 * cols];
        let mut out = vec![0.0; 8 * rows];
        let mut out256 = vec![0.0; 256 * 2048];
        let one = fastest(|| cpu.matmul(&weight, &x[..cols], None, &mut out[..rows]).unwrap_or_default());
        let four = fastest(|| cpu.matmul(&weight, &x[..4 * cols], None, &mut out[..4 * rows]).unwrap_or_default());
        let eight = fastest(|| cpu.matmul(&weight, &x[..8 * cols], None, &mut out).unwrap_or_default());
        let many = fastest(|| cpu.matmul(&small, &x, None, &mut out256).unwrap_or_default());
        let elements = (rows * cols) as f64;
        println!(
            "{:8} {:10.1} {:8.1} {:10.1} {:10.1} {:10.1}",
            dtype.name(),
            bytes.len() as f64 / one / 1e9,
            elements / one / 1e9,
            8.0 * elements / four / 1e9,
            16.0 * elements / eight / 1e9,
            512.0 * (2048 * cols) as f64 / many / 1e9
        );
    }
    Ok(())
}
