//! Points of a grid with byte permutations (AVX-512 VBMI): of 64 points at a time the codes of their elements are looked up
//! as two planes of packed bits, from tables that lie in registers, where each of 16 reads of a gather would take a cycle
//! and more.

use std::arch::x86_64::*;

use super::grid::Points;

/// For each byte of a vector where the bits begin that it is to get, in the two lanes of 8 bytes.
const fn places(first: i32, step: i32) -> i64 {
    let (mut out, mut i) = (0u64, 0);
    while i < 8 {
        let place = (32 * (i / 4) + first + step * (i % 4)) & 63;
        out |= (place as u64) << (8 * i);
        i += 1;
    }
    out as i64
}

/// In each byte the bits of `v` from a place on that `places` gives.
macro_rules! bits {
    ($v:expr, $first:expr, $step:expr) => {
        _mm512_multishift_epi64_epi8(_mm512_set1_epi64(places($first, $step)), $v)
    };
}

/// The bytes of a plane at 64 indices, whose bits from the eighth on are in `high`.
/// # Safety
/// The processor has the instructions, `plane` is readable for `256 << bits` bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")]
#[inline]
unsafe fn lookup<const TABLE: usize>(plane: *const u8, index: __m512i, high: &[__mmask64; 4]) -> __m512i {
    let mut found = [_mm512_setzero_si512(); 16];
    // SAFETY: the caller's contract.
    let part = |i: usize| unsafe { _mm512_loadu_si512(plane.add(64 * i).cast()) };
    let mut count = 2 << TABLE;
    for (i, found) in found.iter_mut().enumerate().take(2 << TABLE) {
        *found = _mm512_permutex2var_epi8(part(2 * i), index, part(2 * i + 1));
    }
    for mask in high.iter().take(TABLE + 1) {
        count /= 2;
        for i in 0..count {
            found[i] = _mm512_mask_blend_epi8(*mask, found[2 * i], found[2 * i + 1]);
        }
    }
    found[0]
}

/// Unpacks a block of 16 rows: quad after quad, four bytes of each row.
/// # Safety
/// The processor has the instructions; `block` is readable for a block, `to` is writable for eight vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")]
#[inline]
unsafe fn decode<P: Points, const TABLE: usize>(block: *const u8, to: *mut u8) {
    // SAFETY: the caller's contract.
    unsafe {
        let load = |at: usize| _mm512_loadu_si512(block.add(at).cast());
        let rest = match P::REST {
            0 => _mm512_setzero_si512(),
            1 => _mm512_cvtepu8_epi32(_mm_loadu_si128(block.add(64 * P::VECTORS).cast())),
            _ => _mm512_cvtepu16_epi32(_mm256_loadu_si256(block.add(64 * P::VECTORS).cast())),
        };
        let signs = if P::SIGNS { load(64 * (P::VECTORS - 1)) } else { rest };
        let values = _mm512_loadu_si512(P::values().as_ptr().cast());
        let (two, three) = (_mm512_set1_epi8(3), _mm512_set1_epi8(7));
        for vector in 0..2 / P::QUADS {
            let index = load(64 * vector);
            let high = _mm512_multishift_epi64_epi8(
                _mm512_set1_epi64(
                    const { [places(0, P::HIGH as i32), places(4 * P::HIGH as i32, P::HIGH as i32)] }[vector],
                ),
                rest,
            );
            let bit = |i: i8| _mm512_test_epi8_mask(high, _mm512_set1_epi8(i));
            let high = [_mm512_movepi8_mask(index), bit(1), bit(2), bit(4)];
            let planes = [0, 1].map(|i| P::planes().add(i * (256 << TABLE)));
            let planes = [lookup::<TABLE>(planes[0], index, &high), lookup::<TABLE>(planes[1], index, &high)];
            macro_rules! quad {
                ($($quad:literal)*) => {$(
                    let codes = if P::QUADS == 2 {
                        let low = bits!(planes[$quad % 2], const { 8 * ($quad / 2) }, 2);
                        let sign = match P::SIGNS {
                            true => bits!(signs, const { 4 * $quad - 2 }, 1),
                            false => bits!(signs, const { 4 * ($quad / 2) + 3 - 2 }, 0),
                        };
                        _mm512_ternarylogic_epi32::<0xca>(two, low, sign)
                    } else {
                        let low = bits!(planes[0], const { 8 * ($quad % 4) }, 2);
                        let high = bits!(planes[1], const { 8 * ($quad % 4) - 2 }, 1);
                        let sign = bits!(signs, const { 4 * $quad - 3 }, 1);
                        let code = _mm512_ternarylogic_epi32::<0xca>(two, low, high);
                        _mm512_ternarylogic_epi32::<0xca>(three, code, sign)
                    };
                    if P::QUADS == 2 || vector == $quad / 4 {
                        _mm512_storeu_si512(to.add(64 * $quad).cast(), _mm512_permutexvar_epi8(codes, values));
                    }
                )*};
            }
            quad!(0 1 2 3 4 5 6 7);
        }
    }
}

/// The same, of any format.
/// # Safety
/// As for `decode`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")]
#[inline(never)]
pub(super) unsafe fn unpack<P: Points>(block: *const u8, to: *mut u8) {
    // SAFETY: the caller's contract.
    unsafe {
        match P::TABLE {
            0 => decode::<P, 0>(block, to),
            1 => decode::<P, 1>(block, to),
            2 => decode::<P, 2>(block, to),
            _ => decode::<P, 3>(block, to),
        }
    }
}
