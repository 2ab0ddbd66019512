//! Products of interleaved weights with quantised activations.

use rocmforge_quant::DType;

use super::activations::{Numbers, place, quad_place};
use super::format::{Order, Products};
use super::scales::Form;
use super::simd::Int8;
use crate::shared::SharedMut;

/// A matrix, times rows of x.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a, 'b> {
    pub(crate) dtype: DType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// The groups of the matrix.
    pub(crate) weights: &'a [u8],
    /// Tiles of `n` rows.
    pub(crate) x: &'a [u8],
    pub(crate) n: usize,
    pub(crate) bias: Option<&'a [f32]>,
    /// `[n, rows]`
    pub(crate) out: &'a SharedMut<'b, f32>,
}

/// A block of weights, whose methods are compiled into the loops: what is called there by another way, as a closure may
/// be, does not get their instruction set, and each of its instructions becomes a call.
pub(super) trait Block<S: Int8>: Copy {
    /// The order in which quads are best read.
    const ORDER: Order;

    /// Where codes lie quad by quad, and in each the vectors, if they do.
    fn quads(self) -> Option<*const u8>;

    /// A quad of codes of vector `v`.
    /// # Safety
    /// The memory of the block is readable.
    unsafe fn codes(self, s: S, quad: usize, v: usize) -> S::I;

    /// Scale and minimum of a part, of vector `v`.
    /// # Safety
    /// As for `codes`.
    unsafe fn scales(self, s: S, part: usize, v: usize) -> [S::F; 2];
}

/// Adds the products of a part of a block with `N` rows of x, from row `first` of a tile of `R` on.
/// # Safety
/// `weights` is a block of `V` vectors whose memory is readable, `x` is readable for a block of a tile of `R` rows.
#[inline(always)]
unsafe fn add_products<S: Int8, M: Products, F: Form, B: Block<S>, const V: usize, const N: usize>(
    s: S,
    (part, first): (usize, usize),
    weights: B,
    x: *const u8,
    products: &mut [[S::I; N]; V],
) {
    let quads = 8 / F::PARTS;
    let (all, together) = together::<S, M, F>();
    for from in (part * quads..(part + 1) * quads).step_by(together) {
        let mut sums = if all { *products } else { [[s.zero(); N]; V] };
        let codes = weights.quads().filter(|_| together.is_multiple_of(4));
        let mut done = codes.is_some();
        if let Some(codes) = codes {
            for quad in (from..from + together).step_by(4) {
                let (codes, x) = (codes.wrapping_add(quad * V * 4 * S::LANES), x.wrapping_add(quad_place(quad, first)));
                // SAFETY: the caller's contract.
                done &= unsafe {
                    match M::WIDE {
                        true => s.four_quads::<true, V, N>(&mut sums, codes, x),
                        false => s.four_quads::<false, V, N>(&mut sums, codes, x),
                    }
                };
            }
        }
        if !done {
            // SAFETY: the caller's contract.
            unsafe { one_by_one::<S, M, F, B, V, N>(s, (from, together, first), weights, x, &mut sums) };
        }
        for v in 0..V {
            for r in 0..N {
                let sum = if M::WIDE { sums[v][r] } else { s.total(sums[v][r]) };
                products[v][r] = if all { sum } else { s.plus(products[v][r], sum) };
            }
        }
    }
}

/// Adds the products of `count` quads from number `from` on.
/// # Safety
/// As for `add_products`.
#[inline(always)]
unsafe fn one_by_one<S: Int8, M: Products, F: Form, B: Block<S>, const V: usize, const N: usize>(
    s: S,
    (from, count, first): (usize, usize, usize),
    weights: B,
    x: *const u8,
    sums: &mut [[S::I; N]; V],
) {
    for i in from..from + count {
        let quad = if F::PARTS == 1 { B::ORDER[i] } else { i };
        let mut w = [s.zero(); V];
        for (v, w) in w.iter_mut().enumerate() {
            // SAFETY: the caller's contract.
            *w = unsafe { weights.codes(s, quad, v) };
        }
        for r in 0..N {
            // SAFETY: the caller's contract.
            let x = unsafe { s.splat(x.add(quad_place(quad, first + r))) };
            for (sums, &w) in sums.iter_mut().zip(&w) {
                let sum = &mut sums[r];
                *sum = if M::WIDE { s.dot_wide(*sum, w, x) } else { s.dot(*sum, w, x) };
            }
        }
    }
}

/// Whether the quads of a part are added up at once, and how many are.
#[inline(always)]
const fn together<S: Int8, M: Products, F: Form>() -> (bool, usize) {
    let quads = 8 / F::PARTS;
    if S::PAIRS && !M::WIDE && M::TOGETHER < quads { (false, M::TOGETHER) } else { (true, quads) }
}

