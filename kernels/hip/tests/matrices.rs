//! Matrices of every format: the planes, rows of a table, and products, against `rocmforge_quant` and plain sums.

mod common;

use common::{Gpu, Random, check, on_both_waves};
use half::{bf16, f16};
use rocmforge_kernels_hip::*;
use rocmforge_quant::{DType, dequantize};

const FORMATS: &[DType] = &[
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q2_K,
    DType::Q3_K,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::IQ4_NL,
    DType::IQ4_XS,
    DType::MXFP4,
    DType::Q8_1,
    DType::Q8_K,
    DType::IQ1_S,
    DType::IQ1_M,
    DType::IQ2_XXS,
    DType::IQ2_XS,
    DType::IQ2_S,
    DType::IQ3_XXS,
    DType::IQ3_S,
    DType::TQ1_0,
    DType::TQ2_0,
    DType::NVFP4,
    DType::Q1_0,
    DType::Q2_0,
];

/// Random blocks: any codes, scales of a sensible size.
fn weights(dtype: DType, elements: usize, random: &mut Random) -> Vec<u8> {
    match dtype {
        DType::F32 => (0..elements).flat_map(|_| random.normal().to_le_bytes()).collect(),
        DType::F16 => (0..elements).flat_map(|_| f16::from_f32(random.normal()).to_le_bytes()).collect(),
        DType::BF16 => (0..elements).flat_map(|_| bf16::from_f32(random.normal()).to_le_bytes()).collect(),
        _ => {
            let layout = dtype.layout();
            let halves: &[usize] = match dtype {
                DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
                DType::Q2_K => &[80, 82],
                DType::Q3_K => &[108],
                DType::Q6_K => &[208],
                DType::MXFP4 | DType::NVFP4 | DType::IQ1_M | DType::Q8_K => &[],
                DType::TQ1_0 => &[52],
                DType::TQ2_0 => &[64],
                _ => &[0],
            };
            let mut bytes = Vec::new();
            for _ in 0..elements / layout.block_elements {
                let mut block: Vec<u8> = (0..layout.block_bytes).map(|_| random.bits() as u8).collect();
                for &at in halves {
                    let scale = f16::from_f32(0.002 + 0.01 * random.uniform() as f32);
                    block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                }
                match dtype {
                    DType::MXFP4 => block[0] = 120 + random.below(4) as u8,
                    // Exponents of -1 and 0.
                    DType::NVFP4 => block[..4].iter_mut().for_each(|scale| *scale = 0x30 | (*scale & 15)),
                    // The f16 scale in the highest four bits of each of four words: 0x2000 and more is 2^-7 and more.
                    DType::IQ1_M => [0, 3, 9, 2].iter().enumerate().for_each(|(i, bits)| {
                        let high = &mut block[49 + 2 * i];
                        *high = (*high & 15) | (bits << 4);
                    }),
                    DType::Q8_K => block[..4].copy_from_slice(&(0.002 + 0.01 * random.uniform() as f32).to_le_bytes()),
                    _ => {}
                }
                bytes.extend(block);
            }
            bytes
        }
    }
}

/// A matrix on the device and its values.
struct Matrix {
    dtype: DType,
    planes: RfPlanes,
    values: Vec<f32>,
    columns: usize,
}

impl Matrix {
    fn new(gpu: &Gpu, dtype: DType, rows: usize, columns: usize, random: &mut Random) -> Matrix {
        let bytes = weights(dtype, rows * columns, random);
        let mut values = vec![0.0; rows * columns];
        dequantize(dtype, &bytes, &mut values).unwrap();
        let planes = gpu.planes(dtype, &bytes, rows * columns).planes;
        Matrix { dtype, planes, values, columns }
    }

    fn product(&self, x: &[f32], first_row: usize, rows: usize) -> Vec<f64> {
        let row = |r: usize| &self.values[r * self.columns..(r + 1) * self.columns];
        let dot = |w: &[f32]| w.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        (first_row..first_row + rows).map(|r| dot(row(r))).collect()
    }

    /// What a product of this format with 8-bit activations may be off by.
    fn tolerance(&self) -> (f64, f64) {
        match self.dtype {
            DType::F32 | DType::F16 | DType::BF16 => (1e-5, 1e-4),
            _ => (1.5e-2, 1e-1),
        }
    }

