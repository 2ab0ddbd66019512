//! What one thread does at a time: the query heads of one key head, for a few tokens of one sequence, over a part of
//! what they see.

use std::ops::Range;
use std::ptr;

use super::elements::{Eighth, Element, Half, Keys, Single, Values, query_floats};
use super::join::{empty, finish, join, part_floats};
use super::vectors::{exp_in_place, multiply, scale_scores};
use super::{Attention, Sequences};
use crate::kv_cache::{KvCache, KvType};
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd};

/// Keys whose scores become weights at a time, about: enough that what is done once for them costs little.
const SPAN: usize = 128;
/// Most rows for which blocks are asked for in advance; with more there is time for the processor to do so.
const FEW_ROWS: usize = 8;

/// Spans of a chunk.
const SPANS: usize = 2;
/// Blocks whose scores are computed at a time if there are fewer than `MANY` rows.
const TOGETHER: usize = 4;
const MANY: usize = 4;

/// Blocks whose scores become weights at a time.
fn span_blocks(block_size: usize) -> usize {
    (SPAN / block_size.max(1)).max(1)
}

/// Blocks of a chunk: what a row sees is added up chunk by chunk, wherever its tokens and tasks begin, and the chunks are
/// joined one after the other, so that a row has the same result beside any others.
pub(super) fn chunk_blocks(block_size: usize) -> usize {
    SPANS * span_blocks(block_size)
}

/// Scratch of a task: of the chunk at hand the running maximum and sum per row, scores of a span and weighted values;
/// the joined chunks; queries.
struct Scratch<'a> {
    max: &'a mut [f32],
    sum: &'a mut [f32],
    scores: &'a mut [f32],
    values: &'a mut [f32],
    /// `[rows, part_floats]`
    joined: &'a mut [f32],
    /// `[rows, query_floats]`, for elements that make queries anew.
    queries: &'a mut [f32],
    /// Scores per row.
    width: usize,
}

/// Floats of scratch memory of a thread.
pub(super) fn scratch_floats(rows: usize, block_size: usize, key_dim: usize, value_dim: usize) -> usize {
    let span = span_blocks(block_size).saturating_mul(block_size);
    let row = span.saturating_add(part_floats(value_dim).saturating_mul(2)).saturating_add(query_floats(key_dim));
    rows.saturating_mul(row)
}

/// Some of the chunks of each task, which several threads share.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    /// Rows of the tasks before.
    pub(super) first: usize,
    /// Chunks of a task before these.
    pub(super) before: usize,
    /// Chunks for whose results there is room.
    pub(super) room: usize,
    /// Into how many parts these are split, and which this is.
    pub(super) count: usize,
    pub(super) part: usize,
}

