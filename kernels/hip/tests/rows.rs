//! Norms, activations and what else works on rows, against plain formulas.

mod common;

use common::{Random, check, on_both_waves};
use rocmforge_kernels_hip::*;

fn rms(x: &[f64], eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    x.iter().map(|v| v / (mean + eps).sqrt()).collect()
}

fn layer(x: &[f64], eps: f64) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    x.iter().map(|v| (v - mean) / (variance + eps).sqrt()).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|v| f64::from(*v)).collect()
}

#[test]
fn norms_add_first_and_quantise_last() {
    on_both_waves("norms_add_first_and_quantise_last", &["norm"], |gpu| {
        let mut random = Random::new(1);
        // The last row is too long to stay in registers.
        for (n, rows) in [(8usize, 3usize), (50, 3), (96, 2), (4096, 2), (16_416, 2)] {
            for norm in [0u32, 1, 2] {
                let (x, addend) = (random.normals(rows * (n + 4)), random.normals(rows * n));
                let (weight, bias) = (random.normals(n), random.normals(n));
                let (out, sum) = (gpu.room(rows * n * 4), gpu.upload(&addend));
                let (codes, scales) = (gpu.room(rows * n), gpu.room(rows * n.div_ceil(32) * 8));
                let (half, powers) = (gpu.room(rows * n * 2), gpu.room(rows * 4));
                let whole = n.is_multiple_of(32);
                let args = RfNormArgs {
                    x: gpu.upload(&x),
                    addend: sum,
                    sum,
                    weight: gpu.upload(&weight),
                    bias: gpu.upload(&bias),
                    out,
                    codes: if whole { codes } else { 0 },
                    scales,
                    half,
                    powers,
                    rows: rows as u32,
                    n: n as u32,
                    x_stride: n as u32 + 4,
                    addend_stride: n as u32,
                    out_stride: n as u32,
                    heads: 1,
                    norm,
                    eps: 1e-5,
                    scale: 0.5,
                    reserved: 0,
                };
                gpu.run(launch::norm(&args, gpu.wave));
                let (mut expected, mut sums) = (vec![], vec![]);
                for r in 0..rows {
                    let x = &x[r * (n + 4)..][..n];
                    let row: Vec<f64> = x.iter().zip(&addend[r * n..]).map(|(a, b)| f64::from(a + b)).collect();
                    let normed = match norm {
                        0 => row.clone(),
                        1 => rms(&row, 1e-5),
                        _ => layer(&row, 1e-5),
                    };
                    sums.extend(row);
                    let shaped = |(i, y): (usize, f64)| (y * f64::from(weight[i]) + f64::from(bias[i])) * 0.5;
                    expected.extend(normed.into_iter().enumerate().map(shaped));
                }
                let what = format!("norm {norm} of {n}");
                check(&what, &gpu.floats(out, rows * n), &expected, 1e-6, 1e-5);
                check(&what, &gpu.floats(sum, rows * n), &sums, 1e-7, 1e-6);
                let (powers, half) = (gpu.floats(powers, rows), gpu.download::<u16>(half, rows * n));
                let halves: Vec<f32> =
                    half.iter().enumerate().map(|(i, h)| half::f16::from_bits(*h).to_f32() * powers[i / n]).collect();
                check(&what, &halves, &expected, 4e-4, 4e-3);
                if whole {
                    let (codes, scales) =
                        (gpu.download::<i8>(codes, rows * n), gpu.download::<u64>(scales, rows * n / 32));
                    let coded: Vec<f32> = codes
                        .iter()
                        .enumerate()
                        .map(|(i, q)| f32::from(*q) * f32::from_bits(scales[i / 32] as u32))
                        .collect();
                    check(&what, &coded, &expected, 1e-2, 5e-2);
                }
            }
        }
    });
}