    fn is_plain(&self) -> bool {
        matches!(self.dtype, DType::F32 | DType::F16 | DType::BF16)
    }
}

/// Activations in every form.
struct Activations {
    x: Vec<f32>,
    f32: u64,
    codes: u64,
    scales: u64,
    half: u64,
    powers: u64,
}

impl Activations {
    fn new(gpu: &Gpu, rows: usize, n: usize, random: &mut Random) -> Activations {
        let x = random.normals(rows * n);
        let (f32, codes, scales) = (gpu.upload(&x), gpu.room(rows * n), gpu.room(rows * n.div_ceil(32) * 8));
        let (half, powers) = (gpu.room(rows * n * 2), gpu.room(rows * 4));
        let mut args = RfNormArgs {
            x: f32,
            half,
            powers,
            rows: rows as u32,
            n: n as u32,
            x_stride: n as u32,
            heads: 1,
            scale: 1.0,
            ..Default::default()
        };
        if n.is_multiple_of(32) {
            (args.codes, args.scales) = (codes, scales);
        }
        gpu.run(launch::norm(&args, gpu.wave));
        Activations { x, f32, codes, scales, half, powers }
    }
}

#[test]
fn rows_of_a_table_are_those_of_the_formats_definition() {
    on_both_waves("rows_of_a_table_are_those_of_the_formats_definition", &["embed", "repack"], |gpu| {
        let mut random = Random::new(1);
        for &dtype in FORMATS {
            let (rows, columns) = (11, 768);
            let table = Matrix::new(gpu, dtype, rows, columns, &mut random);
            let ids = [3u32, 0, 10, 3, 11];
            let (out, fault) = (gpu.room(ids.len() * columns * 4), gpu.upload(&[0u32]));
            let mut args = RfEmbedArgs {
                table: table.planes,
                ids: gpu.upload(&ids),
                out,
                fault,
                format: dtype as u32,
                rows: rows as u32,
                columns: columns as u32,
                tokens: 4,
                scale: 1.0,
                reserved: 0,
            };
            gpu.run(launch::embed(&args, gpu.wave));
            let found = gpu.floats(out, 4 * columns);
            for (t, &id) in ids[..4].iter().enumerate() {
                let expected = &table.values[id as usize * columns..][..columns];
                assert_eq!(&found[t * columns..][..columns], expected, "{dtype} row {id}");
            }
            assert_eq!(gpu.download::<u32>(fault, 1), [0], "{dtype}");
            args.tokens = 5;
            args.scale = 2.5;
            gpu.run(launch::embed(&args, gpu.wave));
            let found = gpu.floats(out, 5 * columns);
            let expected: Vec<f64> =
                table.values[3 * columns..][..columns].iter().map(|v| f64::from(v * 2.5)).collect();
            check(&format!("{dtype} scaled"), &found[..columns], &expected, 1e-6, 1e-5);
            assert!(found[4 * columns..].iter().all(|v| *v == 0.0), "{dtype}: a row outside of the table is 0");
            assert_eq!(gpu.download::<u32>(fault, 1), [1], "{dtype}: and is reported");
        }
    });
}