/// Where a task leaves its results.
#[derive(Clone, Copy)]
pub(super) enum Results<'a, 'b> {
    /// They are complete.
    Whole(&'a SharedMut<'b, f32>),
    /// They are those of some chunks, each of which has a place of its own: `[rows, 1 + room, part_floats]`, after that of
    /// what is joined already.
    Part(&'a SharedMut<'b, f32>, Parts),
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
        let (joined, rest) = rest.split_at_mut(rows * part_floats(shape.value_dim));
        let queries = &mut rest[..rows * query_floats(shape.key_dim)];
        let mut state = Scratch { max, sum, scores, values, joined, queries, width };
        if E::ROUNDS {
            for (row, out) in state.queries.chunks_exact_mut(query_floats(shape.key_dim)).enumerate() {
                E::query(&self.q[self.head(row) * shape.key_dim..][..shape.key_dim], out);
            }
        }
        let first = self.sequences.positions[self.tokens.start] as usize;
        let last = first + self.tokens.len() - 1;
        let blocks = self.oldest(first) / size..last / size + 1;
        let chunk = chunk_blocks(size);
        let mut chunks = blocks.start / chunk..blocks.end.div_ceil(chunk);
        let from = chunks.start;
        match self.results {
            Results::Part(_, Parts { before, room, count, part, .. }) => {
                let start = chunks.end.min(chunks.start + before);
                let n = room.min(chunks.end - start);
                chunks = start + n * part / count..start + n * (part + 1) / count;
            }
            Results::Whole(_) => {
                for (row, joined) in state.joined.chunks_exact_mut(part_floats(shape.value_dim)).enumerate() {
                    empty(self.sink(row), joined);
                }
            }
        }
        for number in chunks.clone() {
            let of = |chunks: &Range<usize>| blocks.start.max(chunks.start * chunk)..blocks.end.min(chunks.end * chunk);
            state.values.fill(0.0);
            state.max.fill(f32::NEG_INFINITY);
            state.sum.fill(0.0);
            self.chunk::<S, E>(s, first, of(&(number..number + 1)), of(&chunks), &mut state);
            self.leave(s, number - from, &mut state);
        }
        if let Results::Whole(out) = self.results {
            for (row, joined) in state.joined.chunks_exact(part_floats(shape.value_dim)).enumerate() {
                let at = self.head(row) * shape.value_dim;
                // SAFETY: each head of each token belongs to one task.
                finish(joined, unsafe { out.part(at..at + shape.value_dim) });
            }
        }
    }

    /// Scores, weights and weighted values of the blocks of a chunk; `all` are those of all chunks of the task.
    #[inline(always)]
    fn chunk<S: Simd, E: Element>(
        &self,
        s: S,
        first: usize,
        blocks: Range<usize>,
        all: Range<usize>,
        state: &mut Scratch<'_>,
    ) {
        let shape = self.cache.shape;
        let (size, span) = (shape.block_size, span_blocks(shape.block_size));
        let (oldest, last) = (self.oldest(first), first + self.tokens.len() - 1);
        let few = state.max.len() <= FEW_ROWS;
        // Spans lie at multiples of their length, wherever the blocks begin.
        for origin in (blocks.start / span * span..blocks.end).step_by(span) {
            let (from, until) = (origin.max(blocks.start), blocks.end.min(origin + span));
            let seen = oldest.max(from * size)..(last + 1).min(until * size);
            let mut b = from;
            while b < until {
                let n = if state.max.len() < MANY && b + TOGETHER <= until { TOGETHER } else { 1 };
                match n {
                    TOGETHER => self.score::<S, E, TOGETHER>(s, b, (b - origin) * size, few, state),
                    _ => self.score::<S, E, 1>(s, b, (b - origin) * size, few, state),
                }
                b += n;
            }
            self.weigh(s, first, origin * size, seen.clone(), state);
            for b in from..until {
                let (start, end) = (seen.start.max(b * size), seen.end.min((b + 1) * size));
                let data = self.cache.values(self.block(b), self.kv_head).as_ptr();
                let (first, count) = (start - b * size, end - start);
                let next = Some(b + span).filter(|next| few && all.contains(next));
                let ahead = next.map_or(ptr::null(), |b| self.cache.keys(self.block(b), self.kv_head).as_ptr());
                let values = Values { data, ahead, room: size, first, count, dim: shape.value_dim };
                self.add_values::<S, E>(s, values, start - origin * size, state);
            }
        }
    }

    /// Joins a chunk's results to those before, or leaves them for that.
    #[inline(always)]
    fn leave<S: Simd>(&self, s: S, number: usize, state: &mut Scratch<'_>) {
        let dim = self.cache.shape.value_dim;
        for (row, values) in state.values.chunks_exact(dim).enumerate() {
            let (max, sum) = (state.max[row], state.sum[row]);
            match self.results {
                Results::Whole(_) => {
                    join(s, &mut state.joined[row * part_floats(dim)..][..part_floats(dim)], (values, max, sum));
                }
                Results::Part(out, Parts { first, before, room, .. }) => {
                    let at = ((first + row) * (1 + room) + 1 + number - before) * part_floats(dim);
                    // SAFETY: each chunk of each head of each token belongs to one task.
                    let out = unsafe { out.part(at..at + part_floats(dim)) };
                    out[..dim].copy_from_slice(values);
                    (out[dim], out[dim + 1]) = (max, sum);
                }
            }
        }
    }

    /// What takes part in the softmax of a row beside its scores.
    fn sink(&self, row: usize) -> Option<f32> {
        let head = self.kv_head * self.group() + row % self.group();
        self.attention.sinks.map(|sinks| sinks[head])
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

    /// Scores of the keys of `K` blocks for every row, from place `to` of the row's scores on.
    #[inline(always)]
    fn score<S: Simd, E: Element, const K: usize>(
        &self,
        s: S,
        first: usize,
        to: usize,
        few: bool,
        state: &mut Scratch<'_>,
    ) {
        let shape = self.cache.shape;
        let (rows, mut row) = (state.max.len(), 0);
        assert!(to + K * shape.block_size <= state.width && state.scores.len() >= rows * state.width);
        let mut keys = [Keys { data: ptr::null(), ahead: ptr::null(), room: shape.block_size, dim: shape.key_dim }; K];
        for (keys, b) in keys.iter_mut().zip(first..) {
            keys.data = self.cache.keys(self.block(b), self.kv_head).as_ptr();
            // The values of the block come after as many blocks of keys, and so do the next keys after values.
            if few {
                keys.ahead = self.cache.values(self.block(b), self.kv_head).as_ptr();
            }
        }
        while row < rows {
            row += match together(rows - row) {
                1 => self.score_rows::<S, E, 1, K>(s, keys, row, to, state),
                2 => self.score_rows::<S, E, 2, K>(s, keys, row, to, state),
                3 => self.score_rows::<S, E, 3, K>(s, keys, row, to, state),
                4 => self.score_rows::<S, E, 4, 1>(s, [keys[0]], row, to, state),
                5 => self.score_rows::<S, E, 5, 1>(s, [keys[0]], row, to, state),
                6 => self.score_rows::<S, E, 6, 1>(s, [keys[0]], row, to, state),
                7 => self.score_rows::<S, E, 7, 1>(s, [keys[0]], row, to, state),
                _ => self.score_rows::<S, E, 8, 1>(s, [keys[0]], row, to, state),
            };
        }
    }

    #[inline(always)]
    fn score_rows<S: Simd, E: Element, const R: usize, const K: usize>(
        &self,
        s: S,
        keys: [Keys; K],
        row: usize,
        to: usize,
        state: &mut Scratch<'_>,
    ) -> usize {
        let (mut q, Keys { room, dim, .. }) = ([self.q.as_ptr(); R], keys[0]);
        for (r, q) in q.iter_mut().enumerate() {
            *q = match E::ROUNDS {
                true => state.queries[(row + r) * query_floats(dim)..][..query_floats(dim)].as_ptr(),
                false => self.q[self.head(row + r) * dim..][..dim].as_ptr(),
            };
        }
        for at in (0..room).step_by(S::LANES) {
            let n = S::LANES.min(room - at);
            // SAFETY: the keys are those of blocks, each query has their length, and the scores of each row have room
            // for the blocks' (assertion in `score`).
            unsafe {
                let scores = E::scores::<S, R, K>(s, keys, at, n, q);
                for (k, scores) in scores.into_iter().enumerate() {
                    for (r, score) in scores.into_iter().enumerate() {
                        let place = (row + r) * state.width + to + k * room + at;
                        s.store_first(state.scores.as_mut_ptr().add(place), score, n);
                    }
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
            row += match together(rows - row) {
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
}

/// How many of so many rows are multiplied together: few at once wait for each other's sums.
fn together(rows: usize) -> usize {
    match rows {
        9..=11 => rows.div_ceil(2),
        _ => rows.min(8),
    }
}
