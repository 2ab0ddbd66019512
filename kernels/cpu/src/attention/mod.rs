//! Causal attention over a paged cache, prefill and decode alike: softmax is accumulated block by block (Milakov and
//! Gimelshein, arXiv:1805.02867), and the query heads that share a key head share its reads.

mod vectors;

use vectors::{Element, Half, Single, accumulate, dot, exp_in_place, scale_scores};

use crate::cpu::Cpu;
use crate::error::{KernelError, exact};
use crate::kv_cache::{KvCache, KvType};
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd};
use crate::workspace::{Needs, floats};

/// Rows (pairs of token and head) that a task aims at.
const TASK_ROWS: usize = 32;
/// Rows that are multiplied with a key or value at a time.
const GROUP: usize = 4;

/// Parameters of [`Cpu::attention`].
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Query heads; a multiple of the cache's heads.
    pub heads: usize,
    /// Multiplies `q . k`.
    pub scale: f32,
    /// A query at position `i` sees keys `j` with `0 <= i - j < window`; absent: all `j <= i`.
    pub window: Option<u32>,
    /// Scores become `c tanh(s / c)`, after the scale and before the mask.
    pub softcap: Option<f32>,
    /// `[heads]`: a logit per head that takes part in the softmax and adds no value.
    pub sinks: Option<&'a [f32]>,
}

/// The sequences of a step, in compressed rows.
#[derive(Clone, Copy, Debug)]
pub struct Sequences<'a> {
    /// `[T]`: position of each token; consecutive within a sequence.
    pub positions: &'a [u32],
    /// `[S + 1]`: where each sequence starts in the tokens.
    pub query_start: &'a [u32],
    /// `[S, max_blocks]`
    pub block_tables: &'a [u32],
    /// Columns of `block_tables`.
    pub max_blocks: usize,
}

impl Sequences<'_> {
    fn lengths(&self) -> impl Iterator<Item = usize> {
        self.query_start.windows(2).map(|w| (w[1] - w[0]) as usize)
    }

    /// The sequence of a tile of `size` tokens, and its tokens.
    fn tile(&self, mut tile: usize, size: usize) -> (usize, std::ops::Range<usize>) {
        for (sequence, length) in self.lengths().enumerate() {
            let tiles = length.div_ceil(size);
            if tile < tiles {
                let start = self.query_start[sequence] as usize;
                return (sequence, start + tile * size..start + length.min((tile + 1) * size));
            }
            tile -= tiles;
        }
        (0, 0..0)
    }

    fn check(&self) -> Result<(), KernelError> {
        let increasing = self.query_start.windows(2).all(|w| w[0] <= w[1]);
        let ends = self.query_start.first() == Some(&0)
            && self.query_start.last().map(|&e| e as usize) == Some(self.positions.len());
        if !increasing || !ends {
            let expected = format!("0 .. {}", self.positions.len());
            return Err(KernelError::mismatch("query_start", expected, format!("{:?}", self.query_start)));
        }
        exact("block tables", self.block_tables.len(), (self.query_start.len() - 1).saturating_mul(self.max_blocks))
    }
}

/// Scratch of a task: running maximum and sum per row, scores of a block, weighted values.
struct Scratch<'a> {
    max: &'a mut [f32],
    sum: &'a mut [f32],
    scores: &'a mut [f32],
    values: &'a mut [f32],
}

fn scratch_floats(rows: usize, block_size: usize, value_dim: usize) -> usize {
    rows.saturating_mul(2usize.saturating_add(block_size).saturating_add(value_dim))
}

/// Tokens per task and rows per task.
fn task_shape(heads: usize, kv_heads: usize) -> (usize, usize) {
    let group = heads / kv_heads.max(1);
    let tokens = (TASK_ROWS / group.max(1)).max(1);
    (tokens, tokens * group)
}

impl Cpu {
    /// What [`attention`](Cpu::attention) needs.
    pub fn attention_needs(heads: usize, kv_heads: usize, block_size: usize, value_dim: usize) -> Needs {
        let (_, rows) = task_shape(heads, kv_heads);
        Needs { packed: 0, per_thread: scratch_floats(rows, block_size, value_dim) }
    }

