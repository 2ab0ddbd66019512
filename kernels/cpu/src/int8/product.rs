//! Products of interleaved weights with quantised activations.

use std::marker::PhantomData;
use std::ops::Range;

use super::activations::{BLOCK_BYTES, Numbers, place, quad_place, row_bytes};
use super::format::{Codes, ForPacking, Packing, Products, ROWS, code_bytes, for_packing};
use super::pack::{group_bytes, unit_bytes};
use super::scales::{Form, Scales};
use super::simd::{Int8, Kernel8, Token8};
use crate::shared::SharedMut;
use rocmforge_quant::DType;

/// Bytes that a product with one row asks for in advance.
const AHEAD: usize = 2048;

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

impl Product<'_, '_> {
    /// Groups `range`, if there is one row of x.
    pub(crate) fn one_row(self, token: Token8, range: Range<usize>) {
        for_packing(self.dtype, OneRow { token, task: self, range });
    }
}

struct OneRow<'a, 'b> {
    token: Token8,
    task: Product<'a, 'b>,
    range: Range<usize>,
}

impl ForPacking for OneRow<'_, '_> {
    type Out = ();

    fn format<P: Packing>(self) {
        self.token.run(OneRowOf { task: self.task, range: self.range, format: PhantomData::<P> });
    }

    fn none(self) {}
}

struct OneRowOf<'a, 'b, P> {
    task: Product<'a, 'b>,
    range: Range<usize>,
    format: PhantomData<P>,
}

impl<P: Packing> Kernel8 for OneRowOf<'_, '_, P> {
    #[inline(always)]
    fn run<S: Int8>(self, s: S) {
        let t = self.task;
        let bytes = group_bytes::<P>(t.cols);
        assert!(t.weights.len() >= self.range.end * bytes && t.x.len() >= row_bytes(t.cols));
        for group in self.range {
            let weights = t.weights[group * bytes..(group + 1) * bytes].as_ptr();
            let mut results = [0.0; ROWS];
            // SAFETY: the bytes are those of a group and of a row; the vectors are as long as the results.
            unsafe {
                match ROWS / S::LANES {
                    1 => dot::<S, P, 1>(s, weights, t.cols, t.x.as_ptr(), &mut results),
                    _ => dot::<S, P, 2>(s, weights, t.cols, t.x.as_ptr(), &mut results),
                }
            }
            let columns = group * ROWS..t.rows.min((group + 1) * ROWS);
            if let Some(bias) = t.bias {
                results.iter_mut().zip(&bias[columns.clone()]).for_each(|(y, b)| *y += b);
            }
            // SAFETY: these columns of the output belong to the task that has this group.
            let out = unsafe { t.out.part(columns) };
            out.copy_from_slice(&results[..out.len()]);
        }
    }
}

/// The weight rows of a group, `V` vectors of them, times a row of x.
/// # Safety
/// The pointers are readable for a group and for a row of `cols`; `V` vectors are a group's rows.
#[inline(always)]
unsafe fn dot<S: Int8, P: Packing, const V: usize>(
    s: S,
    mut weights: *const u8,
    cols: usize,
    mut x: *const u8,
    results: &mut [f32; ROWS],
) {
    let mut sums = [[s.as_f32(s.zero())]; V];
    // SAFETY: the caller's contract; an address that is only prefetched may be any.
    unsafe {
        for _ in 0..cols / (32 * P::K::BLOCKS) {
            let mut heads = [[s.as_f32(s.zero()); 2]; V];
            heads.iter_mut().enumerate().for_each(|(v, head)| *head = P::K::head(s, weights, v * S::LANES));
            let mut codes = weights.add(P::K::BYTES);
            for b in 0..P::K::BLOCKS {
                let bytes = unit_bytes::<P>() / P::K::BLOCKS;
                let ahead = weights.wrapping_add(AHEAD + b * bytes);
                (0..bytes).step_by(64).for_each(|line| s.prefetch(ahead.wrapping_add(line)));
                let quad = |quad, v: usize| P::C::quad(s, codes.add(4 * v * S::LANES), v * S::LANES, quad);
                let scale = |part, v: usize| P::K::get(s, weights, v * S::LANES, heads[v], (b, part));
                let quad = (quad, None);
                block::<S, <P::C as Codes>::Products, <P::K as Scales>::Form, V, 1>(s, quad, scale, x, &mut sums);
                codes = codes.add(code_bytes::<P::C>());
                x = x.add(BLOCK_BYTES);
            }
            weights = weights.add(unit_bytes::<P>());
        }
        sums.iter().enumerate().for_each(|(v, [sum])| s.store(results.as_mut_ptr().add(v * S::LANES), *sum));
    }
}

