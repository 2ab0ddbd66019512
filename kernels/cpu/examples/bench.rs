//! Prints the speed of the matrix products, in the layout that is fastest on this processor, beside the processor's
//! limits: `cargo run --release -p rocmforge-kernels-cpu --example bench [threads [isa [type...]]]`.

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
    DType::IQ2_XXS,
    DType::IQ3_S,
    DType::IQ1_S,
];

/// Bytes of weights that are read with few rows: more than caches hold.
const BYTES: usize = 400 << 20;
/// Weight rows that are multiplied with many rows.
const SMALL: usize = 512;
const COLS: usize = 2048;

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
    let pool = Arc::new(Pool::new(threads)?);
    let mut cpu = Cpu::new(Arc::clone(&pool), isa).rounding(true);
    let limits = cpu.measure_limits()?;
    let peak = limits.products.unwrap_or(f64::NAN);
    println!(
        "{threads} threads, {}: {:.1} GB/s, {:.0} GMAC/s of int8 or bfloat16",
        isa.name(),
        limits.read / 1e9,
        peak / 1e9
    );
    println!("GB/s of weights with 1 row, GMAC/s with more, and their share of the limits in percent");
    println!("{:8} {:>11} {:>10} {:>10} {:>10} {:>11} {:>8}", "type", "1 row", "4", "8", "16", "512", "packing");
    let only: Vec<String> = std::env::args().skip(3).collect();
    for &dtype in TYPES.iter().filter(|d| only.is_empty() || only.iter().any(|o| o == d.name())) {
        // Bytes that are finite scales in every format; time does not depend on them.
        let row = dtype.row_bytes(COLS).unwrap_or(1);
        let rows = BYTES / row / 32 * 32;
        let bytes = vec![0x11u8; rows * row];
        let start = Instant::now();
        let packed = [rows, SMALL].map(|rows| {
            let bytes = &bytes[..rows * row];
            Packed::supports(dtype, isa).then(|| Packed::new(&pool, dtype, [1, rows, COLS], bytes)).transpose()
        });
        let packing = start.elapsed().as_secs_f64();
        let [weight, small] = packed.each_ref().map(|p| p.as_ref().map(Option::as_ref));
        let weight = match weight.map_err(ToString::to_string)? {
            Some(packed) => packed.matrix(0)?,
            None => Matrix::as_stored(dtype, rows, COLS, &bytes)?,
        };
        let small = match small.map_err(ToString::to_string)? {
            Some(packed) => packed.matrix(0)?,
            None => Matrix::as_stored(dtype, SMALL, COLS, &bytes[..SMALL * row])?,
        };
        let x: Vec<f32> = (0..512 * COLS).map(|i| (i % 97) as f32 - 48.0).collect();
        let mut out = vec![0.0; 512 * SMALL.max(rows / 32)];
        let mut time = |weight: &Matrix<'_>, n: usize| {
            let out = &mut out[..n * weight.rows()];
            // Many are a prompt.
            cpu.begin(std::iter::once(n));
            fastest(|| cpu.matmul(weight, &x[..n * COLS], None, out).unwrap_or_default())
        };
        let one = (rows * row) as f64 / time(&weight, 1);
        let rates = [(&weight, 4), (&weight, 8), (&weight, 16), (&small, 512)]
            .map(|(weight, n)| (n * weight.rows() * COLS) as f64 / time(weight, n));
        print!("{:8} {:5.1} {:4.0}%", dtype.name(), one / 1e9, 100.0 * one / limits.read);
        rates.iter().for_each(|rate| print!(" {:5.0} {:3.0}%", rate / 1e9, 100.0 * rate / peak));
        println!(" {:8.2}", bytes.len() as f64 / packing / 1e9);
    }
    Ok(())
}