/// Which sum of a block of x goes with a part.
#[inline(always)]
fn sum_of<F: Form>(part: usize) -> Numbers {
    match (F::PARTS, part) {
        (1, _) => Numbers::Sum,
        (_, 0) => Numbers::FirstSum,
        _ => Numbers::LastSum,
    }
}

/// A number of row `r` of a block of a tile of `R` rows, in all lanes.
/// # Safety
/// `x` is readable for such a block.
#[inline(always)]
unsafe fn number<S: Int8, const R: usize>(s: S, x: *const u8, which: Numbers, r: usize) -> S::I {
    // SAFETY: the caller's contract.
    unsafe { s.splat(x.add(place(R, which, r))) }
}

/// What a block of 32 columns adds to the sums of `V` vectors of weight rows and `R` rows of x.
/// # Safety
/// As for `add_products`.
#[inline(always)]
pub(super) unsafe fn block<S: Int8, M: Products, F: Form, B: Block<S>, const V: usize, const R: usize>(
    s: S,
    weights: B,
    x: *const u8,
    sums: &mut [[S::F; R]; V],
) {
    // SAFETY: the caller's contract.
    unsafe {
        // Signs take registers that sums would need.
        match (M::WIDE && S::SIGNED, R) {
            (true, 5) => {
                rows::<S, M, F, B, V, R, 3>(s, 0, weights, x, sums);
                rows::<S, M, F, B, V, R, 2>(s, 3, weights, x, sums);
            }
            (true, 6) => {
                rows::<S, M, F, B, V, R, 3>(s, 0, weights, x, sums);
                rows::<S, M, F, B, V, R, 3>(s, 3, weights, x, sums);
            }
            _ => rows::<S, M, F, B, V, R, R>(s, 0, weights, x, sums),
        }
    }
}

/// The same for `N` rows of x from row `first` of the tile on.
/// # Safety
/// As for `add_products`.
#[inline(always)]
unsafe fn rows<S: Int8, M: Products, F: Form, B: Block<S>, const V: usize, const R: usize, const N: usize>(
    s: S,
    first: usize,
    weights: B,
    x: *const u8,
    sums: &mut [[S::F; R]; V],
) {
    let signed = M::WIDE && S::SIGNED;
    let mut joined = [[s.as_f32(s.zero()); N]; V];
    for part in 0..F::PARTS {
        let mut products = [[s.zero(); N]; V];
        if !F::MINS && !signed {
            for r in 0..N {
                // SAFETY: the caller's contract.
                let start = unsafe { number::<S, R>(s, x, sum_of::<F>(part), first + r) };
                for product in &mut products {
                    product[r] = start;
                }
            }
        }
        // SAFETY: the caller's contract.
        unsafe { add_products::<S, M, F, B, V, N>(s, (part, first), weights, x, &mut products) };
        for v in 0..V {
            let products = &products[v];
            // SAFETY: the caller's contract.
            unsafe {
                scale::<S, F, B, R, N>(
                    s,
                    (part, v, first),
                    weights,
                    x,
                    products,
                    [&mut joined[v], &mut sums[v][first..first + N]],
                );
            }
        }
    }
}

/// Scales the products of a part with vector `v` of weight rows, and adds them to `joined`, the block's, or to `sums`.
/// # Safety
/// As for `add_products`.
#[inline(always)]
unsafe fn scale<S: Int8, F: Form, B: Block<S>, const R: usize, const N: usize>(
    s: S,
    (part, v, first): (usize, usize, usize),
    weights: B,
    x: *const u8,
    products: &[S::I; N],
    [joined, sums]: [&mut [S::F]; 2],
) {
    // SAFETY: the caller's contract.
    unsafe {
        let [scale, min] = weights.scales(s, part, v);
        for r in 0..N {
            let product = s.to_f32(products[r]);
            let x_scale = s.as_f32(number::<S, R>(s, x, Numbers::Scale, first + r));
            let (out, joined) = (&mut sums[r], &mut joined[r]);
            if F::PARTS == 1 {
                *out = s.mul_add(product, s.mul(scale, x_scale), *out);
                if F::MINS {
                    *out = s.mul_add(min, s.as_f32(number::<S, R>(s, x, Numbers::ScaledSum, first + r)), *out);
                }
                continue;
            }
            *joined = if part == 0 { s.mul(product, scale) } else { s.mul_add(product, scale, *joined) };
            if F::MINS {
                let sum = s.total(number::<S, R>(s, x, sum_of::<F>(part), first + r));
                *joined = s.mul_add(min, s.to_f32(sum), *joined);
            }
            if part + 1 == F::PARTS {
                *out = s.mul_add(*joined, x_scale, *out);
            }
        }
    }
}
