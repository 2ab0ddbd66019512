//! How codes and scales of interleaved weights lie in memory.
//!
//! Sixteen weight rows are a group. It is a sequence of units, each as many columns as a block of the file: first the
//! unit's scales, then its codes, so that a product reads one stream of memory from the first byte to the last, which
//! processors fetch ahead by themselves; with scales and codes apart one core reads half as fast. Codes come in blocks of
//! 32 columns. They are unsigned and lie in vectors of 64 bytes, four bytes for each of the 16 rows: four neighbouring columns, called a quad. Codes
//! of fewer bits share a byte with those of other quads of the block, at the same row and column within the quad.
//! Scales and minima lie in vectors of one number per row.

use std::marker::PhantomData;

use rocmforge_quant::DType;

use super::grid::{Iq1, Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs};
use super::scales::{
    BHalf, E4m3, Half, Half64, Half128, Half256, HalfMin, K16, K16Nibbles, K32, K32Min, Odd16, Odd32, Scales,
};
use super::simd::Int8;

/// Rows of a group.
pub(crate) const ROWS: usize = 16;
/// Columns of a block.
pub(crate) const BLOCK: usize = 32;

/// How codes are multiplied with activations.
pub(crate) trait Products {
    /// Whether codes may be 128 or more.
    const WIDE: bool;
    /// Quads whose products may be added up in 16 bits; all of a part of a block begin at what is subtracted for zero.
    const TOGETHER: usize;
}

pub(crate) struct Wide;

impl Products for Wide {
    const WIDE: bool = true;
    const TOGETHER: usize = 1;
}

pub(crate) struct Narrow<const TOGETHER: usize>;

impl<const TOGETHER: usize> Products for Narrow<TOGETHER> {
    const WIDE: bool = false;
    const TOGETHER: usize = TOGETHER;
}

/// Sums of all quads fit.
pub(crate) type All = Narrow<8>;

/// Quads, in the order in which they are multiplied.
pub(crate) type Order = [usize; 8];

pub(crate) const NATURAL: Order = [0, 1, 2, 3, 4, 5, 6, 7];
/// Those that share vectors come together.
const HALVES: Order = [0, 4, 1, 5, 2, 6, 3, 7];

/// Codes of a block.
pub(crate) trait Codes {
    /// Vectors of 64 bytes per block.
    const VECTORS: usize;
    /// Bytes per row that follow them.
    const REST: usize = 0;
    /// The largest code.
    const MOST: i32;
    /// The order in which quads are best unpacked.
    const ORDER: Order = NATURAL;

    /// The codes of quad `quad` of 8, those of 128 and more in the form of [`Int8::wide`].
    /// # Safety
    /// `block` is the first of the vectors of a block, at the first lane wanted, whose number is `lane`.
    unsafe fn quad<S: Int8>(s: S, block: *const u8, lane: usize, quad: usize) -> S::I;
    /// Whether `whole` may unpack.
    const POINTS: bool = false;
    /// Unpacks all quads of a block, 64 bytes each for the 16 rows, if there are instructions for it, and says whether there
    /// are.
    /// # Safety
    /// `block` is the first of the vectors of a block, `to` is writable for 512 bytes.
    #[inline(always)]
    unsafe fn whole<S: Int8>(_: S, _block: *const u8, _to: *mut u8) -> bool {
        false
    }
    /// The vectors of a row, of which each element is its four bytes, from the codes of its quads; of points of a grid
    /// these are the words that `unpack` gives. The last element is what follows the vectors.
    fn pack(quads: [u32; 8]) -> [u32; 8];
}

/// Bytes of the codes of a block of all rows of a group.
#[inline(always)]
pub(crate) const fn code_bytes<C: Codes>() -> usize {
    64 * C::VECTORS + ROWS * C::REST
}

/// A format: codes, scales, the code of zero, and how products are added up.
pub(crate) struct Format8<C, K, const ZERO: i32, M>(PhantomData<(C, K, M)>);

