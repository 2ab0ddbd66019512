//! Rotary position embedding.

use crate::cpu::Cpu;
use crate::error::{KernelError, exact};
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd};

/// Elements per task.
const GRAIN: usize = 8192;

/// Parameters of [`Cpu::rope`].
#[derive(Clone, Copy, Debug)]
pub struct Rope<'a> {
    /// Heads per token.
    pub heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Pairs `2i, 2i + 1` if true, else `i, i + pairs`.
    pub interleaved: bool,
    /// Pairs that are rotated; the elements after them pass through.
    pub pairs: usize,
    /// `[T, pairs]`
    pub cos: &'a [f32],
    /// `[T, pairs]`
    pub sin: &'a [f32],
}

struct Tokens<'a> {
    rope: Rope<'a>,
    first: usize,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Tokens<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rope { heads, head_dim, pairs, .. } = self.rope;
        for (i, (x, out)) in self.x.chunks_exact(head_dim).zip(self.out.chunks_exact_mut(head_dim)).enumerate() {
            let angles = (self.first + i / heads) * pairs..(self.first + i / heads + 1) * pairs;
            let (cos, sin) = (&self.rope.cos[angles.clone()], &self.rope.sin[angles]);
            if self.rope.interleaved {
                for (k, (cos, sin)) in cos.iter().zip(sin).enumerate() {
                    let (a, b) = (x[2 * k], x[2 * k + 1]);
                    out[2 * k] = a * cos - b * sin;
                    out[2 * k + 1] = a * sin + b * cos;
                }
            } else {
                rotate_halves(s, x, cos, sin, out);
            }
            out[2 * pairs..].copy_from_slice(&x[2 * pairs..]);
        }
    }
}

#[inline(always)]
fn rotate_halves<S: Simd>(s: S, x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let pairs = cos.len();
    let mut i = 0;
    while i < pairs {
        let n = (pairs - i).min(S::LANES);
        // SAFETY: a head has at least `2 * pairs` elements, and sin is as long as cos.
        unsafe {
            let (a, b) = (s.load_first(x.as_ptr().add(i), n), s.load_first(x.as_ptr().add(pairs + i), n));
            let (cos, sin) = (s.load_first(cos.as_ptr().add(i), n), s.load_first(sin.as_ptr().add(i), n));
            s.store_first(out.as_mut_ptr().add(i), s.sub(s.mul(a, cos), s.mul(b, sin)), n);
            s.store_first(out.as_mut_ptr().add(pairs + i), s.mul_add(a, sin, s.mul(b, cos)), n);
        }
        i += n;
    }
}

impl Cpu {
    /// Rotates `x` `[T, heads, head_dim]`.
    ///
    /// # Errors
    /// Lengths that do not fit.
    pub fn rope(&self, rope: Rope<'_>, x: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
        let row = rope.heads.saturating_mul(rope.head_dim);
        if row == 0 || !x.len().is_multiple_of(row) || rope.pairs > rope.head_dim / 2 {
            let expected = format!("rows of {row}, with {} pairs per head", rope.pairs);
            return Err(KernelError::mismatch("input of rope", expected, x.len()));
        }
        let tokens = x.len() / row;
        exact("output of rope", out.len(), x.len())?;
        exact("cosines of rope", rope.cos.len(), tokens * rope.pairs)?;
        exact("sines of rope", rope.sin.len(), tokens * rope.pairs)?;
        let (isa, out) = (self.isa, SharedMut::new(out));
        self.pool.parallel_for(tokens, GRAIN.div_ceil(row), |_, range| {
            let elements = range.start * row..range.end * row;
            // SAFETY: the ranges of a loop do not overlap.
            let out = unsafe { out.part(elements.clone()) };
            isa.run(Tokens { rope, first: range.start, x: &x[elements], out });
        })
    }
}
