//! Operations element by element.

use std::ops::Range;

use crate::cpu::Cpu;
use crate::error::{KernelError, exact};
use crate::isa::Isa;
use crate::math;
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd};

/// Elements per task: small operations are not worth waking a thread for.
const GRAIN: usize = 8192;

/// A pointwise function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `0.5 x (1 + erf(x / sqrt 2))`.
    GeluErf,
    /// `x sigmoid(1.702 x)`.
    GeluQuick,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    ReluSquared,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
}

/// An operation on two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a b`.
    Mul,
}

/// A function of one or two numbers.
trait Pointwise: Copy + Sync {
    /// Must be `#[inline(always)]`.
    fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V;
}

macro_rules! pointwise {
    ($($name:ident$(($($field:ty),*))? |$self:ident, $s:ident, $a:ident, $b:ident| $e:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name$(($($field),*))?;

        impl Pointwise for $name {
            #[inline(always)]
            fn apply<S: Simd>($self, $s: S, $a: S::V, $b: S::V) -> S::V {
                let _ = ($a, $b);
                $e
            }
        }
    )*};
}

pointwise! {
    Silu |self, s, a, b| s.mul(a, math::sigmoid(s, a));
    GeluTanh |self, s, a, b| math::gelu_tanh(s, a);
    GeluErf |self, s, a, b| math::gelu_erf(s, a);
    GeluQuick |self, s, a, b| s.mul(a, math::sigmoid(s, s.mul(s.splat(1.702), a)));
    Relu |self, s, a, b| s.max(s.splat(0.0), a);
    ReluSquared |self, s, a, b| {
        let positive = s.max(s.splat(0.0), a);
        s.mul(positive, positive)
    };
    Sigmoid |self, s, a, b| math::sigmoid(s, a);
    Tanh |self, s, a, b| math::tanh(s, a);
    Add |self, s, a, b| s.add(a, b);
    Sub |self, s, a, b| s.sub(a, b);
    Mul |self, s, a, b| s.mul(a, b);
    Softcap(f32) |self, s, a, b| s.mul(s.splat(self.0), math::tanh(s, s.div(a, s.splat(self.0))));
    Affine(f32, f32) |self, s, a, b| s.mul_add(a, s.splat(self.0), s.splat(self.1));
}

/// The function of an activation, times `b`.
#[derive(Clone, Copy)]
struct Gated<F>(F);

impl<F: Pointwise> Pointwise for Gated<F> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V {
        s.mul(self.0.apply(s, a, b), b)
    }
}

/// The second operand.
#[derive(Clone, Copy)]
enum Second<'a> {
    /// As long as the first.
    Each(&'a [f32]),
    /// One number per so many of the first.
    Per(usize, &'a [f32]),
}

struct Apply<'a, F> {
    f: F,
    a: &'a [f32],
    b: Second<'a>,
    range: Range<usize>,
    out: &'a mut [f32],
}

impl<F: Pointwise> Kernel for Apply<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let a = &self.a[self.range.clone()];
        match self.b {
            Second::Each(b) => apply_each(s, self.f, a, &b[self.range.clone()], self.out),
            Second::Per(width, b) => {
                let mut at = self.range.start;
                while at < self.range.end {
                    let n = (width - at % width).min(self.range.end - at);
                    let from = at - self.range.start;
                    let repeated = s.splat(b[at / width]);
                    apply_repeated(s, self.f, &a[from..from + n], repeated, &mut self.out[from..from + n]);
                    at += n;
                }
            }
        }
    }
}

#[inline(always)]
fn apply_each<S: Simd, F: Pointwise>(s: S, f: F, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(a.len() == out.len() && b.len() == out.len());
    let mut i = 0;
    while i + S::LANES <= out.len() {
        // SAFETY: a whole vector is left in all three.
        unsafe {
            let v = f.apply(s, s.load(a.as_ptr().add(i)), s.load(b.as_ptr().add(i)));
            s.store(out.as_mut_ptr().add(i), v);
        }
        i += S::LANES;
    }
    let n = out.len() - i;
    // SAFETY: `n` elements are left in all three.
    unsafe {
        let v = f.apply(s, s.load_first(a.as_ptr().add(i), n), s.load_first(b.as_ptr().add(i), n));
        s.store_first(out.as_mut_ptr().add(i), v, n);
    }
}

#[inline(always)]
fn apply_repeated<S: Simd, F: Pointwise>(s: S, f: F, a: &[f32], b: S::V, out: &mut [f32]) {
    assert!(a.len() == out.len());
    let mut i = 0;
    while i + S::LANES <= out.len() {
        // SAFETY: a whole vector is left in both.
        unsafe { s.store(out.as_mut_ptr().add(i), f.apply(s, s.load(a.as_ptr().add(i)), b)) };
        i += S::LANES;
    }
    let n = out.len() - i;
    // SAFETY: `n` elements are left in both.
    unsafe { s.store_first(out.as_mut_ptr().add(i), f.apply(s, s.load_first(a.as_ptr().add(i), n), b), n) };
}

