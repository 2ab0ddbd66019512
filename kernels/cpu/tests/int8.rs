//! Products of interleaved weights with activations in 8 bits, of every instruction set, against their definition.

mod common;

use common::{Random, cpus};
use rocmforge_kernels_cpu::{Isa, KernelError, Packed, Pool};
use rocmforge_quant::DType;

/// Scale and codes of 32 activations.
fn quantize(x: &[f32]) -> (f32, Vec<f32>) {
    let largest = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let inverse = if largest < 1e-30 { 0.0 } else { 127.0 / largest };
    (largest / 127.0, x.iter().map(|x| (x * inverse).round_ties_even()).collect())
}

/// Sum over blocks of weights times rounded activations, and the sum of the magnitudes that are added.
fn definition(weights: &[f32], x: &[f32]) -> (f64, f64) {
    let (mut sum, mut size) = (0.0, 0.0);
    for (w, x) in weights.chunks(32).zip(x.chunks(32)) {
        let (scale, codes) = quantize(x);
        for (w, code) in w.iter().zip(codes) {
            let product = f64::from(*w) * f64::from(scale) * f64::from(code);
            sum += product;
            size += product.abs();
        }
    }
    (sum, size)
}

fn packed(dtype: DType, dims: [usize; 3], bytes: &[u8]) -> Packed<'static> {
    Packed::new(&Pool::new(2).unwrap(), dtype, dims, bytes).unwrap()
}

fn types() -> Vec<DType> {
    DType::ALL.iter().copied().filter(|&d| Packed::rounds(d) && Packed::bytes(d, [1, 16, 256]).is_some()).collect()
}

fn check(dtype: DType, rows: usize, cols: usize, n: usize, with_bias: bool) {
    let mut random = Random((rows * 31 + cols * 7 + n) as u64);
    let (bytes, weights) = random.weights(dtype, rows * cols);
    let x: Vec<f32> = random.floats(n * cols);
    let bias = with_bias.then(|| random.floats(rows));
    let packed = packed(dtype, [1, rows, cols], &bytes);
    // Code times minimum and scale may be much larger than the weight that is left.
    let largest = f64::from(weights.iter().fold(0.0f32, |m, w| m.max(w.abs())));
    for mut cpu in cpus(3).into_iter().filter(|cpu| Packed::supports(dtype, cpu.isa())) {
        let mut out = vec![f32::NAN; n * rows];
        cpu.matmul(&packed.matrix(0).unwrap(), &x, bias.as_deref(), &mut out).unwrap();
        for t in 0..n {
            let x = &x[t * cols..(t + 1) * cols];
            let norm = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
            for r in 0..rows {
                let w = &weights[r * cols..(r + 1) * cols];
                let (sum, size) = definition(w, x);
                let bias = bias.as_ref().map_or(0.0, |b| f64::from(b[r]));
                let found = f64::from(out[t * rows + r]);
                let place = format!("{dtype} {rows}x{cols} times {n}, {:?}, row {t} column {r}", cpu.isa());
                let rounding = 2e-6 * (1.0 + size + largest * norm);
                assert!((found - sum - bias).abs() <= rounding, "{place}: found {found}, expected {}", sum + bias);
                // Each activation is off by at most half a step, 1/254 of the largest of its block.
                let exact: f64 = w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
                let steps = w.chunks(32).zip(x.chunks(32)).map(|(w, x)| {
                    let most = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                    w.iter().map(|w| f64::from(w.abs())).sum::<f64>() * f64::from(most) / 254.0
                });
                let bound = steps.sum::<f64>() * 1.0001 + rounding;
                assert!((found - exact - bias).abs() <= bound, "{place}: found {found}, exact {}", exact + bias);
            }
        }
    }
}

#[test]
fn every_interleaved_type_multiplies_as_defined() {
    let types = types();
    assert!(types.len() >= 24, "{types:?}");
    for dtype in types {
        check(dtype, 16, dtype.layout().block_elements, 1, false);
        check(dtype, 37, 512, 1, true);
        check(dtype, 5, 256, 2, true);
        check(dtype, 50, 768, 29, true);
    }
}

