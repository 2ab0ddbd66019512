//! Random matrices of every format with their values, and activations in every form.

use half::{bf16, f16};
use rocmforge_kernels_hip::*;
use rocmforge_quant::{DType, dequantize};

use super::{Gpu, Random};

pub const FORMATS: &[DType] = &[
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
pub fn weights(dtype: DType, elements: usize, random: &mut Random) -> Vec<u8> {
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
pub struct Matrix {
    pub dtype: DType,
    pub planes: RfPlanes,
    pub values: Vec<f32>,
    pub columns: usize,
}

impl Matrix {
    pub fn new(gpu: &Gpu, dtype: DType, rows: usize, columns: usize, random: &mut Random) -> Matrix {
        let bytes = weights(dtype, rows * columns, random);
        let mut values = vec![0.0; rows * columns];
        dequantize(dtype, &bytes, &mut values).unwrap();
        let planes = gpu.planes(dtype, &bytes, rows * columns).planes;
        Matrix { dtype, planes, values, columns }
    }

    pub fn product(&self, x: &[f32], first_row: usize, rows: usize) -> Vec<f64> {
        let row = |r: usize| &self.values[r * self.columns..(r + 1) * self.columns];
        let dot = |w: &[f32]| w.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        (first_row..first_row + rows).map(|r| dot(row(r))).collect()
    }

    /// What a product of this format with 8-bit activations may be off by.
    pub fn tolerance(&self) -> (f64, f64) {
        match self.dtype {
            DType::F32 | DType::F16 | DType::BF16 => (1e-5, 1e-4),
            _ => (1.5e-2, 1e-1),
        }
    }

    pub fn is_plain(&self) -> bool {
        matches!(self.dtype, DType::F32 | DType::F16 | DType::BF16)
    }
}

/// Activations in every form.
pub struct Activations {
    pub x: Vec<f32>,
    pub f32: u64,
    pub codes: u64,
    pub scales: u64,
    pub half: u64,
    pub powers: u64,
}

impl Activations {
    pub fn new(gpu: &Gpu, rows: usize, n: usize, random: &mut Random) -> Activations {
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

/// Codes stand for the values that they were made from, within half a step, and their sums are right.
#[track_caller]
pub fn check_codes(gpu: &Gpu, codes: u64, scales: u64, values: &[f32]) {
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
