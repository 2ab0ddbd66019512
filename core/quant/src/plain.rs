//! Types without blocks: floats and integers.

/// The value of an IEEE 754 half-precision number.
///
/// Branch-free, so that loops over it vectorise: a half's exponent and mantissa, moved to where a single has them, give
/// its value scaled by 2^-112. Signalling NaNs come out quiet, as from the processor's own instruction.
#[inline(always)]
pub fn f16_to_f32(half: u16) -> f32 {
    let magnitude = u32::from(half & 0x7fff);
    let scaled = f32::from_bits(magnitude << 13) * f32::from_bits(0x7780_0000);
    let infinite = if magnitude >= 0x7c00 { 0x7f80_0000 } else { 0 };
    let quiet = if magnitude > 0x7c00 {
        0x0040_0000 | (magnitude << 13)
    } else {
        0
    };
    f32::from_bits(scaled.to_bits() | infinite | quiet | (u32::from(half & 0x8000) << 16))
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
    block[at..at + M]
        .first_chunk()
        .expect("the slice has M bytes")
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
