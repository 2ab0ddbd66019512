//! Products of interleaved weights with quantised activations.

use std::ops::Range;

use crate::shared::SharedMut;

use super::activations::{BLOCK_BYTES, Numbers, place, row_bytes, tiles};
use super::format::{Codes, ForPacking, Packing, ROWS, Scales, for_packing};
use super::pack::group_bytes;
use super::simd::{Int8, Kernel8};
use rocmforge_quant::DType;

/// Bytes of weights that are multiplied with one tile of x after the other, so that both stay in caches.
const PANEL_BYTES: usize = 256 << 10;
/// Bytes that a product with one row asks for in advance.
const AHEAD: usize = 2048;

/// Groups `range` of a matrix, times all of x.
pub(crate) struct Product<'a, 'b> {
    pub(crate) dtype: DType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// The groups of the matrix.
    pub(crate) weights: &'a [u8],
    pub(crate) range: Range<usize>,
    /// Tiles of `n` rows.
    pub(crate) x: &'a [u8],
    pub(crate) n: usize,
    pub(crate) bias: Option<&'a [f32]>,
    /// `[n, rows]`
    pub(crate) out: &'a SharedMut<'b, f32>,
}

impl Kernel8 for Product<'_, '_> {
    #[inline(always)]
    fn run<S: Int8>(self, s: S) {
        for_packing(self.dtype, ProductAs { s, task: self });
    }
}

struct ProductAs<'a, 'b, S> {
    s: S,
    task: Product<'a, 'b>,
}

impl<S: Int8> ForPacking for ProductAs<'_, '_, S> {
    type Out = ();

    #[inline(always)]
    fn format<P: Packing>(self) {
        let (s, t) = (self.s, self.task);
        let (scales, codes) = group_bytes::<P>(t.cols);
        let (bytes, x_bytes) = (scales + codes, row_bytes(t.cols));
        assert!(t.weights.len() >= t.range.end * bytes && t.x.len() >= t.n * x_bytes);
        let step = (PANEL_BYTES / bytes).max(1);
        for start in t.range.clone().step_by(step) {
            let panel = start..t.range.end.min(start + step);
            for (first, height) in tiles(t.n, S::TILE) {
                let x = &t.x[first * x_bytes..(first + height) * x_bytes];
                for group in panel.clone() {
                    let weights = &t.weights[group * bytes..(group + 1) * bytes];
                    // SAFETY: the bytes are those of a group and of a tile of as many rows.
                    unsafe {
                        match height {
                            1 => t.group::<S, P, 1>(s, weights, x, (group, first)),
                            2 => t.group::<S, P, 2>(s, weights, x, (group, first)),
                            4 => t.group::<S, P, 4>(s, weights, x, (group, first)),
                            _ => t.group::<S, P, 8>(s, weights, x, (group, first)),
                        }
                    }
                }
            }
        }
    }

    fn none(self) {}
}

impl Product<'_, '_> {
    /// # Safety
    /// `weights` is a group of the format, `x` a tile of `R` rows.
    #[inline(always)]
    unsafe fn group<S: Int8, P: Packing, const R: usize>(
        &self,
        s: S,
        weights: &[u8],
        x: &[u8],
        (group, first): (usize, usize),
    ) {
        let units = self.cols / (32 * P::K::BLOCKS);
        let (scales, codes) = weights.split_at(group_bytes::<P>(self.cols).0);
        let valid = ROWS.min(self.rows - group * ROWS);
        for lane in (0..ROWS).step_by(S::LANES) {
            // SAFETY: the caller's contract.
            let sums = unsafe { product::<S, P, R>(s, scales.as_ptr(), codes.as_ptr(), lane, units, x.as_ptr()) };
            let mut results = [0.0; 16];
            let columns = group * ROWS + lane..group * ROWS + valid.min(lane + S::LANES);
            if columns.is_empty() {
                return;
            }
            for (r, sum) in sums.into_iter().enumerate() {
                // SAFETY: at most 16 lanes.
                unsafe { s.store(results.as_mut_ptr(), sum) };
                if let Some(bias) = self.bias {
                    results.iter_mut().zip(&bias[columns.clone()]).for_each(|(y, b)| *y += b);
                }
                let at = (first + r) * self.rows;
                // SAFETY: these columns of the output belong to the task that has this group.
                let out = unsafe { self.out.part(at + columns.start..at + columns.end) };
                out.copy_from_slice(&results[..out.len()]);
            }
        }
    }
}

/// # Safety
/// The pointers are readable for the scales and codes of a group and for a tile of `R` rows of `units`.
#[inline(always)]
unsafe fn product<S: Int8, P: Packing, const R: usize>(
    s: S,
    mut scales: *const u8,
    codes: *const u8,
    lane: usize,
    units: usize,
    mut x: *const u8,
) -> [S::F; R] {
    let signed = P::C::WIDE && S::SIGNED;
    let mut sums = [s.as_f32(s.zero()); R];
    // SAFETY: the caller's contract; an address that is only prefetched may be any.
    unsafe {
        let mut codes = codes.add(4 * lane);
        for _ in 0..units {
            let head = P::K::head(s, scales, lane);
            for block in 0..P::K::BLOCKS {
                if R == 1 && lane == 0 {
                    for v in 0..P::C::VECTORS {
                        s.prefetch(codes.wrapping_add(AHEAD + 64 * v));
                    }
                }
                for part in 0..P::K::PARTS {
                    let which = || match (P::K::PARTS, part) {
                        (1, _) => Numbers::Sum,
                        (_, 0) => Numbers::FirstSum,
                        _ => Numbers::LastSum,
                    };
                    let mut products = [s.zero(); R];
                    if P::ZERO > 0 && !signed {
                        for (r, product) in products.iter_mut().enumerate() {
                            *product = s.splat(x.add(place(R, which(), r)));
                        }
                    }
                    let quads = 8 / P::K::PARTS;
                    for first in (part * quads..(part + 1) * quads).step_by(P::C::TOGETHER) {
                        let begin = |sum| if P::C::WIDE { sum } else { s.begin(sum) };
                        let mut begun = products.map(begin);
                        for quad in first..first + P::C::TOGETHER {
                            let w = P::C::quad(s, codes, quad);
                            for (r, begun) in begun.iter_mut().enumerate() {
                                let x = x.add(4 * (quad * R + r));
                                *begun = if P::C::WIDE { s.dot_wide(*begun, w, x) } else { s.dot(*begun, w, x) };
                            }
                        }
                        for (product, begun) in products.iter_mut().zip(begun) {
                            *product = if P::C::WIDE { begun } else { s.end(*product, begun) };
                        }
                    }
                    let [scale, min] = P::K::get(s, scales, lane, head, (block, part));
                    for r in 0..R {
                        let x_scale = s.as_f32(s.splat(x.add(place(R, Numbers::Scale, r))));
                        sums[r] = s.mul_add(s.to_f32(products[r]), s.mul(scale, x_scale), sums[r]);
                        if P::K::MINS {
                            let sum = if P::K::PARTS == 1 {
                                s.as_f32(s.splat(x.add(place(R, Numbers::ScaledSum, r))))
                            } else {
                                s.mul(s.to_f32(s.splat(x.add(place(R, which(), r)))), x_scale)
                            };
                            sums[r] = s.mul_add(min, sum, sums[r]);
                        }
                    }
                }
                codes = codes.add(64 * P::C::VECTORS);
                x = x.add(R * BLOCK_BYTES);
            }
            scales = scales.add(P::K::BYTES);
        }
    }
    sums
}
