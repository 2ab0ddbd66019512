//! The vector operations of the products of 8-bit integers.
//!
//! As with [`Simd`](crate::simd::Simd), a value of an implementing type is the proof that the processor has the
//! instructions, so only pointers remain unsafe.

use std::arch::x86_64::*;

use crate::simd::{avx2::Avx2, avx512::Avx512};

/// Vectors of `LANES` 32-bit lanes, each of which is an i32, an f32 or four bytes.
pub(crate) trait Int8: Copy + Send + Sync + 'static {
    type I: Copy;
    type F: Copy;
    /// 8 or 16.
    const LANES: usize;
    /// Rows of x in the register tile.
    const TILE: usize;
    /// Whether `dot_wide` takes its codes, less 128, as signed numbers.
    const SIGNED: bool;

    /// # Safety
    /// `p` is readable for `4 * LANES` bytes.
    unsafe fn load(self, p: *const u8) -> Self::I;
    /// # Safety
    /// `p` is readable for 4 bytes.
    unsafe fn splat(self, p: *const u8) -> Self::I;
    fn zero(self) -> Self::I;
    /// `mask` in every byte.
    fn and(self, a: Self::I, mask: u8) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    /// In units of 16 bits.
    fn shl(self, a: Self::I, bits: i32) -> Self::I;
    /// In units of 16 bits.
    fn shr(self, a: Self::I, bits: i32) -> Self::I;
    /// In units of 32 bits.
    fn shl32(self, a: Self::I, bits: i32) -> Self::I;
    /// Entry number `byte` of the table for every byte, all below 16.
    fn lookup(self, bytes: Self::I, table: &[u8; 16]) -> Self::I;
    /// Adds to each lane the products of its four unsigned bytes, all below 128, with the four signed bytes at `x`,
    /// none -128.
    /// # Safety
    /// `x` is readable for 4 bytes.
    unsafe fn dot(self, sum: Self::I, codes: Self::I, x: *const u8) -> Self::I;
    /// The same for any codes, which are lowered by 128 if `SIGNED`.
    /// # Safety
    /// `x` is readable for 4 bytes.
    unsafe fn dot_wide(self, sum: Self::I, codes: Self::I, x: *const u8) -> Self::I;

    fn to_f32(self, a: Self::I) -> Self::F;
    fn as_f32(self, a: Self::I) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Half-precision numbers.
    /// # Safety
    /// `p` is readable for `2 * LANES` bytes.
    unsafe fn f16s(self, p: *const u8) -> Self::F;
    /// # Safety
    /// `p` is readable for `2 * LANES` bytes.
    unsafe fn bf16s(self, p: *const u8) -> Self::F;
    /// # Safety
    /// `p` is readable for `LANES` bytes.
    unsafe fn u8s(self, p: *const u8) -> Self::F;
    /// # Safety
    /// `p` is readable for `LANES` bytes.
    unsafe fn i8s(self, p: *const u8) -> Self::F;
    fn prefetch(self, p: *const u8);
    /// # Safety
    /// `p` is writable for `LANES` elements.
    unsafe fn store(self, p: *mut f32, a: Self::F);
}

/// AVX-512 with VNNI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vnni512(());

impl Vnni512 {
    pub(crate) fn detect(_: Avx512) -> Option<Vnni512> {
        is_x86_feature_detected!("avx512vnni").then_some(Vnni512(()))
    }
}

/// A kernel with its arguments.
pub(crate) trait Kernel8 {
    /// Must be `#[inline(always)]`, or it is compiled without the instructions of `S`.
    fn run<S: Int8>(self, s: S);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn enter512<K: Kernel8>(token: Vnni512, kernel: K) {
    kernel.run(token);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn enter256<K: Kernel8>(token: Avx2, kernel: K) {
    kernel.run(token);
}

/// The instructions for products of 8-bit integers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Token8 {
    Vnni512(Vnni512),
    Avx2(Avx2),
}

impl Token8 {
    #[inline]
    pub(crate) fn run<K: Kernel8>(self, kernel: K) {
        // SAFETY: the tokens prove the instruction sets.
        unsafe {
            match self {
                Token8::Vnni512(token) => enter512(token, kernel),
                Token8::Avx2(token) => enter256(token, kernel),
            }
        }
    }

    /// Rows of x in its register tile.
    pub(crate) fn tile(self) -> usize {
        match self {
            Token8::Vnni512(_) => Vnni512::TILE,
            Token8::Avx2(_) => Avx2::TILE,
        }
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

impl Int8 for Vnni512 {
    type I = __m512i;
    type F = __m512;
    const LANES: usize = 16;
    const TILE: usize = 8;
    const SIGNED: bool = false;

    forward! {
        #[pointer] fn load(p: *const u8) -> __m512i = _mm512_loadu_si512(p.cast());
        #[pointer] fn splat(p: *const u8) -> __m512i = _mm512_set1_epi32(p.cast::<i32>().read_unaligned());
        fn zero() -> __m512i = _mm512_setzero_si512();
        fn and(a: __m512i, mask: u8) -> __m512i = _mm512_and_si512(a, _mm512_set1_epi8(mask as i8));
        fn or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        fn shl(a: __m512i, bits: i32) -> __m512i = _mm512_sll_epi16(a, _mm_cvtsi32_si128(bits));
        fn shr(a: __m512i, bits: i32) -> __m512i = _mm512_srl_epi16(a, _mm_cvtsi32_si128(bits));
        fn shl32(a: __m512i, bits: i32) -> __m512i = _mm512_sll_epi32(a, _mm_cvtsi32_si128(bits));
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
        fn shl32(a: __m256i, bits: i32) -> __m256i = _mm256_sll_epi32(a, _mm_cvtsi32_si128(bits));
        fn lookup(bytes: __m256i, table: &[u8; 16]) -> __m256i = {
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), bytes)
        };
        #[pointer] fn dot(sum: __m256i, codes: __m256i, x: *const u8) -> __m256i = {
            let pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi32(x.cast::<i32>().read_unaligned()));
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
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
