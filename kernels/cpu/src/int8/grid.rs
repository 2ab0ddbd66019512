//! Codes that are points of a grid: the low bytes of the points of a block, the signs of its elements as bits, and
//! further bits of the points. Points have 8 or 4 elements.

use rocmforge_quant::tables;

use super::format::Codes;
use super::simd::Int8;

/// Points of IQ1, then the same with the other sign of what is added: 8 times the values, plus 16.
static IQ1: [[u8; 8]; 4096] = {
    let mut out = [[0; 8]; 4096];
    let mut i = 0;
    while i < 4096 {
        let mut j = 0;
        while j < 8 {
            let delta = if i < 2048 { 1 } else { -1 };
            out[i][j] = (16 + 8 * tables::IQ1_GRID[i % 2048][j] + delta) as u8;
            j += 1;
        }
        i += 1;
    }
    out
};

/// Packed codes of the elements of points, by index. Points of 8 elements: two bits each of the first four, and of the
/// others. Points of 4 elements: two low bits each, and one high bit each.
type Planes<const POINTS: usize> = [[u8; POINTS]; 2];

/// The places of values among the levels of a grid.
const fn planes<const POINTS: usize, const N: usize, const LEVELS: usize>(
    grid: &[[i8; N]; POINTS],
    levels: &[i8; LEVELS],
) -> Planes<POINTS> {
    let mut out = [[0; POINTS]; 2];
    let mut i = 0;
    while i < POINTS {
        let mut j = 0;
        while j < N {
            let mut code = 0;
            while levels[code] != grid[i][j] {
                code += 1;
            }
            out[if N == 8 { j / 4 } else { 0 }][i] |= ((code & 3) << (2 * (j % 4))) as u8;
            out[1][i] |= if N == 8 { 0 } else { (code >> 2 << j) as u8 };
            j += 1;
        }
        i += 1;
    }
    out
}

/// By place of the level, with signs above it as a further bit, the values plus `zero` and minus; without `signed` plus and
/// minus one eighth of a step of 8. Repeated, so that bits above do not matter.
const fn values<const LEVELS: usize>(levels: &[i8; LEVELS], zero: i32, signed: bool) -> [u8; 64] {
    let (mut out, mut i) = ([0; 64], 0);
    while i < 64 {
        let (level, negative) = (levels[i % LEVELS] as i32, i / LEVELS % 2 == 1);
        out[i] = match (signed, negative) {
            (true, false) => zero + level,
            (true, true) => zero - level,
            (false, false) => zero + 8 * level + 1,
            (false, true) => zero + 8 * level - 1,
        } as u8;
        i += 1;
    }
    out
}

/// A format whose codes are points of a grid.
pub(crate) trait Points: Codes {
    /// Elements of a point are so many quads.
    const QUADS: usize;
    /// Bits of an index beyond 8, of which those above `TABLE` are no part of it.
    const HIGH: usize;
    const TABLE: usize;
    /// Whether the last of a block's vectors holds signs.
    const SIGNS: bool;
    /// Planes, one after the other, `2 * 256 << TABLE` bytes.
    fn planes() -> *const u8;
    /// What [`values`] makes.
    fn values() -> &'static [u8; 64];
}

/// `quads` per point, bits of a point beyond 8, how many of them tables have, code of zero if there are signs, largest code,
/// levels.
macro_rules! grids {
    ($($name:ident $table:path, $quads:literal $high:literal $in_table:literal $signs:expr, $most:literal, $grid:path, $levels:path;)*) => {$(
        pub(crate) struct $name;

        impl Codes for $name {
            const VECTORS: usize = 2 / $quads + $signs.is_some() as usize;
            const REST: usize = $high * (8 / $quads) / 8;
            const MOST: i32 = $most;
            const POINTS: bool = true;

            #[inline(always)]
            unsafe fn quad<S: Int8>(s: S, block: *const u8, lane: usize, quad: usize) -> S::I {
                const SIGNS: Option<u8> = $signs;
                let point = quad / $quads;
                let table = $table.as_ptr().cast::<u8>();
                // SAFETY: the caller's contract; there are as many points as an index has values.
                unsafe {
                    let low = s.load(block.add(64 * (point / 4)));
                    let mut index = s.bits(low, 8 * (point % 4), 8, 0);
                    let rest = block.add(64 * Self::VECTORS - 4 * lane + Self::REST * lane);
                    if Self::REST == 1 {
                        index = s.or(index, s.bits(s.bytes(rest), $high * point, $high, 8));
                    } else if Self::REST == 2 {
                        index = s.or(index, s.bits(s.shorts(rest), $high * point, $high, 8));
                    }
                    let codes = match $quads {
                        2 => s.gather::<8>(table.add(4 * (quad % 2)), index),
                        _ => s.gather::<4>(table, index),
                    };
                    match SIGNS {
                        Some(zero) => s.signed(codes, s.load(block.add(64 * (Self::VECTORS - 1))), quad, zero),
                        None => codes,
                    }
                }
            }
            #[inline(always)]
            unsafe fn whole<S: Int8>(s: S, block: *const u8, to: *mut u8) -> bool {
                // SAFETY: the caller's contract.
                unsafe { s.points::<Self>(block, to) }
            }
            #[inline(always)]
            fn pack(words: [u32; 8]) -> [u32; 8] {
                words
            }
        }

        impl Points for $name {
            const QUADS: usize = $quads;
            const HIGH: usize = $high;
            const TABLE: usize = $in_table;
            const SIGNS: bool = $signs.is_some();

            fn planes() -> *const u8 {
                static PLANES: Planes<{ 256 << $in_table }> = planes(&$grid, &$levels);
                PLANES.as_ptr().cast()
            }
            fn values() -> &'static [u8; 64] {
                const SIGNS: Option<u8> = $signs;
                static VALUES: [u8; 64] = match SIGNS {
                    Some(zero) => values(&$levels, zero as i32, true),
                    None => values(&$levels, 16, false),
                };
                &VALUES
            }
        }
    )*};
}

grids! {
    Iq2Xxs tables::IQ2_XXS_GRID, 2 0 0 Some(64), 107, tables::IQ2_XXS_GRID, tables::IQ2_LEVELS;
    Iq2Xs tables::IQ2_XS_GRID, 2 2 1 Some(64), 107, tables::IQ2_XS_GRID, tables::IQ2_LEVELS;
    Iq2S tables::IQ2_S_GRID, 2 2 2 Some(64), 107, tables::IQ2_S_GRID, tables::IQ2_LEVELS;
    Iq3Xxs tables::IQ3_XXS_GRID, 1 0 0 Some(64), 126, tables::IQ3_XXS_GRID, tables::IQ3_XXS_LEVELS;
    Iq3S tables::IQ3_S_GRID, 1 1 1 Some(16), 31, tables::IQ3_S_GRID, tables::IQ3_S_LEVELS;
    Iq1 IQ1, 2 4 3 None::<u8>, 25, tables::IQ1_GRID, tables::IQ1_LEVELS;
}
