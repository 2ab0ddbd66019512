//! The element types of the cache: how a block of keys is multiplied with queries, and a block of values with weights.
//!
//! Keys of a head lie transposed, `[key_dim, block_size]`, so that a vector holds one element of several keys and no
//! product ends in a sum over its lanes, in 8 bits in pairs of elements; values lie `[block_size, value_dim]`.

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
    /// Whether queries are made anew by `query` before they are multiplied.
    const ROUNDS: bool = false;

    /// Writes a query as `score` wants it.
    #[inline(always)]
    fn query(_q: &[f32], _out: &mut [f32]) {}

    /// Products of `R` queries with `n` keys from number `at` on; other lanes hold anything.
    /// # Safety
    /// `keys.data` is readable for the block, `n <= LANES` keys from `at` on lie inside it, queries hold `dim` elements,
    /// or if the type `ROUNDS` what `query` has written.
    unsafe fn score<S: Simd, const R: usize>(s: S, keys: Keys, at: usize, n: usize, q: [*const f32; R]) -> [S::V; R];

    /// The same of `K` blocks, so that with few queries there are sums enough that do not wait for each other.
    /// # Safety
    /// As for `score`, of each block; all have as much room and as many elements.
    #[inline(always)]
    unsafe fn scores<S: Simd, const R: usize, const K: usize>(
        s: S,
        keys: [Keys; K],
        at: usize,
        n: usize,
        q: [*const f32; R],
    ) -> [[S::V; R]; K] {
        let mut scores = [[s.splat(0.0); R]; K];
        for (scores, keys) in scores.iter_mut().zip(keys) {
            // SAFETY: the caller's contract.
            *scores = unsafe { Self::score::<S, R>(s, keys, at, n, q) };
        }
        scores
    }

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

impl<P: Plain> Element for P {
    #[inline(always)]
    unsafe fn score<S: Simd, const R: usize>(s: S, keys: Keys, at: usize, n: usize, q: [*const f32; R]) -> [S::V; R] {
        // SAFETY: the caller's contract.
        let [scores] = unsafe { Self::scores::<S, R, 1>(s, [keys], at, n, q) };
        scores
    }

    #[inline(always)]
    unsafe fn scores<S: Simd, const R: usize, const K: usize>(
        s: S,
        keys: [Keys; K],
        at: usize,
        n: usize,
        q: [*const f32; R],
    ) -> [[S::V; R]; K] {
        // SAFETY: the caller's contract.
        unsafe {
            match keys[0].ahead.is_null() {
                true => plain_scores::<S, P, R, K, false>(s, keys, at, n, q),
                false => plain_scores::<S, P, R, K, true>(s, keys, at, n, q),
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

/// [`Element::scores`]; with `AHEAD` it asks for what comes next, a bit with each key. The products of a query are added up
/// in the order of its elements, however many queries and blocks there are.
/// # Safety
/// As there.
#[inline(always)]
unsafe fn plain_scores<S: Simd, P: Plain, const R: usize, const K: usize, const AHEAD: bool>(
    s: S,
    keys: [Keys; K],
    at: usize,
    n: usize,
    q: [*const f32; R],
) -> [[S::V; R]; K] {
    let mut sums = [[s.splat(0.0); R]; K];
    let Keys { room, dim, .. } = keys[0];
    for d in 0..dim {
        let place = (d * room + at) * P::KIND.bytes();
        for k in 0..K {
            // SAFETY: the caller's contract.
            unsafe {
                if AHEAD {
                    prefetch(keys[k].ahead.wrapping_add(place));
                }
                let key = P::load(s, keys[k].data.add(place), n);
                // No closure, which may not be compiled into the loop and then lacks its instruction set.
                for r in 0..R {
                    sums[k][r] = s.mul_add(key, s.splat(*q[r].add(d)), sums[k][r]);
                }
            }
        }
    }
    sums
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
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = s.mul_add(s.splat(*p.add(r * width + j)), value, *sum);
            }
        }
    }
}

/// Floats of a query as [`Eighth`] wants it: scales, and pairs of codes of 16 bits.
pub(super) const fn query_floats(dim: usize) -> usize {
    dim.div_ceil(GROUP) + dim.div_ceil(2)
}

/// Rounds a query to 15 bits and a sign, with a scale for 32 elements: far more exact than the keys are, and half the
/// products of floats. `out` takes [`query_floats`].
#[inline(always)]
fn round_query(q: &[f32], out: &mut [f32]) {
    /// Added to a number below 2^22, it makes its last bits the integer next to it, ties to even.
    const INTEGER: f32 = (3 << 22) as f32;
    let (scales, codes) = out.split_at_mut(q.len().div_ceil(GROUP));
    for ((q, scale), codes) in q.chunks(GROUP).zip(scales).zip(codes.chunks_mut(GROUP / 2)) {
        // As integers, magnitudes have the same order.
        let largest = f32::from_bits(q.iter().fold(0, |m: u32, x| m.max(x.to_bits() & 0x7fff_ffff)));
        *scale = if largest.is_finite() { largest / 32767.0 } else { f32::NAN };
        // The inverse would overflow; nothing is lost beside numbers of ordinary size.
        let inverse = if largest.is_finite() && largest >= 1e-30 { 32767.0 / largest } else { 0.0 };
        let code = |x: f32| (x * inverse + INTEGER).to_bits() & 0xffff;
        let (pairs, rest) = q.as_chunks::<2>();
        pairs.iter().zip(&mut *codes).for_each(|(&[a, b], to)| *to = f32::from_bits(code(a) | code(b) << 16));
        if let Some(&last) = rest.first() {
            codes[pairs.len()] = f32::from_bits(code(last));
        }
    }
}

/// Values of a block whose weights are multiplied with their scales at a time.
const SCALED: usize = 16;

/// After the codes come the scales, f16, `[dim / 32, block_size]`.
impl Element for Eighth {
    const ROUNDS: bool = true;

