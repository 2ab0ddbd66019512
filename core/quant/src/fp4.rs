//! 4-bit floats (E2M1) under a shared scale: `MXFP4` and `NVFP4`.

use crate::plain::part;
use crate::tables::FP4_VALUES_DOUBLED;

/// Half of `2^(e - 127)`: the value tables hold doubled numbers. 255, a NaN in OCP MX, is read as 2^127, as ggml does.
#[inline(always)]
pub fn e8m0_half(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

/// Half of an unsigned E4M3 number (bias 7, the sign bit ignored); 127, its NaN, is read as 0, as ggml does.
#[inline(always)]
pub fn ue4m3_half(x: u8) -> f32 {
    let (exponent, mantissa) = ((x >> 3) & 15, f32::from(x & 7));
    match x {
        0x7f => 0.0,
        _ if exponent == 0 => mantissa * (1.0 / 1024.0),
        _ => (1.0 + mantissa / 8.0) * f32::from_bits((u32::from(exponent) + 127 - 8) << 23),
    }
}

#[inline(always)]
fn values<const N: usize>(out: &mut [f32], d: f32, q: &[u8; N]) {
    for j in 0..N {
        out[j] = f32::from(FP4_VALUES_DOUBLED[usize::from(q[j] & 15)]) * d;
        out[j + N] = f32::from(FP4_VALUES_DOUBLED[usize::from(q[j] >> 4)]) * d;
    }
}

/// Bytes: power-of-two scale (E8M0), 16 × two codes, the first half of the block in the low nibbles.
#[inline]
pub fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    values::<16>(out, e8m0_half(block[0]), part(block, 1));
}

/// Bytes: 4 × E4M3 scale of 16 elements, then per 16 elements 8 × two codes, the first half in the low nibbles.
#[inline]
pub fn nvfp4(block: &[u8; 36], out: &mut [f32; 64]) {
    for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        values::<8>(out, ue4m3_half(block[i]), part(block, 4 + 8 * i));
    }
}