pub(crate) trait Packing {
    type C: Codes;
    type K: Scales;
    type Products: Products;
    /// Above 0 if and only if there are no minima.
    const ZERO: i32;
}

impl<C: Codes, K: Scales, const ZERO: i32, M: Products> Packing for Format8<C, K, ZERO, M> {
    type C = C;
    type K = K;
    type Products = M;
    const ZERO: i32 = {
        assert!((ZERO > 0) != K::MINS && (C::MOST > 128) == M::WIDE);
        let quads = 8 / K::PARTS as i32;
        let all = M::TOGETHER as i32 >= quads;
        // Two products of 127 for each half of a quad.
        let (largest, quads) = if all { (larger(C::MOST - ZERO, ZERO), quads) } else { (C::MOST, M::TOGETHER as i32) };
        assert!(M::WIDE || 2 * 127 * largest * quads <= i16::MAX as i32);
        // Sums that are not all added up in halves of a lane begin in whole lanes.
        assert!(M::WIDE || all || ZERO == 0 || ZERO > 32);
        ZERO
    };
}

const fn larger(a: i32, b: i32) -> i32 {
    if a > b { a } else { b }
}

pub(crate) struct Bits8;

impl Codes for Bits8 {
    const VECTORS: usize = 8;
    const MOST: i32 = 255;

    #[inline(always)]
    unsafe fn quad<S: Int8>(s: S, block: *const u8, _: usize, quad: usize) -> S::I {
        // SAFETY: the caller's contract.
        unsafe { s.wide(s.load(block.add(64 * quad))) }
    }
    #[inline(always)]
    fn pack(quads: [u32; 8]) -> [u32; 8] {
        quads
    }
}

/// Low four bits of a quad: four vectors.
#[inline(always)]
unsafe fn nibble<S: Int8>(s: S, block: *const u8, quad: usize) -> S::I {
    // SAFETY: the caller's contract: four vectors.
    unsafe {
        let v = s.load(block.add(64 * (quad % 4)));
        s.and(if quad < 4 { v } else { s.shr(v, 4) }, 15)
    }
}

const NIBBLES: u32 = 0x0f0f_0f0f;

#[inline(always)]
fn pack_nibbles(q: [u32; 8]) -> [u32; 8] {
    let low = |j: usize| q[j] & NIBBLES | (q[j + 4] & NIBBLES) << 4;
    [low(0), low(1), low(2), low(3), 0, 0, 0, 0]
}

/// Bits `bits` of the code at `from`, moved to place `to` of the byte: 1 or 2 bits of each of 8 or 4 quads.
#[inline(always)]
fn shift<S: Int8>(s: S, v: S::I, from: usize, to: usize, mask: u8) -> S::I {
    let moved = if from < to { s.shl(v, (to - from) as i32) } else { s.shr(v, (from - to) as i32) };
    s.and(moved, mask)
}

pub(crate) struct Bits4;

impl Codes for Bits4 {
    const VECTORS: usize = 4;
    const MOST: i32 = 15;
    const ORDER: Order = HALVES;

    #[inline(always)]
    unsafe fn quad<S: Int8>(s: S, block: *const u8, _: usize, quad: usize) -> S::I {
        // SAFETY: the caller's contract.
        unsafe { nibble(s, block, quad) }
    }
    #[inline(always)]
    fn pack(quads: [u32; 8]) -> [u32; 8] {
        pack_nibbles(quads)
    }
}

pub(crate) struct Bits5;

impl Codes for Bits5 {
    const VECTORS: usize = 5;
    const MOST: i32 = 31;
    const ORDER: Order = HALVES;

    #[inline(always)]
    unsafe fn quad<S: Int8>(s: S, block: *const u8, _: usize, quad: usize) -> S::I {
        // SAFETY: the caller's contract.
        unsafe { s.or(nibble(s, block, quad), shift(s, s.load(block.add(256)), quad, 4, 16)) }
    }
    #[inline(always)]
    fn pack(q: [u32; 8]) -> [u32; 8] {
        let mut out = pack_nibbles(q);
        out[4] = (0..8).fold(0, |v, i| v | (q[i] >> 4 & 0x0101_0101) << i);
        out
    }
}

