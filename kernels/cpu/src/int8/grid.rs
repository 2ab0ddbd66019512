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

/// `quads` per point, bits of a point beyond 8, code of zero if there are signs, largest code.
macro_rules! grids {
    ($($name:ident $table:path, $quads:literal $high:literal $signs:expr, $most:literal;)*) => {$(
        pub(crate) struct $name;

        impl Codes for $name {
            const VECTORS: usize = 2 / $quads + $signs.is_some() as usize;
            const REST: usize = $high * (8 / $quads) / 8;
            const MOST: i32 = $most;

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
            fn pack(words: [u32; 8]) -> [u32; 8] {
                words
            }
        }
    )*};
}

grids! {
    Iq2Xxs tables::IQ2_XXS_GRID, 2 0 Some(64), 107;
    Iq2Xs tables::IQ2_XS_GRID, 2 2 Some(64), 107;
    Iq2S tables::IQ2_S_GRID, 2 2 Some(64), 107;
    Iq3Xxs tables::IQ3_XXS_GRID, 1 0 Some(64), 126;
    Iq3S tables::IQ3_S_GRID, 1 1 Some(16), 31;
    Iq1 IQ1, 2 4 None::<u8>, 25;
}
