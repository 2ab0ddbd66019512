//! Matrices of every format: the planes, rows of a table, and products, against `rocmforge_quant` and plain sums.

mod common;

use common::matrix::{Activations, FORMATS, Matrix};
use common::{Random, check, on_both_waves};
use rocmforge_kernels_hip::*;
use rocmforge_quant::DType;

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
            for (items, tile, splits) in [(9usize, 16u32, 1u32), (20, 32, 2), (35, 64, 1), (70, 64, 2), (70, 128, 1)] {
                let a = Activations::new(gpu, items, columns, &mut random);
                let (bias, residual) = (random.normals(rows), random.normals(items * rows));
                let out = gpu.upload(&residual);
                let counters = gpu.upload(&[0u32; 16]);
                let mut args = RfGemmArgs {
                    weight: m.planes,
                    x: a.half,
                    powers: a.powers,
                    out,
                    bias: gpu.upload(&bias),
                    residual: out,
                    arrived: counters,
                    splits,
                    rows: rows as u32,
                    columns: columns as u32,
                    items: items as u32,
                    x_stride: columns as u32,
                    out_stride: rows as u32,
                    residual_stride: rows as u32,
                    slots: 1,
                    ..Default::default()
                };
                args.partial = gpu.room(launch::gemm_partial_bytes(&args, tile, splits) as usize);
                assert!(tile == 128 || tile == launch::gemm_tile(dtype, args.items, 0), "{items}");
                gpu.run(launch::gemm_tiles(dtype, &args, tile, args.items.div_ceil(tile), gpu.wave));
                let expected: Vec<f64> = (0..items)
                    .flat_map(|i| {
                        let y = m.product(&a.x[i * columns..][..columns], 0, rows);
                        let more = |(r, y): (usize, f64)| y + f64::from(bias[r]) + f64::from(residual[i * rows + r]);
                        y.into_iter().enumerate().map(more).collect::<Vec<_>>()
                    })
                    .collect();
                check(&format!("{dtype} x {items} by {tile}"), &gpu.floats(out, items * rows), &expected, 1e-3, 1e-2);
                assert_eq!(gpu.download::<u32>(counters, 16), [0; 16], "{dtype} x {items}");
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
            let tile = launch::gemm_tile(m.dtype, items as u32, experts as u32);
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
