//! The innermost loops of register tiles, in assembly: of their sums compilers keep some in memory, or all weights.
//!
//! Each function adds the products of four quads, unsigned bytes of two vectors of weights with signed bytes of the rows
//! of x of a tile; or of four pairs of words, which take as much room.

use std::arch::{
    asm,
    x86_64::{__m256i, __m512i, _mm256_set1_epi16},
};

use super::activations::quad_place;
use super::halves::X_CODES;

/// One row of x: its quad number `$quad`.
macro_rules! of_row {
    ($quad:literal $row:literal) => {
        concat!("vpbroadcastd {x}, dword ptr [{rows} + 4 * ", $quad, " + 32 * ", $row, "]\n")
    };
}

/// Of two columns.
macro_rules! of_long_row {
    ($quad:literal $row:literal) => {
        concat!("vpbroadcastd {x}, dword ptr [{rows} + 4 * ", $quad, " + 128 * ", $row, "]\n")
    };
}

/// Both vectors of weights of a quad.
macro_rules! of_weights {
    ($mov:literal $bytes:literal $quad:literal) => {
        concat!(
            $mov,
            " {v}, [{weights} + 2 * ",
            $bytes,
            " * ",
            $quad,
            "]\n",
            $mov,
            " {w}, [{weights} + 2 * ",
            $bytes,
            " * ",
            $quad,
            " + ",
            $bytes,
            "]\n",
        )
    };
}

macro_rules! vnni512 {
    (weights $quad:literal) => { of_weights!("vmovdqu64" "64" $quad) };
    ($quad:literal $row:literal) => {
        concat!(of_row!($quad $row), "vpdpbusd {a", $row, "}, {v}, {x}\n", "vpdpbusd {b", $row, "}, {w}, {x}\n")
    };
}

macro_rules! vnni256 {
    (weights $quad:literal) => { of_weights!("vmovdqu" "32" $quad) };
    ($quad:literal $row:literal) => {
        concat!(
            of_row!($quad $row),
            "{{vex}} vpdpbusd {a", $row, "}, {v}, {x}\n",
            "{{vex}} vpdpbusd {b", $row, "}, {w}, {x}\n"
        )
    };
}

/// Sums of 16 bits.
macro_rules! pairs {
    (weights $quad:literal) => { of_weights!("vmovdqu" "32" $quad) };
    ($quad:literal $row:literal) => {
        concat!(
            of_row!($quad $row),
            "vpmaddubsw {y}, {v}, {x}\n",
            "vpaddw {a", $row, "}, {a", $row, "}, {y}\n",
            "vpmaddubsw {x}, {w}, {x}\n",
            "vpaddw {b", $row, "}, {b", $row, "}, {x}\n",
        )
    };
}

/// Signed weights.
macro_rules! signed {
    (weights $quad:literal) => {
        concat!(of_weights!("vmovdqu" "32" $quad), "vpabsb {s}, {v}\n", "vpabsb {t}, {w}\n")
    };
    ($quad:literal $row:literal) => {
        concat!(
            of_row!($quad $row),
            "vpsignb {y}, {x}, {v}\n",
            "vpsignb {x}, {x}, {w}\n",
            "vpmaddubsw {y}, {s}, {y}\n",
            "vpmaddubsw {x}, {t}, {x}\n",
            "vpmaddwd {y}, {y}, {ones}\n",
            "vpmaddwd {x}, {x}, {ones}\n",
            "vpaddd {a", $row, "}, {a", $row, "}, {y}\n",
            "vpaddd {b", $row, "}, {b", $row, "}, {x}\n",
        )
    };
}

macro_rules! words512 {
    (weights $quad:literal) => { of_weights!("vmovdqu64" "64" $quad) };
    ($quad:literal $row:literal) => {
        concat!(of_long_row!($quad $row), "vpdpwssd {a", $row, "}, {v}, {x}\n", "vpdpwssd {b", $row, "}, {w}, {x}\n")
    };
}

macro_rules! words256 {
    (weights $quad:literal) => { of_weights!("vmovdqu" "32" $quad) };
    ($quad:literal $row:literal) => {
        concat!(
            of_long_row!($quad $row),
            "{{vex}} vpdpwssd {a", $row, "}, {v}, {x}\n",
            "{{vex}} vpdpwssd {b", $row, "}, {w}, {x}\n"
        )
    };
}

macro_rules! words {
    (weights $quad:literal) => { of_weights!("vmovdqu" "32" $quad) };
    ($quad:literal $row:literal) => {
        concat!(
            of_long_row!($quad $row),
            "vpmaddwd {y}, {v}, {x}\n",
            "vpaddd {a", $row, "}, {a", $row, "}, {y}\n",
            "vpmaddwd {x}, {w}, {x}\n",
            "vpaddd {b", $row, "}, {b", $row, "}, {x}\n",
        )
    };
}