#[test]
fn rows_and_tiles_of_every_number() {
    for n in 1..=19 {
        check(DType::Q8_0, 17, 96, n, n % 2 == 0);
        check(DType::Q4_K, 33, 256, n, n % 3 == 0);
    }
    for rows in 1..=33 {
        check(DType::Q4_0, rows, 64, 3, true);
    }
    check(DType::Q8_0, 3000, 32, 1, true);
    check(DType::Q6_K, 700, 2304, 9, false);
    // More rows of x than one pass takes, in several chunks of columns.
    check(DType::Q8_0, 100, 1056, 70, true);
    check(DType::Q4_0, 20, 1088, 583, true);
}

#[test]
fn integers_are_exact() {
    // Scales of one and activations of -127..=127: every product and sum is an integer that f32 holds.
    let (rows, cols) = (48, 256);
    let mut random = Random(3);
    let mut bytes = vec![];
    let mut codes = vec![];
    for _ in 0..rows * cols / 32 {
        bytes.extend(half_one());
        for _ in 0..32 {
            let code = (random.next() & 0xff) as u8;
            bytes.push(code);
            codes.push(i64::from(code as i8));
        }
    }
    let packed = packed(DType::Q8_0, [1, rows, cols], &bytes);
    for n in [1, 2, 4, 8, 13] {
        let mut x: Vec<f32> = (0..n * cols).map(|_| random.below(255) as f32 - 127.0).collect();
        x.chunks_mut(32).for_each(|block| block[5] = 127.0);
        for mut cpu in cpus(2).into_iter().filter(|cpu| Packed::supports(DType::Q8_0, cpu.isa())) {
            let mut out = vec![f32::NAN; n * rows];
            cpu.matmul(&packed.matrix(0).unwrap(), &x, None, &mut out).unwrap();
            for (i, found) in out.into_iter().enumerate() {
                let (t, r) = (i / rows, i % rows);
                let expected: i64 = (0..cols).map(|c| codes[r * cols + c] * x[t * cols + c] as i64).sum();
                assert_eq!(found, expected as f32, "{:?}, {n} rows, row {t} column {r}", cpu.isa());
            }
        }
    }
}

fn half_one() -> [u8; 2] {
    0x3c00u16.to_le_bytes()
}

#[test]
fn instruction_sets_agree_to_the_bit() {
    for dtype in types() {
        let (bytes, _) = Random(8).weights(dtype, 40 * 512);
        let packed = packed(dtype, [1, 40, 512], &bytes);
        let x = Random(4).floats(11 * 512);
        let results = cpus(2).into_iter().filter(|cpu| Packed::supports(dtype, cpu.isa())).map(|mut cpu| {
            let mut out = vec![f32::NAN; 11 * 40];
            cpu.matmul(&packed.matrix(0).unwrap(), &x, None, &mut out).unwrap();
            out
        });
        let results: Vec<_> = results.collect();
        assert!(results.windows(2).all(|w| w[0] == w[1]), "{dtype}");
    }
}

#[test]
fn numbers_that_are_not_finite_are_not_hidden() {
    let (bytes, _) = Random(1).weights(DType::Q8_0, 16 * 64);
    let packed = packed(DType::Q8_0, [1, 16, 64], &bytes);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for mut cpu in cpus(1).into_iter().filter(|cpu| Packed::supports(DType::Q8_0, cpu.isa())) {
            let mut x = vec![0.5; 2 * 64];
            x[70] = bad;
            let mut out = vec![0.0; 2 * 16];
            cpu.matmul(&packed.matrix(0).unwrap(), &x, None, &mut out).unwrap();
            assert!(out[..16].iter().all(|y| y.is_finite()), "{bad}");
            assert!(out[16..].iter().all(|y| y.is_nan()), "{bad}");
        }
    }
    for mut cpu in cpus(1).into_iter().filter(|cpu| Packed::supports(DType::Q8_0, cpu.isa())) {
        let mut out = vec![1.0; 16];
        cpu.matmul(&packed.matrix(0).unwrap(), &[f32::MIN_POSITIVE / 8.0; 64], None, &mut out).unwrap();
        assert!(out.iter().all(|y| *y == 0.0), "{out:?}");
    }
}

