//! Activations as 8-bit integers.
//!
//! Each 32 columns of a row have one scale, a 127th of their largest magnitude. Rows are interleaved in tiles: of a
//! block, first the codes, quad by quad and in each the rows, then the numbers of [`Numbers`], each for all rows.

use super::format::BLOCK;

/// What follows the codes of a block, 4 bytes each per row.
pub(crate) enum Numbers {
    /// Scale, f32.
    Scale,
    /// The sum of the codes, negative, i32; times the weights' code of zero, if that is not 0.
    Sum,
    /// The same of the first 16.
    FirstSum,
    /// The same of the last 16.
    LastSum,
    /// Scale times the negative sum of the codes, f32.
    ScaledSum,
}

/// Rows of a full tile: with two vectors of weights 12 sums, enough to hide the latency of products.
pub(crate) const TILE: usize = 6;

/// Bytes of a block of a row.
pub(crate) const BLOCK_BYTES: usize = BLOCK + 4 * 5;

/// Bytes of a row of `cols`.
pub(crate) fn row_bytes(cols: usize) -> usize {
    cols / BLOCK * BLOCK_BYTES
}

/// Where number `which` of row `row` lies in a block of `rows`.
#[inline(always)]
pub(crate) fn place(rows: usize, which: Numbers, row: usize) -> usize {
    rows * (BLOCK + 4 * which as usize) + 4 * row
}

/// First rows and heights of the tiles of `n` rows: full ones, then powers of two.
pub(crate) fn tiles(n: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
    let mut first = 0;
    std::iter::from_fn(move || {
        let left = n - first;
        let height = if left >= TILE { TILE } else { 1 << left.checked_ilog2()? };
        first += height;
        Some((first - height, height))
    })
}

/// The sum of codes.
#[inline(always)]
fn sum(codes: &[i32]) -> i32 {
    codes.iter().sum()
}

/// One block: scale and codes. Numbers that are not finite make the scale NaN, and with it every result of the row.
#[inline(always)]
fn quantize_block(x: &[f32; BLOCK], codes: &mut [i32; BLOCK]) -> f32 {
    // As integers, magnitudes have the same order, infinities and NaN last.
    let largest = x.iter().fold(0, |m: u32, x| m.max(x.to_bits() & 0x7fff_ffff));
    let (largest, finite) = (f32::from_bits(largest), largest < 0x7f80_0000);
    // Below this the inverse would overflow; nothing is lost beside numbers of ordinary size.
    if !finite || largest < 1e-30 {
        codes.fill(0);
        return if finite { 0.0 } else { f32::NAN };
    }
    let inverse = 127.0 / largest;
    for (code, x) in codes.iter_mut().zip(x) {
        // SAFETY: finite, and at most 127 and a rounding error.
        *code = unsafe { (x * inverse).round_ties_even().to_int_unchecked() };
    }
    largest / 127.0
}

/// Quantises the rows of one tile, `[rows, cols]`, to `out` of `rows * row_bytes(cols)`, for weights whose code of zero
/// is `zero`.
#[inline(always)]
pub(crate) fn quantize_tile(x: &[f32], cols: usize, zero: i32, out: &mut [u8]) {
    let (rows, zero) = (x.len() / cols, zero.max(1));
    let (mut codes, mut bytes) = ([0i32; BLOCK], [0u8; BLOCK]);
    for (row, x) in x.chunks_exact(cols).enumerate() {
        for (x, out) in x.as_chunks::<BLOCK>().0.iter().zip(out.chunks_exact_mut(rows * BLOCK_BYTES)) {
            let scale = quantize_block(x, &mut codes);
            bytes.iter_mut().zip(&codes).for_each(|(byte, code)| *byte = *code as i8 as u8);
            for (quad, bytes) in bytes.as_chunks::<4>().0.iter().enumerate() {
                out[4 * (quad * rows + row)..][..4].copy_from_slice(bytes);
            }
            let (first, last) = (-sum(&codes[..16]), -sum(&codes[16..]));
            let mut put = |which, bytes: [u8; 4]| out[place(rows, which, row)..][..4].copy_from_slice(&bytes);
            put(Numbers::Scale, scale.to_ne_bytes());
            put(Numbers::Sum, ((first + last) * zero).to_ne_bytes());
            put(Numbers::FirstSum, (first * zero).to_ne_bytes());
            put(Numbers::LastSum, (last * zero).to_ne_bytes());
            put(Numbers::ScaledSum, (scale * (first + last) as f32).to_ne_bytes());
        }
    }
}