/// Adds the products of a part of a block, with codes that `codes` gives for a quad and a vector, and that lie in
/// `weights`, if there is such memory, quad by quad and in each the vectors.
/// # Safety
/// `x` is readable for a block of a tile of `R` rows, `weights` for one of `V` vectors.
#[inline(always)]
unsafe fn add_products<S: Int8, M: Products, F: Form, const V: usize, const R: usize>(
    s: S,
    part: usize,
    (codes, weights): (impl Fn(usize, usize) -> S::I, Option<*const u8>),
    x: *const u8,
    products: &mut [[S::I; R]; V],
) {
    let quads = 8 / F::PARTS;
    if let Some(weights) = weights {
        let mut done = true;
        for quad in (part * quads..(part + 1) * quads).step_by(4) {
            // SAFETY: the caller's contract.
            done &= unsafe { s.four_quads(products, weights.add(quad * V * 4 * S::LANES), x.add(quad_place(quad, 0))) };
        }
        if done {
            return;
        }
    }
    for first in (part * quads..(part + 1) * quads).step_by(M::TOGETHER) {
        // Loops, not `map` of arrays, which may become a call.
        let mut begun = *products;
        if !M::WIDE {
            begun.as_flattened_mut().iter_mut().for_each(|sum| *sum = s.begin(*sum));
        }
        for quad in first..first + M::TOGETHER {
            let mut w = [s.zero(); V];
            w.iter_mut().enumerate().for_each(|(v, w)| *w = codes(quad, v));
            for r in 0..R {
                // SAFETY: the caller's contract.
                let x = unsafe { s.splat(x.add(quad_place(quad, r))) };
                for v in 0..V {
                    let begun = &mut begun[v][r];
                    *begun = if M::WIDE { s.dot_wide(*begun, w[v], x) } else { s.dot(*begun, w[v], x) };
                }
            }
        }
        for v in 0..V {
            for r in 0..R {
                let begun = begun[v][r];
                products[v][r] = if M::WIDE { begun } else { s.end(products[v][r], begun) };
            }
        }
    }
}

/// What a block of 32 columns adds to the sums of `V` vectors of weight rows and `R` rows of x. `codes` gives those of
/// a quad and a vector, and where they lie, if they are unpacked; `scales` scale and minimum of a part and a vector.
/// # Safety
/// As for `add_products`.
#[inline(always)]
pub(super) unsafe fn block<S: Int8, M: Products, F: Form, const V: usize, const R: usize>(
    s: S,
    (codes, weights): (impl Fn(usize, usize) -> S::I, Option<*const u8>),
    scales: impl Fn(usize, usize) -> [S::F; 2],
    x: *const u8,
    sums: &mut [[S::F; R]; V],
) {
    let signed = M::WIDE && S::SIGNED;
    // SAFETY: the caller's contract.
    let number = |which, r| unsafe { s.splat(x.add(place(R, which, r))) };
    let mut joined = [[s.as_f32(s.zero()); R]; V];
    for part in 0..F::PARTS {
        let sum = || match (F::PARTS, part) {
            (1, _) => Numbers::Sum,
            (_, 0) => Numbers::FirstSum,
            _ => Numbers::LastSum,
        };
        let mut products = [[s.zero(); R]; V];
        if !F::MINS && !signed {
            for r in 0..R {
                let start = number(sum(), r);
                products.iter_mut().for_each(|product| product[r] = start);
            }
        }
        // SAFETY: the caller's contract.
        unsafe { add_products::<S, M, F, V, R>(s, part, (&codes, weights), x, &mut products) };
        for v in 0..V {
            let [scale, min] = scales(part, v);
            for r in 0..R {
                let product = s.to_f32(products[v][r]);
                let x_scale = s.as_f32(number(Numbers::Scale, r));
                let (out, joined) = (&mut sums[v][r], &mut joined[v][r]);
                if F::PARTS == 1 {
                    *out = s.mul_add(product, s.mul(scale, x_scale), *out);
                    if F::MINS {
                        *out = s.mul_add(min, s.as_f32(number(Numbers::ScaledSum, r)), *out);
                    }
                    continue;
                }
                *joined = if part == 0 { s.mul(product, scale) } else { s.mul_add(product, scale, *joined) };
                if F::MINS {
                    *joined = s.mul_add(min, s.to_f32(number(sum(), r)), *joined);
                }
                if part + 1 == F::PARTS {
                    *out = s.mul_add(*joined, x_scale, *out);
                }
            }
        }
    }
}
