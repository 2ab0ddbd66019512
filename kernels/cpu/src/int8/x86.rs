//! AVX2, and AVX-512 with VNNI.

use std::arch::x86_64::*;

use super::amx::Amx;
use super::format::BLOCK;
use super::grid::Points;
use super::points;
use super::simd::{Int8, Kernel8, sign_bits, sign_places};
use super::tile;
use crate::simd::{avx2::Avx2, avx512::Avx512};

/// AVX-512 with VNNI, whether bytes may be permuted (VBMI), and tiles if they are to be used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vnni512(Avx512, bool, Option<Amx>);

impl Vnni512 {
    pub(crate) fn detect(token: Avx512) -> Option<Vnni512> {
        is_x86_feature_detected!("avx512vnni").then(|| Vnni512(token, is_x86_feature_detected!("avx512vbmi"), None))
    }

    /// The same, with tiles where these are faster.
    pub(crate) fn with(self, tiles: Amx) -> Vnni512 {
        Vnni512(self.0, self.1, Some(tiles))
    }

    /// Tiles, if they are to be used.
    pub(crate) fn tiles(self) -> Option<Amx> {
        self.2
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline(never)]
fn run512<K: Kernel8>(token: Vnni512, kernel: K) {
    kernel.run(token);
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
fn run256<K: Kernel8>(token: Avx2, kernel: K) {
    kernel.run(token);
}

/// Stores signed bytes, none -128. Gives the sums of the first and of the last 16, as [`Int8::round`] does.
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn rounded(bytes: __m256i, to: &mut [u8; BLOCK]) -> [i32; 2] {
    // SAFETY: the caller's contract; the array has as many bytes.
    unsafe {
        _mm256_storeu_si256(to.as_mut_ptr().cast(), bytes);
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
        let sums = _mm256_add_epi16(pairs, _mm256_shuffle_epi32::<0b01_00_11_10>(pairs));
        let sums = _mm256_add_epi16(sums, _mm256_shuffle_epi32::<0b10_11_00_01>(sums));
        let first = _mm_cvtsi128_si32(_mm256_castsi256_si128(sums));
        [first, _mm_cvtsi128_si32(_mm256_extracti128_si256::<1>(sums))]
    }
}

macro_rules! forward {
    ($($(#[$unsafe:ident])? fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr;)*) => {$(
        forward!(@one $($unsafe)? fn $name($($arg: $ty),*) -> $out = $body);
    )*};
    (@one pointer fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr) => {
        #[inline(always)]
        unsafe fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: the token proves the instruction set; the pointer is the caller's contract.
            unsafe { $body }
        }
    };
    (@one fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr) => {
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: the token proves the instruction set.
            unsafe { $body }
        }
    };
}

pub(super) use forward;

impl Int8 for Vnni512 {
    type I = __m512i;
    type F = __m512;
    type Simd = Avx512;
    const LANES: usize = 16;
    const VECTORS: usize = 2;
    const SIGNED: bool = false;
    const PAIRS: bool = false;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0
    }
    #[inline(always)]
    fn enter<K: Kernel8>(self, kernel: K) {
        // SAFETY: the token proves the instruction set.
        unsafe { run512(self, kernel) }
    }

    #[inline(always)]
    fn wide(self, codes: __m512i) -> __m512i {
        codes
    }
    #[inline(always)]
    fn total(self, sum: __m512i) -> __m512i {
        sum
    }

    #[inline(always)]
    unsafe fn four_quads<const WIDE: bool, const V: usize, const R: usize>(
        self,
        sums: &mut [[__m512i; R]; V],
        weights: *const u8,
        x: *const u8,
    ) -> bool {
        tile::call!(sums, weights, x, (V, R) { 2 vnni512_2 4 vnni512_4 5 vnni512_5 6 vnni512_6 })
    }

    #[inline(always)]
    unsafe fn four_halves<const V: usize, const R: usize>(
        self,
        sums: &mut [[__m512i; R]; V],
        weights: *const u8,
        x: *const u8,
    ) -> bool {
        tile::call!(sums, weights, x, (V, R) { 2 words512_2 4 words512_4 5 words512_5 6 words512_6 })
    }

