//! How the scales of interleaved weights lie in memory: vectors of one number per row.

use super::format::ROWS;
use super::simd::Int8;

/// What there is per block of 32.
pub(crate) trait Form {
    /// Scales, 1 or 2.
    const PARTS: usize;
    /// Whether there are minima, else codes have a zero.
    const MINS: bool;
}

pub(crate) struct Parts<const N: usize, const WITH: bool>;

impl<const N: usize, const WITH: bool> Form for Parts<N, WITH> {
    const PARTS: usize = N;
    const MINS: bool = WITH;
}

/// Scales of the blocks of a unit.
pub(crate) trait Scales {
    /// Blocks of a unit, which is the block of the file.
    const BLOCKS: usize;
    /// Bytes of a unit's scales for all rows.
    const BYTES: usize;
    /// 16-bit factors of the unit per row.
    const FACTORS: usize;
    /// Scales per block of 32, and whether there are minima.
    type Form: Form;
    const PARTS: usize = Self::Form::PARTS;
    const MINS: bool = Self::Form::MINS;

    /// What all blocks of a unit share.
    /// # Safety
    /// `p` is readable for the `BYTES` of a unit; `lane` is 0 or, with 8 lanes, 8.
    unsafe fn head<S: Int8>(s: S, p: *const u8, lane: usize) -> [S::F; 2];
    /// Scale and minimum of a part of a block, if they are whole numbers times the factors of `head`.
    /// # Safety
    /// As for `get`.
    #[inline(always)]
    unsafe fn numbers<S: Int8>(_: S, _: *const u8, _: usize, _: (usize, usize)) -> Option<[S::I; 2]> {
        None
    }
    /// Scale and, subtracted, minimum of a part of a block.
    /// # Safety
    /// As for `head`; `block < BLOCKS` and `part < PARTS`.
    unsafe fn get<S: Int8>(s: S, p: *const u8, lane: usize, head: [S::F; 2], at: (usize, usize)) -> [S::F; 2];
}

