//! Matrix products of every instruction set against sums in f64.

mod common;

use common::{Random, cpus};
use rocmforge_kernels_cpu::{Isa, KernelError, Matrix, Packed, Pool, can_decode, decode};
use rocmforge_quant::DType;

fn check(dtype: DType, rows: usize, cols: usize, n: usize, with_bias: bool) {
    let mut random = Random((rows * 31 + cols * 7 + n) as u64);
    let (bytes, weights) = random.weights(dtype, rows * cols);
    // One byte further on, so that nothing may rely on alignment.
    let mut shifted = vec![0u8];
    shifted.extend(&bytes);
    let x = random.floats(n * cols);
    let bias = with_bias.then(|| random.floats(rows));
    let matrix = Matrix::as_stored(dtype, rows, cols, &shifted[1..]).unwrap();
    let packed = (!Packed::rounds(dtype)).then(|| Packed::new(&Pool::new(2).unwrap(), dtype, [1, rows, cols], &bytes));
    let packed = packed.transpose().unwrap();
    let layouts = || std::iter::once(matrix).chain(packed.iter().map(|p| p.matrix(0).unwrap()));
    for (mut cpu, matrix) in layouts().flat_map(|matrix| cpus(3).into_iter().map(move |cpu| (cpu, matrix))) {
        let mut out = vec![f32::NAN; n * rows];
        cpu.matmul(&matrix, &x, bias.as_deref(), &mut out).unwrap();
        for t in 0..n {
            for r in 0..rows {
                let products = (0..cols).map(|c| f64::from(weights[r * cols + c]) * f64::from(x[t * cols + c]));
                let (sum, size) = products.fold((0.0, 1.0), |(s, m), p| (s + p, m + p.abs()));
                let expected = sum + bias.as_ref().map_or(0.0, |b| f64::from(b[r]));
                let found = f64::from(out[t * rows + r]);
                let place = format!("{dtype} {rows}x{cols} times {n}, {:?}, row {t} column {r}", cpu.isa());
                assert!((found - expected).abs() <= 2e-6 * size, "{place}: found {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn every_type_that_can_be_decoded_multiplies() {
    let types: Vec<DType> = DType::ALL.iter().copied().filter(|&d| can_decode(d)).collect();
    assert!(types.len() >= 30, "{types:?}");
    for dtype in types.into_iter().filter(|d| !matches!(d, DType::I16 | DType::I32 | DType::I64)) {
        let cols = 2 * dtype.layout().block_elements.max(128);
        check(dtype, 5, cols, 1, true);
        check(dtype, 37, cols, 13, false);
    }
}

#[test]
fn odd_sizes_of_plain_types() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (rows, cols, n) in [
            (1, 1, 1),
            (3, 7, 2),
            (17, 33, 3),
            (31, 65, 4),
            (33, 100, 7),
            (65, 31, 8),
            (64, 257, 9),
            (70, 1025, 25),
            (50, 96, 16),
            (48, 2100, 17),
        ] {
            check(dtype, rows, cols, n, rows % 2 == 0);
        }
    }
}

/// Products that round both sides to whole numbers: each is off by at most half a step of its block of 64.
fn check_rounded(dtype: DType, rows: usize, cols: usize, n: usize) {
    let mut random = Random((rows * 31 + cols * 7 + n) as u64);
    let (bytes, weights) = random.weights(dtype, rows * cols);
    let (x, bias) = (random.floats(n * cols), random.floats(rows));
    let packed = Packed::new(&Pool::new(2).unwrap(), dtype, [1, rows, cols], &bytes).unwrap();
    for cpu in cpus(3).into_iter().filter(|cpu| Packed::supports(dtype, cpu.isa())) {
        let (mut cpu, mut out) = (cpu.rounding(true), vec![f32::NAN; n * rows]);
        cpu.matmul(&packed.matrix(0).unwrap(), &x, Some(&bias), &mut out).unwrap();
        for (i, found) in out.iter().enumerate() {
            let (w, x) = (&weights[i % rows * cols..][..cols], &x[i / rows * cols..][..cols]);
            let (mut exact, mut size, mut bound) = (f64::from(bias[i % rows]), 1.0, 0.0);
            for (w, x) in w.chunks(64).zip(x.chunks(64)) {
                let most = |v: &[f32]| f64::from(v.iter().fold(0.0f32, |m, v| m.max(v.abs())));
                for (w, x) in w.iter().zip(x) {
                    exact += f64::from(*w) * f64::from(*x);
                    size += (f64::from(*w) * f64::from(*x)).abs();
                }
                let all = |v: &[f32]| v.iter().map(|v| f64::from(v.abs())).sum::<f64>();
                bound += all(w) * most(x) / 8191.0 / 2.0 + all(x) * most(w) / 4095.0 / 2.0;
            }
            let place = format!("{dtype} {rows}x{cols} times {n}, {:?}, {i}", cpu.isa());
            assert!(
                (f64::from(*found) - exact).abs() <= 1.001 * bound + 2e-6 * size,
                "{place}: {found}, exact {exact}"
            );
        }
    }
}

#[test]
fn weights_of_half_precision_may_be_rounded() {
    for dtype in [DType::F16, DType::BF16] {
        for (rows, cols, n) in [(1, 1, 17), (33, 65, 19), (16, 64, 22), (50, 130, 34), (100, 515, 25), (70, 1100, 80)] {
            check_rounded(dtype, rows, cols, n);
        }
    }
}

#[test]
fn rounding_hides_no_number_that_is_not_finite() {
    let (rows, cols, n) = (16, 96, 20);
    for cpu in cpus(2).into_iter().filter(|cpu| Packed::supports(DType::F16, cpu.isa())) {
        let mut cpu = cpu.rounding(true);
        let mut product = |weight: u16, number: f32| {
            let mut bytes: Vec<u8> = 0x3c00u16.to_le_bytes().repeat(rows * cols);
            bytes[2 * (3 * cols + 5)..][..2].copy_from_slice(&weight.to_le_bytes());
            let packed = Packed::new(&Pool::new(1).unwrap(), DType::F16, [1, rows, cols], &bytes).unwrap();
            let (mut x, mut out) = (vec![0.5; n * cols], vec![0.0; n * rows]);
            x[2 * cols + 70] = number;
            cpu.matmul(&packed.matrix(0).unwrap(), &x, None, &mut out).unwrap();
            out
        };
        for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let out = product(0x3c00, number);
            assert!(out.iter().enumerate().all(|(i, y)| y.is_nan() == (i / rows == 2)), "{number}: {out:?}");
        }
        for weight in [0x7c00, 0xfc00, 0x7e00] {
            let out = product(weight, 0.5);
            assert!(out.iter().enumerate().all(|(i, y)| y.is_nan() == (i % rows == 3)), "{weight:x}: {out:?}");
        }
        let (mut out, packed) = (vec![1.0; n * rows], vec![0; 2 * rows * cols]);
        let packed = Packed::new(&Pool::new(1).unwrap(), DType::F16, [1, rows, cols], &packed).unwrap();
        cpu.matmul(&packed.matrix(0).unwrap(), &vec![f32::MIN_POSITIVE / 8.0; n * cols], None, &mut out).unwrap();
        assert!(out.iter().all(|y| *y == 0.0), "{out:?}");
    }
}

#[test]
fn several_panels_deep_and_wide() {
    check(DType::Q8_0, 100, 2304, 30, true);
    check(DType::Q4_K, 33, 1280, 12, true);
    check(DType::Q5_0, 40, 1312, 11, false);
    check(DType::F32, 129, 2050, 49, true);
}

#[test]
fn many_rows_of_one_block() {
    check(DType::Q8_0, 5000, 32, 1, true);
    check(DType::Q4_0, 3000, 32, 20, true);
}

#[test]
fn native_decoders_agree_with_the_definition() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q4_K, DType::Q5_K]
        .into_iter()
        .chain([DType::Q6_K])
    {
        let n = 3 * dtype.layout().block_elements.max(13);
        let (bytes, expected) = Random(9).weights(dtype, n);
        for isa in Isa::available() {
            let mut found = vec![0.0; n];
            decode(isa, dtype, &bytes, &mut found).unwrap();
            for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
                // A fused multiply-add rounds once where the definition rounds twice, relative to scale times code.
                assert!((f - e).abs() <= 2e-6 * (1.0 + e.abs()), "{dtype} {isa:?} {i}: found {f}, expected {e}");
            }
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_errors() {
    let bytes = [0u8; 34 * 4];
    let mut cpu = cpus(1).remove(0);
    let matrix = Matrix::as_stored(DType::Q8_0, 4, 32, &bytes).unwrap();
    let mismatch = |r: Result<(), KernelError>| assert!(matches!(r, Err(KernelError::Mismatch { .. })), "{r:?}");
    mismatch(cpu.matmul(&matrix, &[0.0; 31], None, &mut [0.0; 4]));
    mismatch(cpu.matmul(&matrix, &[0.0; 32], None, &mut [0.0; 5]));
    mismatch(cpu.matmul(&matrix, &[0.0; 32], Some(&[0.0; 3]), &mut [0.0; 4]));
    mismatch(Matrix::as_stored(DType::Q8_0, 4, 33, &bytes).map(|_| ()));
    mismatch(Matrix::as_stored(DType::Q8_0, 5, 32, &bytes).map(|_| ()));
    mismatch(matrix.decode_row(Isa::scalar(), 4, &mut [0.0; 32]));
    mismatch(cpu.embed(&matrix, &[0, 4], 1.0, &mut [0.0; 64]));
}

#[test]
fn an_instruction_set_that_is_not_here_is_an_error_that_names_the_others() {
    let error = Isa::named("avx1024").unwrap_err().to_string();
    assert!(error.contains("avx1024") && error.contains("scalar"), "{error}");
    assert_eq!(Isa::named("scalar").unwrap().name(), "scalar");
    assert_eq!(Isa::named("auto").unwrap().name(), Isa::detect().name());
}
