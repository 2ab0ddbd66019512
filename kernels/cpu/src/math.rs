//! Functions of a vector, to within a few units in the last place.
// Constants are written as published, to more digits than f32 holds.
#![allow(clippy::excessive_precision)]

use crate::simd::Simd;

/// `e^x`. Below -87.3 the result is 1e-38 instead of a smaller number, above 88 it is 2e38.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // e^x = 2^n e^r with |r| <= ln 2 / 2; ln 2 in two parts keeps r exact (Cody and Waite).
    const LN2_HIGH: f32 = 0.693_359_375;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // In this order, NaN stays NaN.
    let x = s.min(s.splat(88.0), s.max(s.splat(-87.3), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.mul_add(n, s.splat(-LN2_HIGH), x);
    let r = s.mul_add(n, s.splat(-LN2_LOW), r);
    // Minimax polynomial for (e^r - 1 - r) / r² (Moshier, Cephes library).
    let p = polynomial(
        s,
        r,
        [1.987_569_15e-4, 1.398_199_95e-3, 8.333_451_91e-3, 4.166_579_59e-2, 1.666_666_55e-1, 5.000_000_12e-1],
    );
    let e = s.add(s.mul_add(s.mul(p, r), r, r), s.splat(1.0));
    s.mul(e, s.exp2i(n))
}

/// `2^x` of x up to 127, to 1e-7 of it. Below -126 the result is 1e-38 instead of a smaller number.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(s: S, x: S::V) -> S::V {
    // In this order, NaN stays NaN.
    let x = s.max(s.splat(-126.0), x);
    let n = s.round(x);
    // Minimax polynomial for 2^r with |r| <= 1/2.
    let p = polynomial(
        s,
        s.sub(x, n),
        [1.327_647_196e-3, 9.675_541_739e-3, 5.550_713_277e-2, 2.402_211_972e-1, 6.931_469_671e-1, 1.000_000_072],
    );
    s.mul(p, s.exp2i(n))
}

#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::V, coefficients: [f32; N]) -> S::V {
    let mut sum = s.splat(coefficients[0]);
    for &c in &coefficients[1..] {
        sum = s.mul_add(sum, x, s.splat(c));
    }
    sum
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// Hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let (one, two) = (s.splat(1.0), s.splat(2.0));
    let large = s.sub(one, s.div(two, s.add(exp(s, s.mul(two, x)), one)));
    // Where that cancels: an odd polynomial (Moshier, Cephes library).
    let z = s.mul(x, x);
    let p = polynomial(s, z, [-5.704_988_73e-3, 2.063_908_88e-2, -5.373_971_55e-2, 1.333_144_22e-1, -3.333_328_19e-1]);
    let small = s.mul_add(s.mul(p, z), x, x);
    s.if_less(z, s.splat(0.625 * 0.625), small, large)
}

/// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x³)))`, as `x sigmoid(2 ..)`, which does not cancel for negative x.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(s: S, x: S::V) -> S::V {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769_1;
    let inner = s.mul_add(s.mul(s.mul(x, x), x), s.splat(0.044715), x);
    s.mul(x, sigmoid(s, s.mul(s.splat(TWICE_SQRT_2_OVER_PI), inner)))
}

/// `0.5 x (1 + erf(x / sqrt 2))`, lane by lane.
#[inline(always)]
pub(crate) fn gelu_erf<S: Simd>(s: S, x: S::V) -> S::V {
    let mut lanes = [0.0f32; 16];
    // SAFETY: no instruction set has more than 16 lanes.
    unsafe { s.store(lanes.as_mut_ptr(), x) };
    for lane in &mut lanes[..S::LANES] {
        // erfc, because 1 + erf cancels for negative x.
        *lane *= 0.5 * libm::erfcf(-*lane * std::f32::consts::FRAC_1_SQRT_2);
    }
    // SAFETY: as above.
    unsafe { s.load(lanes.as_ptr()) }
}
