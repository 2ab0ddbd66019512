//! From the blocks of a file to interleaved rows.

use rocmforge_quant::{DType, k_quants};

use super::format::{BLOCK, Codes, Packing, ROWS, Scales};

/// A block of the file: codes as unsigned numbers, and the numbers of its scales in the order in which they are stored.
struct Block {
    codes: [u8; 256],
    /// f16 or bf16 factors of scales and of minima.
    factors: [[u8; 2]; 2],
    scales: [u8; 16],
    mins: [u8; 16],
}

fn halves(block: &[u8], at: usize, count: usize, out: &mut Block) {
    for (i, factor) in out.factors.iter_mut().enumerate().take(count) {
        *factor = [block[at + 2 * i], block[at + 2 * i + 1]];
    }
}

/// 16 bytes of two codes, the first half of the block in the low nibbles.
#[inline(always)]
fn nibbles(q: &[u8], out: &mut [u8]) {
    for (j, &q) in q[..16].iter().enumerate() {
        out[j] = q & 15;
        out[j + 16] = q >> 4;
    }
}

/// Adds bit `i` of a number of 32 bits to code `i`, as its fifth bit.
#[inline(always)]
fn fifth_bits(high: &[u8], out: &mut [u8]) {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    for (i, code) in out[..32].iter_mut().enumerate() {
        *code |= ((high >> i & 1) << 4) as u8;
    }
}

/// Q4_K, and with `high` Q5_K.
#[inline(always)]
fn k4(block: &[u8], codes_at: usize, high: Option<usize>, out: &mut Block) {
    halves(block, 0, 2, out);
    let mut packed = [0; 12];
    packed.copy_from_slice(&block[4..16]);
    let (scales, mins) = k_quants::scales_and_mins_k4(&packed);
    out.scales[..8].copy_from_slice(&scales);
    out.mins[..8].copy_from_slice(&mins);
    for (part, q) in block[codes_at..codes_at + 128].as_chunks::<32>().0.iter().enumerate() {
        for (l, &q) in q.iter().enumerate() {
            let bits = high.map_or(0, |at| block[at + l] >> (2 * part));
            out.codes[64 * part + l] = q & 15 | (bits & 1) << 4;
            out.codes[64 * part + 32 + l] = q >> 4 | (bits & 2) << 3;
        }
    }
}

#[inline(always)]
fn q6_k(block: &[u8], out: &mut Block) {
    halves(block, 208, 1, out);
    out.scales.copy_from_slice(&block[192..208]);
    for half in 0..2 {
        let (low, high) = (&block[64 * half..64 * half + 64], &block[128 + 32 * half..160 + 32 * half]);
        let codes = &mut out.codes[128 * half..128 * half + 128];
        for l in 0..32 {
            let (a, b, h) = (low[l], low[l + 32], high[l]);
            codes[l] = a & 15 | (h & 0x03) << 4;
            codes[l + 32] = b & 15 | (h & 0x0c) << 2;
            codes[l + 64] = a >> 4 | h & 0x30;
            codes[l + 96] = b >> 4 | (h & 0xc0) >> 2;
        }
    }
}

/// The two-bit codes of Q2_K and Q3_K.
#[inline(always)]
fn pairs(q: &[u8], out: &mut [u8; 256]) {
    for (i, code) in out.iter_mut().enumerate() {
        *code = q[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32)) & 3;
    }
}

#[inline(always)]
fn q3_k(block: &[u8], out: &mut Block) {
    halves(block, 108, 1, out);
    let mut packed = [0; 12];
    packed.copy_from_slice(&block[96..108]);
    out.scales = k_quants::scales_q3_k(&packed).map(|s| s as u8);
    pairs(&block[32..96], &mut out.codes);
    for (i, code) in out.codes.iter_mut().enumerate() {
        *code |= (block[i % 32] >> (i / 32) & 1) << 2;
    }
}

#[inline(always)]
fn iq4_xs(block: &[u8], out: &mut Block) {
    halves(block, 0, 1, out);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for i in 0..8 {
        let scale = block[4 + i / 2] >> (4 * (i % 2)) & 15 | ((high >> (2 * i) & 3) << 4) as u8;
        out.scales[i] = (scale as i8 - 32) as u8;
        nibbles(&block[8 + 16 * i..], &mut out.codes[32 * i..]);
    }
}