/// `f(gate) up` of elements `range`, as many as `out` has.
pub(crate) fn gate(isa: Isa, kind: Activation, [a, up]: [&[f32]; 2], range: Range<usize>, out: &mut [f32]) {
    let b = Second::Each(up);
    match kind {
        Activation::Silu => isa.run(Apply { f: Gated(Silu), a, b, range, out }),
        Activation::GeluTanh => isa.run(Apply { f: Gated(GeluTanh), a, b, range, out }),
        Activation::GeluErf => isa.run(Apply { f: Gated(GeluErf), a, b, range, out }),
        Activation::GeluQuick => isa.run(Apply { f: Gated(GeluQuick), a, b, range, out }),
        Activation::Relu => isa.run(Apply { f: Gated(Relu), a, b, range, out }),
        Activation::ReluSquared => isa.run(Apply { f: Gated(ReluSquared), a, b, range, out }),
        Activation::Sigmoid => isa.run(Apply { f: Gated(Sigmoid), a, b, range, out }),
        Activation::Tanh => isa.run(Apply { f: Gated(Tanh), a, b, range, out }),
    }
}

impl Cpu {
    fn apply<F: Pointwise>(&self, f: F, a: &[f32], b: Second<'_>, out: &mut [f32]) -> Result<(), KernelError> {
        exact("output of an elementwise operation", out.len(), a.len())?;
        match b {
            Second::Each(b) => exact("second operand of an elementwise operation", b.len(), a.len())?,
            Second::Per(width, b) if width > 0 => {
                exact("first operand of an elementwise operation", a.len(), b.len().saturating_mul(width))?;
            }
            Second::Per(..) => return Err(KernelError::mismatch("repetitions of an operand", "at least 1", 0)),
        }
        let (isa, len, out) = (self.isa, out.len(), SharedMut::new(out));
        self.pool.parallel_for(len, GRAIN, |_, range| {
            // SAFETY: the ranges of a loop do not overlap.
            let out = unsafe { out.part(range.clone()) };
            isa.run(Apply { f, a, b, range, out });
        })
    }

    /// `f(x)`.
    ///
    /// # Errors
    /// Lengths that differ.
    pub fn unary(&self, kind: Activation, x: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
        let b = Second::Each(x);
        match kind {
            Activation::Silu => self.apply(Silu, x, b, out),
            Activation::GeluTanh => self.apply(GeluTanh, x, b, out),
            Activation::GeluErf => self.apply(GeluErf, x, b, out),
            Activation::GeluQuick => self.apply(GeluQuick, x, b, out),
            Activation::Relu => self.apply(Relu, x, b, out),
            Activation::ReluSquared => self.apply(ReluSquared, x, b, out),
            Activation::Sigmoid => self.apply(Sigmoid, x, b, out),
            Activation::Tanh => self.apply(Tanh, x, b, out),
        }
    }

    /// `f(gate) up`.
    ///
    /// # Errors
    /// Lengths that differ.
    pub fn gated(&self, kind: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
        exact("second operand of an elementwise operation", up.len(), gate.len())?;
        exact("output of an elementwise operation", out.len(), gate.len())?;
        let (isa, len, out) = (self.isa, out.len(), SharedMut::new(out));
        self.pool.parallel_for(len, GRAIN, |_, range| {
            // SAFETY: the ranges of a loop do not overlap.
            let out = unsafe { out.part(range.clone()) };
            self::gate(isa, kind, [gate, up], range, out);
        })
    }

    /// `a op b`; each element of `b` stands for `repeat` consecutive elements of `a`.
    ///
    /// # Errors
    /// Lengths that do not fit.
    pub fn binary(&self, op: Binary, a: &[f32], b: &[f32], repeat: usize, out: &mut [f32]) -> Result<(), KernelError> {
        let b = if repeat == 1 { Second::Each(b) } else { Second::Per(repeat, b) };
        match op {
            Binary::Add => self.apply(Add, a, b, out),
            Binary::Sub => self.apply(Sub, a, b, out),
            Binary::Mul => self.apply(Mul, a, b, out),
        }
    }

    /// `x mul + add`.
    ///
    /// # Errors
    /// Lengths that differ.
    pub fn scale(&self, x: &[f32], mul: f32, add: f32, out: &mut [f32]) -> Result<(), KernelError> {
        self.apply(Affine(mul, add), x, Second::Each(x), out)
    }

    /// `cap tanh(x / cap)`.
    ///
    /// # Errors
    /// Lengths that differ.
    pub fn softcap(&self, x: &[f32], cap: f32, out: &mut [f32]) -> Result<(), KernelError> {
        self.apply(Softcap(cap), x, Second::Each(x), out)
    }
}
