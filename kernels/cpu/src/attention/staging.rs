//! Keys, values and queries as whole numbers of 16 bits, as products of many rows take them.
//!
//! Columns come in blocks of 64, of which a row has one scale. Lanes are rows: 64 columns of as many rows are gathered as
//! floats, rounded, and laid out in pairs of columns, which a panel takes as they are and rows of x transposed.

use super::elements::{Eighth, Half, Plain, Single};
use crate::int8::Int8;
use crate::int8::words::{self, BLOCK, PAIRS, Places};
use crate::kv_cache::{GROUP, KvType};
use crate::simd::Simd;

/// Rows that are rounded at a time.
pub(super) const ROWS: usize = 16;
/// The largest code.
const MOST: f32 = 32767.0;
/// Most of the norm of a row's codes: sums of the products of two such rows fit 32 bits (Cauchy and Schwarz), also when
/// each of up to 64 codes is rounded up by a half.
const NORM: f32 = 46_300.0;
/// Most of the sum of a row's weights, so that sums of their products with codes fit 32 bits.
const SUM: f32 = 65_400.0;
const _: () = {
    let (norm, sum) = (NORM as i64 + 4, SUM as i64 + 32);
    assert!(norm * norm <= i32::MAX as i64 && sum * MOST as i64 <= i32::MAX as i64);
};
/// Below this, squares lose bits; nothing is lost beside numbers of ordinary size.
const LEAST: f32 = 1e-15;

/// What bounds the codes of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// Their largest, and their norm.
    Norm,
    /// Their largest.
    Largest,
}

/// The factor for weights that are at most 1 and have this sum.
#[inline(always)]
pub(super) fn weight_factor<S: Int8>(s: S, sum: S::F) -> S::F {
    let simd = s.simd();
    simd.min(simd.div(simd.splat(SUM), sum), simd.splat(MOST))
}

/// Where a block of the cache lies, how many tokens it has room for, and the elements of each.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) data: *const u8,
    pub(super) room: usize,
    pub(super) dim: usize,
}

/// An element type of the cache, as floats.
pub(super) trait Staged {
    /// Element `d` of `n <= ROWS` keys from number `at` on.
    /// # Safety
    /// The block is readable and holds them, `to` is writable for `n` elements.
    unsafe fn keys<S: Simd>(s: S, block: Place, d: usize, at: usize, n: usize, to: *mut f32);

    /// `n <= ROWS` elements from number `d` on, a multiple of `ROWS`, of value number `at`.
    /// # Safety
    /// As for `keys`.
    unsafe fn value<S: Simd>(s: S, block: Place, d: usize, at: usize, n: usize, to: *mut f32);
}

/// `n` elements that lie side by side.
/// # Safety
/// They are readable, `to` is writable for them.
#[inline(always)]
unsafe fn floats<S: Simd, P: Plain>(s: S, from: *const u8, n: usize, to: *mut f32) {
    for i in (0..n).step_by(S::LANES) {
        let m = S::LANES.min(n - i);
        // SAFETY: the caller's contract. Storing a part of a vector takes far longer.
        unsafe {
            let x = P::load(s, from.add(i * P::KIND.bytes()), m);
            if m == S::LANES { s.store(to.add(i), x) } else { s.store_first(to.add(i), x, m) }
        }
    }
}

macro_rules! plain {
    ($($name:ident)*) => {$(
        impl Staged for $name {
            #[inline(always)]
            unsafe fn keys<S: Simd>(s: S, block: Place, d: usize, at: usize, n: usize, to: *mut f32) {
                // SAFETY: the caller's contract.
                unsafe { floats::<S, $name>(s, block.data.add((d * block.room + at) * $name::KIND.bytes()), n, to) }
            }
            #[inline(always)]
            unsafe fn value<S: Simd>(s: S, block: Place, d: usize, at: usize, n: usize, to: *mut f32) {
                // SAFETY: the caller's contract.
                unsafe { floats::<S, $name>(s, block.data.add((at * block.dim + d) * $name::KIND.bytes()), n, to) }
            }
        }
    )*};
}

plain! { Single Half }

impl Staged for Eighth {
    #[inline(always)]
    unsafe fn keys<S: Simd>(s: S, block: Place, d: usize, at: usize, n: usize, to: *mut f32) {
        let scales = KvType::codes(block.room, block.dim) + 2 * (d / GROUP * block.room + at);
        let codes = 2 * (d / 2 * block.room + at) + d % 2;
        // SAFETY: the caller's contract.
        unsafe {
            floats::<S, Half>(s, block.data.add(scales), n, to);
            for i in 0..n {
                *to.add(i) *= f32::from(block.data.add(codes + 2 * i).cast::<i8>().read());
            }
        }
    }
    #[inline(always)]
    unsafe fn value<S: Simd>(s: S, block: Place, d: usize, at: usize, n: usize, to: *mut f32) {
        // SAFETY: the caller's contract; the elements lie in one group.
        unsafe {
            let scales = block.data.add(KvType::codes(block.room, block.dim) + 2 * (d / GROUP * block.room + at));
            let (scale, codes) = (s.f16(scales), block.data.add(at * block.dim + d));
            for i in 0..n {
                *to.add(i) = scale * f32::from(codes.add(i).cast::<i8>().read());
            }
        }
    }
}

