//! Super-blocks of 256 whose 16 or 8 sub-blocks have quantised scales of their own: `Q2_K` to `Q8_K`.

use crate::plain::{f16_at, part};

/// The 6-bit scales and minima of the eight sub-blocks of `Q4_K` and `Q5_K`.
#[inline]
pub fn scales_and_mins_k4(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for j in 0..4 {
        let (a, b, c) = (packed[j], packed[j + 4], packed[j + 8]);
        scales[j] = a & 63;
        mins[j] = b & 63;
        scales[j + 4] = (c & 15) | (a >> 6) << 4;
        mins[j + 4] = (c >> 4) | (b >> 6) << 4;
    }
    (scales, mins)
}

/// The scales of the sixteen sub-blocks of `Q3_K`, -32 to 31.
#[inline]
pub fn scales_q3_k(packed: &[u8; 12]) -> [i8; 16] {
    let mut scales = [0; 16];
    for j in 0..16 {
        let low = if j < 8 { packed[j] & 15 } else { packed[j - 8] >> 4 };
        let high = (packed[8 + j % 4] >> (2 * (j / 4))) & 3;
        scales[j] = (low | high << 4) as i8 - 32;
    }
    scales
}

/// `d·s·q - m·t` with 4-bit s, t per 16. Bytes: 16 × (s low, t high), 64 × four 2-bit codes, d f16, m f16.
#[inline]
pub fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, m) = (f16_at(block, 80), f16_at(block, 82));
    let (scales, q): (&[u8; 16], &[u8; 64]) = (part(block, 0), part(block, 16));
    for (j, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (scale, min) = (d * f32::from(scales[j] & 15), m * f32::from(scales[j] >> 4));
        let (at, shift) = (32 * (j / 8) + 16 * (j % 2), 2 * (j / 2 % 4));
        for l in 0..16 {
            out[l] = scale * f32::from((q[at + l] >> shift) & 3) - min;
        }
    }
}

/// `d·s·(q - 4)`, the third bit of q apart. Bytes: 32 of third bits, 64 × four 2-bit codes, 12 of scales, d f16.
#[inline]
pub fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = f16_at(block, 108);
    let (high, q): (&[u8; 32], &[u8; 64]) = (part(block, 0), part(block, 32));
    let scales = scales_q3_k(part(block, 96));
    for (j, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[j]);
        let (half, at, shift) = (16 * (j % 2), 32 * (j / 8), 2 * (j / 2 % 4));
        for l in 0..16 {
            let low = (q[at + half + l] >> shift) & 3;
            let bit = (high[half + l] >> (j / 2)) & 1;
            out[l] = scale * f32::from((low | bit << 2) as i8 - 4);
        }
    }
}

/// `d·s·q - m·t` with 6-bit s, t per 32. Bytes: d f16, m f16, 12 of s and t, 128 × two 4-bit codes.
#[inline]
pub fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let (scales, mins) = scales_and_mins_k4(part(block, 4));
    let q: &[u8; 128] = part(block, 16);
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = (d * f32::from(scales[j]), m * f32::from(mins[j]));
        let (at, shift) = (32 * (j / 2), 4 * (j % 2));
        for l in 0..32 {
            out[l] = scale * f32::from((q[at + l] >> shift) & 15) - min;
        }
    }
}

/// `d·s·q - m·t` with 6-bit s, t per 32. Bytes: d f16, m f16, 12 of s and t, 32 of fifth bits, 128 × two 4-bit codes.
#[inline]
pub fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let (scales, mins) = scales_and_mins_k4(part(block, 4));
    let (high, q): (&[u8; 32], &[u8; 128]) = (part(block, 16), part(block, 48));
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = (d * f32::from(scales[j]), m * f32::from(mins[j]));
        let (at, shift) = (32 * (j / 2), 4 * (j % 2));
        for l in 0..32 {
            let code = ((q[at + l] >> shift) & 15) | ((high[l] >> j) & 1) << 4;
            out[l] = scale * f32::from(code) - min;
        }
    }
}

/// `d·s·(q - 32)` with i8 s per 16. Bytes: 128 × two low 4 bits, 64 × four high 2 bits, 16 × s, d f16.
#[inline]
pub fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = f16_at(block, 208);
    let (low, high): (&[u8; 128], &[u8; 64]) = (part(block, 0), part(block, 128));
    let scales: &[u8; 16] = part(block, 192);
    for (j, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[j] as i8);
        let (half, quarter, within) = (j / 8, j % 8 / 2, 16 * (j % 2));
        let low_at = 64 * half + 32 * (quarter % 2) + within;
        let high_at = 32 * half + within;
        for l in 0..16 {
            let code =
                ((low[low_at + l] >> (4 * (quarter / 2))) & 15) | ((high[high_at + l] >> (2 * quarter)) & 3) << 4;
            out[l] = scale * f32::from(code as i8 - 32);
        }
    }
}

/// `d·q`. Bytes: d f32, 256 × i8, 16 × i16 sums of 16 (not needed here).
#[inline]
pub fn q8_k(block: &[u8; 292], out: &mut [f32; 256]) {
    let d = f32::from_le_bytes(*part(block, 0));
    let q: &[u8; 256] = part(block, 4);
    for j in 0..256 {
        out[j] = d * f32::from(q[j] as i8);
    }
}
