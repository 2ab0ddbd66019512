//! What a row sees is added up chunk by chunk; here the chunks of a row become one, in their order.

use crate::simd::{Kernel, Simd};

/// Floats per row of what a chunk leaves behind: the values, not yet divided by the sum of their weights, the largest
/// score, and that sum.
pub(super) fn part_floats(value_dim: usize) -> usize {
    value_dim.saturating_add(2)
}

/// What is joined of a row before its first chunk.
pub(super) fn empty(sink: Option<f32>, joined: &mut [f32]) {
    joined.fill(0.0);
    if let [.., max, sum] = joined {
        (*max, *sum) = (sink.unwrap_or(f32::NEG_INFINITY), if sink.is_some() { 1.0 } else { 0.0 });
    }
}

/// Joins a chunk, its values, largest score and sum, to the ones before.
#[inline(always)]
pub(super) fn join<S: Simd>(s: S, joined: &mut [f32], (values, max, sum): (&[f32], f32, f32)) {
    let (before, rest) = joined.split_at_mut(values.len());
    // The row sees nothing of the chunk; with anything, the sum is at least 1, or NaN.
    if sum == 0.0 {
        return;
    }
    if rest[1] == 0.0 {
        before.copy_from_slice(values);
        (rest[0], rest[1]) = (max, sum);
        return;
    }
    let most = max.max(rest[0]);
    let (fade, factor) = ((rest[0] - most).exp(), (max - most).exp());
    let mut i = 0;
    while i < values.len() {
        let n = (values.len() - i).min(S::LANES);
        // SAFETY: `n` elements are left in both.
        unsafe {
            let p = before.as_mut_ptr().add(i);
            let faded = s.mul(s.load_first(p, n), s.splat(fade));
            s.store_first(p, s.mul_add(s.load_first(values.as_ptr().add(i), n), s.splat(factor), faded), n);
        }
        i += n;
    }
    (rest[0], rest[1]) = (most, sum.mul_add(factor, rest[1] * fade));
}

/// The result of a row.
pub(super) fn finish(joined: &[f32], out: &mut [f32]) {
    let factor = 1.0 / joined[out.len() + 1];
    out.iter_mut().zip(joined).for_each(|(o, v)| *o = v * factor);
}

/// Joins the chunks of some rows, `[rows, 1 + room, part_floats]`, to what is joined already, the first of each, and leaves
/// room for the next ones.
pub(super) struct Join<'a> {
    pub(super) parts: &'a mut [f32],
    pub(super) room: usize,
    pub(super) value_dim: usize,
}

impl Kernel for Join<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (dim, each) = (self.value_dim, part_floats(self.value_dim));
        for row in self.parts.chunks_exact_mut((1 + self.room) * each) {
            let (joined, parts) = row.split_at_mut(each);
            for part in parts.chunks_exact_mut(each) {
                join(s, joined, (&part[..dim], part[dim], part[dim + 1]));
                // There may be fewer the next time.
                part[dim + 1] = 0.0;
            }
        }
    }
}
