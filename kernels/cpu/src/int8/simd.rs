//! The vector operations of the products of 8-bit integers.
//!
//! As with [`Simd`](crate::simd::Simd), a value of an implementing type is the proof that the processor has the
//! instructions, so only pointers remain unsafe.

#[cfg(target_arch = "x86_64")]
use super::x86::Vnni512;
#[cfg(target_arch = "x86_64")]
use crate::simd::avx2::Avx2;

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
    /// Entry number `byte` of the table for every byte, all below 16.
    fn lookup(self, bytes: Self::I, table: &[u8; 16]) -> Self::I;
    /// What `dot` adds to, before `end` adds it to `sum`.
    fn begin(self, sum: Self::I) -> Self::I;
    /// Adds, to each lane, the products of its four unsigned bytes with the four signed bytes at `x`, none -128. From
    /// `begin` to `end`, the largest codes of a byte add up to at most 128.
    /// # Safety
    /// `x` is readable for 4 bytes.
    unsafe fn dot(self, begun: Self::I, codes: Self::I, x: *const u8) -> Self::I;
    /// `sum` and what `dot` has added since `begin(sum)`.
    fn end(self, sum: Self::I, begun: Self::I) -> Self::I;
    /// Adds the same products for any codes, which are lowered by 128 if `SIGNED`, to a sum.
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

/// A kernel with its arguments.
pub(crate) trait Kernel8 {
    /// Must be `#[inline(always)]`, or it is compiled without the instructions of `S`.
    fn run<S: Int8>(self, s: S);
}

/// The instructions for products of 8-bit integers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Token8 {
    #[cfg(target_arch = "x86_64")]
    Vnni512(Vnni512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
}

impl Token8 {
    #[inline]
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub(crate) fn run<K: Kernel8>(self, kernel: K) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Token8::Vnni512(token) => token.enter8(kernel),
            #[cfg(target_arch = "x86_64")]
            Token8::Avx2(token) => super::x86::enter256(token, kernel),
        }
    }

    /// Rows of x in its register tile.
    pub(crate) fn tile(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Token8::Vnni512(_) => Vnni512::TILE,
            #[cfg(target_arch = "x86_64")]
            Token8::Avx2(_) => Avx2::TILE,
        }
    }
}
