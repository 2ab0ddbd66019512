//! What one thread does at a time: the query heads of one key head, for a few tokens of one sequence, over a part of
//! what they see.

use std::ops::Range;
use std::ptr;

use super::elements::{Eighth, Element, Half, Keys, Single, Values, query_floats};
use super::vectors::{exp_in_place, multiply, scale_scores};
use super::{Attention, Sequences};
use crate::kv_cache::{KvCache, KvType};
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd};

/// Keys whose scores become weights at a time, about: enough that what is done once for them costs little.
const SPAN: usize = 128;
/// Most rows for which blocks are asked for in advance; with more there is time for the processor to do so.
const FEW_ROWS: usize = 8;

/// Blocks whose scores become weights at a time.
pub(super) fn span_blocks(block_size: usize) -> usize {
    (SPAN / block_size.max(1)).max(1)
}

/// Scratch of a task: running maximum and sum per row, scores of a span, weighted values, queries.
struct Scratch<'a> {
    max: &'a mut [f32],
    sum: &'a mut [f32],
    scores: &'a mut [f32],
    values: &'a mut [f32],
    /// `[rows, query_floats]`, for elements that make queries anew.
    queries: &'a mut [f32],
    /// Scores per row.
    width: usize,
}

/// Floats of scratch memory of a thread.
pub(super) fn scratch_floats(rows: usize, block_size: usize, key_dim: usize, value_dim: usize) -> usize {
    let span = span_blocks(block_size).saturating_mul(block_size);
    let row = 2usize.saturating_add(span).saturating_add(value_dim).saturating_add(query_floats(key_dim));
    rows.saturating_mul(row)
}

/// Floats per row of what a part of a task leaves behind: the values, not yet divided by the sum of their weights,
/// the largest score, and that sum.
pub(super) fn part_floats(value_dim: usize) -> usize {
    value_dim + 2
}

/// Where a task leaves its results.
#[derive(Clone, Copy)]
pub(super) enum Results<'a, 'b> {
    /// They are complete.
    Whole(&'a SharedMut<'b, f32>),
    /// They are part number `.1` of so many in `.2` of what each row sees, and go to `.0`, `[rows, part_floats]`.
    Part(&'a SharedMut<'b, f32>, usize, usize),
}

/// Row `r` is token `r / group`, head `r % group`.
pub(super) struct Task<'a, 'b> {
    pub(super) attention: Attention<'a>,
    pub(super) cache: &'a KvCache,
    pub(super) sequences: Sequences<'a>,
    pub(super) sequence: usize,
    pub(super) tokens: Range<usize>,
    pub(super) kv_head: usize,
    pub(super) q: &'a [f32],
    pub(super) results: Results<'a, 'b>,
    pub(super) scratch: &'a mut [f32],
}

impl Kernel for Task<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        match self.cache.kind {
            KvType::F32 => self.attend::<S, Single>(s),
            KvType::F16 => self.attend::<S, Half>(s),
            KvType::Q8 => self.attend::<S, Eighth>(s),
        }
    }
}

impl Task<'_, '_> {
    #[inline(always)]
    pub(super) fn group(&self) -> usize {
        self.attention.heads / self.cache.shape.heads
    }

    /// Number of a row's head among all rows of the step.
    #[inline(always)]
    pub(super) fn head(&self, row: usize) -> usize {
        let group = self.group();
        (self.tokens.start + row / group) * self.attention.heads + self.kv_head * group + row % group
    }

    #[inline(always)]
    fn attend<S: Simd, E: Element>(&mut self, s: S) {
        let shape = self.cache.shape;
        let rows = self.tokens.len() * self.group();
        if rows == 0 {
            return;
        }
        let (size, span) = (shape.block_size, span_blocks(shape.block_size));
        let width = span * size;
        let scratch = std::mem::take(&mut self.scratch);
        let (max, rest) = scratch.split_at_mut(rows);
        let (sum, rest) = rest.split_at_mut(rows);
        let (scores, rest) = rest.split_at_mut(rows * width);
        let (values, rest) = rest.split_at_mut(rows * shape.value_dim);
        let queries = &mut rest[..rows * query_floats(shape.key_dim)];
        let mut state = Scratch { max, sum, scores, values, queries, width };
        if E::ROUNDS {
            for (row, out) in state.queries.chunks_exact_mut(query_floats(shape.key_dim)).enumerate() {
                E::query(&self.q[self.head(row) * shape.key_dim..][..shape.key_dim], out);
            }
        }
        let first = self.sequences.positions[self.tokens.start] as usize;
        let last = first + self.tokens.len() - 1;
        let oldest = self.oldest(first);
        let mut blocks = oldest / size..last / size + 1;
        let mut begins = true;
        if let Results::Part(_, part, parts) = self.results {
            let (from, count) = (blocks.start, blocks.len());
            blocks = from + count * part / parts..from + count * (part + 1) / parts;
            begins = part == 0;
        }
        self.begin(begins, &mut state);
        let few = rows <= FEW_ROWS;
        for from in blocks.clone().step_by(span) {
            let until = blocks.end.min(from + span);
            let seen = oldest.max(from * size)..(last + 1).min(until * size);
            for b in from..until {
                let data = self.cache.keys(self.block(b), self.kv_head).as_ptr();
                // The values of the block come after as many blocks of keys, and so do the next keys after values.
                let ahead = if few { self.cache.values(self.block(b), self.kv_head).as_ptr() } else { ptr::null() };
                let keys = Keys { data, ahead, room: size, dim: shape.key_dim };
                self.score::<S, E>(s, keys, (b - from) * size, &mut state);
            }
            self.weigh(s, first, from * size, seen.clone(), &mut state);
            for b in from..until {
                let (start, end) = (seen.start.max(b * size), seen.end.min((b + 1) * size));
                let data = self.cache.values(self.block(b), self.kv_head).as_ptr();
                let (first, count) = (start - b * size, end - start);
                let next = Some(b + span).filter(|next| few && blocks.contains(next));
                let ahead = next.map_or(ptr::null(), |b| self.cache.keys(self.block(b), self.kv_head).as_ptr());
                let values = Values { data, ahead, room: size, first, count, dim: shape.value_dim };
                self.add_values::<S, E>(s, values, start - from * size, &mut state);
            }
        }
        self.finish(&state);
    }

