//! One vocabulary of vector operations for every instruction set.
//!
//! A kernel is written once, generic over [`Simd`], with every function on its hot path `#[inline(always)]`; running it
//! through [`Isa::run`](crate::Isa::run) compiles it once per instruction set. A value of a `Simd` type is the proof
//! that the processor has the instructions, so only pointers remain unsafe.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod scalar;

/// Bytes of a stream of weights that are asked for in advance. By measurement: with 2048 one core of an AMD Zen 4 reads half
/// as fast as with none or with 6144, two read a fifth less.
pub(crate) const AHEAD: usize = 6144;

/// Asks for the cache line of an address, which may be any, to be brought to the second-level cache: of the first, whose
/// few open requests are what limits one core, processors take care themselves.
#[inline(always)]
pub(crate) fn prefetch(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction belongs to every processor of the architecture and reads nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// A kernel with its arguments.
pub(crate) trait Kernel {
    type Out;
    /// Must be `#[inline(always)]`, or it is compiled without the instructions of `S`.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// Vectors of f32 and i32 with the same number of lanes.
///
/// Pointers need no alignment. `load_*` and `store_*` touch `LANES` elements, the `_first` forms `n <= LANES`.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// f32 lanes.
    type V: Copy;
    /// i32 lanes.
    type I: Copy;
    const LANES: usize;
    /// Token rows of the matrix product's register tile; its width is `2 * LANES`.
    const TILE_ROWS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `b` if either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `b` if either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The lanes of `yes` where `a < b`, of `no` elsewhere and for NaN.
    fn if_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// `a * b + c`.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// `2^a` for integral `a` in `-126..=127`.
    fn exp2i(self, a: Self::V) -> Self::V;
    /// Sum of the lanes.
    fn sum(self, a: Self::V) -> f32;

    /// # Safety
    /// `p` is readable for `LANES` elements.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// The other lanes are 0.
    /// # Safety
    /// `p` is readable for `n <= LANES` elements.
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::V;
    /// # Safety
    /// `p` is writable for `LANES` elements.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// # Safety
    /// `p` is writable for `n <= LANES` elements.
    unsafe fn store_first(self, p: *mut f32, v: Self::V, n: usize);

    /// One half-precision number.
    /// # Safety
    /// `p` is readable for 2 bytes.
    unsafe fn f16(self, p: *const u8) -> f32;
    /// One half-precision number in every lane.
    /// # Safety
    /// `p` is readable for 2 bytes.
    unsafe fn splat_f16(self, p: *const u8) -> Self::V;
    /// # Safety
    /// `p` is readable for `2 * LANES` bytes.
    unsafe fn load_f16(self, p: *const u8) -> Self::V;
    /// Rounds to nearest even.
    /// # Safety
    /// `p` is writable for `2 * LANES` bytes.
    unsafe fn store_f16(self, p: *mut u8, v: Self::V);
    /// # Safety
    /// `p` is readable for `2 * LANES` bytes.
    unsafe fn load_bf16(self, p: *const u8) -> Self::V;

    /// # Safety
    /// `p` is readable for `LANES` bytes.
    unsafe fn load_u8(self, p: *const u8) -> Self::I;
    /// # Safety
    /// `p` is readable for `LANES` bytes.
    unsafe fn load_i8(self, p: *const u8) -> Self::I;
    fn zero(self) -> Self::I;
    /// Signed bytes as integers of 16 bits, two of them in each lane.
    /// # Safety
    /// `p` is readable for `2 * LANES` bytes.
    unsafe fn load_pairs(self, p: *const u8) -> Self::I;
    /// The same 32 bits in every lane.
    /// # Safety
    /// `p` is readable for 4 bytes.
    unsafe fn splat_pair(self, p: *const u8) -> Self::I;
    /// Adds, to each lane, the products of its two integers of 16 bits, not both of them -32768.
    fn add_pairs(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I;
    fn and(self, a: Self::I, mask: i32) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    fn shl(self, a: Self::I, bits: i32) -> Self::I;
    fn shr(self, a: Self::I, bits: i32) -> Self::I;
    fn to_f32(self, a: Self::I) -> Self::V;

    /// Writes the transpose of `rows` (each readable for 8 elements) to `out`, whose rows lie `stride` apart.
    /// # Safety
    /// As said, and `out` is writable for `7 * stride + 8` elements.
    unsafe fn transpose8(self, rows: [*const f32; 8], out: *mut f32, stride: usize);
}
