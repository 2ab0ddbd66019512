//! Attention of many tokens of a sequence, as in prompts: keys, values, queries and weights are rounded to 16 bits, a scale
//! for 64 of them, whose products take half the time of floats. That is finer than f16, which has 11 bits: see `staging`.
//!
//! Lanes are rows (pairs of token and head). Keys and values of a span are rounded once for all rows of the task; then,
//! for one panel of rows after the other, scores `[keys, rows]`, weights and their sums never leave the nearest caches.
//! Weights are relative to the largest score of 64 keys, and fade as it is exceeded.

use std::ops::Range;

use super::elements::{Eighth, Half, Single};
use super::staging::{Bound, Place, ROWS, Staged, put_rows, round};
use super::task::{Results, Task};
use super::weights::Seen;
use crate::int8::words::{self, BLOCK, MOST_WIDTH, PAIRS, Places, Words, panel_floats, width};
use crate::int8::{Int8, Kernel8};
use crate::kv_cache::KvType;
use crate::shared::SharedMut;
use crate::simd::Simd;

/// Rows that a task aims at: enough that rounding keys and values costs little beside them.
const TASK_ROWS: usize = 448;
/// Most and fewest tokens of a task.
const TOKENS: (usize, usize) = (16, 256);
/// Keys whose scores are kept at a time.
pub(super) const SPAN: usize = 256;
pub(super) const BLOCKS: usize = SPAN / BLOCK;
/// Less than all scores, but a number, so that differences are.
pub(super) const LOWEST: f32 = -1e30;

/// Tokens per task, of `n`: at most as many rows as memory is reserved for.
pub(super) fn tokens(n: usize, group: usize, kv_heads: usize, threads: usize) -> usize {
    let most = (TASK_ROWS / group.max(1)).clamp(TOKENS.0, TOKENS.1);
    let tasks = (super::TASKS * threads).div_ceil(kv_heads.max(1));
    let fair = n.div_ceil(tasks).clamp(TOKENS.0, most);
    n.div_ceil(n.div_ceil(fair).max(1))
}

/// Floats of scratch memory of a thread.
pub(super) fn scratch_floats(group: usize, key_dim: usize, value_dim: usize) -> usize {
    let tokens = (TASK_ROWS / group.max(1)).clamp(TOKENS.0, TOKENS.1);
    Sizes::new(tokens.saturating_mul(group), MOST_WIDTH, key_dim, value_dim).all()
}

/// Floats of the parts of a thread's scratch memory.
struct Sizes {
    queries: usize,
    values: usize,
    numbers: usize,
    key_codes: usize,
    value_codes: usize,
    scores: usize,
    weights: usize,
}

impl Sizes {
    fn new(rows: usize, width: usize, key_dim: usize, value_dim: usize) -> Sizes {
        let rows = rows.next_multiple_of(width);
        let of = |n: usize, cols| words::bytes(n, cols).div_ceil(64).saturating_mul(16);
        Sizes {
            queries: (rows / width * key_dim.div_ceil(BLOCK)).saturating_mul(panel_floats(width)),
            values: rows.saturating_mul(value_dim),
            numbers: rows,
            key_codes: of(SPAN, key_dim),
            value_codes: of(value_dim, SPAN),
            scores: SPAN * width,
            weights: BLOCKS * panel_floats(width),
        }
    }

    fn all(&self) -> usize {
        let large = self.queries.saturating_add(self.values).saturating_add(self.key_codes);
        large.saturating_add(self.value_codes + 2 * self.numbers + self.scores + self.weights)
    }
}

/// What a task keeps while it goes over the keys.
pub(super) struct State<'a> {
    /// `[panels, blocks of columns, pairs and scales, width]`
    pub(super) queries: &'a mut [f32],
    /// `[panels, value_dim, width]`
    pub(super) values: &'a mut [f32],
    /// Largest scores, `[panels, width]`, and sums of weights relative to them.
    pub(super) max: &'a mut [f32],
    pub(super) sum: &'a mut [f32],
    /// Rows of x: the keys of a span, and the elements of its values.
    pub(super) key_codes: &'a mut [f32],
    pub(super) value_codes: &'a mut [f32],
    /// `[SPAN, width]`
    pub(super) scores: &'a mut [f32],
    /// Blocks of a panel.
    pub(super) weights: &'a mut [f32],
}

