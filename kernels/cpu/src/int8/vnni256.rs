//! AVX2 with VNNI.

use std::arch::x86_64::*;

use super::format::BLOCK;
use super::simd::{Int8, Kernel8};
use super::tile;
use super::x86::forward;
use crate::simd::avx2::Avx2;

/// AVX2 with VNNI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vnni256(Avx2);

impl Vnni256 {
    pub(crate) fn detect() -> Option<Vnni256> {
        Avx2::detect().filter(|_| is_x86_feature_detected!("avxvnni")).map(Vnni256)
    }

    /// The instructions for floats.
    pub(crate) fn avx2(self) -> Avx2 {
        self.0
    }
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
#[inline(never)]
fn run_vnni256<K: Kernel8>(token: Vnni256, kernel: K) {
    kernel.run(token);
}

/// What is the same without VNNI.
macro_rules! as_avx2 {
    ($($(#[$unsafe:ident])? fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {$(
        as_avx2!(@one $($unsafe)? fn $name($($arg: $ty),*) -> $out);
    )*};
    (@one pointer fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty) => {
        #[inline(always)]
        unsafe fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: the caller's contract is the same.
            unsafe { self.0.$name($($arg),*) }
        }
    };
    (@one fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty) => {
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            self.0.$name($($arg),*)
        }
    };
}

impl Int8 for Vnni256 {
    type I = __m256i;
    type F = __m256;
    type Simd = Avx2;
    const LANES: usize = 8;
    const VECTORS: usize = 2;
    const SIGNED: bool = false;
    const PAIRS: bool = false;

    #[inline(always)]
    fn simd(self) -> Avx2 {
        self.0
    }
    #[inline(always)]
    fn enter<K: Kernel8>(self, kernel: K) {
        // SAFETY: the token proves the instruction set.
        unsafe { run_vnni256(self, kernel) }
    }

    #[inline(always)]
    fn wide(self, codes: __m256i) -> __m256i {
        codes
    }
    #[inline(always)]
    fn total(self, sum: __m256i) -> __m256i {
        sum
    }
    #[inline(always)]
    unsafe fn four_quads<const WIDE: bool, const V: usize, const R: usize>(
        self,
        sums: &mut [[__m256i; R]; V],
        weights: *const u8,
        x: *const u8,
    ) -> bool {
        tile::call!(sums, weights, x, (V, R) { 2 vnni256_2 4 vnni256_4 5 vnni256_5 6 vnni256_6 })
    }

    #[inline(always)]
    unsafe fn four_halves<const V: usize, const R: usize>(
        self,
        sums: &mut [[__m256i; R]; V],
        weights: *const u8,
        x: *const u8,
    ) -> bool {
        tile::call!(sums, weights, x, (V, R) { 2 words256_2 4 words256_4 5 words256_5 6 words256_6 })
    }

    #[inline(always)]
    unsafe fn gather<const SCALE: i32>(self, table: *const u8, index: __m256i) -> __m256i {
        // SAFETY: the caller's contract is the same.
        unsafe { self.0.gather::<SCALE>(table, index) }
    }

    forward! {
        fn dot(sum: __m256i, codes: __m256i, x: __m256i) -> __m256i = _mm256_dpbusd_avx_epi32(sum, codes, x);
        fn dot_halves(sum: __m256i, a: __m256i, x: __m256i) -> __m256i = _mm256_dpwssd_avx_epi32(sum, a, x);
        fn dot_wide(sum: __m256i, codes: __m256i, x: __m256i) -> __m256i = _mm256_dpbusd_avx_epi32(sum, codes, x);
    }
    as_avx2! {
        #[pointer] fn load(p: *const u8) -> __m256i;
        #[pointer] fn splat(p: *const u8) -> __m256i;
        fn zero() -> __m256i;
        fn and(a: __m256i, mask: u8) -> __m256i;
        fn or(a: __m256i, b: __m256i) -> __m256i;
        fn shl(a: __m256i, bits: i32) -> __m256i;
        fn shr(a: __m256i, bits: i32) -> __m256i;
        fn lookup(bytes: __m256i, table: &[u8; 16]) -> __m256i;
        fn halves(a: __m256, b: __m256) -> __m256i;
        fn most(most: __m256, a: __m256) -> __m256;
        fn div(a: __m256, b: __m256) -> __m256;
        fn all(a: f32) -> __m256;
        fn largest(x: &[f32; BLOCK]) -> u32;
        fn round(x: &[f32; BLOCK], inverse: f32, to: &mut [u8; BLOCK]) -> [i32; 2];
        fn to_f32(a: __m256i) -> __m256;
        fn as_f32(a: __m256i) -> __m256;
        fn add(a: __m256, b: __m256) -> __m256;
        fn plus(a: __m256i, b: __m256i) -> __m256i;
        fn mul(a: __m256, b: __m256) -> __m256;
        fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256;
        #[pointer] fn f16s(p: *const u8) -> __m256;
        #[pointer] fn bf16s(p: *const u8) -> __m256;
        #[pointer] fn bytes(p: *const u8) -> __m256i;
        #[pointer] fn shorts(p: *const u8) -> __m256i;
        fn bits(a: __m256i, from: usize, count: usize, to: usize) -> __m256i;
        fn signed(codes: __m256i, signs: __m256i, quad: usize, zero: u8) -> __m256i;
        fn to_mantissa(a: __m256i) -> __m256i;
        #[pointer] fn signed_bytes(p: *const u8) -> __m256i;
        fn prefetch(p: *const u8) -> ();
        #[pointer] fn floats(p: *const f32) -> __m256;
        #[pointer] fn store(p: *mut f32, a: __m256) -> ();
    }
}