    /// `q` `[T, heads, key_dim]` attends to the cache, which holds the keys and values of all positions up to each
    /// token's own: `out` `[T, heads, value_dim]`.
    ///
    /// # Errors
    /// Lengths that do not fit, or a block number that the cache does not have (a contained panic).
    pub fn attention(
        &mut self,
        attention: Attention<'_>,
        cache: &KvCache,
        sequences: Sequences<'_>,
        q: &[f32],
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let (heads, shape, tokens) = (attention.heads, cache.shape, sequences.positions.len());
        if shape.heads == 0 || shape.block_size == 0 || !heads.is_multiple_of(shape.heads) {
            return Err(KernelError::mismatch("heads of attention", format!("a multiple of {}", shape.heads), heads));
        }
        exact("queries", q.len(), tokens.saturating_mul(heads).saturating_mul(shape.key_dim))?;
        exact("outputs of attention", out.len(), tokens.saturating_mul(heads).saturating_mul(shape.value_dim))?;
        exact("sinks of attention", attention.sinks.map_or(heads, <[f32]>::len), heads)?;
        sequences.check()?;
        let (tile, _) = task_shape(heads, shape.heads);
        let tiles: usize = sequences.lengths().map(|n| n.div_ceil(tile)).sum();
        let needs = Cpu::attention_needs(heads, shape.heads, shape.block_size, shape.value_dim);
        let (isa, out) = (self.isa, SharedMut::new(out));
        let (_, scratch) = self.workspace.parts(needs)?;
        self.pool.parallel_for(tiles * shape.heads, 1, |thread, range| {
            let mut scratch = scratch.lock(thread);
            for task in range {
                let (sequence, tokens) = sequences.tile(task / shape.heads, tile);
                let kv_head = task % shape.heads;
                let scratch = floats(&mut scratch);
                isa.run(Task { attention, cache, sequences, sequence, tokens, kv_head, q, out: &out, scratch });
            }
        })
    }
}

/// The query heads of one key head, for a few tokens of one sequence. Row `r` is token `r / group`, head `r % group`.
struct Task<'a, 'b> {
    attention: Attention<'a>,
    cache: &'a KvCache,
    sequences: Sequences<'a>,
    sequence: usize,
    tokens: std::ops::Range<usize>,
    kv_head: usize,
    q: &'a [f32],
    out: &'a SharedMut<'b, f32>,
    scratch: &'a mut [f32],
}

impl Kernel for Task<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        match self.cache.kind {
            KvType::F32 => self.attend::<S, Single>(s),
            KvType::F16 => self.attend::<S, Half>(s),
        }
    }
}

impl Task<'_, '_> {
    #[inline(always)]
    fn group(&self) -> usize {
        self.attention.heads / self.cache.shape.heads
    }

    /// Number of a row's head among all rows of the step.
    #[inline(always)]
    fn head(&self, row: usize) -> usize {
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
        let scratch = std::mem::take(&mut self.scratch);
        let (max, rest) = scratch.split_at_mut(rows);
        let (sum, rest) = rest.split_at_mut(rows);
        let (scores, rest) = rest.split_at_mut(rows * shape.block_size);
        let values = &mut rest[..rows * shape.value_dim];
        let mut state = Scratch { max, sum, scores, values };
        self.begin(&mut state);
        let first = self.sequences.positions[self.tokens.start] as usize;
        let last = first + self.tokens.len() - 1;
        let oldest = self.oldest(first);
        for b in oldest / shape.block_size..=last / shape.block_size {
            let start = oldest.max(b * shape.block_size);
            let end = (last + 1).min((b + 1) * shape.block_size);
            let block = self.sequences.block_tables[self.sequence * self.sequences.max_blocks + b] as usize;
            let offset = start - b * shape.block_size;
            let keys = &self.cache.keys(block, self.kv_head)[offset * shape.key_dim * E::BYTES..];
            let values = &self.cache.values(block, self.kv_head)[offset * shape.value_dim * E::BYTES..];
            self.score::<S, E>(s, keys, end - start, &mut state);
            self.weigh(s, first, start..end, &mut state);
            self.add_values::<S, E>(s, values, end - start, &mut state);
        }
        self.finish(&state);
    }

    /// The oldest position that a query sees.
    #[inline(always)]
    fn oldest(&self, position: usize) -> usize {
        self.attention.window.map_or(0, |w| (position + 1).saturating_sub(w as usize))
    }

    fn begin(&self, state: &mut Scratch<'_>) {
        state.values.fill(0.0);
        for row in 0..state.max.len() {
            let head = self.kv_head * self.group() + row % self.group();
            let sink = self.attention.sinks.map(|sinks| sinks[head]);
            state.max[row] = sink.unwrap_or(f32::NEG_INFINITY);
            state.sum[row] = if sink.is_some() { 1.0 } else { 0.0 };
        }
    }

