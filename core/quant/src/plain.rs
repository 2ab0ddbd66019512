//! Types without blocks: floats and integers.

/// The value of an IEEE 754 half-precision number.
///
/// Free of branches, so that loops over it vectorise, and of subnormal operands, which are slow on some processors.
/// Signalling NaNs come out quiet, as from the processor's own instruction.
#[inline(always)]
pub fn f16_to_f32(half: u16) -> f32 {
    const REBIAS: u32 = (127 - 15) << 23;
    // With the exponent of the smallest normal half, a subnormal's mantissa counts from that number instead of from 0.
    const SMALLEST_NORMAL: u32 = REBIAS + (1 << 23);
    let shifted = u32::from(half & 0x7fff) << 13;
    let subnormal = f32::from_bits(shifted + SMALLEST_NORMAL) - f32::from_bits(SMALLEST_NORMAL);
    let normal = shifted + REBIAS;
    let special = normal | 0x7f80_0000 | if shifted > 0x0f80_0000 { 0x0040_0000 } else { 0 };
    let magnitude = match shifted {
        0..0x0080_0000 => subnormal.to_bits(),
        0x0f80_0000.. => special,
        _ => normal,
    };
    f32::from_bits(magnitude | (u32::from(half & 0x8000) << 16))
}

/// The value of a bfloat16 number: the upper half of a single.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The half-precision number stored at byte `at` of a block.
#[inline(always)]
pub(crate) fn f16_at<const N: usize>(block: &[u8; N], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The `M` bytes at byte `at` of a block.
#[inline(always)]
pub(crate) fn part<const N: usize, const M: usize>(block: &[u8; N], at: usize) -> &[u8; M] {
    block[at..at + M].first_chunk().expect("the slice has M bytes")
}

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident, $bytes:literal, |$b:ident| $value:expr;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name($b: &[u8; $bytes], out: &mut [f32; 1]) {
            out[0] = $value;
        }
    )*};
}

plain! {
    /// IEEE 754 single precision.
    f32, 4, |b| f32::from_le_bytes(*b);
    /// IEEE 754 half precision.
    f16, 2, |b| f16_to_f32(u16::from_le_bytes(*b));
    /// bfloat16.
    bf16, 2, |b| bf16_to_f32(u16::from_le_bytes(*b));
    /// IEEE 754 double precision, rounded to single.
    f64, 8, |b| f64::from_le_bytes(*b) as f32;
    /// Signed 8-bit integer.
    i8, 1, |b| f32::from(i8::from_le_bytes(*b));
    /// Signed 16-bit integer.
    i16, 2, |b| f32::from(i16::from_le_bytes(*b));
    /// Signed 32-bit integer, rounded to single.
    i32, 4, |b| i32::from_le_bytes(*b) as f32;
    /// Signed 64-bit integer, rounded to single.
    i64, 8, |b| i64::from_le_bytes(*b) as f32;
}
