//! Weights of quantised types with rows interleaved, multiplied as 8-bit integers with activations that are quantised
//! to 8 bits.

mod activations;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod bfloat;
mod format;
mod grid;
mod halves;
mod one_row;
mod pack;
mod panel;
#[cfg(target_arch = "x86_64")]
mod points;
mod product;
mod scales;
mod simd;
#[cfg(target_arch = "x86_64")]
mod tile;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod vnni256;
pub(crate) mod words;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

use rocmforge_quant::DType;

use crate::cpu::Cpu;
use crate::error::{KernelError, exact};
use crate::inputs::Inputs;
use crate::linear::{Linear, TOGETHER, add_columns};
use crate::matrix::Matrix;
use crate::shared::SharedMut;
use crate::workspace::{Held, Rounded, floats};
use activations::{TILE, quantize_tile, row_bytes, tiles};
pub(crate) use format::ROWS;
use format::{ForPacking, Packing, for_packing};
pub(crate) use halves::scratch as half_scratch;
use pack::{group_bytes, pack_group};
use product::Product;
use scales::Scales;
pub(crate) use simd::{Int8, Kernel8, Token8};
#[cfg(target_arch = "x86_64")]
pub(crate) use vnni256::Vnni256;
#[cfg(target_arch = "x86_64")]
pub(crate) use {amx::Amx, x86::Vnni512};

/// Bytes of weights per task of a product with few rows.
pub(crate) const TASK_BYTES: usize = 64 << 10;

/// Weight rows per task of a product with many rows, at most.
const TASK_ROWS: usize = 128;

/// Activations per task that rounds them.
const QUANTIZED: usize = 32 << 10;

/// Floats of scratch memory for `n` rows of `cols` activations.
pub(crate) fn scratch(n: usize, cols: usize) -> usize {
    n.saturating_mul(row_bytes(cols)).div_ceil(4)
}

/// Floats of scratch memory of a thread for products of rows of prompts.
#[cfg(target_arch = "x86_64")]
pub(crate) const LONG_PER_THREAD: usize = bfloat::PER_THREAD;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const LONG_PER_THREAD: usize = 0;

/// Floats of scratch memory of a thread that makes `n` rows of `cols` activations.
pub(crate) fn made(n: usize, cols: usize) -> usize {
    n.min(TILE).saturating_mul(cols)
}

struct GroupBytes(usize);

impl ForPacking for GroupBytes {
    type Out = Option<usize>;

    fn format<P: Packing>(self) -> Option<usize> {
        Some(group_bytes::<P>(self.0))
    }

    fn none(self) -> Option<usize> {
        None
    }
}

/// The code of zero, and whether products ask for sums that are multiplied with it.
struct ZeroCode;

impl ForPacking for ZeroCode {
    type Out = (i32, bool);

    fn format<P: Packing>(self) -> (i32, bool) {
        (P::ZERO, !(<P::K as Scales>::MINS && <P::K as Scales>::PARTS == 1))
    }

    fn none(self) -> (i32, bool) {
        (0, true)
    }
}

/// Interleaves the rows of a group.
struct PackGroup<'a> {
    dtype: DType,
    rows: &'a [u8],
    row_bytes: usize,
    cols: usize,
    out: &'a mut [u8],
}

impl ForPacking for PackGroup<'_> {
    type Out = ();

    fn format<P: Packing>(self) {
        pack_group::<P>(self.dtype, self.rows, self.row_bytes, self.cols, self.out);
    }

    fn none(self) {}
}

/// Bytes of a group of rows of `cols`; `None` for types that have no such layout.
pub(crate) fn packed_group_bytes(dtype: DType, cols: usize) -> Option<usize> {
    for_packing(dtype, GroupBytes(cols))
}

/// Interleaves up to 16 rows of a file; `out` is a group of zeros.
pub(crate) fn interleave(dtype: DType, rows: &[u8], row_bytes: usize, cols: usize, out: &mut [u8]) {
    for_packing(dtype, PackGroup { dtype, rows, row_bytes, cols, out });
}

/// The layout for products with a type.
pub(crate) fn has_packing(dtype: DType) -> bool {
    packed_group_bytes(dtype, 256).is_some()
}

/// Quantises a tile.
struct Quantize<'a, 'b> {
    /// Its rows.
    x: &'a [f32],
    cols: usize,
    first: usize,
    height: usize,
    zero: i32,
    out: &'a SharedMut<'b, u8>,
}

impl Kernel8 for Quantize<'_, '_> {
    #[inline(always)]
    fn run<S: Int8>(self, s: S) {
        let (until, bytes) = (self.first + self.height, row_bytes(self.cols));
        // SAFETY: each tile is visited once.
        let out = unsafe { self.out.part(self.first * bytes..until * bytes) };
        quantize_tile(s, self.x, self.cols, self.zero, out);
    }
}

/// How activations are rounded for weights of these types together: the code of zero that sums are multiplied with, and
/// whether there are such sums. `None`: in different ways.
pub(crate) fn rounding(mut dtypes: impl Iterator<Item = DType>) -> Option<(i32, bool)> {
    let first = for_packing(dtypes.next()?, ZeroCode);
    dtypes.map(|dtype| for_packing(dtype, ZeroCode)).try_fold(first, |all, one| match (all, one) {
        ((_, false), _) => Some(one),
        (_, (_, false)) => Some(all),
        _ => (all == one).then_some(all),
    })
}

/// A product, and which items of a loop it is.
struct Part<'a, 'b> {
    product: Product<'a, 'b>,
    add: Option<&'a [f32]>,
    items: Range<usize>,
}

