//! AVX2, and AVX-512 with VNNI.

use std::arch::x86_64::*;

use super::simd::{Int8, Kernel8};
use crate::simd::{avx2::Avx2, avx512::Avx512};

/// AVX-512 with VNNI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vnni512(());

impl Vnni512 {
    pub(crate) fn detect(_: Avx512) -> Option<Vnni512> {
        is_x86_feature_detected!("avx512vnni").then_some(Vnni512(()))
    }

    #[inline]
    pub(crate) fn enter8<K: Kernel8>(self, kernel: K) {
        // SAFETY: the token proves the instruction set.
        unsafe { run512(self, kernel) }
    }
}

#[inline]
pub(crate) fn enter256<K: Kernel8>(token: Avx2, kernel: K) {
    // SAFETY: the token proves the instruction set.
    unsafe { run256(token, kernel) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn run512<K: Kernel8>(token: Vnni512, kernel: K) {
    kernel.run(token);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn run256<K: Kernel8>(token: Avx2, kernel: K) {
    kernel.run(token);
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

impl Int8 for Vnni512 {
    type I = __m512i;
    type F = __m512;
    const LANES: usize = 16;
    const TILE: usize = 8;
    const SIGNED: bool = false;

    #[inline(always)]
    fn begin(self, sum: __m512i) -> __m512i {
        sum
    }
    #[inline(always)]
    fn end(self, _: __m512i, begun: __m512i) -> __m512i {
        begun
    }

    forward! {
        #[pointer] fn load(p: *const u8) -> __m512i = _mm512_loadu_si512(p.cast());
        #[pointer] fn splat(p: *const u8) -> __m512i = _mm512_set1_epi32(p.cast::<i32>().read_unaligned());
        fn zero() -> __m512i = _mm512_setzero_si512();
        fn and(a: __m512i, mask: u8) -> __m512i = _mm512_and_si512(a, _mm512_set1_epi8(mask as i8));
        fn or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        fn shl(a: __m512i, bits: i32) -> __m512i = _mm512_sll_epi16(a, _mm_cvtsi32_si128(bits));
        fn shr(a: __m512i, bits: i32) -> __m512i = _mm512_srl_epi16(a, _mm_cvtsi32_si128(bits));
        fn lookup(bytes: __m512i, table: &[u8; 16]) -> __m512i = {
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), bytes)
        };
        #[pointer] fn dot(sum: __m512i, codes: __m512i, x: *const u8) -> __m512i = {
            _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(x.cast::<i32>().read_unaligned()))
        };
        #[pointer] fn dot_wide(sum: __m512i, codes: __m512i, x: *const u8) -> __m512i = {
            _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(x.cast::<i32>().read_unaligned()))
        };
        fn to_f32(a: __m512i) -> __m512 = _mm512_cvtepi32_ps(a);
        fn as_f32(a: __m512i) -> __m512 = _mm512_castsi512_ps(a);
        fn mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        #[pointer] fn f16s(p: *const u8) -> __m512 = _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()));
        #[pointer] fn bf16s(p: *const u8) -> __m512 = {
            _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())), 16))
        };
        #[pointer] fn u8s(p: *const u8) -> __m512 = {
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())))
        };
        #[pointer] fn i8s(p: *const u8) -> __m512 = {
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())))
        };
        fn prefetch(p: *const u8) -> () = _mm_prefetch::<_MM_HINT_T0>(p.cast());
        #[pointer] fn store(p: *mut f32, a: __m512) -> () = _mm512_storeu_ps(p, a);
    }
}

impl Int8 for Avx2 {
    type I = __m256i;
    type F = __m256;
    const LANES: usize = 8;
    const TILE: usize = 4;
    // Two products of an unsigned byte above 128 do not fit the 16 bits in which the instruction adds them.
    const SIGNED: bool = true;

    forward! {
        #[pointer] fn load(p: *const u8) -> __m256i = _mm256_loadu_si256(p.cast());
        #[pointer] fn splat(p: *const u8) -> __m256i = _mm256_set1_epi32(p.cast::<i32>().read_unaligned());
        fn zero() -> __m256i = _mm256_setzero_si256();
        fn and(a: __m256i, mask: u8) -> __m256i = _mm256_and_si256(a, _mm256_set1_epi8(mask as i8));
        fn or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
        fn shl(a: __m256i, bits: i32) -> __m256i = _mm256_sll_epi16(a, _mm_cvtsi32_si128(bits));
        fn shr(a: __m256i, bits: i32) -> __m256i = _mm256_srl_epi16(a, _mm_cvtsi32_si128(bits));
        fn lookup(bytes: __m256i, table: &[u8; 16]) -> __m256i = {
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), bytes)
        };
        fn begin(_sum: __m256i) -> __m256i = _mm256_setzero_si256();
        // In 16 bits: two products of 127 per unit of the codes' sum of 128 just fit.
        #[pointer] fn dot(begun: __m256i, codes: __m256i, x: *const u8) -> __m256i = {
            _mm256_add_epi16(begun, _mm256_maddubs_epi16(codes, _mm256_set1_epi32(x.cast::<i32>().read_unaligned())))
        };
        fn end(sum: __m256i, begun: __m256i) -> __m256i = {
            _mm256_add_epi32(sum, _mm256_madd_epi16(begun, _mm256_set1_epi16(1)))
        };
        #[pointer] fn dot_wide(sum: __m256i, codes: __m256i, x: *const u8) -> __m256i = {
            let signed = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
            // 128 * 127 twice still fits.
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(_mm256_set1_epi32(x.cast::<i32>().read_unaligned()), signed));
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        };
        fn to_f32(a: __m256i) -> __m256 = _mm256_cvtepi32_ps(a);
        fn as_f32(a: __m256i) -> __m256 = _mm256_castsi256_ps(a);
        fn mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        #[pointer] fn f16s(p: *const u8) -> __m256 = _mm256_cvtph_ps(_mm_loadu_si128(p.cast()));
        #[pointer] fn bf16s(p: *const u8) -> __m256 = {
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())), 16))
        };
        #[pointer] fn u8s(p: *const u8) -> __m256 = {
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())))
        };
        #[pointer] fn i8s(p: *const u8) -> __m256 = {
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())))
        };
        fn prefetch(p: *const u8) -> () = _mm_prefetch::<_MM_HINT_T0>(p.cast());
        #[pointer] fn store(p: *mut f32, a: __m256) -> () = _mm256_storeu_ps(p, a);
    }
}