/// One f16 per row, or one bf16, or two f16.
macro_rules! plain_scales {
    ($($name:ident $blocks:literal $bytes:literal $mins:literal |$s:ident, $p:ident, $lane:ident| $get:expr;)*) => {$(
        pub(crate) struct $name;

        impl Scales for $name {
            const BLOCKS: usize = $blocks;
            const BYTES: usize = $bytes;
            const FACTORS: usize = $bytes / (2 * ROWS);
            type Form = Parts<1, $mins>;

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
    Half 1 32 false |s, p, lane| [s.f16s(p.add(2 * lane)), s.as_f32(s.zero())];
    Half64 2 32 false |s, p, lane| [s.f16s(p.add(2 * lane)), s.as_f32(s.zero())];
    Half128 4 32 false |s, p, lane| [s.f16s(p.add(2 * lane)), s.as_f32(s.zero())];
    Half256 8 32 false |s, p, lane| [s.f16s(p.add(2 * lane)), s.as_f32(s.zero())];
    HalfMin 1 64 true |s, p, lane| [s.f16s(p.add(2 * lane)), s.f16s(p.add(32 + 2 * lane))];
    BHalf 1 32 false |s, p, lane| [s.bf16s(p.add(2 * lane)), s.as_f32(s.zero())];
}

/// Units of 64: E4M3 numbers of 16 elements without sign, halved.
pub(crate) struct E4m3;

impl Scales for E4m3 {
    const BLOCKS: usize = 2;
    const BYTES: usize = 4 * ROWS;
    const FACTORS: usize = 0;
    type Form = Parts<2, false>;

    #[inline(always)]
    unsafe fn head<S: Int8>(s: S, _: *const u8, _: usize) -> [S::F; 2] {
        // The bits of an f32, whose exponent is off by the difference of the biases, and one for the half.
        let factor = f32::from_bits((127 + (127 - 7) - 1) << 23);
        // SAFETY: 4 bytes.
        let factor = unsafe { s.as_f32(s.splat((&raw const factor).cast())) };
        [factor, s.as_f32(s.zero())]
    }
    #[inline(always)]
    unsafe fn get<S: Int8>(
        s: S,
        p: *const u8,
        lane: usize,
        head: [S::F; 2],
        (block, part): (usize, usize),
    ) -> [S::F; 2] {
        // SAFETY: the caller's contract.
        let bits = unsafe { s.bytes(p.add(ROWS * (2 * block + part) + lane)) };
        [s.mul(head[0], s.as_f32(s.to_mantissa(bits))), head[1]]
    }
}

/// Units of 256: two f16 factors per row, then of 16 elements a byte with the scale in its low nibble and the minimum in
/// its high one.
pub(crate) struct K16Nibbles;

impl Scales for K16Nibbles {
    const BLOCKS: usize = 8;
    const BYTES: usize = 64 + 16 * ROWS;
    const FACTORS: usize = 2;
    type Form = Parts<2, true>;

    #[inline(always)]
    unsafe fn head<S: Int8>(s: S, p: *const u8, lane: usize) -> [S::F; 2] {
        // SAFETY: the caller's contract.
        unsafe { [s.f16s(p.add(2 * lane)), s.f16s(p.add(32 + 2 * lane))] }
    }
    #[inline(always)]
    unsafe fn numbers<S: Int8>(s: S, p: *const u8, lane: usize, (block, part): (usize, usize)) -> Option<[S::I; 2]> {
        // SAFETY: the caller's contract.
        let both = unsafe { s.bytes(p.add(64 + ROWS * (2 * block + part) + lane)) };
        Some([s.and(both, 15), s.shr(both, 4)])
    }
    #[inline(always)]
    unsafe fn get<S: Int8>(s: S, p: *const u8, lane: usize, head: [S::F; 2], at: (usize, usize)) -> [S::F; 2] {
        // SAFETY: the caller's contract.
        unsafe { times::<S, Self>(s, p, lane, head, at) }
    }
}

/// [`Scales::get`] of whole numbers.
/// # Safety
/// As there.
#[inline(always)]
unsafe fn times<S: Int8, K: Scales>(s: S, p: *const u8, lane: usize, head: [S::F; 2], at: (usize, usize)) -> [S::F; 2] {
    // SAFETY: the caller's contract.
    let [scale, min] = unsafe { K::numbers(s, p, lane, at) }.unwrap_or([s.zero(); 2]);
    [s.mul(head[0], s.to_f32(scale)), if K::MINS { s.mul(head[1], s.to_f32(min)) } else { head[1] }]
}

/// Units of 256: f16 factors per row, then 8-bit numbers per part.
macro_rules! k_scales {
    ($($name:ident $parts:literal $load:ident $mins:literal;)*) => {$(
        pub(crate) struct $name;

        impl Scales for $name {
            const BLOCKS: usize = 8;
            const BYTES: usize = Self::FACTORS * (32 + 8 * $parts * ROWS);
            const FACTORS: usize = if $mins { 2 } else { 1 };
            type Form = Parts<$parts, $mins>;

            #[inline(always)]
            unsafe fn head<S: Int8>(s: S, p: *const u8, lane: usize) -> [S::F; 2] {
                // SAFETY: the caller's contract.
                unsafe {
                    let min = if $mins { s.f16s(p.add(32 + 2 * lane)) } else { s.as_f32(s.zero()) };
                    [s.f16s(p.add(2 * lane)), min]
                }
            }
            #[inline(always)]
            unsafe fn numbers<S: Int8>(
                s: S,
                p: *const u8,
                lane: usize,
                (block, part): (usize, usize),
            ) -> Option<[S::I; 2]> {
                let at = 32 * Self::FACTORS + ROWS * (block * $parts + part) + lane;
                // SAFETY: the caller's contract.
                unsafe {
                    let min = if $mins { s.bytes(p.add(at + 8 * $parts * ROWS)) } else { s.zero() };
                    Some([s.$load(p.add(at)), min])
                }
            }
            #[inline(always)]
            unsafe fn get<S: Int8>(s: S, p: *const u8, lane: usize, head: [S::F; 2], at: (usize, usize)) -> [S::F; 2] {
                // SAFETY: the caller's contract.
                unsafe { times::<S, Self>(s, p, lane, head, at) }
            }
        }
    )*};
}

k_scales! {
    K32Min 1 bytes true;
    K32 1 signed_bytes false;
    K16 2 signed_bytes false;
}

/// Units of 256 with an f16 factor d per row, then, of the parts of blocks, nibbles n that mean `d * 2^EXPONENT * (2n + 1)`.
macro_rules! odd_scales {
    ($($name:ident $parts:literal;)*) => {$(
        pub(crate) struct $name<const EXPONENT: i32>;

        impl<const EXPONENT: i32> Scales for $name<EXPONENT> {
            const BLOCKS: usize = 8;
            const BYTES: usize = 32 + 4 * $parts * ROWS;
            const FACTORS: usize = 1;
            type Form = Parts<$parts, false>;

            #[inline(always)]
            unsafe fn head<S: Int8>(s: S, p: *const u8, lane: usize) -> [S::F; 2] {
                let power = |e: i32| f32::from_bits(((127 + e) as u32) << 23);
                let (one, two) = (power(EXPONENT), power(EXPONENT + 1));
                // SAFETY: the caller's contract; 4 bytes of a power.
                unsafe {
                    let factor = s.f16s(p.add(2 * lane));
                    let one = s.as_f32(s.splat((&raw const one).cast()));
                    let two = s.as_f32(s.splat((&raw const two).cast()));
                    [s.mul(factor, one), s.mul(factor, two)]
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
                let number = $parts * block + part;
                // SAFETY: the caller's contract.
                let two = unsafe { s.bytes(p.add(32 + ROWS * (number / 2) + lane)) };
                let nibble = s.and(s.shr(two, 4 * (number % 2) as i32), 15);
                [s.mul_add(s.to_f32(nibble), head[1], head[0]), head[1]]
            }
        }
    )*};
}

odd_scales! {
    Odd32 1;
    Odd16 2;
}
