//! The inner loops of attention: over the elements of a key or value, and over the scores of a row.

use crate::math;
use crate::simd::Simd;

/// An element type of the cache.
pub(super) trait Element {
    const BYTES: usize;

    /// # Safety
    /// `p` is readable for `n <= LANES` elements.
    unsafe fn load<S: Simd>(s: S, p: *const u8, n: usize) -> S::V;
}

pub(super) struct Single;
pub(super) struct Half;

impl Element for Single {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8, n: usize) -> S::V {
        // SAFETY: the caller's contract.
        unsafe { if n == S::LANES { s.load(p.cast()) } else { s.load_first(p.cast(), n) } }
    }
}

impl Element for Half {
    const BYTES: usize = 2;

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

/// # Safety
/// `key` holds `dim` elements and each query is readable for as many.
#[inline(always)]
pub(super) unsafe fn dot<S: Simd, E: Element, const R: usize>(
    s: S,
    key: *const u8,
    dim: usize,
    q: [*const f32; R],
) -> [f32; R] {
    let mut sums = [s.splat(0.0); R];
    let mut i = 0;
    while i < dim {
        let n = (dim - i).min(S::LANES);
        // SAFETY: the caller's contract.
        unsafe {
            let key = E::load(s, key.add(i * E::BYTES), n);
            for r in 0..R {
                let q = if n == S::LANES { s.load(q[r].add(i)) } else { s.load_first(q[r].add(i), n) };
                sums[r] = s.mul_add(key, q, sums[r]);
            }
        }
        i += n;
    }
    let mut out = [0.0; R];
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = s.sum(sum);
    }
    out
}

/// `out[r] += sum over j of p[r][j] values[j]`.
///
/// # Safety
/// `values` holds `n` rows of `dim` elements, `p` is readable for `R` rows of `n` elements that lie `width` apart, and
/// `out` writable for `R` rows of `dim`.
#[inline(always)]
pub(super) unsafe fn accumulate<S: Simd, E: Element, const R: usize>(
    s: S,
    values: *const u8,
    n: usize,
    dim: usize,
    p: *const f32,
    width: usize,
    out: *mut f32,
) {
    let mut i = 0;
    while i < dim {
        let len = (dim - i).min(S::LANES);
        // SAFETY: the caller's contract.
        unsafe {
            let mut sums = [s.splat(0.0); R];
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = s.load_first(out.add(r * dim + i), len);
            }
            for j in 0..n {
                let value = E::load(s, values.add((j * dim + i) * E::BYTES), len);
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = s.mul_add(s.splat(*p.add(r * width + j)), value, *sum);
                }
            }
            for (r, sum) in sums.into_iter().enumerate() {
                s.store_first(out.add(r * dim + i), sum, len);
            }
        }
        i += len;
    }
}

#[inline(always)]
pub(super) fn scale_scores<S: Simd>(s: S, scores: &mut [f32], scale: f32, softcap: Option<f32>) {
    let mut i = 0;
    while i < scores.len() {
        let n = (scores.len() - i).min(S::LANES);
        // SAFETY: `n` elements are left.
        unsafe {
            let p = scores.as_mut_ptr().add(i);
            let mut v = s.mul(s.load_first(p, n), s.splat(scale));
            if let Some(cap) = softcap {
                v = s.mul(s.splat(cap), math::tanh(s, s.div(v, s.splat(cap))));
            }
            s.store_first(p, v, n);
        }
        i += n;
    }
}

/// Each score becomes `e^(score - max)`; returns their sum.
#[inline(always)]
pub(super) fn exp_in_place<S: Simd>(s: S, scores: &mut [f32], max: f32) -> f32 {
    let mut total = s.splat(0.0);
    let mut i = 0;
    while i < scores.len() {
        let n = (scores.len() - i).min(S::LANES);
        // SAFETY: `n` elements are left.
        unsafe {
            let p = scores.as_mut_ptr().add(i);
            s.store_first(p, math::exp(s, s.sub(s.load_first(p, n), s.splat(max))), n);
            // Loaded again, so that the lanes after the end add nothing.
            total = s.add(total, s.load_first(p, n));
        }
        i += n;
    }
    s.sum(total)
}