/// Four two-bit numbers per byte of the vectors of `q[..4]` and `q[4..]`.
#[inline(always)]
fn pack_pairs(q: [u32; 8], from: usize) -> [u32; 2] {
    [0, 4].map(|first| (0..4).fold(0, |v, i| v | (q[first + i] >> from & 0x0303_0303) << (2 * i)))
}

pub(crate) struct Bits6;

impl Codes for Bits6 {
    const VECTORS: usize = 6;
    const MOST: i32 = 63;
    const ORDER: Order = HALVES;

    #[inline(always)]
    unsafe fn quad<S: Int8>(s: S, block: *const u8, _: usize, quad: usize) -> S::I {
        // SAFETY: the caller's contract.
        unsafe {
            let high = s.load(block.add(256 + 64 * (quad / 4)));
            s.or(nibble(s, block, quad), shift(s, high, 2 * (quad % 4), 4, 48))
        }
    }
    #[inline(always)]
    fn pack(q: [u32; 8]) -> [u32; 8] {
        let mut out = pack_nibbles(q);
        [out[4], out[5]] = pack_pairs(q, 4);
        out
    }
}

/// Codes 0 and 2.
pub(crate) struct Bits1;

impl Codes for Bits1 {
    const VECTORS: usize = 1;
    const MOST: i32 = 2;

    #[inline(always)]
    unsafe fn quad<S: Int8>(s: S, block: *const u8, _: usize, quad: usize) -> S::I {
        // SAFETY: the caller's contract.
        unsafe { shift(s, s.load(block), quad, 1, 2) }
    }
    #[inline(always)]
    fn pack(q: [u32; 8]) -> [u32; 8] {
        let mut out = [0; 8];
        out[0] = (0..8).fold(0, |v, i| v | (q[i] >> 1 & 0x0101_0101) << i);
        out
    }
}

pub(crate) struct Bits2;

impl Codes for Bits2 {
    const VECTORS: usize = 2;
    const MOST: i32 = 3;

    #[inline(always)]
    unsafe fn quad<S: Int8>(s: S, block: *const u8, _: usize, quad: usize) -> S::I {
        // SAFETY: the caller's contract.
        unsafe { shift(s, s.load(block.add(64 * (quad / 4))), 2 * (quad % 4), 0, 3) }
    }
    #[inline(always)]
    fn pack(q: [u32; 8]) -> [u32; 8] {
        let [a, b] = pack_pairs(q, 0);
        [a, b, 0, 0, 0, 0, 0, 0]
    }
}

pub(crate) struct Bits3;

impl Codes for Bits3 {
    const VECTORS: usize = 3;
    const MOST: i32 = 7;

    #[inline(always)]
    unsafe fn quad<S: Int8>(s: S, block: *const u8, _: usize, quad: usize) -> S::I {
        // SAFETY: the caller's contract.
        unsafe { s.or(Bits2::quad(s, block, 0, quad), shift(s, s.load(block.add(128)), quad, 2, 4)) }
    }
    #[inline(always)]
    fn pack(q: [u32; 8]) -> [u32; 8] {
        let mut out = Bits2::pack(q);
        out[2] = (0..8).fold(0, |v, i| v | (q[i] >> 2 & 0x0101_0101) << i);
        out
    }
}

/// The values of a table, plus `offset`.
const fn raised(table: [i8; 16], offset: i16) -> [u8; 16] {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = (table[i] as i16 + offset) as u8;
        i += 1;
    }
    out
}

pub(crate) struct Iq4;

impl Codes for Iq4 {
    const VECTORS: usize = 4;
    const MOST: i32 = 241;
    const ORDER: Order = HALVES;

