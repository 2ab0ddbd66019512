//! From the blocks of a file to interleaved rows.

use rocmforge_quant::{DType, k_quants, tables::EVEN_SIGNS};

use super::format::{BLOCK, Codes, Packing, ROWS, code_bytes};
use super::scales::Scales;

/// A block of the file: codes as unsigned numbers, and the numbers of its scales in the order in which they are stored.
#[derive(Clone, Copy)]
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

/// Signs of 7 bits each and the scale in the bits above them, of block number `i`, at word `at` of it.
#[inline(always)]
fn signs_and_scale(block: &[u8], i: usize, at: usize, out: &mut Block) {
    let word = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    for (l, signs) in out.codes[32 * i + 4 * at..][..4].iter_mut().enumerate() {
        *signs = EVEN_SIGNS[(word >> (7 * l)) as usize & 127];
    }
    odd_scale(i, (word >> 28) as u8, out);
}

/// Scale number `i`, two of which share a byte.
#[inline(always)]
fn odd_scale(i: usize, scale: u8, out: &mut Block) {
    let byte = &mut out.scales[i / 2];
    *byte = if i.is_multiple_of(2) { scale } else { *byte | scale << 4 };
}

/// The formats of points of a grid: of each block of 32 its words.
#[inline(always)]
fn grid(dtype: DType, block: &[u8], out: &mut Block) {
    let short = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    if dtype == DType::IQ1_M {
        let d = [54, 52, 50, 48].iter().fold(0, |d, &at| d << 4 | short(at) >> 12);
        out.factors[0] = d.to_le_bytes();
    } else {
        halves(block, 0, 1, out);
    }
    for i in 0..8 {
        let mut put = |word: usize, bytes: &[u8]| {
            out.codes[32 * i + 4 * word..][..bytes.len()].copy_from_slice(bytes);
        };
        match dtype {
            DType::IQ2_XXS => {
                put(0, &block[2 + 8 * i..6 + 8 * i]);
                signs_and_scale(&block[6 + 8 * i..], i, 1, out);
            }
            DType::IQ2_XS => {
                let words: [u16; 4] = std::array::from_fn(|l| short(2 + 8 * i + 2 * l));
                put(0, &words.map(|word| word as u8));
                put(1, &words.map(|word| EVEN_SIGNS[usize::from(word >> 9)]));
                put(7, &[(0..4).fold(0, |high, l| high | ((words[l] >> 8 & 1) << (2 * l)) as u8)]);
                out.scales[i] = block[66 + i];
            }
            DType::IQ2_S => {
                put(0, &block[2 + 4 * i..6 + 4 * i]);
                put(1, &block[34 + 4 * i..38 + 4 * i]);
                put(7, &[block[66 + i]]);
                out.scales[i] = block[74 + i];
            }
            DType::IQ3_XXS => {
                put(0, &block[2 + 8 * i..10 + 8 * i]);
                signs_and_scale(&block[66 + 4 * i..], i, 2, out);
            }
            DType::IQ3_S => {
                put(0, &block[2 + 8 * i..10 + 8 * i]);
                put(2, &block[74 + 4 * i..78 + 4 * i]);
                put(7, &[block[66 + i]]);
                odd_scale(i, block[106 + i / 2] >> (4 * (i % 2)) & 15, out);
            }
            DType::IQ1_S => {
                let word = short(34 + 2 * i);
                put(0, &block[2 + 4 * i..6 + 4 * i]);
                let nibble = |l: usize| (word >> (3 * l) & 7 | word >> 15 << 3) << (4 * l);
                put(7, &(nibble(0) | nibble(1) | nibble(2) | nibble(3)).to_le_bytes());
                odd_scale(i, (word >> 12 & 7) as u8, out);
            }
            _ => {
                put(0, &block[4 * i..4 * i + 4]);
                put(7, &block[32 + 2 * i..34 + 2 * i]);
                for part in [2 * i, 2 * i + 1] {
                    odd_scale(part, (short(48 + 2 * (part / 4)) >> (3 * (part % 4)) & 7) as u8, out);
                }
            }
        }
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
        DType::NVFP4 => {
            // The sign means nothing, and the NaN is read as 0.
            out.scales.iter_mut().zip(&block[..4]).for_each(|(s, b)| *s = if *b == 0x7f { 0 } else { b & 0x7f });
            for (codes, q) in out.codes.as_chunks_mut::<16>().0.iter_mut().zip(block[4..].as_chunks::<8>().0) {
                for (j, q) in q.iter().enumerate() {
                    (codes[j], codes[j + 8]) = (q & 15, q >> 4);
                }
            }
        }
        DType::TQ2_0 => {
            halves(block, 64, 1, out);
            pairs(&block[..64], &mut out.codes);
        }
        DType::Q2_0 => {
            halves(block, 0, 1, out);
            let codes = out.codes.iter_mut().enumerate().take(64);
            codes.for_each(|(i, code)| *code = block[2 + i / 4] >> (2 * (i % 4)) & 3);
        }
        DType::Q1_0 => {
            halves(block, 0, 1, out);
            let codes = out.codes.iter_mut().enumerate().take(128);
            codes.for_each(|(i, code)| *code = (block[2 + i / 8] >> (i % 8) & 1) << 1);
        }
        DType::Q2_K => {
            halves(block, 80, 2, out);
            out.scales.copy_from_slice(&block[..16]);
            pairs(&block[16..80], &mut out.codes);
        }
        DType::Q3_K => q3_k(block, out),
        DType::Q4_K => k4(block, 16, None, out),
        DType::Q5_K => k4(block, 48, Some(16), out),
        DType::Q6_K => q6_k(block, out),
        DType::IQ4_XS => iq4_xs(block, out),
        DType::IQ2_XXS | DType::IQ2_XS | DType::IQ2_S | DType::IQ3_XXS => grid(dtype, block, out),
        DType::IQ3_S | DType::IQ1_S | DType::IQ1_M => grid(dtype, block, out),
        _ => {}
    }
}

