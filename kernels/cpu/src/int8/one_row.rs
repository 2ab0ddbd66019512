//! Products of interleaved weights with one row of x, whose codes are unpacked as they are used. Blocks are multiplied and added
//! as with many rows, so that a row has the same result beside any others.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::activations::{BLOCK_BYTES, row_bytes};
use super::format::{BLOCK, Codes, ForPacking, Order, Packing, ROWS, code_bytes, for_packing};
use super::pack::{group_bytes, unit_bytes};
use super::product::{Block, Product, block};
use super::scales::Scales;
use super::simd::{Int8, Kernel8, Token8};
use crate::simd::AHEAD;

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
    // SAFETY: the caller's contract.
    unsafe {
        for _ in 0..cols / (BLOCK * P::K::BLOCKS) {
            unit::<S, P, V>(s, weights, x, &mut sums);
            weights = weights.add(unit_bytes::<P>());
            x = x.add(P::K::BLOCKS * BLOCK_BYTES);
        }
        for (v, [sum]) in sums.iter().enumerate() {
            s.store(results.as_mut_ptr().add(v * S::LANES), *sum);
        }
    }
}

/// Asks for what comes after block `number` of a unit. An address that is only asked for may be any.
#[inline(always)]
fn ask_ahead<S: Int8, P: Packing>(s: S, unit: *const u8, number: usize) {
    let bytes = unit_bytes::<P>() / P::K::BLOCKS;
    let ahead = unit.wrapping_add(AHEAD + number * bytes);
    for line in (0..bytes).step_by(64) {
        s.prefetch(ahead.wrapping_add(line));
    }
}

/// What a unit adds to the sums of `V` vectors.
/// # Safety
/// As for `dot`, of one unit.
#[inline(always)]
unsafe fn unit<S: Int8, P: Packing, const V: usize>(
    s: S,
    unit: *const u8,
    mut x: *const u8,
    sums: &mut [[S::F; 1]; V],
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut heads = [[s.as_f32(s.zero()); 2]; V];
        for (v, head) in heads.iter_mut().enumerate() {
            *head = P::K::head(s, unit, v * S::LANES);
        }
        let mut codes = unit.add(P::K::BYTES);
        for number in 0..P::K::BLOCKS {
            ask_ahead::<S, P>(s, unit, number);
            // Groups are as many rows as `whole` unpacks.
            let mut quads = MaybeUninit::<[u8; 64 * 8]>::uninit();
            let to = quads.as_mut_ptr().cast::<u8>();
            let whole = P::C::POINTS && V * S::LANES == ROWS && P::C::whole(s, codes, to);
            let (codes_at, whole) = if whole { (to.cast_const(), true) } else { (codes, false) };
            let packed = PackedBlock::<S, P, V> { unit, heads, codes: codes_at, whole, number, format: PhantomData };
            block::<S, P::Products, <P::K as Scales>::Form, _, V, 1>(s, packed, x, sums);
            codes = codes.add(code_bytes::<P::C>());
            x = x.add(BLOCK_BYTES);
        }
    }
}

/// As it lies in a group, or with its codes unpacked.
struct PackedBlock<S: Int8, P, const V: usize> {
    unit: *const u8,
    heads: [[S::F; 2]; V],
    codes: *const u8,
    /// Whether the codes have been unpacked.
    whole: bool,
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
    const ORDER: Order = P::C::ORDER;

    #[inline(always)]
    fn quads(self) -> Option<*const u8> {
        None
    }

    #[inline(always)]
    unsafe fn codes(self, s: S, quad: usize, v: usize) -> S::I {
        // SAFETY: the caller's contract.
        unsafe {
            match P::C::POINTS && self.whole {
                true => s.load(self.codes.add(64 * quad + 4 * v * S::LANES)),
                false => P::C::quad(s, self.codes.add(4 * v * S::LANES), v * S::LANES, quad),
            }
        }
    }

    #[inline(always)]
    unsafe fn scales(self, s: S, part: usize, v: usize) -> [S::F; 2] {
        // SAFETY: the caller's contract.
        unsafe { P::K::get(s, self.unit, v * S::LANES, self.heads[v], (self.number, part)) }
    }
}
