//! Rows of prompts, which may be computed in ways of their own.

mod common;

use std::sync::Arc;

use common::{Random, cpus};
use rocmforge_kernels_cpu::{Cpu, Inputs, Isa, Linear, Packed, Pool, can_decode};
use rocmforge_quant::DType;

/// `x Wᵀ + bias + add` in f64, and for each the sums of the magnitudes and of the squares of its products.
fn expected(x: &[f32], w: &[f32], cols: usize, bias: &[f32], add: &[f32]) -> Vec<(f64, f64, f64)> {
    let rows = w.len() / cols;
    let mut out = vec![];
    for (i, x) in x.chunks_exact(cols).enumerate() {
        for (j, w) in w.chunks_exact(cols).enumerate() {
            let products = || x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
            let sum = products().sum::<f64>() + f64::from(bias[j]) + f64::from(add[i * rows + j]);
            out.push((sum, products().map(f64::abs).sum(), products().map(|p| p * p).sum()));
        }
    }
    out
}

fn product(cpu: &mut Cpu, packed: &Packed, x: &[f32], bias: &[f32], add: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; add.len()];
    let linear = Linear { weight: packed.matrix(0).unwrap(), bias: Some(bias), add: Some(add), out: &mut out };
    cpu.linears(Inputs::Values(x, Some(1)), [Some(linear), None, None, None]).unwrap();
    out
}

#[test]
fn products_of_every_type_with_rows_of_prompts_are_near_those_of_f64() {
    let pool = Pool::new(2).unwrap();
    let types: Vec<DType> = DType::ALL.iter().copied().filter(|&dtype| can_decode(dtype)).collect();
    let interleaved = types.into_iter().filter(|&dtype| cpus(1).iter().any(|cpu| Packed::supports(dtype, cpu.isa())));
    for dtype in interleaved {
        // Panels that are not whole, chunks that are not; tiles that are not; 32 columns only if the type has such blocks.
        for (rows, cols, n) in [(37, 1280, 65), (64, 512, 96), (1, 256, 80), (96, 2304, 129)] {
            let mut random = Random(11);
            let (bytes, w) = random.weights(dtype, rows * cols);
            let (x, bias, add) = (random.floats(n * cols), random.floats(rows), random.floats(n * rows));
            let expected = expected(&x, &w, cols, &bias, &add);
            for mut cpu in cpus(3).into_iter().filter(|cpu| Packed::supports(dtype, cpu.isa())) {
                let packed = Packed::new(&pool, dtype, [1, rows, cols], &bytes).unwrap();
                cpu.begin([n].into_iter());
                let found = product(&mut cpu, &packed, &x, &bias, &add);
                // Both sides of a product to 8 bits of significand, or x to a 254th of the largest of 32.
                let most = if format!("{:?}", cpu.isa()) == "amx" { 3.95e-3 } else { 2e-2 };
                let what = format!("{dtype}, {:?}, {rows} x {cols}, {n} rows", cpu.isa());
                let (mut errors, mut squares) = (0.0, 0.0);
                for (i, (&found, &(expected, sum, square))) in found.iter().zip(&expected).enumerate() {
                    let error = f64::from(found) - expected;
                    let bound = most * sum + 1e-5;
                    assert!(error.abs() <= bound, "{what}, element {i}: {found} for {expected}, {bound}");
                    (errors, squares) = (errors + error * error, squares + square);
                }
                // Errors of products are independent of each other: together they are no more than that of one, and a wrong
                // block is tens of times as much.
                let ratio = (errors / squares).sqrt();
                assert!(ratio <= most, "{what}: {ratio:.2e} of the products");
            }
        }
    }
}

#[test]
fn rows_that_are_no_prompts_are_the_same_bits_beside_these() {
    let (rows, cols) = (70, 768);
    for dtype in [DType::Q4_0, DType::Q6_K, DType::Q5_1] {
        let mut random = Random(3);
        let (bytes, _) = random.weights(dtype, rows * cols);
        let lengths = [1, 2, 100, 70, 64, 3];
        let n = lengths.iter().sum::<usize>();
        let (x, bias, add) = (random.floats(n * cols), random.floats(rows), random.floats(n * rows));
        for mut cpu in cpus(3).into_iter().filter(|cpu| Packed::supports(dtype, cpu.isa())) {
            let packed = Packed::new(&Pool::new(2).unwrap(), dtype, [1, rows, cols], &bytes).unwrap();
            cpu.begin(lengths.into_iter());
            let all = product(&mut cpu, &packed, &x, &bias, &add);
            let mut start = 0;
            for length in lengths {
                let (of_x, of_out) = (start * cols..(start + length) * cols, start * rows..(start + length) * rows);
                cpu.begin([length].into_iter());
                let alone = product(&mut cpu, &packed, &x[of_x], &bias, &add[of_out.clone()]);
                assert!(all[of_out] == alone, "{dtype}, {:?}: sequence of {length}", cpu.isa());
                start += length;
            }
        }
    }
}

#[test]
fn what_is_no_number_stays_in_its_row() {
    let (rows, cols, n) = (40, 512, 70);
    let mut random = Random(4);
    let (bytes, _) = random.weights(DType::Q8_0, rows * cols);
    let mut x = random.floats(n * cols);
    (x[5 * cols + 7], x[20 * cols]) = (f32::NAN, f32::INFINITY);
    let pool = Arc::new(Pool::new(2).unwrap());
    let packed = Packed::new(&pool, DType::Q8_0, [1, rows, cols], &bytes).unwrap();
    for isa in Isa::available().into_iter().filter(|&isa| Packed::supports(DType::Q8_0, isa)) {
        let mut cpu = Cpu::new(Arc::clone(&pool), isa);
        cpu.begin([n].into_iter());
        let found = product(&mut cpu, &packed, &x, &vec![0.0; rows], &vec![0.0; n * rows]);
        for (row, found) in found.chunks_exact(rows).enumerate() {
            let bad = found.iter().filter(|y| !y.is_finite()).count();
            assert_eq!(bad, if [5, 20].contains(&row) { rows } else { 0 }, "{isa:?}, row {row}");
        }
    }
}
