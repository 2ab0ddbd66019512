//! Products of whole numbers of 16 bits, for those who bring both sides themselves: where the numbers lie, and the loop.

use std::marker::PhantomData;
use std::ops::Range;

use rocmforge_quant::DType;

use super::activations::tiles;
use super::halves::{Codes16, X_BLOCK, X_CODES, x_row_bytes};
use super::product::Product;
use super::simd::Int8;
use super::tiles::Tiles;
use crate::shared::SharedMut;

pub(crate) use super::halves::{BLOCK, pair_columns};

/// Pairs of columns of a block.
pub(crate) const PAIRS: usize = BLOCK / 2;
/// Weight rows of the widest panel.
pub(crate) const MOST_WIDTH: usize = 32;

/// Weight rows of a panel.
pub(crate) const fn width<S: Int8>() -> usize {
    S::VECTORS * S::LANES
}

/// Floats of a block of a panel of `width` rows: its pairs of columns, and the scales.
pub(crate) const fn panel_floats(width: usize) -> usize {
    (PAIRS + 1) * width
}

/// Bytes of `n` rows of x.
pub(crate) fn bytes(n: usize, cols: usize) -> usize {
    n.saturating_mul(x_row_bytes(cols))
}

/// Where the codes and scales of the rows of x lie, row after row.
pub(crate) struct Places {
    n: usize,
    row_bytes: usize,
    row: usize,
    /// First row and height of the tile.
    tile: (usize, usize),
}

impl Places {
    /// Of `n` rows of `cols`.
    pub(crate) fn new(n: usize, cols: usize) -> Places {
        Places { n, row_bytes: x_row_bytes(cols), row: 0, tile: (0, 0) }
    }

    /// The next row's places in block `block`, for `2 * BLOCK` bytes and for an f32.
    #[inline(always)]
    pub(crate) fn next(&mut self, block: usize) -> (usize, usize) {
        let end = self.tile.0 + self.tile.1;
        if self.row == end {
            let height = tiles(self.n - end).next().map_or(1, |(_, height)| height);
            self.tile = (end, height);
        }
        let (first, height) = self.tile;
        let (at, row) = (first * self.row_bytes + block * height * X_BLOCK, self.row - first);
        self.row += 1;
        (at + row * X_CODES, at + height * X_CODES + 4 * row)
    }
}

/// A panel times rows of x.
pub(crate) struct Words<'a, 'b> {
    /// The blocks of the panel from the first of `blocks` on.
    pub(crate) panel: *const u8,
    pub(crate) blocks: Range<usize>,
    /// `n` rows of `cols` columns.
    pub(crate) x: &'a [u8],
    pub(crate) n: usize,
    pub(crate) cols: usize,
    /// Which of those rows, rounded up to whole tiles.
    pub(crate) rows: Range<usize>,
    /// `[n, width]`
    pub(crate) out: &'a SharedMut<'b, f32>,
    /// Whether results are added to what is there.
    pub(crate) add: bool,
}

impl Words<'_, '_> {
    /// # Safety
    /// The panel is readable for its blocks, and the results belong to the caller.
    #[inline(always)]
    pub(crate) unsafe fn multiply<S: Int8>(self, s: S) {
        let Words { panel, blocks, x, n, cols, rows, out, add } = self;
        assert!(x.len() >= bytes(n, cols) && blocks.end <= cols.div_ceil(BLOCK) && rows.end <= n);
        let number = |row| tiles(n).take_while(|(first, height)| first + height <= row).count();
        let tiles = number(rows.start)..tiles(n).take_while(|&(first, _)| first < rows.end).count();
        let width = width::<S>();
        let task = Product { dtype: DType::F16, rows: width, cols, weights: &[], x, n, bias: None, out };
        s.enter(Tiles {
            task,
            panel,
            spare: &mut [],
            tiles,
            blocks,
            column: 0,
            valid: width,
            begin: !add,
            bias: None,
            ahead: ([panel; 2], 0),
            format: PhantomData::<Codes16>,
        });
    }
}
