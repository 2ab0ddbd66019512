//! Weights of a file, block by block, to vectors of f32.
//!
//! A [`Format`] hands its elements to a [`Sink`], which stores them or multiplies them with activations, so each
//! format is written once for the matrix products, the embedding and the conversion to f32.

use rocmforge_quant::DType;

use crate::simd::Simd;

/// Takes decoded weights.
pub(crate) trait Sink<S: Simd> {
    /// `LANES` elements from `at` on. `SLOT`, 0 or 1 in turn, names one of two independent accumulators.
    ///
    /// # Safety
    /// `at + LANES` is at most the number of elements that the sink was made for.
    unsafe fn put<const SLOT: usize>(&mut self, s: S, at: usize, v: S::V);
}

/// A block layout.
pub(crate) trait Format {
    /// Elements decoded at a time.
    const ELEMENTS: usize;
    /// Their bytes.
    const BYTES: usize;

    /// Decodes one block, whose first element is number `at` of its row.
    ///
    /// # Safety
    /// `block` is readable for `BYTES`, and the sink takes `ELEMENTS` from `at` on.
    unsafe fn block<S: Simd, K: Sink<S>>(s: S, block: *const u8, at: usize, sink: &mut K);
}

/// Stores decoded weights.
pub(crate) struct Store(pub(crate) *mut f32);

impl<S: Simd> Sink<S> for Store {
    #[inline(always)]
    unsafe fn put<const SLOT: usize>(&mut self, s: S, at: usize, v: S::V) {
        // SAFETY: the caller's contract: the buffer is as long as the row.
        unsafe { s.store(self.0.add(at), v) }
    }
}

macro_rules! plain {
    ($($name:ident $bytes:literal $load:ident;)*) => {$(
        pub(crate) struct $name;

        impl Format for $name {
            const ELEMENTS: usize = 32;
            const BYTES: usize = 32 * $bytes;

            #[inline(always)]
            unsafe fn block<S: Simd, K: Sink<S>>(s: S, block: *const u8, at: usize, sink: &mut K) {
                let mut i = 0;
                while i < 32 {
                    // SAFETY: inside the block; two vectors of at most 16 lanes per turn.
                    unsafe {
                        sink.put::<0>(s, at + i, s.$load(block.add(i * $bytes).cast()));
                        let j = i + S::LANES;
                        sink.put::<1>(s, at + j, s.$load(block.add(j * $bytes).cast()));
                    }
                    i += 2 * S::LANES;
                }
            }
        }
    )*};
}

plain! {
    F32 4 load;
    F16 2 load_f16;
    Bf16 2 load_bf16;
}

pub(crate) struct Q8_0;

impl Format for Q8_0 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 34;

    #[inline(always)]
    unsafe fn block<S: Simd, K: Sink<S>>(s: S, block: *const u8, at: usize, sink: &mut K) {
        // SAFETY: a block is an f16 and 32 bytes; `i` and `j` stay below 32.
        unsafe {
            let d = s.splat_f16(block);
            let mut i = 0;
            while i < 32 {
                let j = i + S::LANES;
                sink.put::<0>(s, at + i, s.mul(d, s.to_f32(s.load_i8(block.add(2 + i)))));
                sink.put::<1>(s, at + j, s.mul(d, s.to_f32(s.load_i8(block.add(2 + j)))));
                i += 2 * S::LANES;
            }
        }
    }
}

/// `scale * nibble + offset` for the 16 or 32 bytes from `codes`: low nibbles at `at`, high nibbles `bytes` later.
///
/// # Safety
/// `codes` is readable for `bytes`, and the sink takes twice as many elements.
#[inline(always)]
unsafe fn nibbles<S: Simd, K: Sink<S>>(
    s: S,
    codes: *const u8,
    bytes: usize,
    low: (S::V, S::V),
    high: (S::V, S::V),
    at: usize,
    sink: &mut K,
) {
    let mut i = 0;
    while i < bytes {
        // SAFETY: the caller's contract.
        unsafe {
            let q = s.load_u8(codes.add(i));
            sink.put::<0>(s, at + i, s.mul_add(s.to_f32(s.and(q, 15)), low.0, low.1));
            sink.put::<1>(s, at + bytes + i, s.mul_add(s.to_f32(s.shr(q, 4)), high.0, high.1));
        }
        i += S::LANES;
    }
}

pub(crate) struct Q4_0;

