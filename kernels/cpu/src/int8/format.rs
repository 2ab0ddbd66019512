//! How codes and scales of interleaved weights lie in memory.
//!
//! Sixteen weight rows are a group. Its scales come first, then its codes, in blocks of 32 columns. Codes are unsigned
//! and lie in vectors of 64 bytes, four bytes for each of the 16 rows: four neighbouring columns, called a quad. Codes
//! of fewer bits share a byte with those of other quads of the block, at the same row and column within the quad.
//! Scales and minima lie in vectors of one number per row.

use std::marker::PhantomData;

use rocmforge_quant::DType;

use super::simd::Int8;

/// Rows of a group.
pub(crate) const ROWS: usize = 16;
/// Columns of a block.
pub(crate) const BLOCK: usize = 32;

/// Codes of a block.
pub(crate) trait Codes {
    /// Vectors of 64 bytes per block.
    const VECTORS: usize;
    /// Whether codes may be 128 or more.
    const WIDE: bool;
    /// Quads, 1, 2 or 4, of which the largest codes add up to at most 128.
    const TOGETHER: usize;

    /// The codes of quad `quad` of 8.
    /// # Safety
    /// `block` is readable for `VECTORS` vectors from the first lane wanted on.
    unsafe fn quad<S: Int8>(s: S, block: *const u8, quad: usize) -> S::I;
    /// The vectors of a row, of which each element is its four bytes, from the codes of its quads.
    fn pack(quads: [u32; 8]) -> [u32; 8];
}

/// Scales of the blocks of a unit.
pub(crate) trait Scales {
    /// Blocks of a unit, which is the block of the file.
    const BLOCKS: usize;
    /// Bytes of a unit's scales for all rows.
    const BYTES: usize;
    /// Scales per block of 32.
    const PARTS: usize;
    /// Whether there are minima.
    const MINS: bool;

    /// What all blocks of a unit share.
    /// # Safety
    /// `p` is readable for the `BYTES` of a unit; `lane` is 0 or, with 8 lanes, 8.
    unsafe fn head<S: Int8>(s: S, p: *const u8, lane: usize) -> [S::F; 2];
    /// Scale and, subtracted, minimum of a part of a block.
    /// # Safety
    /// As for `head`; `block < BLOCKS` and `part < PARTS`.
    unsafe fn get<S: Int8>(s: S, p: *const u8, lane: usize, head: [S::F; 2], at: (usize, usize)) -> [S::F; 2];
}

/// A format: codes, scales, and the number of bits of the power of two that is code zero; 0: zero is.
pub(crate) struct Format8<C, K, const ZERO: i32>(PhantomData<(C, K)>);

pub(crate) trait Packing {
    type C: Codes;
    type K: Scales;
    const ZERO: i32;
}

impl<C: Codes, K: Scales, const ZERO: i32> Packing for Format8<C, K, ZERO> {
    type C = C;
    type K = K;
    const ZERO: i32 = ZERO;
}

pub(crate) struct Bits8;

impl Codes for Bits8 {
    const VECTORS: usize = 8;
    const WIDE: bool = true;
    const TOGETHER: usize = 1;