macro_rules! quads {
    ($one:ident; $($quad:literal)*; $rows:tt) => {
        concat!($(quads!(@one $one $quad $rows)),*)
    };
    (@one $one:ident $quad:literal ($($row:literal)*)) => {
        concat!($one!(weights $quad), $($one!($quad $row)),*)
    };
}

macro_rules! four_quads {
    (
        $name:ident, $features:literal, $one:ident, $class:ident $vector:ident,
        ($($other:ident)*) $(ones $ones:expr;)? $rows:literal: $($a:ident $b:ident $row:literal)*
    ) => {
        /// # Safety
        /// `weights` is readable for four quads of two vectors, `x` for as many as tiles hold them.
        #[target_feature(enable = $features)]
        #[inline]
        pub(super) unsafe fn $name(sums: &mut [[$vector; $rows]; 2], weights: *const u8, x: *const u8) {
            const { assert!(quad_place(1, 0) == 4 && quad_place(0, 1) == 32 && X_CODES == 128) }
            let [[$($a),*], [$($b),*]] = sums;
            $(let $other: $vector;)*
            // SAFETY: reads what the caller's contract allows, and writes registers.
            unsafe {
                asm!(
                    quads!($one; 0 1 2 3; ($($row)*)),
                    weights = in(reg) weights, rows = in(reg) x,
                    $($a = inout($class) *$a, $b = inout($class) *$b,)*
                    $(ones = in($class) $ones,)?
                    $($other = out($class) $other,)*
                    options(pure, readonly, nostack, preserves_flags),
                );
            }
            // Without a type they would be printed as if they were bytes.
            let _ = ($($other,)*);
        }
    };
}

macro_rules! tiles {
    ($($names:tt, $features:literal, $one:ident, $class:ident $vector:ident, $other:tt $(ones $ones:expr)?;)*) => {$(
        tiles!(@each $names $features, $one, $class $vector, $other $(ones $ones;)?);
    )*};
    (@each ($two:ident $four:ident $five:ident $six:ident) $($all:tt)*) => {
        four_quads!($two, $($all)* 2: a0 b0 0 a1 b1 1);
        four_quads!($four, $($all)* 4: a0 b0 0 a1 b1 1 a2 b2 2 a3 b3 3);
        four_quads!($five, $($all)* 5: a0 b0 0 a1 b1 1 a2 b2 2 a3 b3 3 a4 b4 4);
        four_quads!($six, $($all)* 6: a0 b0 0 a1 b1 1 a2 b2 2 a3 b3 3 a4 b4 4 a5 b5 5);
    };
    (@each ($two:ident $three:ident $four:ident) $($all:tt)*) => {
        four_quads!($two, $($all)* 2: a0 b0 0 a1 b1 1);
        four_quads!($three, $($all)* 3: a0 b0 0 a1 b1 1 a2 b2 2);
        four_quads!($four, $($all)* 4: a0 b0 0 a1 b1 1 a2 b2 2 a3 b3 3);
    };
}

tiles! {
    (vnni512_2 vnni512_4 vnni512_5 vnni512_6), "avx512f,avx512vnni", vnni512, zmm_reg __m512i, (v w x);
    (vnni256_2 vnni256_4 vnni256_5 vnni256_6), "avx2,avxvnni", vnni256, ymm_reg __m256i, (v w x);
    (pairs_2 pairs_4 pairs_5 pairs_6), "avx2", pairs, ymm_reg __m256i, (v w x y);
    (words512_2 words512_4 words512_5 words512_6), "avx512f,avx512vnni", words512, zmm_reg __m512i, (v w x);
    (words256_2 words256_4 words256_5 words256_6), "avx2,avxvnni", words256, ymm_reg __m256i, (v w x);
    (words_2 words_4 words_5 words_6), "avx2", words, ymm_reg __m256i, (v w x y);
    (signed_2 signed_3 signed_4), "avx2", signed, ymm_reg __m256i, (v w x y s t) ones _mm256_set1_epi16(1);
}

/// Calls the function for as many rows, for sums `[[_; R]; V]`, if there is one.
macro_rules! call {
    ($sums:expr, $weights:expr, $x:expr, ($vectors:expr, $rows:expr) { $($row:literal $name:ident)* }) => {{
        let sums = std::ptr::from_mut($sums);
        match ($vectors, $rows) {
            // SAFETY: the types are the same; the rest is the caller's contract.
            $((2, $row) => unsafe { $crate::int8::tile::$name(&mut *sums.cast(), $weights, $x) },)*
            _ => return false,
        }
        true
    }};
}
pub(super) use call;