impl Format for Q4_0 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 18;

    #[inline(always)]
    unsafe fn block<S: Simd, K: Sink<S>>(s: S, block: *const u8, at: usize, sink: &mut K) {
        // SAFETY: a block is an f16 and 16 bytes of codes.
        unsafe {
            let d = s.splat_f16(block);
            let scale = (d, s.mul(d, s.splat(-8.0)));
            nibbles(s, block.add(2), 16, scale, scale, at, sink);
        }
    }
}

pub(crate) struct Q4_1;

impl Format for Q4_1 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 20;

    #[inline(always)]
    unsafe fn block<S: Simd, K: Sink<S>>(s: S, block: *const u8, at: usize, sink: &mut K) {
        // SAFETY: a block is two f16 and 16 bytes of codes.
        unsafe {
            let scale = (s.splat_f16(block), s.splat_f16(block.add(2)));
            nibbles(s, block.add(4), 16, scale, scale, at, sink);
        }
    }
}

/// Scale and minimum number `i` (of 8) of Q4_K and Q5_K, 6 bits each: the first four in the low bits of bytes 0..4 and
/// 4..8, the others in the nibbles of bytes 8..12 and the high bits of bytes 0..8.
///
/// # Safety
/// `packed` is readable for 12 bytes and `i < 8`.
#[inline(always)]
unsafe fn scale_min(packed: *const u8, i: usize) -> (f32, f32) {
    // SAFETY: the caller's contract.
    let byte = |k: usize| unsafe { *packed.add(k) };
    let (scale, min) = if i < 4 {
        (byte(i) & 63, byte(i + 4) & 63)
    } else {
        let nibbles = byte(i + 4);
        (nibbles & 15 | byte(i - 4) >> 6 << 4, nibbles >> 4 | byte(i) >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// Scale and offset number `i` of a Q4_K or Q5_K block.
///
/// # Safety
/// `block` is readable for 16 bytes and `i < 8`.
#[inline(always)]
unsafe fn scale_offset<S: Simd>(s: S, block: *const u8, d: f32, dmin: f32, i: usize) -> (S::V, S::V) {
    // SAFETY: the caller's contract.
    let (scale, min) = unsafe { scale_min(block.add(4), i) };
    (s.splat(d * scale), s.splat(-dmin * min))
}

pub(crate) struct Q4K;

impl Format for Q4K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 144;

    #[inline(always)]
    unsafe fn block<S: Simd, K: Sink<S>>(s: S, block: *const u8, at: usize, sink: &mut K) {
        // SAFETY: a block is two f16, 12 bytes of scales and 128 bytes of codes.
        unsafe {
            let (d, dmin) = (s.f16(block), s.f16(block.add(2)));
            for part in 0..4 {
                let low = scale_offset(s, block, d, dmin, 2 * part);
                let high = scale_offset(s, block, d, dmin, 2 * part + 1);
                nibbles(s, block.add(16 + 32 * part), 32, low, high, at + 64 * part, sink);
            }
        }
    }
}

pub(crate) struct Q5K;

impl Format for Q5K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 176;

    #[inline(always)]
    unsafe fn block<S: Simd, K: Sink<S>>(s: S, block: *const u8, at: usize, sink: &mut K) {
        // SAFETY: a block is two f16, 12 bytes of scales, 32 bytes of high bits and 128 bytes of low nibbles.
        unsafe {
            let (d, dmin) = (s.f16(block), s.f16(block.add(2)));
            for part in 0..4 {
                let low = scale_offset(s, block, d, dmin, 2 * part);
                let high = scale_offset(s, block, d, dmin, 2 * part + 1);
                let (bits, codes) = (block.add(16), block.add(48 + 32 * part));
                let mut i = 0;
                while i < 32 {
                    let (h, q) = (s.load_u8(bits.add(i)), s.load_u8(codes.add(i)));
                    let top = s.shr(h, 2 * part as i32);
                    let first = s.or(s.and(q, 15), s.shl(s.and(top, 1), 4));
                    let second = s.or(s.shr(q, 4), s.shl(s.and(top, 2), 3));
                    let at = at + 64 * part + i;
                    sink.put::<0>(s, at, s.mul_add(s.to_f32(first), low.0, low.1));
                    sink.put::<1>(s, at + 32, s.mul_add(s.to_f32(second), high.0, high.1));
                    i += S::LANES;
                }
            }
        }
    }
}

pub(crate) struct Q6K;

impl Format for Q6K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 210;

    #[inline(always)]
    unsafe fn block<S: Simd, K: Sink<S>>(s: S, block: *const u8, at: usize, sink: &mut K) {
        // SAFETY: a block is 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales and an f16.
        unsafe {
            let d = s.f16(block.add(208));
            for half in 0..2 {
                let (low, high) = (block.add(64 * half), block.add(128 + 32 * half));
                let scales = block.add(192 + 8 * half).cast::<i8>();
                let mut i = 0;
                while i < 32 {
                    let (a, b) = (s.load_u8(low.add(i)), s.load_u8(low.add(32 + i)));
                    let h = s.load_u8(high.add(i));
                    let at = at + 128 * half + i;
                    let q0 = s.or(s.and(a, 15), s.shl(s.and(h, 0x03), 4));
                    let q1 = s.or(s.and(b, 15), s.shl(s.and(h, 0x0c), 2));
                    let q2 = s.or(s.shr(a, 4), s.and(h, 0x30));
                    let q3 = s.or(s.shr(b, 4), s.shr(s.and(h, 0xc0), 2));
                    // Each scale covers 16 elements, and a vector has at most 16 lanes.
                    let scale = scales.add(i / 16);
                    let (d0, d1) = (d * f32::from(*scale), d * f32::from(*scale.add(2)));
                    let (d2, d3) = (d * f32::from(*scale.add(4)), d * f32::from(*scale.add(6)));
                    sink.put::<0>(s, at, s.mul_add(s.to_f32(q0), s.splat(d0), s.splat(-32.0 * d0)));
                    sink.put::<1>(s, at + 32, s.mul_add(s.to_f32(q1), s.splat(d1), s.splat(-32.0 * d1)));
                    sink.put::<0>(s, at + 64, s.mul_add(s.to_f32(q2), s.splat(d2), s.splat(-32.0 * d2)));
                    sink.put::<1>(s, at + 96, s.mul_add(s.to_f32(q3), s.splat(d3), s.splat(-32.0 * d3)));
                    i += S::LANES;
                }
            }
        }
    }
}