    #[inline(always)]
    fn query(q: &[f32], out: &mut [f32]) {
        round_query(q, out);
    }

    #[inline(always)]
    unsafe fn score<S: Simd, const R: usize>(s: S, keys: Keys, at: usize, n: usize, q: [*const f32; R]) -> [S::V; R] {
        let mut sums = [s.splat(0.0); R];
        let groups = keys.dim.div_ceil(GROUP);
        // SAFETY: the caller's contract; 32 bytes hold the pairs of the widest vector.
        unsafe {
            let scales = keys.data.add(KvType::codes(keys.room, keys.dim));
            for group in 0..groups {
                let mut parts = [s.zero(); R];
                for pair in group * GROUP / 2..keys.dim.div_ceil(2).min((group + 1) * GROUP / 2) {
                    let place = 2 * (pair * keys.room + at);
                    if !keys.ahead.is_null() {
                        prefetch(keys.ahead.wrapping_add(place));
                    }
                    let key = if n == S::LANES {
                        s.load_pairs(keys.data.add(place))
                    } else {
                        let mut padded = [0u8; 32];
                        std::ptr::copy_nonoverlapping(keys.data.add(place), padded.as_mut_ptr(), 2 * n.min(16));
                        s.load_pairs(padded.as_ptr())
                    };
                    for r in 0..R {
                        parts[r] = s.add_pairs(parts[r], key, s.splat_pair(q[r].add(groups + pair).cast()));
                    }
                }
                let scale = Half::load(s, scales.add(2 * (group * keys.room + at)), n);
                for r in 0..R {
                    sums[r] = s.mul_add(s.mul(s.to_f32(parts[r]), scale), s.splat(*q[r].add(group)), sums[r]);
                }
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
        // SAFETY: the caller's contract; vectors do not cross groups, as their length divides a group's, and no vector
        // is longer than `SCALED`, of which its length is a divisor.
        unsafe {
            let scales = values.data.add(KvType::codes(values.room, values.dim) + 2 * (at / GROUP * values.room));
            for from in (0..values.count).step_by(SCALED) {
                let count = SCALED.min(values.count - from);
                let mut weights = [[0.0f32; SCALED]; R];
                for first in (0..count).step_by(S::LANES) {
                    let m = S::LANES.min(count - first);
                    let scale = Half::load(s, scales.add(2 * (values.first + from + first)), m);
                    for (r, weights) in weights.iter_mut().enumerate() {
                        let weight = s.load_first(p.add(r * width + from + first), m);
                        s.store(weights.as_mut_ptr().add(first), s.mul(weight, scale));
                    }
                }
                for j in 0..count {
                    let place = (values.first + from + j) * values.dim + at;
                    if !values.ahead.is_null() {
                        prefetch(values.ahead.wrapping_add(place));
                    }
                    let value = Eighth::codes(s, values.data.add(place), n);
                    for (sum, weights) in sums.iter_mut().zip(&weights) {
                        *sum = s.mul_add(s.splat(weights[j]), value, *sum);
                    }
                }
            }
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
