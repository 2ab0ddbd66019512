//! One- and two-bit and ternary formats without grids: `TQ1_0`, `TQ2_0`, `Q1_0`, `Q2_0`.

use crate::plain::{f16_at, part};

const POWERS_OF_3: [u8; 5] = [1, 3, 9, 27, 81];

/// Ternary digit `n` (from the most significant) of a byte that holds a fraction of 243, as -1, 0 or 1.
#[inline(always)]
fn trit(byte: u8, n: usize) -> i8 {
    ((u16::from(byte.wrapping_mul(POWERS_OF_3[n])) * 3) >> 8) as i8 - 1
}

#[inline(always)]
fn trits<const N: usize>(out: &mut [f32], d: f32, bytes: &[u8; N]) {
    for (n, out) in out.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        for j in 0..N {
            out[j] = f32::from(trit(bytes[j], n)) * d;
        }
    }
}

/// `d·t`, t of -1, 0, 1. Bytes: 48 × five ternary digits (in runs of 32 and 16), 4 × four digits, d f16.
#[inline]
pub fn tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    let d = f16_at(block, 52);
    trits::<32>(&mut out[..160], d, part(block, 0));
    trits::<16>(&mut out[160..240], d, part(block, 32));
    trits::<4>(&mut out[240..], d, part(block, 48));
}

/// `d·(q - 1)`. Bytes: 64 × four 2-bit codes 32 elements apart, d f16.
#[inline]
pub fn tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = f16_at(block, 64);
    let q: &[u8; 64] = part(block, 0);
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for j in 0..32 {
            out[j] = f32::from(((q[32 * (i / 4) + j] >> (2 * (i % 4))) & 3) as i8 - 1) * d;
        }
    }
}

/// d where the bit is set, else -d. Bytes: d f16, 128 bits in order.
#[inline]
pub fn q1_0(block: &[u8; 18], out: &mut [f32; 128]) {
    let d = f16_at(block, 0);
    let bits: &[u8; 16] = part(block, 2);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        for (j, out) in out.iter_mut().enumerate() {
            *out = if bits[i] >> j & 1 == 1 { d } else { -d };
        }
    }
}

/// `d·(q - 1)`. Bytes: d f16, 16 × four consecutive 2-bit codes.
#[inline]
pub fn q2_0(block: &[u8; 18], out: &mut [f32; 64]) {
    let d = f16_at(block, 0);
    let q: &[u8; 16] = part(block, 2);
    for (i, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        for (j, out) in out.iter_mut().enumerate() {
            *out = f32::from(((q[i] >> (2 * j)) & 3) as i8 - 1) * d;
        }
    }
}
