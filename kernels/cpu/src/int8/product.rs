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
            for (v, head) in heads.iter_mut().enumerate() {
                *head = P::K::head(s, weights, v * S::LANES);
            }
            let mut codes = weights.add(P::K::BYTES);
            for number in 0..P::K::BLOCKS {
                let bytes = unit_bytes::<P>() / P::K::BLOCKS;
                let ahead = weights.wrapping_add(AHEAD + number * bytes);
                for line in (0..bytes).step_by(64) {
                    s.prefetch(ahead.wrapping_add(line));
                }
                let packed = PackedBlock::<S, P, V> { unit: weights, heads, codes, number, format: PhantomData };
                block::<S, <P::C as Codes>::Products, <P::K as Scales>::Form, _, V, 1>(s, packed, x, &mut sums);
                codes = codes.add(code_bytes::<P::C>());
                x = x.add(BLOCK_BYTES);
            }
            weights = weights.add(unit_bytes::<P>());
        }
        for (v, [sum]) in sums.iter().enumerate() {
            s.store(results.as_mut_ptr().add(v * S::LANES), *sum);
        }
    }
}

/// A block of weights, whose methods are compiled into the loops: what is called there by another way, as a closure may
/// be, does not get their instruction set, and each of its instructions becomes a call.
pub(super) trait Block<S: Int8>: Copy {
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

/// As it lies in a group.
struct PackedBlock<S: Int8, P, const V: usize> {
    unit: *const u8,
    heads: [[S::F; 2]; V],
    codes: *const u8,
    /// Of the unit's blocks.
    number: usize,
    format: PhantomData<P>,
}

impl<S: Int8, P, const V: usize> Clone for PackedBlock<S, P, V> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Int8, P, const V: usize> Copy for PackedBlock<S, P, V> {}

impl<S: Int8, P: Packing, const V: usize> Block<S> for PackedBlock<S, P, V> {
    #[inline(always)]
    fn quads(self) -> Option<*const u8> {
        None
    }

    #[inline(always)]
    unsafe fn codes(self, s: S, quad: usize, v: usize) -> S::I {
        // SAFETY: the caller's contract.
        unsafe { P::C::quad(s, self.codes.add(4 * v * S::LANES), v * S::LANES, quad) }
    }

    #[inline(always)]
    unsafe fn scales(self, s: S, part: usize, v: usize) -> [S::F; 2] {
        // SAFETY: the caller's contract.
        unsafe { P::K::get(s, self.unit, v * S::LANES, self.heads[v], (self.number, part)) }
    }
}

/// Adds the products of a part of a block.
/// # Safety
/// `weights` is a block of `V` vectors whose memory is readable, `x` is readable for a block of a tile of `R` rows.
#[inline(always)]
unsafe fn add_products<S: Int8, M: Products, F: Form, B: Block<S>, const V: usize, const R: usize>(
    s: S,
    part: usize,
    weights: B,
    x: *const u8,
    products: &mut [[S::I; R]; V],
) {
    let quads = 8 / F::PARTS;
    if let Some(codes) = weights.quads() {
        let mut done = true;
        for quad in (part * quads..(part + 1) * quads).step_by(4) {
            // SAFETY: the caller's contract.
            done &= unsafe { s.four_quads(products, codes.add(quad * V * 4 * S::LANES), x.add(quad_place(quad, 0))) };
        }
        if done {
            return;
        }
    }
    for first in (part * quads..(part + 1) * quads).step_by(M::TOGETHER) {
        let mut begun = *products;
        if !M::WIDE {
            for sum in begun.as_flattened_mut() {
                *sum = s.begin(*sum);
            }
        }
        for quad in first..first + M::TOGETHER {
            let mut w = [s.zero(); V];
            for (v, w) in w.iter_mut().enumerate() {
                // SAFETY: the caller's contract.
                *w = unsafe { weights.codes(s, quad, v) };
            }
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
    let signed = M::WIDE && S::SIGNED;
    let mut joined = [[s.as_f32(s.zero()); R]; V];
    for part in 0..F::PARTS {
        let mut products = [[s.zero(); R]; V];
        if !F::MINS && !signed {
            for r in 0..R {
                // SAFETY: the caller's contract.
                let start = unsafe { number::<S, R>(s, x, sum_of::<F>(part), r) };
                for product in &mut products {
                    product[r] = start;
                }
            }
        }
        // SAFETY: the caller's contract.
        unsafe { add_products::<S, M, F, B, V, R>(s, part, weights, x, &mut products) };
        for v in 0..V {
            // SAFETY: the caller's contract.
            unsafe { scale::<S, F, B, V, R>(s, (part, v), weights, x, &products[v], [&mut joined[v], &mut sums[v]]) };
        }
    }
}

/// Scales the products of a part with vector `v` of weight rows, and adds them to `joined`, the block's, or to `sums`.
/// # Safety
/// As for `add_products`.
#[inline(always)]
unsafe fn scale<S: Int8, F: Form, B: Block<S>, const V: usize, const R: usize>(
    s: S,
    (part, v): (usize, usize),
    weights: B,
    x: *const u8,
    products: &[S::I; R],
    [joined, sums]: [&mut [S::F; R]; 2],
) {
    // SAFETY: the caller's contract.
    unsafe {
        let [scale, min] = weights.scales(s, part, v);
        for r in 0..R {
            let product = s.to_f32(products[r]);
            let x_scale = s.as_f32(number::<S, R>(s, x, Numbers::Scale, r));
            let (out, joined) = (&mut sums[r], &mut joined[r]);
            if F::PARTS == 1 {
                *out = s.mul_add(product, s.mul(scale, x_scale), *out);
                if F::MINS {
                    *out = s.mul_add(min, s.as_f32(number::<S, R>(s, x, Numbers::ScaledSum, r)), *out);
                }
                continue;
            }
            *joined = if part == 0 { s.mul(product, scale) } else { s.mul_add(product, scale, *joined) };
            if F::MINS {
                *joined = s.mul_add(min, s.to_f32(number::<S, R>(s, x, sum_of::<F>(part), r)), *joined);
            }
            if part + 1 == F::PARTS {
                *out = s.mul_add(*joined, x_scale, *out);
            }
        }
    }
}
