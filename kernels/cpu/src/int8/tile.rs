//! The innermost loop of the largest register tile of AVX-512, in assembly: of its 24 sums compilers keep some in memory.

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
    ($quad:literal) => {
        concat!(
            "vmovdqu64 zmm29, zmmword ptr [{weights} + 128 * ", $quad, "]\n",
            "vmovdqu64 zmm30, zmmword ptr [{weights} + 128 * ", $quad, " + 64]\n",
            row!($quad 0), row!($quad 1), row!($quad 2), row!($quad 3), row!($quad 4), row!($quad 5)
        )
    };
}

/// Adds the products of four quads, unsigned bytes of two vectors of weights with signed bytes of six rows of x.
/// # Safety
/// `weights` is readable for four quads of two vectors, `x` for as many of six rows as tiles hold them.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
pub(super) unsafe fn four_quads(sums: &mut [[__m512i; 6]; 2], weights: *const u8, x: *const u8) {
    const { assert!(quad_place(1, 0) == 4 && quad_place(0, 1) == 32) }
    let [[a0, a1, a2, a3, a4, a5], [b0, b1, b2, b3, b4, b5]] = sums;
    // SAFETY: reads what the caller's contract allows, and writes registers.
    unsafe {
        asm!(
            quad!(0), quad!(1), quad!(2), quad!(3),
            weights = in(reg) weights, rows = in(reg) x,
            a0 = inout(zmm_reg) *a0, a1 = inout(zmm_reg) *a1, a2 = inout(zmm_reg) *a2,
            a3 = inout(zmm_reg) *a3, a4 = inout(zmm_reg) *a4, a5 = inout(zmm_reg) *a5,
            b0 = inout(zmm_reg) *b0, b1 = inout(zmm_reg) *b1, b2 = inout(zmm_reg) *b2,
            b3 = inout(zmm_reg) *b3, b4 = inout(zmm_reg) *b4, b5 = inout(zmm_reg) *b5,
            out("zmm29") _, out("zmm30") _, out("zmm31") _,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
}