#[test]
fn matrices_of_a_stack_are_found() {
    let dims = [3, 20, 256];
    let (bytes, weights) = Random(2).weights(DType::Q5_K, 3 * 20 * 256);
    let packed = packed(DType::Q5_K, dims, &bytes);
    let x = Random(5).floats(256);
    for mut cpu in cpus(1).into_iter().filter(|cpu| Packed::supports(DType::Q5_K, cpu.isa())) {
        for index in 0..3 {
            let mut out = vec![0.0; 20];
            cpu.matmul(&packed.matrix(index).unwrap(), &x, None, &mut out).unwrap();
            for (r, found) in out.iter().enumerate() {
                let row = (index * 20 + r) * 256;
                let (sum, size) = definition(&weights[row..row + 256], &x);
                assert!((f64::from(*found) - sum).abs() <= 1e-5 * (1.0 + size), "{index} {r}: {found}, {sum}");
            }
        }
    }
    assert!(matches!(packed.matrix(3), Err(KernelError::Mismatch { .. })));
}

#[test]
fn sizes_and_types_that_do_not_fit_are_errors() {
    let pool = Pool::new(1).unwrap();
    let mismatch = |dims, len| {
        let found = Packed::new(&pool, DType::Q8_0, dims, &vec![0; len]);
        assert!(matches!(found, Err(KernelError::Mismatch { .. })), "{dims:?} {len}");
    };
    mismatch([1, 4, 33], 136);
    mismatch([1, 5, 32], 136);
    mismatch([usize::MAX, 5, 32], 136);
    assert_eq!(Packed::bytes(DType::Q8_0, [usize::MAX, usize::MAX, 32]), None);
    let found = Packed::new(&pool, DType::F32, [1, 1, 32], &[0; 128]);
    assert!(matches!(found, Err(KernelError::Weights { .. })));
    let interleaved = packed(DType::Q8_0, [1, 4, 32], &[0; 136]);
    let found = interleaved.matrix(0).unwrap().decode_row(Isa::scalar(), 0, &mut [0.0; 32]);
    assert!(matches!(found, Err(KernelError::Mismatch { .. })));
    let mut scalar = cpus(1).remove(0);
    let found = scalar.matmul(&interleaved.matrix(0).unwrap(), &[0.0; 32], None, &mut [0.0; 4]);
    assert!(matches!(found, Err(KernelError::Weights { .. })));
    assert!(!Packed::supports(DType::Q8_0, Isa::scalar()));
}

#[test]
fn the_largest_codes_do_not_overflow() {
    let one = half_one();
    let check = |dtype: DType, block: Vec<u8>| {
        let cols = 2 * block.len() / dtype.layout().block_bytes * dtype.layout().block_elements;
        let bytes = block.repeat(2 * 16);
        let mut row = vec![0.0; cols];
        rocmforge_quant::dequantize(dtype, &block.repeat(2), &mut row).unwrap();
        let packed = packed(dtype, [1, 16, cols], &bytes);
        for x in [127.0f32, -127.0] {
            let expected: f32 = row.iter().map(|w| w * x).sum();
            for mut cpu in cpus(1).into_iter().filter(|cpu| Packed::supports(dtype, cpu.isa())) {
                let mut out = vec![0.0; 5 * 16];
                cpu.matmul(&packed.matrix(0).unwrap(), &vec![x; 5 * cols], None, &mut out).unwrap();
                assert!(out.iter().all(|y| *y == expected), "{dtype} {:?}: {out:?}, expected {expected}", cpu.isa());
            }
        }
    };
    let block = |parts: &[(u8, usize)], at: usize, scales: usize| {
        let mut bytes: Vec<u8> = parts.iter().flat_map(|&(byte, n)| vec![byte; n]).collect();
        (0..scales).for_each(|i| bytes[at + 2 * i..at + 2 * i + 2].copy_from_slice(&one));
        bytes
    };
    check(DType::Q8_0, block(&[(0x80, 34)], 0, 1));
    check(DType::Q8_0, block(&[(0x7f, 34)], 0, 1));
    check(DType::Q4_0, block(&[(0xff, 18)], 0, 1));
    check(DType::Q5_0, block(&[(0xff, 22)], 0, 1));
    check(DType::Q5_1, block(&[(0xff, 24)], 0, 2));
    check(DType::Q5_K, block(&[(0, 4), (1, 12), (0xff, 160)], 0, 2));
    check(DType::Q6_K, block(&[(0xff, 192), (1, 18)], 208, 1));
    check(DType::IQ4_NL, block(&[(0xff, 18)], 0, 1));
    check(DType::IQ4_NL, block(&[(0x00, 18)], 0, 1));
}