impl<'a> State<'a> {
    fn new(mut scratch: &'a mut [f32], sizes: &Sizes) -> State<'a> {
        let mut next = |n: usize| {
            let (part, rest) = std::mem::take(&mut scratch).split_at_mut(n);
            scratch = rest;
            part
        };
        State {
            queries: next(sizes.queries),
            values: next(sizes.values),
            max: next(sizes.numbers),
            sum: next(sizes.numbers),
            key_codes: next(sizes.key_codes),
            value_codes: next(sizes.value_codes),
            scores: next(sizes.scores),
            weights: next(sizes.weights),
        }
    }
}

/// Bytes of floats.
fn as_bytes(floats: &[f32]) -> &[u8] {
    // SAFETY: f32 are bytes, of which all values are valid.
    unsafe { std::slice::from_raw_parts(floats.as_ptr().cast(), 4 * floats.len()) }
}

/// A task of [`FEWEST`](crate::long::FEWEST) tokens and more. `finite` becomes false, and there are no results, if a value
/// is not: rounded with the others of its block it would reach rows that do not see it.
pub(super) struct Wide<'a, 'b> {
    pub(super) task: Task<'a, 'b>,
    pub(super) finite: &'a mut bool,
}

impl Kernel8 for Wide<'_, '_> {
    #[inline(always)]
    fn run<S: Int8>(mut self, s: S) {
        match self.task.cache.kind {
            KvType::F32 => self.attend::<S, Single>(s),
            KvType::F16 => self.attend::<S, Half>(s),
            KvType::Q8 => self.attend::<S, Eighth>(s),
        }
    }
}

impl Wide<'_, '_> {
    #[inline(always)]
    fn attend<S: Int8, E: Staged>(&mut self, s: S) {
        let shape = self.task.cache.shape;
        let rows = self.task.tokens.len() * self.task.group();
        let sizes = Sizes::new(rows, width::<S>(), shape.key_dim, shape.value_dim);
        let scratch = std::mem::take(&mut self.task.scratch);
        assert!(scratch.len() >= sizes.all());
        let mut state = State::new(scratch, &sizes);
        self.begin(&mut state);
        self.round_queries(s, &mut state);
        let first = self.task.sequences.positions[self.task.tokens.start] as usize;
        let end = first + self.task.tokens.len();
        let oldest = self.task.oldest(first);
        for start in (oldest / SPAN * SPAN..end).step_by(SPAN) {
            let keys = start..end.min(start + SPAN);
            self.round_keys::<S, E>(s, oldest, keys.clone(), &mut state);
            if !self.round_values::<S, E>(s, oldest, keys.clone(), &mut state) {
                *self.finite = false;
                return;
            }
            for panel in 0..rows.div_ceil(width::<S>()) {
                self.panel(s, panel, first, keys.clone(), &mut state);
            }
        }
        self.finish(s, &mut state);
    }

    fn begin(&self, state: &mut State<'_>) {
        state.values.fill(0.0);
        let group = self.task.group();
        for (row, (max, sum)) in state.max.iter_mut().zip(&mut *state.sum).enumerate() {
            let sink = self.task.attention.sinks.map(|sinks| sinks[self.task.kv_head * group + row % group]);
            // Rows that do not exist divide by 1.
            (*max, *sum) = sink.map_or((LOWEST, 0.0), |sink| (sink * std::f32::consts::LOG2_E, 1.0));
        }
    }

    /// What scores are multiplied with: with softcap they become `s / cap`, else exponents of 2.
    fn factor(&self) -> f32 {
        let attention = self.task.attention;
        attention.scale * attention.softcap.map_or(std::f32::consts::LOG2_E, |cap| 1.0 / cap)
    }

