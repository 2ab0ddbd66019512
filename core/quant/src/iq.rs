//! Super-blocks of grid points and value-table formats: `IQ1_S` to `IQ4_XS`.
//!
//! A grid point is the magnitudes (or, in `IQ1`, the values) of 8 or 4 elements at once; see [`crate::tables`].

use crate::plain::{f16_at, f16_to_f32, part};
use crate::tables::{
    EVEN_SIGNS, IQ1_DELTA, IQ1_GRID, IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID, IQ3_S_GRID, IQ3_XXS_GRID, IQ4_VALUES,
};

#[inline(always)]
fn u16_at<const N: usize>(block: &[u8; N], at: usize) -> u16 {
    u16::from_le_bytes(*part(block, at))
}

#[inline(always)]
fn signed<const N: usize>(out: &mut [f32], scale: f32, grid: &[i8; N], signs: u8) {
    for j in 0..N {
        let sign = u32::from((signs >> j) & 1) << 31;
        out[j] = f32::from_bits((scale * f32::from(grid[j])).to_bits() ^ sign);
    }
}

/// Bytes: d f16, per 32 elements: 4 grid indices, then a u32 of 4 × 7 bits of signs and the scale.
#[inline]
pub fn iq2_xxs(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let indices: &[u8; 4] = part(block, 2 + 8 * i);
        let word = u32::from_le_bytes(*part(block, 6 + 8 * i));
        let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
        for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let signs = EVEN_SIGNS[(word >> (7 * l)) as usize & 127];
            signed(out, scale, &IQ2_XXS_GRID[usize::from(indices[l])], signs);
        }
    }
}

/// Bytes: d f16, 32 × u16 of grid index (9 bits) and signs (7 bits), 8 × two 4-bit scales of 16 elements.
#[inline]
pub fn iq2_xs(block: &[u8; 74], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    let scales: &[u8; 8] = part(block, 66);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let word = u16_at(block, 2 + 2 * i);
        let scale = (scales[i / 4] >> (4 * (i / 2 % 2))) & 15;
        let scale = d * (0.5 + f32::from(scale)) * 0.25;
        signed(out, scale, &IQ2_XS_GRID[usize::from(word & 511)], EVEN_SIGNS[usize::from(word >> 9)]);
    }
}

/// Bytes: d f16, 32 × low 8 bits of the grid index, 32 × signs, 8 × four high 2 bits, 8 × two 4-bit scales.
#[inline]
pub fn iq2_s(block: &[u8; 82], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    let (low, signs): (&[u8; 32], &[u8; 32]) = (part(block, 2), part(block, 34));
    let (high, scales): (&[u8; 8], &[u8; 8]) = (part(block, 66), part(block, 74));
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let index = usize::from(low[i]) | usize::from((high[i / 4] >> (2 * (i % 4))) & 3) << 8;
        let scale = (scales[i / 4] >> (4 * (i / 2 % 2))) & 15;
        let scale = d * (0.5 + f32::from(scale)) * 0.25;
        signed(out, scale, &IQ2_S_GRID[index], signs[i]);
    }
}

/// Bytes: d f16, 64 grid indices, then per 32 elements a u32 of 4 × 7 bits of signs and the scale.
#[inline]
pub fn iq3_xxs(block: &[u8; 98], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    let indices: &[u8; 64] = part(block, 2);
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let word = u32::from_le_bytes(*part(block, 66 + 4 * i));
        let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
        for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let signs = EVEN_SIGNS[(word >> (7 * l)) as usize & 127];
            let at = 8 * i + 2 * l;
            signed(&mut out[..4], scale, &IQ3_XXS_GRID[usize::from(indices[at])], signs & 15);
            signed(&mut out[4..], scale, &IQ3_XXS_GRID[usize::from(indices[at + 1])], signs >> 4);
        }
    }
}

/// Bytes: d f16, 64 × low 8 bits of the grid index, 8 × eight ninth bits, 32 × signs, 4 × two 4-bit scales of 32.
#[inline]
pub fn iq3_s(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    let (low, high): (&[u8; 64], &[u8; 8]) = (part(block, 2), part(block, 66));
    let (signs, scales): (&[u8; 32], &[u8; 4]) = (part(block, 74), part(block, 106));
    for (i, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let index = usize::from(low[i]) | usize::from((high[i / 8] >> (i % 8)) & 1) << 8;
        let scale = (scales[i / 16] >> (4 * (i / 8 % 2))) & 15;
        let scale = d * f32::from(1 + 2 * scale);
        signed(out, scale, &IQ3_S_GRID[index], signs[i / 2] >> (4 * (i % 2)));
    }
}

#[inline(always)]
fn iq1_point(out: &mut [f32; 8], scale: f32, index: usize, negative: bool) {
    let delta = if negative { -IQ1_DELTA } else { IQ1_DELTA };
    let grid = &IQ1_GRID[index % IQ1_GRID.len()];
    for j in 0..8 {
        out[j] = scale * (f32::from(grid[j]) + delta);
    }
}

/// Bytes: d f16, 32 × low 8 bits of the grid index, per 32 elements a u16 of 4 × 3 high bits, scale and sign of delta.
#[inline]
pub fn iq1_s(block: &[u8; 50], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    let low: &[u8; 32] = part(block, 2);
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let word = u16_at(block, 34 + 2 * i);
        let scale = d * f32::from(2 * ((word >> 12) & 7) + 1);
        for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let index = usize::from(low[4 * i + l]) | usize::from((word >> (3 * l)) & 7) << 8;
            iq1_point(out, scale, index, word >= 0x8000);
        }
    }
}

/// Bytes: 32 × low 8 bits of the grid index, 16 × two of (3 high bits, sign of delta), 4 × u16 of four 3-bit scales of
/// 16 elements and 4 bits of d f16.
#[inline]
pub fn iq1_m(block: &[u8; 56], out: &mut [f32; 256]) {
    let (low, high): (&[u8; 32], &[u8; 16]) = (part(block, 0), part(block, 32));
    let words = [48, 50, 52, 54].map(|at| u16_at(block, at));
    let d = words.iter().rev().fold(0, |d, word| d << 4 | word >> 12);
    let d = f16_to_f32(d);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = (words[i / 8] >> (3 * (i / 2 % 4))) & 7;
        let scale = d * f32::from(2 * scale + 1);
        let nibble = high[i / 2] >> (4 * (i % 2));
        let index = usize::from(low[i]) | usize::from(nibble & 7) << 8;
        iq1_point(out, scale, index, nibble & 8 != 0);
    }
}

#[inline(always)]
fn iq4_values(out: &mut [f32; 32], scale: f32, q: &[u8; 16]) {
    for j in 0..16 {
        out[j] = scale * f32::from(IQ4_VALUES[usize::from(q[j] & 15)]);
        out[j + 16] = scale * f32::from(IQ4_VALUES[usize::from(q[j] >> 4)]);
    }
}

/// Bytes: d f16, 16 × two 4-bit codes into [`IQ4_VALUES`], the first half of the block in the low nibbles.
#[inline]
pub fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    iq4_values(out, f16_at(block, 0), part(block, 2));
}

/// Bytes: d f16, u16 of 8 × 2 high bits of the scales, 4 × two low 4 bits, then codes as in [`iq4_nl`].
#[inline]
pub fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    let high = u16_at(block, 2);
    let low: &[u8; 4] = part(block, 4);
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let scale = (low[i / 2] >> (4 * (i % 2))) & 15 | (((high >> (2 * i)) & 3) << 4) as u8;
        iq4_values(out, d * f32::from(scale as i8 - 32), part(block, 8 + 16 * i));
    }
}