impl Part<'_, '_> {
    /// What it has of a range of items, counted from its own first one.
    fn of(&self, range: &Range<usize>) -> Option<Range<usize>> {
        let (start, end) = (range.start.max(self.items.start), range.end.min(self.items.end));
        (start < end).then(|| start - self.items.start..end - self.items.start)
    }

    /// Items of `rows` weight rows are done.
    fn end(&self, items: Range<usize>, rows: usize) {
        let stride = self.product.rows;
        let columns = (items.start * rows).min(stride)..(items.end * rows).min(stride);
        if let Some(add) = self.add {
            add_columns(add, stride, columns, self.product.out);
        }
    }
}

impl Cpu {
    /// Products of the same rows with interleaved weights whose types have the same `rounding`, in the way of prompts if
    /// they are `long`; lengths have been checked.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub(crate) fn packed_products(
        &mut self,
        inputs: Inputs<'_>,
        cols: usize,
        (rounding, long): ((i32, bool), bool),
        linears: &mut [Option<Linear<'_>>; TOGETHER],
    ) -> Result<(), KernelError> {
        let Some(token) = self.isa.int8() else {
            let dtype = linears.iter().flatten().next().map_or(DType::Q8_0, |linear| linear.weight.dtype);
            let reason = "interleaved rows, but no products of 8 bits".to_owned();
            return Err(KernelError::Weights { dtype, reason });
        };
        let n = inputs.len() / cols;
        for Linear { weight, .. } in linears.iter().flatten() {
            let expected = weight.rows.div_ceil(ROWS) * weight.row_bytes * ROWS;
            exact("bytes of interleaved weights", weight.bytes.len(), expected)?;
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(tiles) = token.tiles().filter(|_| long) {
            return self.bfloat_products(tiles, inputs, cols, linears);
        }
        self.quantize(token, rounding, inputs, cols)?;
        let held = self.workspace.holds();
        let (scratch, per_thread) = self.workspace.parts(Cpu::matmul_needs(n, cols))?;
        // SAFETY: f32 are bytes, of which all values are valid in both.
        let scratch = unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<u8>(), 4 * scratch.len()) };
        let x = &*scratch;
        let outs = linears.each_mut().map(|l| l.as_mut().map(|l| (SharedMut::new(l.out), l.weight, l.bias, l.add)));
        let (item, mut items, mut bytes) = (if n == 1 { ROWS } else { token.panel_rows() }, 0, 0);
        let parts = outs.each_ref().map(|one| {
            let (out, Matrix { dtype, rows, bytes: weights, .. }, bias, add) = one.as_ref()?;
            let first = items;
            (items, bytes) = (items + rows.div_ceil(item), bytes + weights.len());
            let product = Product { dtype: *dtype, rows: *rows, cols, weights, x, n, bias: *bias, out };
            Some(Part { product, add: *add, items: first..items })
        });
        let parts = || parts.iter().flatten();
        if n == 1 {
            let grain = (TASK_BYTES * items / bytes.max(1)).max(1);
            self.pool.parallel_for(items, grain, |_, range| {
                for (part, range) in parts().filter_map(|part| Some((part, part.of(&range)?))) {
                    part.product.one_row(token, range.clone());
                    part.end(range, item);
                }
            })?;
        } else {
            let grain = (items / (8 * self.pool.threads())).clamp(1, TASK_ROWS / item);
            self.pool.parallel_for(items, grain, |thread, range| {
                let mut scratch = per_thread.lock(thread);
                for (part, range) in parts().filter_map(|part| Some((part, part.of(&range)?))) {
                    part.product.panels(token, range.clone(), floats(&mut scratch));
                    part.end(range, item);
                }
            })?;
        }
        self.workspace.hold(held);
        Ok(())
    }

    /// Rounds rows of `cols`, unless the scratch memory holds them from the product before.
    fn quantize(
        &mut self,
        token: Token8,
        (zero, sums): (i32, bool),
        inputs: Inputs<'_>,
        cols: usize,
    ) -> Result<(), KernelError> {
        let (isa, n) = (self.isa, inputs.len() / cols);
        let wanted = inputs.key().map(|key| Held { key, rows: n, cols, rounded: Rounded::Bytes { zero } });
        // Without sums it does not matter what they would be multiplied with.
        let same = |held: Held| match held.rounded {
            Rounded::Bytes { .. } if !sums => Some(Held { rounded: Rounded::Bytes { zero }, ..held }) == wanted,
            _ => Some(held) == wanted,
        };
        if self.workspace.holds().is_some_and(same) {
            return Ok(());
        }
        let (scratch, per_thread) = self.workspace.parts(Cpu::matmul_needs(n, cols))?;
        // SAFETY: f32 are bytes, of which all values are valid in both.
        let scratch = unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<u8>(), 4 * scratch.len()) };
        let to = SharedMut::new(&mut scratch[..n * row_bytes(cols)]);
        let quantize = |thread, (first, height)| {
            let mut made = per_thread.lock(thread);
            let made = &mut floats(&mut made)[..height * cols];
            let x = inputs.make(isa, first * cols..(first + height) * cols, made);
            token.run(Quantize { x, cols, first, height, zero, out: &to });
        };
        if n <= TILE {
            tiles(n).for_each(|tile| quantize(0, tile));
        } else {
            let grain = (QUANTIZED / (TILE * cols)).max(1);
            self.pool.parallel_for(n.div_ceil(TILE), grain, |thread, range| {
                let within = |&(first, _): &(usize, usize)| range.contains(&(first / TILE));
                tiles(n).filter(within).for_each(|tile| quantize(thread, tile));
            })?;
        }
        self.workspace.hold(wanted);
        Ok(())
    }
}
