//! Normalisation of rows.

use crate::cpu::Cpu;
use crate::error::{KernelError, exact};
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd};

/// Elements per task.
const GRAIN: usize = 8192;

/// Parameters of [`Cpu::rms_norm`] and [`Cpu::layer_norm`].
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Elements per row.
    pub width: usize,
    /// `[width]`, multiplied last.
    pub weight: Option<&'a [f32]>,
    /// `[width]`, added last.
    pub bias: Option<&'a [f32]>,
    /// Added to the mean of squares.
    pub eps: f32,
}

impl Norm<'_> {
    pub(crate) fn check(&self, x: &[f32]) -> Result<(), KernelError> {
        let width = self.width;
        if width == 0 || !x.len().is_multiple_of(width) {
            return Err(KernelError::mismatch("input of a norm", format!("rows of {width}"), x.len()));
        }
        exact("weight of a norm", self.weight.map_or(width, <[f32]>::len), width)?;
        exact("bias of a norm", self.bias.map_or(width, <[f32]>::len), width)
    }
}

/// Rows of a norm, with `centre` of [`Cpu::layer_norm`]. Lengths have been checked.
pub(crate) struct Rows<'a> {
    pub(crate) norm: Norm<'a>,
    pub(crate) centre: bool,
    pub(crate) x: &'a [f32],
    pub(crate) out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.norm.width;
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let mean = if self.centre { sum::<S, false>(s, x, 0.0) / width as f32 } else { 0.0 };
            let variance = sum::<S, true>(s, x, mean) / width as f32;
            let factor = 1.0 / (variance + self.norm.eps).sqrt();
            write(s, x, &self.norm, mean, factor, out);
        }
    }
}

/// Sum of `x - mean`, or of its squares.
#[inline(always)]
fn sum<S: Simd, const SQUARES: bool>(s: S, x: &[f32], mean: f32) -> f32 {
    let (centre, mut sums) = (s.splat(mean), [s.splat(0.0); 4]);
    let mut i = 0;
    while i + 4 * S::LANES <= x.len() {
        for (k, sum) in sums.iter_mut().enumerate() {
            // SAFETY: four vectors are left.
            let v = s.sub(unsafe { s.load(x.as_ptr().add(i + k * S::LANES)) }, centre);
            *sum = if SQUARES { s.mul_add(v, v, *sum) } else { s.add(*sum, v) };
        }
        i += 4 * S::LANES;
    }
    let mut total = s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])));
    for &x in &x[i..] {
        let v = x - mean;
        total += if SQUARES { v * v } else { v };
    }
    total
}

#[inline(always)]
fn write<S: Simd>(s: S, x: &[f32], norm: &Norm<'_>, mean: f32, factor: f32, out: &mut [f32]) {
    let (centre, scale) = (s.splat(mean), s.splat(factor));
    let mut i = 0;
    while i < x.len() {
        let n = (x.len() - i).min(S::LANES);
        // SAFETY: `n` elements are left in each; weight and bias are as long as a row.
        unsafe {
            let mut v = s.mul(s.sub(s.load_first(x.as_ptr().add(i), n), centre), scale);
            if let Some(weight) = norm.weight {
                v = s.mul(v, s.load_first(weight.as_ptr().add(i), n));
            }
            if let Some(bias) = norm.bias {
                v = s.add(v, s.load_first(bias.as_ptr().add(i), n));
            }
            s.store_first(out.as_mut_ptr().add(i), v, n);
        }
        i += n;
    }
}

impl Cpu {
    /// `x / sqrt(mean(x²) + eps) weight + bias` for each row.
    ///
    /// # Errors
    /// Lengths that do not fit.
    pub fn rms_norm(&self, norm: Norm<'_>, x: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
        self.norm(norm, false, x, out)
    }

    /// `(x - mean) / sqrt(variance + eps) weight + bias` for each row.
    ///
    /// # Errors
    /// Lengths that do not fit.
    pub fn layer_norm(&self, norm: Norm<'_>, x: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
        self.norm(norm, true, x, out)
    }

    fn norm(&self, norm: Norm<'_>, centre: bool, x: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
        let width = norm.width;
        norm.check(x)?;
        exact("output of a norm", out.len(), x.len())?;
        let (isa, rows, out) = (self.isa, x.len() / width, SharedMut::new(out));
        self.pool.parallel_for(rows, GRAIN.div_ceil(width), |_, range| {
            let range = range.start * width..range.end * width;
            // SAFETY: the ranges of a loop do not overlap.
            let out = unsafe { out.part(range.clone()) };
            isa.run(Rows { norm, centre, x: &x[range], out });
        })
    }
}