    /// Queries to panels, of which the scales are those of the scores.
    #[inline(always)]
    fn round_queries<S: Int8>(&self, s: S, state: &mut State<'_>) {
        let (width, dim, simd) = (width::<S>(), self.task.cache.shape.key_dim, s.simd());
        let (rows, factor) = (self.task.tokens.len() * self.task.group(), s.all(self.factor()));
        let mut panels = state.queries.chunks_exact_mut(panel_floats(width));
        let (mut stage, mut eight) = ([0.0f32; BLOCK * MOST_WIDTH], [[0.0f32; BLOCK]; 8]);
        for first in (0..rows).step_by(width) {
            for (column, out) in (0..dim).step_by(BLOCK).zip(&mut panels) {
                for lane in (0..width).step_by(8) {
                    // Rows that do not exist are any.
                    for (row, to) in (first + lane..rows).zip(&mut eight) {
                        let q = &self.task.q[self.task.head(row) * dim..][column..dim.min(column + BLOCK)];
                        match q.first_chunk() {
                            Some(q) => *to = *q,
                            None => {
                                to[..q.len()].copy_from_slice(q);
                                to[q.len()..].fill(0.0);
                            }
                        }
                    }
                    for i in (0..BLOCK).step_by(8) {
                        let from = std::array::from_fn(|row| eight[row][i..].as_ptr());
                        // SAFETY: 8 elements of each row, to 8 columns of a panel's rows.
                        unsafe { simd.transpose8(from, stage.as_mut_ptr().add(i * width + lane), width) };
                    }
                }
                let out = out.as_mut_ptr();
                for lane in (0..width).step_by(S::LANES) {
                    // SAFETY: a block of a panel has as many columns and pairs, and a vector of scales.
                    unsafe {
                        let scale = round(s, Bound::Norm, stage.as_ptr().add(lane), out.add(lane), width);
                        s.store(out.add(PAIRS * width + lane), s.mul(scale, factor));
                    }
                }
            }
        }
    }

    /// Where the keys or values of the cache block of a position lie, and its number in that block.
    #[inline(always)]
    fn place(&self, position: usize, keys: bool) -> (Place, usize) {
        let (shape, head) = (self.task.cache.shape, self.task.kv_head);
        let (block, at) = (self.task.block(position / shape.block_size), position % shape.block_size);
        let (data, dim) = match keys {
            true => (self.task.cache.keys(block, head).as_ptr(), shape.key_dim),
            false => (self.task.cache.values(block, head).as_ptr(), shape.value_dim),
        };
        (Place { data, room: shape.block_size, dim }, at)
    }

    /// Keys of a span as rows of x; those before `oldest` are zeros.
    #[inline(always)]
    fn round_keys<S: Int8, E: Staged>(&self, s: S, oldest: usize, keys: Range<usize>, state: &mut State<'_>) {
        let (dim, size) = (self.task.cache.shape.key_dim, self.task.cache.shape.block_size);
        for column in (0..dim).step_by(BLOCK) {
            let mut places = Places::new(keys.len(), dim);
            let mut stage = [0.0f32; BLOCK * ROWS];
            for first in keys.clone().step_by(ROWS) {
                let end = keys.end.min(first + ROWS);
                if first < oldest || end - first < ROWS {
                    stage.fill(0.0);
                }
                let mut from = first.max(oldest);
                while from < end {
                    let (block, at) = self.place(from, true);
                    let n = (size - at).min(end - from);
                    for d in column..dim.min(column + BLOCK) {
                        let to = stage[(d - column) * ROWS + from - first..].as_mut_ptr();
                        // SAFETY: `n` keys from `at` on lie in the block, and fit the columns of the stage.
                        unsafe { E::keys(s.simd(), block, d, at, n, to) };
                    }
                    from += n;
                }
                let x = state.key_codes.as_mut_ptr().cast();
                // SAFETY: the codes have room for the rows of a span.
                unsafe {
                    put_rows(s, Bound::Norm, &stage, (&mut places, column / BLOCK, end - first), x);
                }
            }
        }
    }

    /// Elements of the values of a span as rows of x; those before `oldest` are zeros. Gives whether they are finite.
    #[inline(always)]
    fn round_values<S: Int8, E: Staged>(&self, s: S, oldest: usize, keys: Range<usize>, state: &mut State<'_>) -> bool {
        let (dim, mut finite) = (self.task.cache.shape.value_dim, true);
        for first in keys.clone().step_by(BLOCK) {
            let end = keys.end.min(first + BLOCK);
            let none = (Place { data: std::ptr::null(), room: 0, dim: 0 }, 0);
            let (mut at, begin) = ([none; BLOCK], first.max(oldest));
            (begin..end).for_each(|position| at[position - first] = self.place(position, false));
            let mut places = Places::new(dim, keys.len());
            let mut stage = [0.0f32; BLOCK * ROWS];
            for d in (0..dim).step_by(ROWS) {
                let n = ROWS.min(dim - d);
                if n < ROWS {
                    stage.fill(0.0);
                }
                for position in begin..end {
                    let (block, at) = at[position - first];
                    let to = stage[(position - first) * ROWS..].as_mut_ptr();
                    // SAFETY: `n` elements from `d` on are those of a value of the block, and fit a row of the stage.
                    unsafe { E::value(s.simd(), block, d, at, n, to) };
                }
                let (x, block) = (state.value_codes.as_mut_ptr().cast(), (first - keys.start) / BLOCK);
                // SAFETY: the codes have room for the elements of a span's values.
                finite &= unsafe { put_rows(s, Bound::Largest, &stage, (&mut places, block, n), x) };
            }
        }
        finite
    }