#[test]
fn norms_per_head_leave_the_other_columns_alone() {
    on_both_waves("norms_per_head_leave_the_other_columns_alone", &["norm"], |gpu| {
        let mut random = Random::new(2);
        let (tokens, heads, d, stride) = (3usize, 4usize, 24usize, 130usize);
        let x = random.normals(tokens * stride);
        let at = gpu.upload(&x);
        let args = RfNormArgs {
            x: at,
            out: at,
            rows: (tokens * heads) as u32,
            n: d as u32,
            x_stride: stride as u32,
            out_stride: stride as u32,
            heads: heads as u32,
            norm: 1,
            eps: 1e-6,
            scale: 1.0,
            ..Default::default()
        };
        gpu.run(launch::norm(&args, gpu.wave));
        let mut expected = wide(&x);
        for t in 0..tokens {
            for h in 0..heads {
                let row = &mut expected[t * stride + h * d..][..d];
                let normed = rms(row, 1e-6);
                row.copy_from_slice(&normed);
            }
        }
        check("heads", &gpu.floats(at, x.len()), &expected, 1e-6, 1e-5);
    });
}

#[test]
fn values_that_f16_cannot_hold_keep_their_row_finite() {
    on_both_waves("values_that_f16_cannot_hold_keep_their_row_finite", &["norm"], |gpu| {
        let x = [1e6f32, -3.0, 250_000.0, 0.0, 1e-3, 7.0, -1e6, 2.0];
        let (half, powers) = (gpu.room(16), gpu.room(4));
        let args = RfNormArgs {
            x: gpu.upload(&x),
            half,
            powers,
            rows: 1,
            n: 8,
            x_stride: 8,
            heads: 1,
            scale: 1.0,
            ..Default::default()
        };
        gpu.run(launch::norm(&args, gpu.wave));
        let power = gpu.floats(powers, 1)[0];
        let found: Vec<f32> =
            gpu.download::<u16>(half, 8).iter().map(|h| half::f16::from_bits(*h).to_f32() * power).collect();
        check("large", &found, &wide(&x), 1e-3, 1e-3);
    });
}

fn activation(kind: u32, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match kind {
        0 => x * sigmoid(x),
        1 => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
        2 => 0.5 * x * (1.0 + erf(x / 2.0f64.sqrt())),
        3 => x * sigmoid(1.702 * x),
        4 => x.max(0.0),
        5 => x.max(0.0) * x.max(0.0),
        6 => sigmoid(x),
        7 => x.tanh(),
        8 => 30.0 * (x / 30.0).tanh(),
        9 => x * 30.0 + 0.25,
        _ => x,
    }
}

/// The Maclaurin series near 0, where its terms do not cancel, and beyond the continued fraction of erfc.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a > 2.5 {
        let fraction = (1..80).rev().fold(0.0, |f, k| f64::from(k) / 2.0 / (a + f));
        return x.signum() * (1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / (a + fraction));
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn activations_follow_their_formulas() {
    on_both_waves("activations_follow_their_formulas", &["elementwise", "gated"], |gpu| {
        let mut random = Random::new(3);
        let mut x: Vec<f32> = (0..600).map(|i| (i as f32 - 300.0) / 30.0).collect();
        x.extend([0.0, -0.0, 1e-8, -1e-8, 90.0, -90.0, 1e4, -1e4]);
        let up = random.normals(x.len());
        let n = x.len() as u32;
        for kind in 0..11 {
            let out = gpu.room(x.len() * 4);
            let args = RfUnaryArgs {
                x: gpu.upload(&x),
                out,
                rows: 1,
                n,
                x_stride: n,
                out_stride: n,
                kind,
                a: 30.0,
                b: 0.25,
                reserved: 0,
            };
            gpu.run(launch::unary(&args, gpu.wave));
            let found = gpu.floats(out, x.len());
            for (x, y) in x.iter().zip(&found) {
                let expected = activation(kind, f64::from(*x));
                let error = (f64::from(*y) - expected).abs();
                // Far below zero the result is half of x times what rounding erf or tanh, and one more of them, leaves.
                let rounding = f64::from(f32::EPSILON) * f64::from(x.abs().min(10.0)) / 2.0;
                assert!(
                    error <= 2e-6 * expected.abs().max(0.05) + rounding,
                    "kind {kind} at {x}: expected {expected}, found {y}"
                );
            }
            if kind < 8 {
                let args = RfGatedArgs {
                    gate: gpu.upload(&x),
                    up: gpu.upload(&up),
                    out,
                    rows: 1,
                    n,
                    gate_stride: n,
                    up_stride: n,
                    out_stride: n,
                    kind,
                    ..Default::default()
                };
                gpu.run(launch::gated(&args, gpu.wave));
                let expected: Vec<f64> =
                    x.iter().zip(&up).map(|(x, u)| activation(kind, f64::from(*x)) * f64::from(*u)).collect();
                check(&format!("gated {kind}"), &gpu.floats(out, x.len()), &expected, 1e-5, 1e-4);
            }
        }
    });
}

