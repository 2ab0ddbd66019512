use std::arch::x86_64::*;

use super::{Kernel, Simd};

/// AVX2 with FMA and F16C (Intel from 2013, AMD from 2015).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// The token, if the processor and the system support it.
    pub(crate) fn detect() -> Option<Avx2> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"))
            .then_some(Avx2(()))
    }

    pub(crate) fn enter<K: Kernel>(self, kernel: K) -> K::Out {
        // SAFETY: the token proves the instruction set.
        unsafe { enter(self, kernel) }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn enter<K: Kernel>(token: Avx2, kernel: K) -> K::Out {
    kernel.run(token)
}

impl Simd for Avx2 {
    type V = __m256;
    type I = __m256i;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn if_less(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn exp2i(self, a: __m256) -> __m256 {
        // SAFETY: the token proves the instruction set.
        unsafe {
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127)), 23))
        }
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        // SAFETY: the token proves the instruction set.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: the token proves the instruction set; the pointer is the caller's contract.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: the token proves the instruction set; the pointer is the caller's contract.
        unsafe { _mm256_maskload_ps(p, first(n)) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: the token proves the instruction set; the pointer is the caller's contract.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: __m256, n: usize) {
        // SAFETY: the token proves the instruction set; the pointer is the caller's contract.
        unsafe { _mm256_maskstore_ps(p, first(n), v) }
    }

    #[inline(always)]
    unsafe fn f16(self, p: *const u8) -> f32 {
        // SAFETY: the token proves the instruction set; the pointer is the caller's contract.
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(p.cast::<u16>().read_unaligned())))) }
    }
    #[inline(always)]
    unsafe fn splat_f16(self, p: *const u8) -> __m256 {
        // Broadcast before the conversion: a scalar one makes each block wait for the one before, because the
        // instruction that loads 16 bits keeps the rest of its register.
        // SAFETY: the token proves the instruction set; the pointer is the caller's contract.
        unsafe { _mm256_cvtph_ps(_mm_set1_epi16(p.cast::<i16>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> __m256 {
        // SAFETY: the token proves the instruction set; the pointer is the caller's contract.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8, v: __m256) {
        // SAFETY: the token proves the instruction set; the pointer is the caller's contract.
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> __m256 {
        // SAFETY: the token proves the instruction set; the pointer is the caller's contract.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())), 16)) }
    }

    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m256i {
        // SAFETY: the token proves the instruction set; the pointer is the caller's contract.
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> __m256i {
        // SAFETY: the token proves the instruction set; the pointer is the caller's contract.
        unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())) }
    }
    #[inline(always)]
    fn zero(self) -> __m256i {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn load_pairs(self, p: *const u8) -> __m256i {
        // SAFETY: the token proves the instruction set; the pointer is the caller's contract.
        unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn splat_pair(self, p: *const u8) -> __m256i {
        // SAFETY: the token proves the instruction set; the pointer is the caller's contract.
        unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    fn add_pairs(self, sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
    }
    #[inline(always)]
    fn and(self, a: __m256i, mask: i32) -> __m256i {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_and_si256(a, _mm256_set1_epi32(mask)) }
    }
    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_or_si256(a, b) }
    }
    #[inline(always)]
    fn shl(self, a: __m256i, bits: i32) -> __m256i {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(bits)) }
    }
    #[inline(always)]
    fn shr(self, a: __m256i, bits: i32) -> __m256i {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(bits)) }
    }
    #[inline(always)]
    fn to_f32(self, a: __m256i) -> __m256 {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_cvtepi32_ps(a) }
    }

    #[inline(always)]
    unsafe fn transpose8(self, rows: [*const f32; 8], out: *mut f32, stride: usize) {
        // SAFETY: the token proves the instruction set; the pointer is the caller's contract.
        unsafe { transpose(rows, out, stride) }
    }
}

/// A mask of the first `n` lanes.
#[inline(always)]
fn first(n: usize) -> __m256i {
    const ONES_THEN_ZEROS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: at most 8 is subtracted from 8, and 8 elements remain from there; only called behind a token.
    unsafe { _mm256_loadu_si256(ONES_THEN_ZEROS.as_ptr().add(8 - n.min(8)).cast()) }
}

/// See [`Simd::transpose8`].
#[inline(always)]
pub(super) unsafe fn transpose(rows: [*const f32; 8], out: *mut f32, stride: usize) {
    // SAFETY: the caller's contract, and only called behind a token.
    unsafe {
        let r = [
            _mm256_loadu_ps(rows[0]),
            _mm256_loadu_ps(rows[1]),
            _mm256_loadu_ps(rows[2]),
            _mm256_loadu_ps(rows[3]),
            _mm256_loadu_ps(rows[4]),
            _mm256_loadu_ps(rows[5]),
            _mm256_loadu_ps(rows[6]),
            _mm256_loadu_ps(rows[7]),
        ];
        // Columns of 4x4 blocks: in each 128-bit half, one column of rows a..a+4. A macro, because a closure might be
        // compiled apart and without the instruction set.
        macro_rules! quad {
            ($a:literal) => {{
                let (lo01, hi01) = (_mm256_unpacklo_ps(r[$a], r[$a + 1]), _mm256_unpackhi_ps(r[$a], r[$a + 1]));
                let (lo23, hi23) = (_mm256_unpacklo_ps(r[$a + 2], r[$a + 3]), _mm256_unpackhi_ps(r[$a + 2], r[$a + 3]));
                [
                    _mm256_shuffle_ps::<0x44>(lo01, lo23),
                    _mm256_shuffle_ps::<0xee>(lo01, lo23),
                    _mm256_shuffle_ps::<0x44>(hi01, hi23),
                    _mm256_shuffle_ps::<0xee>(hi01, hi23),
                ]
            }};
        }
        let (top, bottom) = (quad!(0), quad!(4));
        for c in 0..4 {
            _mm256_storeu_ps(out.add(c * stride), _mm256_permute2f128_ps::<0x20>(top[c], bottom[c]));
            _mm256_storeu_ps(out.add((c + 4) * stride), _mm256_permute2f128_ps::<0x31>(top[c], bottom[c]));
        }
    }
}