    #[inline(always)]
    unsafe fn quad<S: Int8>(s: S, block: *const u8, quad: usize) -> S::I {
        // SAFETY: the caller's contract.
        unsafe { s.load(block.add(64 * quad)) }
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
    const WIDE: bool = false;
    const TOGETHER: usize = 4;

    #[inline(always)]
    unsafe fn quad<S: Int8>(s: S, block: *const u8, quad: usize) -> S::I {
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
    const WIDE: bool = false;
    const TOGETHER: usize = 4;

    #[inline(always)]
    unsafe fn quad<S: Int8>(s: S, block: *const u8, quad: usize) -> S::I {
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
    const WIDE: bool = false;
    const TOGETHER: usize = 2;

    #[inline(always)]
    unsafe fn quad<S: Int8>(s: S, block: *const u8, quad: usize) -> S::I {
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

pub(crate) struct Bits2;

impl Codes for Bits2 {
    const VECTORS: usize = 2;
    const WIDE: bool = false;
    const TOGETHER: usize = 4;

    #[inline(always)]
    unsafe fn quad<S: Int8>(s: S, block: *const u8, quad: usize) -> S::I {
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
    const WIDE: bool = false;
    const TOGETHER: usize = 4;

    #[inline(always)]
    unsafe fn quad<S: Int8>(s: S, block: *const u8, quad: usize) -> S::I {
        // SAFETY: the caller's contract.
        unsafe { s.or(Bits2::quad(s, block, quad), shift(s, s.load(block.add(128)), quad, 2, 4)) }
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
    const WIDE: bool = true;
    const TOGETHER: usize = 1;

    #[inline(always)]
    unsafe fn quad<S: Int8>(s: S, block: *const u8, quad: usize) -> S::I {
        const TABLE: [u8; 16] = raised(rocmforge_quant::tables::IQ4_VALUES, 128);
        // SAFETY: the caller's contract.
        unsafe { s.lookup(nibble(s, block, quad), &TABLE) }
    }
    #[inline(always)]
    fn pack(quads: [u32; 8]) -> [u32; 8] {
        pack_nibbles(quads)
    }
}

pub(crate) struct Fp4;

impl Codes for Fp4 {
    const VECTORS: usize = 4;
    const WIDE: bool = false;
    const TOGETHER: usize = 4;

    #[inline(always)]
    unsafe fn quad<S: Int8>(s: S, block: *const u8, quad: usize) -> S::I {
        const TABLE: [u8; 16] = raised(rocmforge_quant::tables::FP4_VALUES_DOUBLED, 16);
        // SAFETY: the caller's contract.
        unsafe { s.lookup(nibble(s, block, quad), &TABLE) }
    }
    #[inline(always)]
    fn pack(quads: [u32; 8]) -> [u32; 8] {
        pack_nibbles(quads)
    }
}

/// Blocks of 32: one f16 per row, or one bf16, or two f16.
macro_rules! plain_scales {
    ($($name:ident $bytes:literal $mins:literal |$s:ident, $p:ident, $lane:ident| $get:expr;)*) => {$(
        pub(crate) struct $name;

        impl Scales for $name {
            const BLOCKS: usize = 1;
            const BYTES: usize = $bytes;
            const PARTS: usize = 1;
            const MINS: bool = $mins;

            #[inline(always)]
            unsafe fn head<S: Int8>($s: S, $p: *const u8, $lane: usize) -> [S::F; 2] {
                // SAFETY: the caller's contract.
                unsafe { $get }
            }
            #[inline(always)]
            unsafe fn get<S: Int8>(_: S, _: *const u8, _: usize, head: [S::F; 2], _: (usize, usize)) -> [S::F; 2] {
                head
            }
        }
    )*};
}

plain_scales! {
    Half 32 false |s, p, lane| [s.f16s(p.add(2 * lane)), s.as_f32(s.zero())];
    HalfMin 64 true |s, p, lane| [s.f16s(p.add(2 * lane)), s.f16s(p.add(32 + 2 * lane))];
    BHalf 32 false |s, p, lane| [s.bf16s(p.add(2 * lane)), s.as_f32(s.zero())];
}

/// Units of 256: f16 factors per row, then 8-bit numbers per part.
macro_rules! k_scales {
    ($($name:ident $parts:literal $load:ident $mins:literal;)*) => {$(
        pub(crate) struct $name;

        impl Scales for $name {
            const BLOCKS: usize = 8;
            const BYTES: usize = (if $mins { 2 } else { 1 }) * (32 + 8 * $parts * ROWS);
            const PARTS: usize = $parts;
            const MINS: bool = $mins;

            #[inline(always)]
            unsafe fn head<S: Int8>(s: S, p: *const u8, lane: usize) -> [S::F; 2] {
                // SAFETY: the caller's contract.
                unsafe {
                    let min = if $mins { s.f16s(p.add(32 + 2 * lane)) } else { s.as_f32(s.zero()) };
                    [s.f16s(p.add(2 * lane)), min]
                }
            }
            #[inline(always)]
            unsafe fn get<S: Int8>(
                s: S,
                p: *const u8,
                lane: usize,
                head: [S::F; 2],
                (block, part): (usize, usize),
            ) -> [S::F; 2] {
                let at = ROWS * (block * $parts + part) + lane;
                // SAFETY: the caller's contract.
                unsafe {
                    if $mins {
                        let p = p.add(64 + at);
                        let min = s.u8s(p.add(8 * $parts * ROWS));
                        return [s.mul(head[0], s.$load(p)), s.mul(head[1], min)];
                    }
                    [s.mul(head[0], s.$load(p.add(32 + at))), head[1]]
                }
            }
        }
    )*};
}

k_scales! {
    K32Min 1 u8s true;
    K16Min 2 u8s true;
    K32 1 i8s false;
    K16 2 i8s false;
}

/// Does something for the format of a type, known at run time.
pub(crate) trait ForPacking {
    type Out;
    /// Must be `#[inline(always)]`.
    fn format<P: Packing>(self) -> Self::Out;
    /// For types that have none.
    fn none(self) -> Self::Out;
}

#[inline(always)]
pub(crate) fn for_packing<T: ForPacking>(dtype: DType, task: T) -> T::Out {
    match dtype {
        DType::Q8_0 => task.format::<Format8<Bits8, Half, 7>>(),
        DType::Q4_0 => task.format::<Format8<Bits4, Half, 3>>(),
        DType::Q4_1 => task.format::<Format8<Bits4, HalfMin, 0>>(),
        DType::Q5_0 => task.format::<Format8<Bits5, Half, 4>>(),
        DType::Q5_1 => task.format::<Format8<Bits5, HalfMin, 0>>(),
        DType::Q2_K => task.format::<Format8<Bits2, K16Min, 0>>(),
        DType::Q3_K => task.format::<Format8<Bits3, K16, 2>>(),
        DType::Q4_K => task.format::<Format8<Bits4, K32Min, 0>>(),
        DType::Q5_K => task.format::<Format8<Bits5, K32Min, 0>>(),
        DType::Q6_K => task.format::<Format8<Bits6, K16, 5>>(),
        DType::IQ4_NL => task.format::<Format8<Iq4, Half, 7>>(),
        DType::IQ4_XS => task.format::<Format8<Iq4, K32, 7>>(),
        DType::MXFP4 => task.format::<Format8<Fp4, BHalf, 4>>(),
        _ => task.none(),
    }
}
