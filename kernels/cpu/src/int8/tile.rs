//! The innermost loop of the largest register tiles of AVX-512, in assembly: of their sums compilers keep some in memory.

use std::arch::{asm, x86_64::__m512i};

use super::activations::quad_place;

/// One row of x: its quad number `$quad`, times both vectors of weights.
macro_rules! row {
    ($quad:literal $row:literal) => {
        concat!(
            "vpbroadcastd zmm31, dword ptr [{rows} + 4 * ",
            $quad,
            " + 32 * ",
            $row,
            "]\n",
            "vpdpbusd {a",
            $row,
            "}, zmm29, zmm31\n",
            "vpdpbusd {b",
            $row,
            "}, zmm30, zmm31\n"
        )
    };
}

macro_rules! quad {
    ($quad:literal $($row:literal)*) => {
        concat!(
            "vmovdqu64 zmm29, zmmword ptr [{weights} + 128 * ", $quad, "]\n",
            "vmovdqu64 zmm30, zmmword ptr [{weights} + 128 * ", $quad, " + 64]\n",
            $(row!($quad $row)),*
        )
    };
}

macro_rules! four_quads {
    ($name:ident, $rows:literal, $($a:ident $b:ident $row:literal)*) => {
        /// Adds the products of four quads, unsigned bytes of two vectors of weights with signed bytes of the rows of x.
        /// # Safety
        /// `weights` is readable for four quads of two vectors, `x` for as many as tiles hold them.
        #[target_feature(enable = "avx512f,avx512vnni")]
        #[inline]
        pub(super) unsafe fn $name(sums: &mut [[__m512i; $rows]; 2], weights: *const u8, x: *const u8) {
            const { assert!(quad_place(1, 0) == 4 && quad_place(0, 1) == 32) }
            let [[$($a),*], [$($b),*]] = sums;
            // SAFETY: reads what the caller's contract allows, and writes registers.
            unsafe {
                asm!(
                    quad!(0 $($row)*), quad!(1 $($row)*), quad!(2 $($row)*), quad!(3 $($row)*),
                    weights = in(reg) weights, rows = in(reg) x,
                    $($a = inout(zmm_reg) *$a, $b = inout(zmm_reg) *$b,)*
                    out("zmm29") _, out("zmm30") _, out("zmm31") _,
                    options(pure, readonly, nostack, preserves_flags),
                );
            }
        }
    };
}

four_quads!(of_six_rows, 6, a0 b0 0 a1 b1 1 a2 b2 2 a3 b3 3 a4 b4 4 a5 b5 5);
four_quads!(of_five_rows, 5, a0 b0 0 a1 b1 1 a2 b2 2 a3 b3 3 a4 b4 4);
four_quads!(of_four_rows, 4, a0 b0 0 a1 b1 1 a2 b2 2 a3 b3 3);
