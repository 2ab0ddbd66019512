//! Blocks of 32 with one scale: `Q4_0` to `Q8_1`.
//!
//! Low nibbles hold the first half of a block, high nibbles the second.

use crate::plain::{f16_at, part};

/// `d·(q - 8)`. Bytes: d f16, 16 × two 4-bit codes.
#[inline]
pub fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    let q: &[u8; 16] = part(block, 2);
    for j in 0..16 {
        out[j] = f32::from((q[j] & 15) as i8 - 8) * d;
        out[j + 16] = f32::from((q[j] >> 4) as i8 - 8) * d;
    }
}

/// `d·q + m`. Bytes: d f16, m f16, 16 × two 4-bit codes.
#[inline]
pub fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let q: &[u8; 16] = part(block, 4);
    for j in 0..16 {
        out[j] = f32::from(q[j] & 15) * d + m;
        out[j + 16] = f32::from(q[j] >> 4) * d + m;
    }
}

/// The 32 codes of five bits whose fifth bits are the bits of `high`.
#[inline(always)]
fn five_bits(high: &[u8; 4], q: &[u8; 16]) -> [u8; 32] {
    let high = u32::from_le_bytes(*high);
    let mut codes = [0; 32];
    for j in 0..16 {
        codes[j] = (q[j] & 15) | (((high >> j) & 1) << 4) as u8;
        codes[j + 16] = (q[j] >> 4) | (((high >> (j + 16)) & 1) << 4) as u8;
    }
    codes
}

/// `d·(q - 16)`. Bytes: d f16, u32 of fifth bits, 16 × two 4-bit codes.
#[inline]
pub fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    let codes = five_bits(part(block, 2), part(block, 6));
    for j in 0..32 {
        out[j] = f32::from(codes[j] as i8 - 16) * d;
    }
}

/// `d·q + m`. Bytes: d f16, m f16, u32 of fifth bits, 16 × two 4-bit codes.
#[inline]
pub fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let codes = five_bits(part(block, 4), part(block, 8));
    for j in 0..32 {
        out[j] = f32::from(codes[j]) * d + m;
    }
}

/// `d·q`. Bytes: d f16, 32 × i8.
#[inline]
pub fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    let q: &[u8; 32] = part(block, 2);
    for j in 0..32 {
        out[j] = f32::from(q[j] as i8) * d;
    }
}

/// `d·q`. Bytes: d f16, d·Σq f16 (not needed here), 32 × i8.
#[inline]
pub fn q8_1(block: &[u8; 36], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    let q: &[u8; 32] = part(block, 4);
    for j in 0..32 {
        out[j] = f32::from(q[j] as i8) * d;
    }
}