#[test]
fn elements_rows_and_columns() {
    on_both_waves("elements_rows_and_columns", &["elementwise"], |gpu| {
        let mut random = Random::new(4);
        let (rows, n) = (5usize, 300usize);
        let (a, b) = (random.normals(rows * n), random.normals(rows * n));
        let out = gpu.room(rows * n * 4);
        let binary = |op: u32, broadcast: u32| {
            let args = RfBinaryArgs {
                a: gpu.upload(&a),
                b: gpu.upload(&b),
                out,
                rows: rows as u32,
                n: n as u32,
                a_stride: n as u32,
                b_stride: if broadcast == 1 { 1 } else { n as u32 },
                out_stride: n as u32,
                op,
                broadcast,
                reserved: 0,
            };
            gpu.run(launch::binary(&args, gpu.wave));
            gpu.floats(out, rows * n)
        };
        for (op, f) in [(0u32, (|a, b| a + b) as fn(f32, f32) -> f32), (1, |a, b| a - b), (2, |a, b| a * b)] {
            let same: Vec<f32> = a.iter().zip(&b).map(|(a, b)| f(*a, *b)).collect();
            assert_eq!(binary(op, 0), same, "op {op}");
            let wide: Vec<f32> = a.iter().enumerate().map(|(i, a)| f(*a, b[i / n])).collect();
            assert_eq!(binary(op, 1), wide, "op {op} with one column");
        }
        // Columns 10..40 of rows 3, 0, 3.
        let index = [3u32, 0, 3];
        let args = RfCopyArgs {
            x: gpu.upload(&a) + 40,
            index: gpu.upload(&index),
            out,
            rows: 3,
            n: 30,
            x_stride: n as u32,
            out_stride: 30,
        };
        gpu.run(launch::copy(&args, gpu.wave));
        let expected: Vec<f32> = index.iter().flat_map(|r| a[*r as usize * n + 10..][..30].to_vec()).collect();
        assert_eq!(gpu.floats(out, 90), expected);

        let positions = [0u32, 5, 8191, 8192, 131_071];
        let args = RfPositionScaleArgs {
            x: gpu.upload(&a),
            positions: gpu.upload(&positions),
            out,
            rows: rows as u32,
            n: n as u32,
            x_stride: n as u32,
            out_stride: n as u32,
            beta: 0.1,
            interval: 8192,
        };
        gpu.run(launch::position_scale(&args, gpu.wave));
        let factor = |p: u32| 1.0 + 0.1 * f64::from(1 + p / 8192).ln();
        let expected: Vec<f64> = a.iter().enumerate().map(|(i, a)| f64::from(*a) * factor(positions[i / n])).collect();
        check("position scale", &gpu.floats(out, rows * n), &expected, 1e-6, 1e-5);
    });
}

#[test]
fn pools_of_each_sequence() {
    on_both_waves("pools_of_each_sequence", &["elementwise"], |gpu| {
        let mut random = Random::new(5);
        let (n, start) = (40usize, [0u32, 1, 6, 6, 9]);
        let x = random.normals(9 * n);
        for kind in [0u32, 1] {
            let out = gpu.room(4 * n * 4);
            let args = RfPoolArgs {
                x: gpu.upload(&x),
                query_start: gpu.upload(&start),
                out,
                sequences: 4,
                n: n as u32,
                x_stride: n as u32,
                kind,
            };
            gpu.run(launch::pool(&args, gpu.wave));
            let pooled = |s: usize, c: usize| -> f64 {
                let rows = start[s] as usize..start[s + 1] as usize;
                match (rows.len(), kind) {
                    (0, _) => 0.0,
                    (_, 1) => f64::from(x[(rows.end - 1) * n + c]),
                    (len, _) => rows.map(|r| f64::from(x[r * n + c])).sum::<f64>() / len as f64,
                }
            };
            let expected: Vec<f64> =
                (0..4).flat_map(|s| (0..n).map(move |c| (s, c))).map(|(s, c)| pooled(s, c)).collect();
            check(&format!("kind {kind}"), &gpu.floats(out, 4 * n), &expected, 1e-6, 1e-5);
        }
    });
}