    /// A span of keys for the rows of a panel.
    #[inline(always)]
    fn panel<S: Int8>(&self, s: S, panel: usize, begin: usize, keys: Range<usize>, state: &mut State<'_>) {
        let (width, group, shape) = (width::<S>(), self.task.group(), self.task.cache.shape);
        let (mut last, mut first) = ([0.0; MOST_WIDTH], [0.0; MOST_WIDTH]);
        // Rows that do not exist see what the last one does.
        let position = |row: usize| begin + (row / group).min(self.task.tokens.len() - 1);
        let newest = position(panel * width + width - 1);
        let oldest = self.task.oldest(position(panel * width));
        if newest < keys.start || oldest >= keys.end {
            return;
        }
        for (row, (last, first)) in last.iter_mut().zip(&mut first).enumerate().take(width) {
            let position = position(panel * width + row);
            *last = position as f32 - keys.start as f32;
            *first = self.task.oldest(position) as f32 - keys.start as f32;
        }
        let until = keys.end.min(newest + 1) - keys.start;
        let blocks = oldest.saturating_sub(keys.start) / BLOCK..until.div_ceil(BLOCK);
        let by_all = self.task.oldest(newest).saturating_sub(keys.start)
            ..(position(panel * width) + 1).saturating_sub(keys.start).min(keys.len());
        let seen = Seen { panel, last: &last, first: &first, by_all, blocks: blocks.clone() };
        let query_blocks = shape.key_dim.div_ceil(BLOCK);
        let queries =
            &state.queries[panel * query_blocks * panel_floats(width)..][..query_blocks * panel_floats(width)];
        // SAFETY: the panels are whole, and the results lie in memory of this thread.
        unsafe {
            let scores = Words {
                panel: queries.as_ptr().cast(),
                blocks: 0..query_blocks,
                x: as_bytes(state.key_codes),
                n: keys.len(),
                cols: shape.key_dim,
                rows: blocks.start * BLOCK..until,
                out: &SharedMut::new(&mut *state.scores),
                add: false,
            };
            scores.multiply(s);
            self.weigh(s, &seen, state);
            let values = &mut state.values[panel * shape.value_dim * width..][..shape.value_dim * width];
            let sums = Words {
                panel: state.weights[blocks.start * panel_floats(width)..].as_ptr().cast(),
                blocks,
                x: as_bytes(state.value_codes),
                n: shape.value_dim,
                cols: keys.len(),
                rows: 0..shape.value_dim,
                out: &SharedMut::new(values),
                add: true,
            };
            sums.multiply(s);
        }
    }

    /// Divides by the sums of weights, and puts the rows to their places.
    #[inline(always)]
    fn finish<S: Int8>(&self, s: S, state: &mut State<'_>) {
        let (width, dim, simd) = (width::<S>(), self.task.cache.shape.value_dim, s.simd());
        let rows = self.task.tokens.len() * self.task.group();
        let Results::Whole(out) = self.task.results else { return };
        for first in (0..rows).step_by(8) {
            let (panel, lane) = (first / width, first % width);
            for begin in (0..dim).step_by(BLOCK) {
                let (mut eight, count) = ([[0.0f32; BLOCK]; 8], BLOCK.min(dim - begin));
                for d in (0..count).step_by(8) {
                    // Those that do not exist are not copied.
                    let element = |i: usize| (panel * dim + (begin + d + i).min(dim - 1)) * width + lane;
                    let from = std::array::from_fn(|i| state.values[element(i)..][..8].as_ptr());
                    // SAFETY: eight rows of as many elements, to columns of eight rows.
                    unsafe { simd.transpose8(from, eight.as_mut_ptr().cast::<f32>().add(d), BLOCK) };
                }
                for (row, values) in (first..rows).zip(&eight) {
                    let at = self.task.head(row) * dim + begin;
                    // SAFETY: each head of each token belongs to one task.
                    let out = unsafe { out.part(at..at + count) };
                    let factor = 1.0 / state.sum[row];
                    out.iter_mut().zip(values).for_each(|(o, value)| *o = value * factor);
                }
            }
        }
    }
}