    /// Scores of `n` keys for every row.
    #[inline(always)]
    fn score<S: Simd, E: Element>(&self, s: S, keys: &[u8], n: usize, state: &mut Scratch<'_>) {
        let (dim, width, rows) = (self.cache.shape.key_dim, self.cache.shape.block_size, state.max.len());
        assert!(keys.len() >= n * dim * E::BYTES && n <= width);
        let mut row = 0;
        while row < rows {
            let mut q = [self.q.as_ptr(); GROUP];
            let count = GROUP.min(rows - row);
            for (r, q) in q.iter_mut().enumerate().take(count) {
                *q = self.q[self.head(row + r) * dim..][..dim].as_ptr();
            }
            for j in 0..n {
                // SAFETY: `n` keys of `dim` elements (assertion above), and as many elements in each query.
                unsafe {
                    let key = keys.as_ptr().add(j * dim * E::BYTES);
                    if count == GROUP {
                        let dots = dot::<S, E, GROUP>(s, key, dim, q);
                        for (r, dot) in dots.into_iter().enumerate() {
                            state.scores[(row + r) * width + j] = dot;
                        }
                    } else {
                        for (r, &q) in q.iter().enumerate().take(count) {
                            let [dot] = dot::<S, E, 1>(s, key, dim, [q]);
                            state.scores[(row + r) * width + j] = dot;
                        }
                    }
                }
            }
            row += count;
        }
    }

    /// Turns the scores of positions `keys` into unnormalised weights, 0 where a row does not see the key.
    #[inline(always)]
    fn weigh<S: Simd>(&self, s: S, first: usize, keys: std::ops::Range<usize>, state: &mut Scratch<'_>) {
        let (width, dim) = (self.cache.shape.block_size, self.cache.shape.value_dim);
        for row in 0..state.max.len() {
            let position = first + row / self.group();
            let seen = keys.start.max(self.oldest(position))..keys.end.min(position + 1);
            let scores = &mut state.scores[row * width..row * width + keys.len()];
            if seen.is_empty() {
                scores.fill(0.0);
                continue;
            }
            let (from, until) = (seen.start - keys.start, seen.end - keys.start);
            scores[..from].fill(0.0);
            scores[until..].fill(0.0);
            let seen = &mut scores[from..until];
            scale_scores(s, seen, self.attention.scale, self.attention.softcap);
            let before = state.max[row];
            let max = seen.iter().copied().fold(before, f32::max);
            if max > before {
                // exp(-inf) is 0, which is what an empty sum is to be multiplied with.
                let fade = (before - max).exp();
                state.sum[row] *= fade;
                state.values[row * dim..(row + 1) * dim].iter_mut().for_each(|v| *v *= fade);
                state.max[row] = max;
            }
            state.sum[row] += exp_in_place(s, seen, max);
        }
    }

    /// Adds `n` values, weighted by the scores, to every row.
    #[inline(always)]
    fn add_values<S: Simd, E: Element>(&self, s: S, values: &[u8], n: usize, state: &mut Scratch<'_>) {
        let (dim, width, rows) = (self.cache.shape.value_dim, self.cache.shape.block_size, state.max.len());
        assert!(values.len() >= n * dim * E::BYTES && n <= width);
        assert!(state.scores.len() >= rows * width && state.values.len() >= rows * dim);
        let mut row = 0;
        while row < rows {
            let (p, out) = (state.scores[row * width..].as_ptr(), state.values[row * dim..].as_mut_ptr());
            // SAFETY: `n` values of `dim` elements, and GROUP rows or one row of scores and results are left.
            unsafe {
                if rows - row >= GROUP {
                    accumulate::<S, E, GROUP>(s, values.as_ptr(), n, dim, p, width, out);
                    row += GROUP;
                } else {
                    accumulate::<S, E, 1>(s, values.as_ptr(), n, dim, p, width, out);
                    row += 1;
                }
            }
        }
    }

    fn finish(&self, state: &Scratch<'_>) {
        let dim = self.cache.shape.value_dim;
        for (row, values) in state.values.chunks_exact(dim).enumerate() {
            let at = self.head(row) * dim;
            // SAFETY: each head of each token belongs to one task.
            let out = unsafe { self.out.part(at..at + dim) };
            let factor = 1.0 / state.sum[row];
            out.iter_mut().zip(values).for_each(|(o, v)| *o = v * factor);
        }
    }
}
