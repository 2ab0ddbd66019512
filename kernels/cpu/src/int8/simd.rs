//! The vector operations of the products of 8-bit integers.
//!
//! As with [`Simd`](crate::simd::Simd), a value of an implementing type is the proof that the processor has the
//! instructions, so only pointers remain unsafe.

use super::format::BLOCK;
use super::grid::Points;
#[cfg(target_arch = "x86_64")]
use super::{amx::Amx, vnni256::Vnni256, x86::Vnni512};
#[cfg(target_arch = "x86_64")]
use crate::simd::avx2::Avx2;

/// The bits of the signs of four elements in the bytes of a lane, for an even and an odd quad.
#[inline(always)]
pub(super) fn sign_bits(quad: usize) -> i32 {
    (0x0804_0201u32 << (4 * (quad % 2))) as i32
}

/// For each byte of 16 the place of the byte of the signs of a quad in its lane.
#[inline(always)]
pub(super) fn sign_places(quad: usize) -> [u8; 16] {
    std::array::from_fn(|i| (i / 4 * 4 + quad / 2) as u8)
}

/// Vectors of `LANES` 32-bit lanes, each of which is an i32, an f32 or four bytes.
pub(crate) trait Int8: Copy + Send + Sync + 'static {
    type I: Copy;
    type F: Copy;
    /// The operations of floats.
    type Simd: crate::simd::Simd<V = Self::F, I = Self::I>;
    /// 8 or 16.
    const LANES: usize;
    /// Vectors of weights, 1 or 2, of the register tile of products with many rows.
    const VECTORS: usize;
    /// Whether `dot_wide` takes its codes, less 128, as signed numbers.
    const SIGNED: bool;
    /// Whether `dot` adds in each half of a lane, 16 bits, of which `total` makes one sum; else in lanes.
    const PAIRS: bool;

    fn simd(self) -> Self::Simd;

    /// Calls a kernel.
    fn enter<K: Kernel8>(self, kernel: K);

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
    /// Of each 32-bit lane `count` bits from bit `from` on, moved to bit `to`.
    fn bits(self, a: Self::I, from: usize, count: usize, to: usize) -> Self::I;
    /// The 32 bits at `SCALE` times each index.
    /// # Safety
    /// `table` is readable there.
    unsafe fn gather<const SCALE: i32>(self, table: *const u8, index: Self::I) -> Self::I;
    /// `zero` plus the codes of quad `quad`, or minus where the bit of their sign is set; a lane holds the signs of the
    /// eight quads of a row.
    fn signed(self, codes: Self::I, signs: Self::I, quad: usize, zero: u8) -> Self::I;
    /// Entry number `byte` of the table for every byte, all below 16.
    fn lookup(self, bytes: Self::I, table: &[u8; 16]) -> Self::I;
    /// Codes of 128 and more as `dot_wide` takes them.
    fn wide(self, codes: Self::I) -> Self::I;
    /// Adds, to each lane, the products of its four unsigned bytes with the four signed bytes of x, none -128. With
    /// `PAIRS` the first two go to the low half and the last two to the high one, without a carry: in between sums may
    /// leave 16 bits, in the end they must not.
    fn dot(self, sum: Self::I, codes: Self::I, x: Self::I) -> Self::I;
    /// The sums of the lanes, from what `dot` has made of them.
    fn total(self, sum: Self::I) -> Self::I;
    /// Unpacks a block of points for 16 rows, quad after quad, if there are instructions for all of that at once, and says
    /// whether there are.
    /// # Safety
    /// `block` is readable for a block, `to` is writable for 512 bytes.
    #[inline(always)]
    unsafe fn points<P: Points>(self, _block: *const u8, _to: *mut u8) -> bool {
        false
    }
    /// Adds the products of four quads of `R` rows of x as `dot` does, with `WIDE` as `dot_wide`, if there are instructions
    /// for all of that at once, and says whether there are. A quad lies in `weights` vector after vector.
    /// # Safety
    /// `weights` is readable for four quads of `V` vectors, `x` for as many as a tile holds them.
    unsafe fn four_quads<const WIDE: bool, const V: usize, const R: usize>(
        self,
        sums: &mut [[Self::I; R]; V],
        weights: *const u8,
        x: *const u8,
    ) -> bool;
    /// Adds, to each lane, the products of its two signed halves with those of x.
    fn dot_halves(self, sum: Self::I, a: Self::I, x: Self::I) -> Self::I;
    /// The same of four lanes of x, as `four_quads` does it.
    /// # Safety
    /// As there; rows of x are [`halves::X_CODES`](super::halves::X_CODES) apart.
    unsafe fn four_halves<const V: usize, const R: usize>(
        self,
        sums: &mut [[Self::I; R]; V],
        weights: *const u8,
        x: *const u8,
    ) -> bool;
    /// Numbers rounded to 16 bits, of `a` in the low halves and of `b` in the high ones. What does not fit becomes 0.
    fn halves(self, a: Self::F, b: Self::F) -> Self::I;
    /// The larger of `most`, which is not negative, and a magnitude; infinity and then NaN are the largest.
    fn most(self, most: Self::F, a: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// A number in all lanes.
    fn all(self, a: f32) -> Self::F;
    /// Adds the same products for any codes, in the form of `wide`, to sums of whole lanes.
    fn dot_wide(self, sum: Self::I, codes: Self::I, x: Self::I) -> Self::I;

    /// The largest magnitude, as the bits of an f32, of which infinity and then NaN are the last.
    fn largest(self, x: &[f32; BLOCK]) -> u32;
    /// Numbers times `inverse`, at most 127 and a rounding error, as signed bytes. Gives the sums of the first and of the
    /// last 16, in the low half of those of the first two of each quad and in the high one of the others.
    fn round(self, x: &[f32; BLOCK], inverse: f32, codes: &mut [u8; BLOCK]) -> [i32; 2];

    fn to_f32(self, a: Self::I) -> Self::F;
    fn as_f32(self, a: Self::I) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// Of lanes.
    fn plus(self, a: Self::I, b: Self::I) -> Self::I;
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
    unsafe fn bytes(self, p: *const u8) -> Self::I;
    /// # Safety
    /// `p` is readable for `2 * LANES` bytes.
    unsafe fn shorts(self, p: *const u8) -> Self::I;
    /// Numbers below 128 shifted so that their last bit becomes the third of an f32's mantissa.
    fn to_mantissa(self, a: Self::I) -> Self::I;
    /// # Safety
    /// `p` is readable for `LANES` bytes.
    unsafe fn signed_bytes(self, p: *const u8) -> Self::I;
    fn prefetch(self, p: *const u8);
    /// # Safety
    /// `p` is readable for `LANES` elements.
    unsafe fn floats(self, p: *const f32) -> Self::F;
    /// # Safety
    /// `p` is writable for `LANES` elements.
    unsafe fn store(self, p: *mut f32, a: Self::F);
}

