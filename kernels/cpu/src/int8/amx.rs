//! AMX: eight registers of 16 rows of 64 bytes, called tiles, and products of these.
//!
//! See "Intel Architecture Instruction Set Extensions Programming Reference", chapter 3, and for the permission the
//! kernel's `Documentation/arch/x86/xstate.rst`.

use std::arch::asm;
use std::sync::OnceLock;

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Bytes of a row of a tile.
pub(super) const ROW_BYTES: usize = 64;
/// Bytes of a tile.
pub(super) const TILE_BYTES: usize = ROWS * ROW_BYTES;

/// The proof that this process may use tiles, with products of bfloat16.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amx(());

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Amx {
    /// The token, if the processor has the instructions and the system gives leave.
    pub(crate) fn detect() -> Option<Amx> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        FOUND.get_or_init(|| has_instructions() && may_use()).then_some(Amx(()))
    }

    /// Gives tiles 0 to 5 `rows` rows and the others 16, all of 64 bytes, until they are dropped.
    #[inline]
    pub(crate) fn shape(self, rows: usize) -> Shaped {
        debug_assert!((1..=ROWS).contains(&rows));
        let mut shapes = Shapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        shapes.row_bytes[..8].fill(ROW_BYTES as u16);
        shapes.rows[..6].fill(rows as u8);
        shapes.rows[6..8].fill(ROWS as u8);
        // SAFETY: the token proves the instruction; the shapes are valid, and tiles are registers that compilers do not use.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(readonly, nostack, preserves_flags)) };
        Shaped(())
    }
}

/// Tiles that have shapes; without them registers need not be saved when threads change.
pub(crate) struct Shaped(());

impl Drop for Shaped {
    fn drop(&mut self) {
        // SAFETY: that there is a value proves the instruction.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// Where tiles of x, of weights and of sums lie.
pub(super) struct Places {
    /// Of each tile of x its steps, one after the other.
    pub(super) x: [*const u8; 2],
    /// Of each step the tiles of two vectors of weight rows.
    pub(super) weights: *const u8,
    pub(super) steps: usize,
    /// Tiles of sums: of the first tile of x with each vector of weight rows, then of the second.
    pub(super) sums: *mut f32,
}

/// The loop of products `$step` between loads and stores of the sums.
macro_rules! products {
    (
        $places:expr, $begin:expr,
        [$($zero:literal)*] [$($load:literal)*] [$($step:literal)*] [$($store:literal)*]
    ) => {{
        let Places { x, weights, steps, sums } = $places;
        debug_assert!(steps > 0);
        // SAFETY: the caller's contract.
        unsafe {
            asm!(
                "test {begin:e}, {begin:e}",
                "jz 2f",
                $($zero,)*
                "jmp 3f",
                "2:",
                $($load,)*
                "3:",
                $($step,)*
                "add {w}, 2048",
                "add {x0}, 1024",
                "add {x1}, 1024",
                "dec {steps}",
                "jnz 3b",
                $($store,)*
                begin = in(reg) u32::from($begin),
                x0 = inout(reg) x[0] => _, x1 = inout(reg) x[1] => _, w = inout(reg) weights => _,
                steps = inout(reg) steps => _, sums = in(reg) sums, line = in(reg) ROW_BYTES,
                options(nostack),
            );
        }
    }};
}

/// Products of a turn of [`Shaped::multiply_only`].
pub(crate) const TURN_PRODUCTS: usize = 4 * ROWS * ROWS * 32;

impl Shaped {
    /// Multiplies what the tiles hold, `turns` times each of four sums: as fast as the processor can.
    #[inline]
    pub(crate) fn multiply_only(&self, turns: usize) {
        // SAFETY: that there is a value proves the instructions; tiles are registers that compilers do not use.
        unsafe {
            asm!(
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {turns}",
                "jnz 2b",
                turns = inout(reg) turns.max(1) => _,
                options(nomem, nostack),
            );
        }
    }

    /// Adds products of bfloat16 to sums, or begins with them: 16 rows of x of each of two tiles with 32 weight rows.
    /// # Safety
    /// All places are readable for whole tiles, those of sums writable.
    #[inline]
    pub(super) unsafe fn two(&self, places: Places, begin: bool) {
        products!(places, begin,
            ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"]
            ["tileloadd tmm0, [{sums} + {line}*1]" "tileloadd tmm1, [{sums} + {line}*1 + 1024]"
             "tileloadd tmm2, [{sums} + {line}*1 + 2048]" "tileloadd tmm3, [{sums} + {line}*1 + 3072]"]
            ["tileloadd tmm6, [{w} + {line}*1]" "tileloadd tmm4, [{x0} + {line}*1]" "tdpbf16ps tmm0, tmm4, tmm6"
             "tileloadd tmm7, [{w} + {line}*1 + 1024]" "tdpbf16ps tmm1, tmm4, tmm7"
             "tileloadd tmm5, [{x1} + {line}*1]" "tdpbf16ps tmm2, tmm5, tmm6" "tdpbf16ps tmm3, tmm5, tmm7"]
            ["tilestored [{sums} + {line}*1], tmm0" "tilestored [{sums} + {line}*1 + 1024], tmm1"
             "tilestored [{sums} + {line}*1 + 2048], tmm2" "tilestored [{sums} + {line}*1 + 3072], tmm3"]);
    }

    /// The same for the first tile of x alone, which may be of fewer rows.
    /// # Safety
    /// As for `two`, with as many rows as tiles have.
    #[inline]
    pub(super) unsafe fn one(&self, places: Places, begin: bool) {
        products!(places, begin,
            ["tilezero tmm0" "tilezero tmm1"]
            ["tileloadd tmm0, [{sums} + {line}*1]" "tileloadd tmm1, [{sums} + {line}*1 + 1024]"]
            ["tileloadd tmm6, [{w} + {line}*1]" "tileloadd tmm4, [{x0} + {line}*1]" "tdpbf16ps tmm0, tmm4, tmm6"
             "tileloadd tmm7, [{w} + {line}*1 + 1024]" "tdpbf16ps tmm1, tmm4, tmm7"]
            ["tilestored [{sums} + {line}*1], tmm0" "tilestored [{sums} + {line}*1 + 1024], tmm1"]);
    }
}

/// Whether the processor has tiles with products of bfloat16, and the vectors that round to these.
fn has_instructions() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
    features & (BF16 | TILE) == BF16 | TILE && is_x86_feature_detected!("avx512bf16")
}

/// Asks the system to let this process use tiles, whose contents it has to save.
#[cfg(target_os = "linux")]
fn may_use() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_int = 18;
    // SAFETY: changes what the process may do, and no memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn may_use() -> bool {
    false
}