    /// The number in the cache of a block of the sequence.
    #[inline(always)]
    pub(super) fn block(&self, b: usize) -> usize {
        self.sequences.block_tables[self.sequence * self.sequences.max_blocks + b] as usize
    }

    /// The oldest position that a query sees.
    #[inline(always)]
    pub(super) fn oldest(&self, position: usize) -> usize {
        self.attention.window.map_or(0, |w| (position + 1).saturating_sub(w as usize))
    }

    fn begin(&self, with_sinks: bool, state: &mut Scratch<'_>) {
        state.values.fill(0.0);
        for row in 0..state.max.len() {
            let head = self.kv_head * self.group() + row % self.group();
            let sink = self.attention.sinks.filter(|_| with_sinks).map(|sinks| sinks[head]);
            state.max[row] = sink.unwrap_or(f32::NEG_INFINITY);
            state.sum[row] = if sink.is_some() { 1.0 } else { 0.0 };
        }
    }

    /// Scores of the keys of a block for every row, from place `to` of the row's scores on.
    #[inline(always)]
    fn score<S: Simd, E: Element>(&self, s: S, keys: Keys, to: usize, state: &mut Scratch<'_>) {
        let (rows, mut row) = (state.max.len(), 0);
        assert!(to + keys.room <= state.width && state.scores.len() >= rows * state.width);
        while row < rows {
            row += match rows - row {
                1 => self.score_rows::<S, E, 1>(s, keys, row, to, state),
                2 => self.score_rows::<S, E, 2>(s, keys, row, to, state),
                3 => self.score_rows::<S, E, 3>(s, keys, row, to, state),
                4 => self.score_rows::<S, E, 4>(s, keys, row, to, state),
                5 => self.score_rows::<S, E, 5>(s, keys, row, to, state),
                6 => self.score_rows::<S, E, 6>(s, keys, row, to, state),
                7 => self.score_rows::<S, E, 7>(s, keys, row, to, state),
                _ => self.score_rows::<S, E, 8>(s, keys, row, to, state),
            };
        }
    }

    #[inline(always)]
    fn score_rows<S: Simd, E: Element, const R: usize>(
        &self,
        s: S,
        keys: Keys,
        row: usize,
        to: usize,
        state: &mut Scratch<'_>,
    ) -> usize {
        let mut q = [self.q.as_ptr(); R];
        for (r, q) in q.iter_mut().enumerate() {
            *q = match E::ROUNDS {
                true => state.queries[(row + r) * query_floats(keys.dim)..][..query_floats(keys.dim)].as_ptr(),
                false => self.q[self.head(row + r) * keys.dim..][..keys.dim].as_ptr(),
            };
        }
        for at in (0..keys.room).step_by(S::LANES) {
            let n = S::LANES.min(keys.room - at);
            // SAFETY: the keys are those of a block, each query has their length, and the scores of each row have room
            // for the block's (assertion in `score`).
            unsafe {
                let scores = E::score::<S, R>(s, keys, at, n, q);
                for (r, score) in scores.into_iter().enumerate() {
                    s.store_first(state.scores.as_mut_ptr().add((row + r) * state.width + to + at), score, n);
                }
            }
        }
        R
    }