    #[inline(always)]
    unsafe fn points<P: Points>(self, block: *const u8, to: *mut u8) -> bool {
        if self.1 {
            // SAFETY: the token proves the instruction set, with what it has been asked for; the rest is the caller's contract.
            unsafe { points::unpack::<P>(block, to) };
        }
        self.1
    }

    #[inline(always)]
    unsafe fn gather<const SCALE: i32>(self, table: *const u8, index: __m512i) -> __m512i {
        // SAFETY: the token proves the instruction set; the pointer is the caller's contract.
        unsafe { _mm512_i32gather_epi32::<SCALE>(index, table.cast()) }
    }

    forward! {
        #[pointer] fn load(p: *const u8) -> __m512i = _mm512_loadu_si512(p.cast());
        #[pointer] fn splat(p: *const u8) -> __m512i = _mm512_set1_epi32(p.cast::<i32>().read_unaligned());
        fn zero() -> __m512i = _mm512_setzero_si512();
        fn and(a: __m512i, mask: u8) -> __m512i = _mm512_and_si512(a, _mm512_set1_epi8(mask as i8));
        fn or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        fn shl(a: __m512i, bits: i32) -> __m512i = _mm512_sll_epi16(a, _mm_cvtsi32_si128(bits));
        fn shr(a: __m512i, bits: i32) -> __m512i = _mm512_srl_epi16(a, _mm_cvtsi32_si128(bits));
        fn bits(a: __m512i, from: usize, count: usize, to: usize) -> __m512i = {
            let low = _mm512_srl_epi32(a, _mm_cvtsi32_si128(from as i32));
            let low = _mm512_and_si512(low, _mm512_set1_epi32((1 << count) - 1));
            _mm512_sll_epi32(low, _mm_cvtsi32_si128(to as i32))
        };
        fn lookup(bytes: __m512i, table: &[u8; 16]) -> __m512i = {
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), bytes)
        };
        fn dot(sum: __m512i, codes: __m512i, x: __m512i) -> __m512i = _mm512_dpbusd_epi32(sum, codes, x);
        fn plus(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        fn dot_wide(sum: __m512i, codes: __m512i, x: __m512i) -> __m512i = _mm512_dpbusd_epi32(sum, codes, x);
        fn dot_halves(sum: __m512i, a: __m512i, x: __m512i) -> __m512i = _mm512_dpwssd_epi32(sum, a, x);
        fn halves(a: __m512, b: __m512) -> __m512i = {
            let high = _mm512_slli_epi32::<16>(_mm512_cvtps_epi32(b));
            _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_cvtps_epi32(a), high)
        };
        fn most(most: __m512, a: __m512) -> __m512 = {
            let magnitude = _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(i32::MAX));
            _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(most), magnitude))
        };
        fn div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fn all(a: f32) -> __m512 = _mm512_set1_ps(a);
        fn largest(x: &[f32; BLOCK]) -> u32 = {
            let (a, b) = (_mm512_loadu_si512(x.as_ptr().cast()), _mm512_loadu_si512(x[16..].as_ptr().cast()));
            let mask = _mm512_set1_epi32(i32::MAX);
            _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_and_si512(a, mask), _mm512_and_si512(b, mask)))
        };
        fn round(x: &[f32; BLOCK], inverse: f32, to: &mut [u8; BLOCK]) -> [i32; 2] = {
            let (a, b) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x[16..].as_ptr()));
            let inverse = _mm512_set1_ps(inverse);
            let (a, b) = (_mm512_cvtps_epi32(_mm512_mul_ps(a, inverse)), _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse)));
            rounded(_mm256_set_m128i(_mm512_cvtepi32_epi8(b), _mm512_cvtepi32_epi8(a)), to)
        };
        fn to_f32(a: __m512i) -> __m512 = _mm512_cvtepi32_ps(a);
        fn as_f32(a: __m512i) -> __m512 = _mm512_castsi512_ps(a);
        fn add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        fn mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        #[pointer] fn f16s(p: *const u8) -> __m512 = _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()));
        #[pointer] fn bf16s(p: *const u8) -> __m512 = {
            _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())), 16))
        };
        #[pointer] fn bytes(p: *const u8) -> __m512i = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
        #[pointer] fn shorts(p: *const u8) -> __m512i = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
        fn signed(codes: __m512i, signs: __m512i, quad: usize, zero: u8) -> __m512i = {
            let places = _mm512_broadcast_i32x4(_mm_loadu_si128(sign_places(quad).as_ptr().cast()));
            let negative = _mm512_test_epi8_mask(_mm512_shuffle_epi8(signs, places), _mm512_set1_epi32(sign_bits(quad)));
            let zero = _mm512_set1_epi8(zero as i8);
            _mm512_mask_sub_epi8(_mm512_add_epi8(zero, codes), negative, zero, codes)
        };
        fn to_mantissa(a: __m512i) -> __m512i = _mm512_slli_epi32(a, 20);
        #[pointer] fn signed_bytes(p: *const u8) -> __m512i = _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()));
        fn prefetch(p: *const u8) -> () = _mm_prefetch::<_MM_HINT_T1>(p.cast());
        #[pointer] fn floats(p: *const f32) -> __m512 = _mm512_loadu_ps(p);
        #[pointer] fn store(p: *mut f32, a: __m512) -> () = _mm512_storeu_ps(p, a);
    }
}