/// Does something for the [`Format`] of a type, known at run time.
pub(crate) trait ForFormat {
    type Out;
    /// Must be `#[inline(always)]`.
    fn native<F: Format>(self) -> Self::Out;
    /// For types that are decoded by `rocmforge_quant`.
    fn other(self) -> Self::Out;
}

#[inline(always)]
pub(crate) fn for_format<T: ForFormat>(dtype: DType, task: T) -> T::Out {
    match dtype {
        DType::F32 => task.native::<F32>(),
        DType::F16 => task.native::<F16>(),
        DType::BF16 => task.native::<Bf16>(),
        DType::Q8_0 => task.native::<Q8_0>(),
        DType::Q4_0 => task.native::<Q4_0>(),
        DType::Q4_1 => task.native::<Q4_1>(),
        DType::Q4_K => task.native::<Q4K>(),
        DType::Q5_K => task.native::<Q5K>(),
        DType::Q6_K => task.native::<Q6K>(),
        _ => task.other(),
    }
}

/// Decodes the elements of a row of `n` that are no whole unit, and says how many they are.
///
/// # Safety
/// `row` is readable for `n` elements of the format.
#[inline(always)]
pub(crate) unsafe fn decode_tail<F: Format, S: Simd>(s: S, row: *const u8, n: usize, out: &mut [f32; 256]) -> usize {
    let valid = n % F::ELEMENTS;
    if valid > 0 {
        // Only plain types have rows that are not whole units, and theirs take at most 128 bytes.
        let mut padded = [0u8; 128];
        let bytes = valid * F::BYTES / F::ELEMENTS;
        // SAFETY: the rest of the row is readable; `padded` holds a whole unit of a plain type, `out` its elements.
        unsafe {
            std::ptr::copy_nonoverlapping(row.add(n / F::ELEMENTS * F::BYTES), padded.as_mut_ptr(), bytes.min(128));
            F::block(s, padded.as_ptr(), 0, &mut Store(out.as_mut_ptr()));
        }
    }
    valid
}

/// Decodes `n` elements of a row to `out`.
///
/// # Safety
/// `row` is readable for `n` elements of the format and `out` writable for as many.
#[inline(always)]
pub(crate) unsafe fn decode_row<F: Format, S: Simd>(s: S, row: *const u8, n: usize, out: *mut f32) {
    let whole = n / F::ELEMENTS;
    // SAFETY: whole units lie inside the row, and the tail is copied by its length.
    unsafe {
        for b in 0..whole {
            F::block(s, row.add(b * F::BYTES), b * F::ELEMENTS, &mut Store(out));
        }
        if !n.is_multiple_of(F::ELEMENTS) {
            let mut rest = [0.0; 256];
            let valid = decode_tail::<F, S>(s, row, n, &mut rest);
            std::ptr::copy_nonoverlapping(rest.as_ptr(), out.add(whole * F::ELEMENTS), valid);
        }
    }
}
