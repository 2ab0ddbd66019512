//! Round-to-nearest quantisers of the simple types, for tools and tests. They write what ggml's reference writes.

use crate::dequantize::check;
use crate::fp4::e8m0_half;
use crate::tables::FP4_VALUES_DOUBLED;
use crate::{DType, QuantError};

const SUPPORTED: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or MXFP4";

/// Converts `values`, one or more rows, to type `dtype`.
///
/// # Errors
///
/// If there is no quantiser for the type, `values` is not whole blocks, or `out` is not as long as they take.
pub fn quantize(dtype: DType, values: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
    check(dtype, out.len(), values.len())?;
    match dtype {
        DType::F32 => blocks(values, out, |x: &[f32; 1]| x[0].to_le_bytes()),
        DType::F16 => blocks(values, out, |x: &[f32; 1]| half(x[0])),
        DType::BF16 => blocks(values, out, |x: &[f32; 1]| half::bf16::from_f32(x[0]).to_le_bytes()),
        DType::Q4_0 => blocks(values, out, q4_0),
        DType::Q4_1 => blocks(values, out, q4_1),
        DType::Q5_0 => blocks(values, out, q5_0),
        DType::Q5_1 => blocks(values, out, q5_1),
        DType::Q8_0 => blocks(values, out, q8_0),
        DType::MXFP4 => blocks(values, out, mxfp4),
        _ => {
            return Err(QuantError::NoQuantizer { dtype, supported: SUPPORTED });
        }
    }
    Ok(())
}

fn blocks<const ELEMENTS: usize, const BYTES: usize>(
    values: &[f32],
    out: &mut [u8],
    block: impl Fn(&[f32; ELEMENTS]) -> [u8; BYTES],
) {
    let (values, out) = (values.as_chunks().0, out.as_chunks_mut().0);
    values.iter().zip(out).for_each(|(values, out)| *out = block(values));
}

fn half(x: f32) -> [u8; 2] {
    half::f16::from_f32(x).to_le_bytes()
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The value of largest magnitude, with its sign; the first of equals.
fn extreme(x: &[f32; 32]) -> f32 {
    x.iter().fold(0.0, |max: f32, &v| if v.abs() > max.abs() { v } else { max })
}

fn range(x: &[f32; 32]) -> (f32, f32) {
    x.iter().fold((f32::MAX, f32::MIN), |(min, max), &v| (min.min(v), max.max(v)))
}

/// Joins parts that are `N` bytes together.
fn join<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    let mut rest = &mut out[..];
    for part in parts {
        let (here, after) = rest.split_at_mut(part.len());
        here.copy_from_slice(part);
        rest = after;
    }
    out
}

/// The low four bits of the codes, and their fifth bits.
fn nibbles(codes: &[u8; 32]) -> ([u8; 16], [u8; 4]) {
    let low = std::array::from_fn(|j| (codes[j] & 15) | (codes[j + 16] & 15) << 4);
    let high = codes.iter().enumerate().fold(0, |high, (j, &c)| high | u32::from(c >> 4 & 1) << j);
    (low, high.to_le_bytes())
}

fn q4_0(x: &[f32; 32]) -> [u8; 18] {
    let d = extreme(x) / -8.0;
    let inverse = inverse(d);
    let (low, _) = nibbles(&x.map(|v| ((v * inverse + 8.5) as u8).min(15)));
    join(&[&half(d), &low])
}

fn q4_1(x: &[f32; 32]) -> [u8; 20] {
    let (min, max) = range(x);
    let d = (max - min) / 15.0;
    let inverse = inverse(d);
    let (low, _) = nibbles(&x.map(|v| (((v - min) * inverse + 0.5) as u8).min(15)));
    join(&[&half(d), &half(min), &low])
}

fn q5_0(x: &[f32; 32]) -> [u8; 22] {
    let d = extreme(x) / -16.0;
    let inverse = inverse(d);
    let (low, high) = nibbles(&x.map(|v| ((v * inverse + 16.5) as u8).min(31)));
    join(&[&half(d), &high, &low])
}

fn q5_1(x: &[f32; 32]) -> [u8; 24] {
    let (min, max) = range(x);
    let d = (max - min) / 31.0;
    let inverse = inverse(d);
    let (low, high) = nibbles(&x.map(|v| (((v - min) * inverse + 0.5) as u8).min(31)));
    join(&[&half(d), &half(min), &high, &low])
}

fn q8_0(x: &[f32; 32]) -> [u8; 34] {
    let d = extreme(x).abs() / 127.0;
    let inverse = inverse(d);
    join(&[&half(d), &x.map(|v| (v * inverse).round() as i8 as u8)])
}

fn mxfp4(x: &[f32; 32]) -> [u8; 17] {
    let max = extreme(x).abs();
    let exponent = if max > 0.0 { (max.log2().floor() - 2.0 + 127.0) as u8 } else { 0 };
    let d = e8m0_half(exponent);
    let nearest = |v: f32| {
        let errors = FP4_VALUES_DOUBLED.map(|code| (f32::from(code) * d - v).abs());
        (1..16).fold(0, |best: u8, i: u8| if errors[usize::from(i)] < errors[usize::from(best)] { i } else { best })
    };
    let (low, _) = nibbles(&x.map(nearest));
    join(&[&[exponent], &low])
}