impl Int8 for Avx2 {
    type I = __m256i;
    type F = __m256;
    type Simd = Avx2;
    const LANES: usize = 8;
    const VECTORS: usize = 2;
    // Two products of an unsigned byte above 128 do not fit the 16 bits in which the instruction adds them.
    const SIGNED: bool = true;
    const PAIRS: bool = true;

    #[inline(always)]
    fn simd(self) -> Avx2 {
        self
    }
    #[inline(always)]
    fn enter<K: Kernel8>(self, kernel: K) {
        // SAFETY: the token proves the instruction set.
        unsafe { run256(self, kernel) }
    }
    #[inline(always)]
    unsafe fn four_quads<const WIDE: bool, const V: usize, const R: usize>(
        self,
        sums: &mut [[__m256i; R]; V],
        weights: *const u8,
        x: *const u8,
    ) -> bool {
        if WIDE {
            return tile::call!(sums, weights, x, (V, R) { 2 signed_2 3 signed_3 4 signed_4 });
        }
        tile::call!(sums, weights, x, (V, R) { 2 pairs_2 4 pairs_4 5 pairs_5 6 pairs_6 })
    }

    #[inline(always)]
    unsafe fn four_halves<const V: usize, const R: usize>(
        self,
        sums: &mut [[__m256i; R]; V],
        weights: *const u8,
        x: *const u8,
    ) -> bool {
        tile::call!(sums, weights, x, (V, R) { 2 words_2 4 words_4 5 words_5 6 words_6 })
    }

    #[inline(always)]
    unsafe fn gather<const SCALE: i32>(self, table: *const u8, index: __m256i) -> __m256i {
        // SAFETY: the token proves the instruction set; the pointer is the caller's contract.
        unsafe { _mm256_i32gather_epi32::<SCALE>(table.cast(), index) }
    }

