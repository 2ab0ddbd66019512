//! Products that do what follows them as well.

mod common;

use common::matrix::{Activations, Matrix, check_codes};
use common::{Random, check, on_both_waves};
use rocmforge_kernels_hip::*;
use rocmforge_quant::DType;

#[test]
fn gate_and_up_are_one_launch_and_may_end_in_codes() {
    let sources = ["gemv_legacy", "gemv_k", "norm", "repack"];
    on_both_waves("gate_and_up_are_one_launch_and_may_end_in_codes", &sources, |gpu| {
        let mut random = Random::new(4);
        for dtype in [DType::Q4_0, DType::Q6_K] {
            let (n, wide) = (512usize, 96usize);
            let m = Matrix::new(gpu, dtype, 2 * wide, n, &mut random);
            let a = Activations::new(gpu, 3, n, &mut random);
            let (out, codes, scales) = (gpu.room(3 * wide * 4), gpu.room(wide), gpu.room(wide / 4));
            let expected = |i: usize| -> Vec<f64> {
                let y = m.product(&a.x[i * n..][..n], 0, 2 * wide);
                let silu = |x: f64| x / (1.0 + (-x).exp());
                (0..wide).map(|r| silu(y[r]) * y[r + wide]).collect()
            };
            let mut args = RfGemvArgs {
                weight: m.planes,
                x: a.codes,
                scales: a.scales,
                out,
                rows: 2 * wide as u32,
                columns: n as u32,
                items: 3,
                x_stride: n as u32,
                out_stride: wide as u32,
                slots: 1,
                pair: wide as u32,
                ..Default::default()
            };
            gpu.run(launch::gemv(dtype, &args, gpu.wave));
            let all: Vec<f64> = (0..3).flat_map(expected).collect();
            check(&format!("{dtype} pairs"), &gpu.floats(out, 3 * wide), &all, 3e-2, 2e-1);
            args.items = 1;
            (args.next_codes, args.next_scales) = (codes, scales);
            assert!(launch::gemv_fuses(dtype, &args, false));
            gpu.run(launch::gemv(dtype, &args, gpu.wave));
            let y = gpu.floats(out, wide);
            check(&format!("{dtype} one pair"), &y, &expected(0), 3e-2, 2e-1);
            check_codes(gpu, codes, scales, &y);
        }
    });
}

#[test]
fn a_norm_between_two_matrices_leaves_its_factor_to_the_second() {
    let name = "a_norm_between_two_matrices_leaves_its_factor_to_the_second";
    on_both_waves(name, &["gemv_legacy", "gemv_k", "norm", "repack"], |gpu| {
        let mut random = Random::new(5);
        for dtype in [DType::Q8_0, DType::Q4_K] {
            let (n, columns, rows) = (256usize, 512usize, 70usize);
            let (m, next) =
                (Matrix::new(gpu, dtype, n, columns, &mut random), Matrix::new(gpu, dtype, rows, n, &mut random));
            let a = Activations::new(gpu, 1, columns, &mut random);
            let (weight, before) = (random.normals(n), random.normals(n));
            let out = gpu.upload(&before);
            let (codes, scales, squares) = (gpu.room(n), gpu.room(n / 4), gpu.room(n / 8));
            let args = RfGemvArgs {
                weight: m.planes,
                x: a.codes,
                scales: a.scales,
                out,
                residual: out,
                rows: n as u32,
                columns: columns as u32,
                items: 1,
                x_stride: columns as u32,
                out_stride: n as u32,
                residual_stride: n as u32,
                slots: 1,
                ..Default::default()
            };
            assert!(launch::gemv_fuses(dtype, &args, true));
            let next_weight = gpu.upload(&weight);
            let args =
                RfGemvArgs { next_codes: codes, next_scales: scales, next_weight, squares, next_norm: 1, ..args };
            gpu.run(launch::gemv(dtype, &args, gpu.wave));
            let y = gpu.floats(out, n);
            let sum = m.product(&a.x, 0, n).into_iter().zip(&before).map(|(y, b)| y + f64::from(*b));
            check(&format!("{dtype} sum"), &y, &sum.collect::<Vec<_>>(), 3e-2, 2e-1);
            check_codes(gpu, codes, scales, &y.iter().zip(&weight).map(|(v, w)| v * w).collect::<Vec<_>>());
            let mean = y.iter().map(|v| v * v).sum::<f32>() / n as f32;
            let found = gpu.floats(squares, n / 32).iter().sum::<f32>() / n as f32;
            assert!((found - mean).abs() < 1e-5 * mean, "{dtype}: a mean square of {found} for {mean}");
            let second = RfGemvArgs {
                weight: next.planes,
                x: codes,
                scales,
                out: gpu.room(4 * rows),
                rows: rows as u32,
                columns: n as u32,
                items: 1,
                x_stride: n as u32,
                out_stride: rows as u32,
                slots: 1,
                x_squares: squares,
                eps: 1e-5,
                ..Default::default()
            };
            gpu.run(launch::gemv(dtype, &second, gpu.wave));
            let normed: Vec<f32> = y.iter().zip(&weight).map(|(v, w)| v * w / (mean + 1e-5).sqrt()).collect();
            let expected = next.product(&normed, 0, rows);
            check(&format!("{dtype} after the norm"), &gpu.floats(second.out, rows), &expected, 1.5e-2, 1e-1);
        }
    });
}