#[test]
fn products_with_one_and_a_few_vectors() {
    let sources = ["gemv_plain", "gemv_legacy", "gemv_k", "norm", "repack", "linear"];
    on_both_waves("products_with_one_and_a_few_vectors", &sources, |gpu| {
        let mut random = Random::new(2);
        for &dtype in FORMATS {
            let (rows, columns) = (37, 768);
            let m = Matrix::new(gpu, dtype, rows, columns, &mut random);
            let a = Activations::new(gpu, 6, columns, &mut random);
            let (bias, residual) = (random.normals(rows), random.normals(6 * rows));
            for items in [1usize, 3, 6] {
                let out = gpu.upload(&residual[..items * rows]);
                let expected: Vec<f64> = (0..items)
                    .flat_map(|i| {
                        let y = m.product(&a.x[i * columns..][..columns], 0, rows);
                        let more = |(r, y): (usize, f64)| y + f64::from(bias[r]) + f64::from(residual[i * rows + r]);
                        y.into_iter().enumerate().map(more).collect::<Vec<_>>()
                    })
                    .collect();
                let args = RfGemvArgs {
                    weight: m.planes,
                    x: if m.is_plain() { a.f32 } else { a.codes },
                    scales: a.scales,
                    out,
                    bias: gpu.upload(&bias),
                    residual: out,
                    rows: rows as u32,
                    columns: columns as u32,
                    items: items as u32,
                    x_stride: columns as u32,
                    out_stride: rows as u32,
                    residual_stride: rows as u32,
                    slots: 1,
                    ..Default::default()
                };
                gpu.run(launch::gemv(dtype, &args, gpu.wave));
                let (rms, largest) = m.tolerance();
                check(&format!("{dtype} x {items}"), &gpu.floats(out, items * rows), &expected, rms, largest);
            }
            let out = gpu.room(2 * rows * 4);
            let args = RfLinearArgs {
                weight: m.planes,
                x: a.f32,
                out,
                format: dtype as u32,
                rows: rows as u32,
                columns: columns as u32,
                items: 2,
                x_stride: columns as u32,
                out_stride: rows as u32,
                slots: 1,
                ..Default::default()
            };
            gpu.run(launch::linear(&args, gpu.wave));
            let expected: Vec<f64> = (0..2).flat_map(|i| m.product(&a.x[i * columns..][..columns], 0, rows)).collect();
            check(&format!("{dtype} exactly"), &gpu.floats(out, 2 * rows), &expected, 1e-5, 1e-4);
        }
    });
}

#[test]
fn plain_rows_of_any_length() {
    on_both_waves("plain_rows_of_any_length", &["gemv_plain", "norm", "repack"], |gpu| {
        let mut random = Random::new(3);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for columns in [1usize, 7, 50, 130] {
                let m = Matrix::new(gpu, dtype, 5, columns, &mut random);
                let a = Activations::new(gpu, 2, columns, &mut random);
                let out = gpu.room(2 * 5 * 4);
                let args = RfGemvArgs {
                    weight: m.planes,
                    x: a.f32,
                    out,
                    rows: 5,
                    columns: columns as u32,
                    items: 2,
                    x_stride: columns as u32,
                    out_stride: 5,
                    slots: 1,
                    ..Default::default()
                };
                gpu.run(launch::gemv(dtype, &args, gpu.wave));
                let expected: Vec<f64> = (0..2).flat_map(|i| m.product(&a.x[i * columns..][..columns], 0, 5)).collect();
                check(&format!("{dtype} of {columns}"), &gpu.floats(out, 10), &expected, 1e-5, 1e-4);
            }
        }
    });
}

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

