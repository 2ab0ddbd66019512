//! Activations as 8-bit integers.
//!
//! Each 32 columns of a row have one scale, a 127th of their largest magnitude. Rows are interleaved in tiles: of a
//! block, first the codes, row by row, then the numbers of [`Numbers`], each for all rows.

use super::format::BLOCK;
use super::simd::Int8;

/// What follows the codes of a block, 4 bytes each per row.
#[derive(Clone, Copy)]
pub(crate) enum Numbers {
    /// Scale, f32.
    Scale,
    /// The sum of the codes, negative, times the weights' code of zero, if that is not 0: an i32, or in [`halves`] two
    /// i16, the sums of the first two of each quad and of the others, without a carry.
    Sum,
    /// The same of the first 16.
    FirstSum,
    /// The same of the last 16.
    LastSum,
    /// Scale times the negative sum of the codes, f32.
    ScaledSum,
}

/// Whether sums are in halves of a lane, for this code of zero: where they fit, products begin with them.
pub(crate) const fn halves<S: Int8>(zero: i32) -> bool {
    S::PAIRS && zero <= 32
}

/// Rows of a full tile: with two vectors of weights 12 sums, enough to hide the latency of products.
pub(crate) const TILE: usize = 6;

/// Elements of a row that are asked for in advance: so many rows at once are not foreseen.
const AHEAD: usize = 512;

/// Bytes of a block of a row.
pub(crate) const BLOCK_BYTES: usize = BLOCK + 4 * 5;

/// Bytes of a row of `cols`.
pub(crate) fn row_bytes(cols: usize) -> usize {
    cols / BLOCK * BLOCK_BYTES
}

/// Where quad `quad` of row `row` lies in a block.
#[inline(always)]
pub(crate) const fn quad_place(quad: usize, row: usize) -> usize {
    row * BLOCK + 4 * quad
}

/// Where number `which` of row `row` lies in a block of `rows`.
#[inline(always)]
pub(crate) fn place(rows: usize, which: Numbers, row: usize) -> usize {
    rows * (BLOCK + 4 * which as usize) + 4 * row
}

/// First rows and heights of the tiles of `n` rows: full ones while they last, then such that few are low.
pub(crate) fn tiles(n: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
    let mut first = 0;
    std::iter::from_fn(move || {
        let height = match n - first {
            0 => return None,
            1 => 1,
            2 | 3 => 2,
            4 | 8 => 4,
            5 | 7 | 9 | 10 | 13 | 14 | 15 => 5,
            _ => TILE,
        };
        first += height;
        Some((first - height, height))
    })
}

/// Quantises the rows of one tile, `[rows, cols]`, to `out` of `rows * row_bytes(cols)`, for weights whose code of zero
/// is `zero`. Numbers that are not finite make the scale of their block NaN, and with it every result of the row.
#[inline(always)]
pub(crate) fn quantize_tile<S: Int8>(s: S, x: &[f32], cols: usize, zero: i32, out: &mut [u8]) {
    let (rows, zero) = (x.len() / cols, zero.max(1));
    for (block, out) in out.chunks_exact_mut(rows * BLOCK_BYTES).enumerate() {
        let (codes, numbers) = out.split_at_mut(rows * BLOCK);
        for ((row, x), codes) in x.chunks_exact(cols).enumerate().zip(codes.as_chunks_mut::<BLOCK>().0) {
            (0..2).for_each(|line| s.prefetch(x.as_ptr().wrapping_add(block * BLOCK + AHEAD + 16 * line).cast()));
            let x = &x.as_chunks::<BLOCK>().0[block];
            let largest = f32::from_bits(s.largest(x));
            let (mut scale, mut sums) = (largest / 127.0, [0; 2]);
            if largest.is_finite() && largest >= 1e-30 {
                sums = s.round(x, 127.0 / largest, codes);
            } else {
                // The inverse would overflow; nothing is lost beside numbers of ordinary size.
                scale = if largest.is_finite() { 0.0 } else { f32::NAN };
                codes.fill(0);
            }
            // Both halves, negative.
            let [first, last] = sums.map(|sum| [-i32::from(sum as i16), -(sum >> 16)]);
            let all = [first[0] + last[0], first[1] + last[1]];
            let sum = |[low, high]: [i32; 2]| match halves::<S>(zero) {
                true => (low * zero) & 0xffff | (high * zero) << 16,
                false => (low + high) * zero,
            };
            let mut put = |which, bytes: [u8; 4]| {
                numbers[place(rows, which, row) - rows * BLOCK..][..4].copy_from_slice(&bytes);
            };
            put(Numbers::Scale, scale.to_ne_bytes());
            put(Numbers::Sum, sum(all).to_ne_bytes());
            put(Numbers::FirstSum, sum(first).to_ne_bytes());
            put(Numbers::LastSum, sum(last).to_ne_bytes());
            put(Numbers::ScaledSum, (scale * (all[0] + all[1]) as f32).to_ne_bytes());
        }
    }
}