/// A kernel with its arguments, which becomes a function of its own for each instruction set.
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
    Vnni256(Vnni256),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
}

impl Token8 {
    #[inline]
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub(crate) fn run<K: Kernel8>(self, kernel: K) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Token8::Vnni512(token) => token.enter(kernel),
            #[cfg(target_arch = "x86_64")]
            Token8::Vnni256(token) => token.enter(kernel),
            #[cfg(target_arch = "x86_64")]
            Token8::Avx2(token) => Int8::enter(token, kernel),
        }
    }

    /// What multiplies prompts in tiles, if anything does.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn tiles(self) -> Option<(Vnni512, Amx)> {
        match self {
            Token8::Vnni512(token) => Some((token, token.tiles()?)),
            Token8::Vnni256(_) | Token8::Avx2(_) => None,
        }
    }

    /// Weight rows of the register tile of products with many rows.
    pub(crate) fn panel_rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Token8::Vnni512(_) => Vnni512::VECTORS * Vnni512::LANES,
            #[cfg(target_arch = "x86_64")]
            Token8::Avx2(_) | Token8::Vnni256(_) => Avx2::VECTORS * Avx2::LANES,
        }
    }

    /// Bytes of a vector.
    pub(crate) fn width(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Token8::Vnni512(_) => 4 * Vnni512::LANES,
            #[cfg(target_arch = "x86_64")]
            Token8::Avx2(_) | Token8::Vnni256(_) => 4 * Avx2::LANES,
        }
    }
}