    forward! {
        #[pointer] fn load(p: *const u8) -> __m256i = _mm256_loadu_si256(p.cast());
        #[pointer] fn splat(p: *const u8) -> __m256i = _mm256_set1_epi32(p.cast::<i32>().read_unaligned());
        fn zero() -> __m256i = _mm256_setzero_si256();
        fn and(a: __m256i, mask: u8) -> __m256i = _mm256_and_si256(a, _mm256_set1_epi8(mask as i8));
        fn or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
        fn shl(a: __m256i, bits: i32) -> __m256i = _mm256_sll_epi16(a, _mm_cvtsi32_si128(bits));
        fn shr(a: __m256i, bits: i32) -> __m256i = _mm256_srl_epi16(a, _mm_cvtsi32_si128(bits));
        fn bits(a: __m256i, from: usize, count: usize, to: usize) -> __m256i = {
            let low = _mm256_srl_epi32(a, _mm_cvtsi32_si128(from as i32));
            let low = _mm256_and_si256(low, _mm256_set1_epi32((1 << count) - 1));
            _mm256_sll_epi32(low, _mm_cvtsi32_si128(to as i32))
        };
        fn lookup(bytes: __m256i, table: &[u8; 16]) -> __m256i = {
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), bytes)
        };
        fn wide(codes: __m256i) -> __m256i = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
        fn dot(sum: __m256i, codes: __m256i, x: __m256i) -> __m256i = {
            _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, x))
        };
        fn total(sum: __m256i) -> __m256i = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
        fn plus(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
        fn dot_wide(sum: __m256i, codes: __m256i, x: __m256i) -> __m256i = {
            // 128 * 127 twice still fits.
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes));
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        };
        fn dot_halves(sum: __m256i, a: __m256i, x: __m256i) -> __m256i = {
            _mm256_add_epi32(sum, _mm256_madd_epi16(a, x))
        };
        fn halves(a: __m256, b: __m256) -> __m256i = {
            let high = _mm256_slli_epi32::<16>(_mm256_cvtps_epi32(b));
            _mm256_blend_epi16::<0b1010_1010>(_mm256_cvtps_epi32(a), high)
        };
        fn most(most: __m256, a: __m256) -> __m256 = {
            let magnitude = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(i32::MAX));
            _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(most), magnitude))
        };
        fn div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        fn all(a: f32) -> __m256 = _mm256_set1_ps(a);
        fn largest(x: &[f32; BLOCK]) -> u32 = {
            let mut most = _mm256_setzero_si256();
            for x in x.as_chunks::<8>().0 {
                let magnitudes = _mm256_and_si256(_mm256_loadu_si256(x.as_ptr().cast()), _mm256_set1_epi32(i32::MAX));
                most = _mm256_max_epu32(most, magnitudes);
            }
            let most = _mm_max_epu32(_mm256_castsi256_si128(most), _mm256_extracti128_si256::<1>(most));
            let most = _mm_max_epu32(most, _mm_shuffle_epi32::<0b01_00_11_10>(most));
            _mm_cvtsi128_si32(_mm_max_epu32(most, _mm_shuffle_epi32::<0b10_11_00_01>(most))) as u32
        };
        fn round(x: &[f32; BLOCK], inverse: f32, to: &mut [u8; BLOCK]) -> [i32; 2] = {
            let mut codes = [_mm256_setzero_si256(); 4];
            for (codes, x) in codes.iter_mut().zip(x.as_chunks::<8>().0) {
                *codes = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x.as_ptr()), _mm256_set1_ps(inverse)));
            }
            let [a, b, c, d] = codes;
            let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            rounded(_mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)), to)
        };
        fn to_f32(a: __m256i) -> __m256 = _mm256_cvtepi32_ps(a);
        fn as_f32(a: __m256i) -> __m256 = _mm256_castsi256_ps(a);
        fn add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        fn mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        #[pointer] fn f16s(p: *const u8) -> __m256 = _mm256_cvtph_ps(_mm_loadu_si128(p.cast()));
        #[pointer] fn bf16s(p: *const u8) -> __m256 = {
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())), 16))
        };
        #[pointer] fn bytes(p: *const u8) -> __m256i = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
        #[pointer] fn shorts(p: *const u8) -> __m256i = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
        fn signed(codes: __m256i, signs: __m256i, quad: usize, zero: u8) -> __m256i = {
            let places = _mm256_broadcastsi128_si256(_mm_loadu_si128(sign_places(quad).as_ptr().cast()));
            let bits = _mm256_set1_epi32(sign_bits(quad));
            let negative = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(signs, places), bits), bits);
            let codes = _mm256_sub_epi8(_mm256_xor_si256(codes, negative), negative);
            _mm256_add_epi8(codes, _mm256_set1_epi8(zero as i8))
        };
        fn to_mantissa(a: __m256i) -> __m256i = _mm256_slli_epi32(a, 20);
        #[pointer] fn signed_bytes(p: *const u8) -> __m256i = _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()));
        fn prefetch(p: *const u8) -> () = _mm_prefetch::<_MM_HINT_T1>(p.cast());
        #[pointer] fn floats(p: *const f32) -> __m256 = _mm256_loadu_ps(p);
        #[pointer] fn store(p: *mut f32, a: __m256) -> () = _mm256_storeu_ps(p, a);
    }
}
