use super::{Kernel, Simd};

const N: usize = 4;

/// Plain Rust over arrays of four, for processors without a vector unit that is known here and as the yardstick of
/// the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

impl Scalar {
    pub(crate) fn enter<K: Kernel>(self, kernel: K) -> K::Out {
        kernel.run(self)
    }
}

macro_rules! lanes {
    ($i:ident => $e:expr) => {{
        let mut out = [Default::default(); N];
        let mut $i = 0;
        while $i < N {
            out[$i] = $e;
            $i += 1;
        }
        out
    }};
}

impl Simd for Scalar {
    type V = [f32; N];
    type I = [i32; N];
    const LANES: usize = N;
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; N]
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(i => a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(i => a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(i => a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(i => a[i] / b[i])
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(i => if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn if_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        lanes!(i => if a[i] < b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not f32::mul_add, which is a library call where there is no such instruction.
        lanes!(i => a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        lanes!(i => a[i].round_ties_even())
    }
    #[inline(always)]
    fn exp2i(self, a: Self::V) -> Self::V {
        lanes!(i => f32::from_bits(((a[i] as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the caller's contract.
        unsafe { p.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::V {
        // SAFETY: the caller's contract; lanes from `n` on are not read.
        lanes!(i => if i < n { unsafe { p.add(i).read_unaligned() } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: the caller's contract.
        unsafe { p.cast::<[f32; N]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: Self::V, n: usize) {
        for (i, &x) in v.iter().enumerate().take(n) {
            // SAFETY: the caller's contract; `i < n`.
            unsafe { p.add(i).write_unaligned(x) }
        }
    }

    #[inline(always)]
    unsafe fn f16(self, p: *const u8) -> f32 {
        // SAFETY: the caller's contract.
        half::f16::from_le_bytes(unsafe { p.cast::<[u8; 2]>().read() }).to_f32()
    }
    #[inline(always)]
    unsafe fn splat_f16(self, p: *const u8) -> Self::V {
        // SAFETY: the caller's contract.
        self.splat(unsafe { self.f16(p) })
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> Self::V {
        // SAFETY: the caller's contract.
        lanes!(i => unsafe { self.f16(p.add(2 * i)) })
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8, v: Self::V) {
        for (i, &x) in v.iter().enumerate() {
            // SAFETY: the caller's contract.
            unsafe { p.add(2 * i).cast::<[u8; 2]>().write(half::f16::from_f32(x).to_le_bytes()) }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> Self::V {
        // SAFETY: the caller's contract.
        let bits = |i: usize| u16::from_le_bytes(unsafe { p.add(2 * i).cast::<[u8; 2]>().read() });
        lanes!(i => f32::from_bits(u32::from(bits(i)) << 16))
    }

    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Self::I {
        // SAFETY: the caller's contract.
        lanes!(i => i32::from(unsafe { p.add(i).read() }))
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> Self::I {
        // SAFETY: the caller's contract.
        lanes!(i => i32::from(unsafe { p.add(i).cast::<i8>().read() }))
    }
    #[inline(always)]
    fn zero(self) -> Self::I {
        [0; N]
    }
    #[inline(always)]
    unsafe fn load_pairs(self, p: *const u8) -> Self::I {
        // SAFETY: the caller's contract.
        let half = |i: usize| i32::from(unsafe { p.add(i).cast::<i8>().read() });
        lanes!(i => half(2 * i) & 0xffff | half(2 * i + 1) << 16)
    }
    #[inline(always)]
    unsafe fn splat_pair(self, p: *const u8) -> Self::I {
        // SAFETY: the caller's contract.
        [unsafe { p.cast::<i32>().read_unaligned() }; N]
    }
    #[inline(always)]
    fn add_pairs(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        lanes!(i => sum[i] + i32::from(a[i] as i16) * i32::from(b[i] as i16) + (a[i] >> 16) * (b[i] >> 16))
    }
    #[inline(always)]
    fn and(self, a: Self::I, mask: i32) -> Self::I {
        lanes!(i => a[i] & mask)
    }
    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        lanes!(i => a[i] | b[i])
    }
    #[inline(always)]
    fn shl(self, a: Self::I, bits: i32) -> Self::I {
        lanes!(i => a[i].wrapping_shl(bits as u32))
    }
    #[inline(always)]
    fn shr(self, a: Self::I, bits: i32) -> Self::I {
        lanes!(i => (a[i] as u32).wrapping_shr(bits as u32) as i32)
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::V {
        lanes!(i => a[i] as f32)
    }

    #[inline(always)]
    unsafe fn transpose8(self, rows: [*const f32; 8], out: *mut f32, stride: usize) {
        for (r, row) in rows.iter().enumerate() {
            for c in 0..8 {
                // SAFETY: the caller's contract.
                unsafe { out.add(c * stride + r).write_unaligned(row.add(c).read_unaligned()) }
            }
        }
    }
}
