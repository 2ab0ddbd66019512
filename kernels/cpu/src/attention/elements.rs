//! The element types of the cache: how a block of keys is multiplied with queries, and a block of values with weights.
//!
//! Keys of a head lie transposed, `[key_dim, block_size]`, so that a vector holds one element of several keys and no
//! product ends in a sum over its lanes; values lie `[block_size, value_dim]`.

use crate::kv_cache::{GROUP, KvType};
use crate::simd::{Simd, prefetch};

/// Keys of a block: where, how many there is room for, and their elements.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    pub(super) data: *const u8,
    /// What is asked for meanwhile, as many bytes; any address, null for nothing.
    pub(super) ahead: *const u8,
    pub(super) room: usize,
    pub(super) dim: usize,
}

/// Values of a block: the first of `count` ones, which is number `first` of the block's `room`, and their elements.
#[derive(Clone, Copy)]
pub(super) struct Values {
    pub(super) data: *const u8,
    /// What is asked for meanwhile, as many bytes; any address, null for nothing.
    pub(super) ahead: *const u8,
    pub(super) room: usize,
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) dim: usize,
}

/// An element type of the cache.
pub(super) trait Element {
    /// Products of `R` queries with `n` keys from number `at` on; other lanes hold anything.
    /// # Safety
    /// `keys.data` is readable for the block, `n <= LANES` keys from `at` on lie inside it, queries hold `dim` elements.
    unsafe fn score<S: Simd, const R: usize>(s: S, keys: Keys, at: usize, n: usize, q: [*const f32; R]) -> [S::V; R];

    /// Adds values, times the weights `p`, `R` rows that lie `width` apart, to `sums`: elements from `at` on, `n` of
    /// them; other lanes hold anything.
    /// # Safety
    /// `values.data` is readable for the block, which holds the values asked for; `p` is readable for `count` elements
    /// of each row.
    unsafe fn accumulate<S: Simd, const R: usize>(
        s: S,
        values: Values,
        at: usize,
        n: usize,
        p: (*const f32, usize),
        sums: &mut [S::V; R],
    );
}

/// Types whose elements stand alone.
pub(super) trait Plain {
    const KIND: KvType;

    /// # Safety
    /// `p` is readable for `n <= LANES` elements.
    unsafe fn load<S: Simd>(s: S, p: *const u8, n: usize) -> S::V;
}

pub(super) struct Single;
pub(super) struct Half;
/// 8 bits, with a scale for 32 elements.
pub(super) struct Eighth;

impl Plain for Single {
    const KIND: KvType = KvType::F32;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8, n: usize) -> S::V {
        // SAFETY: the caller's contract.
        unsafe { if n == S::LANES { s.load(p.cast()) } else { s.load_first(p.cast(), n) } }
    }
}

impl Plain for Half {
    const KIND: KvType = KvType::F16;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8, n: usize) -> S::V {
        // SAFETY: the caller's contract; 32 bytes hold the lanes of the widest vector.
        unsafe {
            if n == S::LANES {
                return s.load_f16(p);
            }
            let mut padded = [0u8; 32];
            std::ptr::copy_nonoverlapping(p, padded.as_mut_ptr(), 2 * n.min(16));
            s.load_f16(padded.as_ptr())
        }
    }
}

/// Sums that do not wait for each other; with few rows there are too few without.
const CHAINS: usize = 4;

impl<P: Plain> Element for P {
    #[inline(always)]
    unsafe fn score<S: Simd, const R: usize>(s: S, keys: Keys, at: usize, n: usize, q: [*const f32; R]) -> [S::V; R] {
        // SAFETY: the caller's contract.
        unsafe {
            match keys.ahead.is_null() {
                true => plain_score::<S, P, R, false>(s, keys, at, n, q),
                false => plain_score::<S, P, R, true>(s, keys, at, n, q),
            }
        }
    }

    #[inline(always)]
    unsafe fn accumulate<S: Simd, const R: usize>(
        s: S,
        values: Values,
        at: usize,
        n: usize,
        p: (*const f32, usize),
        sums: &mut [S::V; R],
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            match values.ahead.is_null() {
                true => plain_accumulate::<S, P, R, false>(s, values, at, n, p, sums),
                false => plain_accumulate::<S, P, R, true>(s, values, at, n, p, sums),
            }
        }
    }
}