#[inline(always)]
fn unpack(dtype: DType, block: &[u8], out: &mut Block) {
    match dtype {
        DType::Q8_0 => {
            halves(block, 0, 1, out);
            out.codes.iter_mut().zip(&block[2..34]).for_each(|(c, q)| *c = q ^ 0x80);
        }
        DType::Q4_0 | DType::IQ4_NL => {
            halves(block, 0, 1, out);
            nibbles(&block[2..], &mut out.codes);
        }
        DType::Q4_1 | DType::Q5_1 => {
            halves(block, 0, 2, out);
            // Minima are subtracted, these are added.
            out.factors[1][1] ^= 0x80;
            nibbles(&block[if dtype == DType::Q4_1 { 4 } else { 8 }..], &mut out.codes);
            if dtype == DType::Q5_1 {
                fifth_bits(&block[4..8], &mut out.codes);
            }
        }
        DType::Q5_0 => {
            halves(block, 0, 1, out);
            nibbles(&block[6..], &mut out.codes);
            fifth_bits(&block[2..6], &mut out.codes);
        }
        DType::MXFP4 => {
            out.factors[0] = ((rocmforge_quant::fp4::e8m0_half(block[0]).to_bits() >> 16) as u16).to_le_bytes();
            nibbles(&block[1..], &mut out.codes);
        }
        DType::Q2_K => {
            halves(block, 80, 2, out);
            out.scales.iter_mut().zip(&block[..16]).for_each(|(s, b)| *s = b & 15);
            out.mins.iter_mut().zip(&block[..16]).for_each(|(m, b)| *m = b >> 4);
            pairs(&block[16..80], &mut out.codes);
        }
        DType::Q3_K => q3_k(block, out),
        DType::Q4_K => k4(block, 16, None, out),
        DType::Q5_K => k4(block, 48, Some(16), out),
        DType::Q6_K => q6_k(block, out),
        DType::IQ4_XS => iq4_xs(block, out),
        _ => {}
    }
}

/// Bytes of the scales and of the codes of a group with rows of `cols`.
pub(crate) fn group_bytes<P: Packing>(cols: usize) -> (usize, usize) {
    let blocks = cols / BLOCK;
    let scales = blocks / P::K::BLOCKS * P::K::BYTES;
    (scales.next_multiple_of(64), blocks * P::C::VECTORS * 64)
}

/// Interleaves up to 16 rows of the file to a group, whose bytes are zeros. Rows that do not exist have zero scales.
pub(crate) fn pack_group<P: Packing>(dtype: DType, rows: &[u8], row_bytes: usize, cols: usize, out: &mut [u8]) {
    let (scales, codes) = out.split_at_mut(group_bytes::<P>(cols).0);
    let file_block = dtype.layout().block_bytes;
    let (parts, blocks) = (P::K::PARTS, P::K::BLOCKS);
    let mut block = Block { codes: [0; 256], factors: [[0; 2]; 2], scales: [0; 16], mins: [0; 16] };
    for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
        let units = scales.chunks_exact_mut(P::K::BYTES).zip(codes.chunks_exact_mut(blocks * P::C::VECTORS * 64));
        for (file, (scales, codes)) in row.chunks_exact(file_block).zip(units) {
            unpack(dtype, file, &mut block);
            scales[2 * r..2 * r + 2].copy_from_slice(&block.factors[0]);
            let mut at = 2 * ROWS;
            if P::K::MINS {
                scales[at + 2 * r..at + 2 * r + 2].copy_from_slice(&block.factors[1]);
                at += 2 * ROWS;
            }
            if blocks > 1 {
                for part in 0..parts * blocks {
                    scales[at + ROWS * part + r] = block.scales[part];
                    if P::K::MINS {
                        scales[at + ROWS * (parts * blocks + part) + r] = block.mins[part];
                    }
                }
            }
            for (codes, to) in block.codes.as_chunks::<BLOCK>().0.iter().zip(codes.chunks_exact_mut(P::C::VECTORS * 64))
            {
                let mut quads = [0; 8];
                for (quad, bytes) in quads.iter_mut().zip(codes.as_chunks::<4>().0) {
                    *quad = u32::from_le_bytes(*bytes);
                }
                for (vector, to) in P::C::pack(quads).iter().zip(to.as_chunks_mut::<64>().0) {
                    to[4 * r..4 * r + 4].copy_from_slice(&vector.to_le_bytes());
                }
            }
        }
    }
}