    #[inline(always)]
    unsafe fn quad<S: Int8>(s: S, block: *const u8, _: usize, quad: usize) -> S::I {
        const TABLE: [u8; 16] = raised(rocmforge_quant::tables::IQ4_VALUES, 128);
        const SIGNED: [u8; 16] = raised(rocmforge_quant::tables::IQ4_VALUES, 0);
        // SAFETY: the caller's contract.
        unsafe { s.lookup(nibble(s, block, quad), if S::SIGNED { &SIGNED } else { &TABLE }) }
    }
    #[inline(always)]
    fn pack(quads: [u32; 8]) -> [u32; 8] {
        pack_nibbles(quads)
    }
}

pub(crate) struct Fp4;

impl Codes for Fp4 {
    const VECTORS: usize = 4;
    const MOST: i32 = 28;
    const ORDER: Order = HALVES;

    #[inline(always)]
    unsafe fn quad<S: Int8>(s: S, block: *const u8, _: usize, quad: usize) -> S::I {
        const TABLE: [u8; 16] = raised(rocmforge_quant::tables::FP4_VALUES_DOUBLED, 16);
        // SAFETY: the caller's contract.
        unsafe { s.lookup(nibble(s, block, quad), &TABLE) }
    }
    #[inline(always)]
    fn pack(quads: [u32; 8]) -> [u32; 8] {
        pack_nibbles(quads)
    }
}

/// Does something for the format of a type, known at run time.
pub(crate) trait ForPacking {
    type Out;
    fn format<P: Packing>(self) -> Self::Out;
    /// For types that have none.
    fn none(self) -> Self::Out;
}

pub(crate) fn for_packing<T: ForPacking>(dtype: DType, task: T) -> T::Out {
    match dtype {
        DType::Q8_0 => task.format::<Format8<Bits8, Half, 128, Wide>>(),
        DType::Q4_0 => task.format::<Format8<Bits4, Half, 8, All>>(),
        DType::Q4_1 => task.format::<Format8<Bits4, HalfMin, 0, All>>(),
        DType::Q5_0 => task.format::<Format8<Bits5, Half, 16, All>>(),
        DType::Q5_1 => task.format::<Format8<Bits5, HalfMin, 0, Narrow<4>>>(),
        DType::Q2_K => task.format::<Format8<Bits2, K16Nibbles, 0, All>>(),
        DType::Q3_K => task.format::<Format8<Bits3, K16, 4, All>>(),
        DType::Q4_K => task.format::<Format8<Bits4, K32Min, 0, All>>(),
        DType::Q5_K => task.format::<Format8<Bits5, K32Min, 0, Narrow<4>>>(),
        DType::Q6_K => task.format::<Format8<Bits6, K16, 32, All>>(),
        DType::IQ4_NL => task.format::<Format8<Iq4, Half, 128, Wide>>(),
        DType::IQ4_XS => task.format::<Format8<Iq4, K32, 128, Wide>>(),
        DType::MXFP4 => task.format::<Format8<Fp4, BHalf, 16, All>>(),
        DType::NVFP4 => task.format::<Format8<Fp4, E4m3, 16, All>>(),
        DType::TQ2_0 => task.format::<Format8<Bits2, Half256, 1, All>>(),
        DType::Q2_0 => task.format::<Format8<Bits2, Half64, 1, All>>(),
        DType::Q1_0 => task.format::<Format8<Bits1, Half128, 1, All>>(),
        DType::IQ2_XXS => task.format::<Format8<Iq2Xxs, Odd32<-3>, 64, Narrow<1>>>(),
        DType::IQ2_XS => task.format::<Format8<Iq2Xs, Odd16<-3>, 64, Narrow<1>>>(),
        DType::IQ2_S => task.format::<Format8<Iq2S, Odd16<-3>, 64, Narrow<1>>>(),
        DType::IQ3_XXS => task.format::<Format8<Iq3Xxs, Odd32<-2>, 64, Narrow<1>>>(),
        DType::IQ3_S => task.format::<Format8<Iq3S, Odd32<0>, 16, All>>(),
        DType::IQ1_S => task.format::<Format8<Iq1, Odd32<-3>, 16, All>>(),
        DType::IQ1_M => task.format::<Format8<Iq1, Odd16<-3>, 16, All>>(),
        _ => task.none(),
    }
}