/// Bytes of a unit of a group: its scales, then its codes.
pub(crate) const fn unit_bytes<P: Packing>() -> usize {
    P::K::BYTES + P::K::BLOCKS * code_bytes::<P::C>()
}

/// Bytes of a group with rows of `cols`.
pub(crate) fn group_bytes<P: Packing>(cols: usize) -> usize {
    cols / (BLOCK * P::K::BLOCKS) * unit_bytes::<P>()
}

/// Interleaves up to 16 rows of the file to a group, whose bytes are zeros. Rows that do not exist have zero scales.
#[inline(always)]
pub(crate) fn pack_group<P: Packing>(dtype: DType, rows: &[u8], row_bytes: usize, cols: usize, out: &mut [u8]) {
    debug_assert_eq!(out.len(), group_bytes::<P>(cols));
    let file_block = dtype.layout().block_bytes;
    let code_bytes = code_bytes::<P::C>();
    let mut blocks = [Block { codes: [0; 256], factors: [[0; 2]; 2], scales: [0; 16], mins: [0; 16] }; ROWS];
    for (unit, out) in out.chunks_exact_mut(unit_bytes::<P>()).enumerate() {
        let (scales, codes) = out.split_at_mut(P::K::BYTES);
        // One unit of all rows after the other, so that what is written stays in the first-level cache.
        for (row, block) in rows.chunks_exact(row_bytes).zip(&mut blocks) {
            unpack(dtype, &row[unit * file_block..(unit + 1) * file_block], block);
        }
        pack_scales::<P>(&blocks, scales);
        for (b, to) in codes.chunks_exact_mut(code_bytes).enumerate() {
            let mut vectors = [[0u32; ROWS]; 8];
            for (r, block) in blocks.iter().enumerate() {
                let mut quads = [0; 8];
                for (quad, bytes) in quads.iter_mut().zip(block.codes[b * BLOCK..].as_chunks::<4>().0) {
                    *quad = u32::from_le_bytes(*bytes);
                }
                vectors.iter_mut().zip(P::C::pack(quads)).for_each(|(vector, bytes)| vector[r] = bytes);
            }
            let (to, rest) = to.split_at_mut(64 * P::C::VECTORS);
            for (to, bytes) in to.as_chunks_mut::<4>().0.iter_mut().zip(vectors.as_flattened()) {
                *to = bytes.to_le_bytes();
            }
            if P::C::REST > 0 {
                for (to, bytes) in rest.chunks_exact_mut(P::C::REST).zip(vectors[7]) {
                    to.copy_from_slice(&bytes.to_le_bytes()[..P::C::REST]);
                }
            }
        }
    }
}

/// The numbers of the scales of a unit: factors, then the bytes of scales and of minima, each number for all rows.
#[inline(always)]
fn pack_scales<P: Packing>(blocks: &[Block; ROWS], out: &mut [u8]) {
    let (factors, bytes) = out.split_at_mut(2 * ROWS * P::K::FACTORS);
    for (i, to) in factors.chunks_exact_mut(2 * ROWS).enumerate() {
        to.as_chunks_mut::<2>().0.iter_mut().zip(blocks).for_each(|(to, block)| *to = block.factors[i]);
    }
    let parts = P::K::PARTS * P::K::BLOCKS;
    for (i, to) in bytes.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
        for (to, block) in to.iter_mut().zip(blocks) {
            *to = if i < parts { block.scales[i] } else { block.mins[i - parts] };
        }
    }
}