/// [`Element::score`]; with `AHEAD` it asks for what comes next, a bit with each key.
/// # Safety
/// As there.
#[inline(always)]
unsafe fn plain_score<S: Simd, P: Plain, const R: usize, const AHEAD: bool>(
    s: S,
    keys: Keys,
    at: usize,
    n: usize,
    q: [*const f32; R],
) -> [S::V; R] {
    let mut sums = [[s.splat(0.0); R]; CHAINS];
    let chains = if R < CHAINS { CHAINS } else { 1 };
    let (bytes, mut d) = (P::KIND.bytes(), 0);
    // SAFETY: the caller's contract.
    unsafe {
        while d + chains <= keys.dim {
            for (c, sums) in sums.iter_mut().enumerate().take(chains) {
                let place = ((d + c) * keys.room + at) * bytes;
                if AHEAD {
                    prefetch(keys.ahead.wrapping_add(place));
                }
                let key = P::load(s, keys.data.add(place), n);
                (0..R).for_each(|r| sums[r] = s.mul_add(key, s.splat(*q[r].add(d + c)), sums[r]));
            }
            d += chains;
        }
        while d < keys.dim {
            let key = P::load(s, keys.data.add((d * keys.room + at) * bytes), n);
            (0..R).for_each(|r| sums[0][r] = s.mul_add(key, s.splat(*q[r].add(d)), sums[0][r]));
            d += 1;
        }
    }
    let [mut first, second, third, fourth] = sums;
    if chains > 1 {
        (0..R).for_each(|r| first[r] = s.add(s.add(first[r], second[r]), s.add(third[r], fourth[r])));
    }
    first
}

/// [`Element::accumulate`]; with `AHEAD` it asks for what comes next, a bit with each value.
/// # Safety
/// As there.
#[inline(always)]
unsafe fn plain_accumulate<S: Simd, P: Plain, const R: usize, const AHEAD: bool>(
    s: S,
    values: Values,
    at: usize,
    n: usize,
    (p, width): (*const f32, usize),
    sums: &mut [S::V; R],
) {
    for j in 0..values.count {
        // SAFETY: the caller's contract.
        unsafe {
            let place = ((values.first + j) * values.dim + at) * P::KIND.bytes();
            if AHEAD {
                prefetch(values.ahead.wrapping_add(place));
            }
            let value = P::load(s, values.data.add(place), n);
            (0..R).for_each(|r| sums[r] = s.mul_add(s.splat(*p.add(r * width + j)), value, sums[r]));
        }
    }
}

impl Eighth {
    /// # Safety
    /// `p` is readable for `n <= LANES` bytes.
    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, p: *const u8, n: usize) -> S::V {
        // SAFETY: the caller's contract; 16 bytes hold the lanes of the widest vector.
        unsafe {
            if n == S::LANES {
                return s.to_f32(s.load_i8(p));
            }
            let mut padded = [0u8; 16];
            std::ptr::copy_nonoverlapping(p, padded.as_mut_ptr(), n.min(16));
            s.to_f32(s.load_i8(padded.as_ptr()))
        }
    }
}

/// After the codes come the scales, f16: of keys `[key_dim / 32, block_size]`, of values `[block_size, value_dim / 32]`.
impl Element for Eighth {
    #[inline(always)]
    unsafe fn score<S: Simd, const R: usize>(s: S, keys: Keys, at: usize, n: usize, q: [*const f32; R]) -> [S::V; R] {
        let mut sums = [s.splat(0.0); R];
        // SAFETY: the caller's contract.
        unsafe {
            let scales = keys.data.add(keys.dim * keys.room);
            for (group, start) in (0..keys.dim).step_by(GROUP).enumerate() {
                let mut parts = [s.splat(0.0); R];
                for d in start..keys.dim.min(start + GROUP) {
                    if !keys.ahead.is_null() {
                        prefetch(keys.ahead.wrapping_add(d * keys.room + at));
                    }
                    let key = Eighth::codes(s, keys.data.add(d * keys.room + at), n);
                    (0..R).for_each(|r| parts[r] = s.mul_add(key, s.splat(*q[r].add(d)), parts[r]));
                }
                let scale = Half::load(s, scales.add(2 * (group * keys.room + at)), n);
                (0..R).for_each(|r| sums[r] = s.mul_add(parts[r], scale, sums[r]));
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn accumulate<S: Simd, const R: usize>(
        s: S,
        values: Values,
        at: usize,
        n: usize,
        (p, width): (*const f32, usize),
        sums: &mut [S::V; R],
    ) {
        let groups = values.dim.div_ceil(GROUP);
        // SAFETY: the caller's contract; vectors do not cross groups, as their length divides a group's.
        unsafe {
            let scales = values.data.add(values.dim * values.room);
            for j in 0..values.count {
                let number = values.first + j;
                let scale = s.splat_f16(scales.add(2 * (number * groups + at / GROUP)));
                if !values.ahead.is_null() {
                    prefetch(values.ahead.wrapping_add(number * values.dim + at));
                }
                let codes = Eighth::codes(s, values.data.add(number * values.dim + at), n);
                let value = s.mul(codes, scale);
                (0..R).for_each(|r| sums[r] = s.mul_add(s.splat(*p.add(r * width + j)), value, sums[r]));
            }
        }
    }
}