    /// Turns the scores of positions `keys` into unnormalised weights, 0 where a row does not see the key. The first
    /// score is position `origin`'s.
    #[inline(always)]
    fn weigh<S: Simd>(&self, s: S, first: usize, origin: usize, keys: Range<usize>, state: &mut Scratch<'_>) {
        let (width, dim) = (state.width, self.cache.shape.value_dim);
        for row in 0..state.max.len() {
            let position = first + row / self.group();
            let seen = keys.start.max(self.oldest(position))..keys.end.min(position + 1);
            let scores = &mut state.scores[row * width..row * width + keys.end - origin];
            if seen.is_empty() {
                scores.fill(0.0);
                continue;
            }
            let (from, until) = (seen.start - origin, seen.end - origin);
            scores[..from].fill(0.0);
            scores[until..].fill(0.0);
            let seen = &mut scores[from..until];
            let before = state.max[row];
            let max = scale_scores(s, seen, self.attention.scale, self.attention.softcap).max(before);
            if max > before {
                // exp(-inf) is 0, which is what an empty sum is to be multiplied with.
                let fade = (before - max).exp();
                state.sum[row] *= fade;
                multiply(s, &mut state.values[row * dim..(row + 1) * dim], fade);
                state.max[row] = max;
            }
            state.sum[row] += exp_in_place(s, seen, max);
        }
    }

    /// Adds values, weighted by the scores from place `from` of each row's on, to every row.
    #[inline(always)]
    fn add_values<S: Simd, E: Element>(&self, s: S, values: Values, from: usize, state: &mut Scratch<'_>) {
        let (rows, mut row) = (state.max.len(), 0);
        assert!(from + values.count <= state.width && values.first + values.count <= values.room);
        assert!(state.scores.len() >= rows * state.width && state.values.len() >= rows * values.dim);
        while row < rows {
            row += match rows - row {
                1 => self.add_rows::<S, E, 1>(s, values, row, from, state),
                2 => self.add_rows::<S, E, 2>(s, values, row, from, state),
                3 => self.add_rows::<S, E, 3>(s, values, row, from, state),
                4 => self.add_rows::<S, E, 4>(s, values, row, from, state),
                5 => self.add_rows::<S, E, 5>(s, values, row, from, state),
                6 => self.add_rows::<S, E, 6>(s, values, row, from, state),
                7 => self.add_rows::<S, E, 7>(s, values, row, from, state),
                _ => self.add_rows::<S, E, 8>(s, values, row, from, state),
            };
        }
    }

    #[inline(always)]
    fn add_rows<S: Simd, E: Element, const R: usize>(
        &self,
        s: S,
        values: Values,
        row: usize,
        from: usize,
        state: &mut Scratch<'_>,
    ) -> usize {
        let p = state.scores[row * state.width + from..].as_ptr();
        let out = state.values[row * values.dim..].as_mut_ptr();
        for at in (0..values.dim).step_by(S::LANES) {
            let n = S::LANES.min(values.dim - at);
            // SAFETY: R rows of weights and of results are left, and the block holds the values (assertions in
            // `add_values`).
            unsafe {
                let mut sums = [s.splat(0.0); R];
                sums.iter_mut().enumerate().for_each(|(r, sum)| *sum = s.load_first(out.add(r * values.dim + at), n));
                E::accumulate::<S, R>(s, values, at, n, (p, state.width), &mut sums);
                for (r, sum) in sums.into_iter().enumerate() {
                    s.store_first(out.add(r * values.dim + at), sum, n);
                }
            }
        }
        R
    }

    fn finish(&self, state: &Scratch<'_>) {
        let dim = self.cache.shape.value_dim;
        for (row, values) in state.values.chunks_exact(dim).enumerate() {
            match self.results {
                Results::Whole(out) => {
                    let at = self.head(row) * dim;
                    // SAFETY: each head of each token belongs to one task.
                    let out = unsafe { out.part(at..at + dim) };
                    let factor = 1.0 / state.sum[row];
                    out.iter_mut().zip(values).for_each(|(o, v)| *o = v * factor);
                }
                Results::Part(out, part, parts) => {
                    let at = (self.head(row) * parts + part) * part_floats(dim);
                    // SAFETY: each part of each head of each token belongs to one task.
                    let out = unsafe { out.part(at..at + part_floats(dim)) };
                    out[..dim].copy_from_slice(values);
                    (out[dim], out[dim + 1]) = (state.max[row], state.sum[row]);
                }
            }
        }
    }
}

/// Joins the `parts` of a row, `[parts, part_floats]`, to its result.
pub(super) fn join(parts: &[f32], out: &mut [f32]) {
    let dim = out.len();
    let each = || parts.chunks_exact(part_floats(dim));
    let max = each().map(|part| part[dim]).fold(f32::NEG_INFINITY, f32::max);
    let factor = |part: &[f32]| if part[dim] == f32::NEG_INFINITY { 0.0 } else { (part[dim] - max).exp() };
    let sum: f32 = each().map(|part| factor(part) * part[dim + 1]).sum();
    out.fill(0.0);
    for part in each() {
        let factor = factor(part) / sum;
        out.iter_mut().zip(part).for_each(|(o, v)| *o += factor * v);
    }
}