/// Codes stand for the values that they were made from, within half a step, and their sums are right.
#[track_caller]
fn check_codes(gpu: &Gpu, codes: u64, scales: u64, values: &[f32]) {
    let codes = gpu.download::<i8>(codes, values.len());
    let scales: Vec<u64> = gpu.download(scales, values.len() / 32);
    for (b, (codes, values)) in codes.chunks(32).zip(values.chunks(32)).enumerate() {
        let d = f32::from_bits(scales[b] as u32);
        let sums = [(scales[b] >> 32) as i16, (scales[b] >> 48) as i16];
        for (q, v) in codes.iter().zip(values) {
            assert!((f32::from(*q) * d - v).abs() <= 0.501 * d, "block {b}: {q} * {d} for {v}");
        }
        let sum = |half: &[i8]| half.iter().map(|q| i16::from(*q)).sum::<i16>();
        assert_eq!(sums, [sum(&codes[..16]), sum(&codes[16..])], "block {b}");
    }
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

#[test]
fn products_with_many_vectors() {
    let sources = ["gemm_plain", "gemm_legacy", "gemm_k", "gemm_iq", "gemm_low", "norm", "repack"];
    on_both_waves("products_with_many_vectors", &sources, |gpu| {
        let mut random = Random::new(6);
        for &dtype in FORMATS {
            // More than a step of the small tile, and for small blocks it ends within one of the large.
            let columns = 288usize.next_multiple_of(dtype.layout().block_elements);
            let rows = 150;
            let m = Matrix::new(gpu, dtype, rows, columns, &mut random);
            if !launch::gemm_takes(dtype, columns as u32) {
                assert_eq!(dtype, DType::F32);
                continue;
            }
            for items in [9usize, 70] {
                let a = Activations::new(gpu, items, columns, &mut random);
                let (bias, residual) = (random.normals(rows), random.normals(items * rows));
                let out = gpu.upload(&residual);
                let args = RfGemmArgs {
                    weight: m.planes,
                    x: a.half,
                    powers: a.powers,
                    out,
                    bias: gpu.upload(&bias),
                    residual: out,
                    rows: rows as u32,
                    columns: columns as u32,
                    items: items as u32,
                    x_stride: columns as u32,
                    out_stride: rows as u32,
                    residual_stride: rows as u32,
                    slots: 1,
                    ..Default::default()
                };
                gpu.run(launch::gemm(dtype, &args, gpu.wave));
                let expected: Vec<f64> = (0..items)
                    .flat_map(|i| {
                        let y = m.product(&a.x[i * columns..][..columns], 0, rows);
                        let more = |(r, y): (usize, f64)| y + f64::from(bias[r]) + f64::from(residual[i * rows + r]);
                        y.into_iter().enumerate().map(more).collect::<Vec<_>>()
                    })
                    .collect();
                check(&format!("{dtype} x {items}"), &gpu.floats(out, items * rows), &expected, 1e-3, 1e-2);
            }
        }
    });
}

#[test]
fn experts_take_their_own_rows() {
    let sources = ["gemm_legacy", "gemv_legacy", "norm", "repack", "experts"];
    on_both_waves("experts_take_their_own_rows", &sources, |gpu| {
        let mut random = Random::new(7);
        let (experts, rows, columns, tokens, slots) = (5usize, 40usize, 96usize, 21usize, 2usize);
        let items = tokens * slots;
        let m = Matrix::new(gpu, DType::Q5_1, experts * rows, columns, &mut random);
        // One expert is chosen by nobody.
        let chosen: Vec<u32> = (0..items).map(|_| [0, 1, 2, 4][random.below(4) as usize]).collect();
        let bias = random.normals(experts * rows);
        for shared in [true, false] {
            let x_rows = if shared { tokens } else { items };
            let a = Activations::new(gpu, x_rows, columns, &mut random);
            let expected: Vec<f64> = (0..items)
                .flat_map(|i| {
                    let x = &a.x[if shared { i / slots } else { i } * columns..][..columns];
                    let first = chosen[i] as usize * rows;
                    let y = m.product(x, first, rows);
                    y.into_iter().zip(&bias[first..]).map(|(y, b)| y + f64::from(*b)).collect::<Vec<_>>()
                })
                .collect();
            let out = gpu.room(items * rows * 4);
            let args = RfGemvArgs {
                weight: m.planes,
                x: a.codes,
                scales: a.scales,
                out,
                bias: gpu.upload(&bias),
                experts: gpu.upload(&chosen),
                rows: rows as u32,
                columns: columns as u32,
                items: items as u32,
                x_stride: columns as u32,
                out_stride: rows as u32,
                slots: slots as u32,
                shared: shared.into(),
                ..Default::default()
            };
            gpu.run(launch::gemv(m.dtype, &args, gpu.wave));
            check("one by one", &gpu.floats(out, items * rows), &expected, 1.5e-2, 1e-1);
            let tile = launch::gemm_tile(items as u32, experts as u32);
            let most = launch::expert_tiles(items as u32, experts as u32, tile);
            let (sorted, tiles) = (gpu.room(items * 4), gpu.room(most as usize * 12));
            let sort = RfExpertSortArgs {
                experts: args.experts,
                sorted,
                tiles,
                items: items as u32,
                count: experts as u32,
                tile,
                most,
            };
            gpu.run(launch::expert_sort(&sort, gpu.wave));
            let out = gpu.room(items * rows * 4);
            let args = RfGemmArgs {
                weight: m.planes,
                x: a.half,
                powers: a.powers,
                out,
                bias: args.bias,
                tiles,
                sorted,
                rows: rows as u32,
                columns: columns as u32,
                items: items as u32,
                x_stride: columns as u32,
                out_stride: rows as u32,
                slots: slots as u32,
                shared: shared.into(),
                ..Default::default()
            };
            gpu.run(launch::gemm_tiles(m.dtype, &args, tile, most, gpu.wave));
            check("in tiles", &gpu.floats(out, items * rows), &expected, 1e-3, 1e-2);
        }
    });
}