/// Rounds 64 columns of `LANES` rows, which lie `stride` apart, to pairs of columns, as far apart. Gives the rows' scales;
/// that of a row with numbers that are not finite is NaN.
/// # Safety
/// `from` is readable for the columns, `to` is writable for the pairs.
#[inline(always)]
pub(super) unsafe fn round<S: Int8>(s: S, bound: Bound, from: *const f32, to: *mut f32, stride: usize) -> S::F {
    const CHAINS: usize = 4;
    let (mut scale, mut inverse) = ([0.0f32; 16], [0.0f32; 16]);
    // SAFETY: the caller's contract; no vector has more than 16 lanes.
    unsafe {
        let mut most = [s.as_f32(s.zero()); CHAINS];
        let mut squares = most;
        for i in (0..BLOCK).step_by(CHAINS) {
            for (chain, (most, squares)) in most.iter_mut().zip(&mut squares).enumerate() {
                let x = s.floats(from.add((i + chain) * stride));
                *most = s.most(*most, x);
                if bound == Bound::Norm {
                    *squares = s.mul_add(x, x, *squares);
                }
            }
        }
        s.store(scale.as_mut_ptr(), s.most(s.most(most[0], most[1]), s.most(most[2], most[3])));
        s.store(inverse.as_mut_ptr(), s.add(s.add(squares[0], squares[1]), s.add(squares[2], squares[3])));
        for (scale, inverse) in scale.iter_mut().zip(&mut inverse).take(S::LANES) {
            let most = *scale;
            let unit = (most / MOST).max(inverse.sqrt() / NORM);
            let ordinary = most >= LEAST && unit < f32::INFINITY;
            *scale = if ordinary { unit } else { 0.0 };
            *scale = if most < f32::INFINITY { *scale } else { f32::NAN };
            *inverse = if ordinary { 1.0 / unit } else { 0.0 };
        }
        let inverse = s.floats(inverse.as_ptr());
        for i in 0..PAIRS {
            let pair = words::pair_columns::<S>(i).map(|c| s.mul(s.floats(from.add(c * stride)), inverse));
            s.store(to.add(i * stride), s.as_f32(s.halves(pair[0], pair[1])));
        }
        s.floats(scale.as_ptr())
    }
}

/// Rounds a block of columns of up to `ROWS` rows and puts them, transposed, to their places as rows of x. `stage` holds
/// `[BLOCK, ROWS]`. Gives whether all are finite.
/// # Safety
/// `x` is writable for all rows that `places` has.
#[inline(always)]
pub(super) unsafe fn put_rows<S: Int8>(
    s: S,
    bound: Bound,
    stage: &[f32; BLOCK * ROWS],
    (places, block, count): (&mut Places, usize, usize),
    x: *mut u8,
) -> bool {
    let (mut scales, mut rows) = ([0.0f32; ROWS], [0.0f32; ROWS * PAIRS]);
    let (simd, stage) = (s.simd(), stage.as_ptr());
    // SAFETY: vectors within the arrays, pairs lie where the columns before them were; the rest is the caller's contract.
    unsafe {
        for lane in (0..ROWS).step_by(S::LANES) {
            let mut pairs = [0.0f32; PAIRS * ROWS];
            let scale = round(s, bound, stage.add(lane), pairs.as_mut_ptr().add(lane), ROWS);
            s.store(scales.as_mut_ptr().add(lane), scale);
            for first in (0..PAIRS).step_by(8) {
                for row in (lane..lane + S::LANES).step_by(8) {
                    let from = std::array::from_fn(|i| pairs.as_ptr().add((first + i) * ROWS + row));
                    simd.transpose8(from, rows.as_mut_ptr().add(row * PAIRS + first), PAIRS);
                }
            }
        }
        let mut finite = true;
        for (row, scale) in rows.as_chunks::<PAIRS>().0.iter().zip(scales).take(count) {
            finite &= !scale.is_nan();
            let (codes, to) = places.next(block);
            std::ptr::copy_nonoverlapping(row.as_ptr().cast::<u8>(), x.add(codes), 4 * PAIRS);
            x.add(to).cast::<f32>().write_unaligned(scale);
        }
        finite
    }
}
