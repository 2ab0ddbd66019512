//! Causal attention over a paged cache, prefill and decode alike: softmax is accumulated block by block (Milakov and
//! Gimelshein, arXiv:1805.02867), and the query heads that share a key head share its reads.

//!
//! What a query sees is added up in chunks, which are then joined in their order. Where a step has few tasks and long
//! contexts, as in generation, all threads take part in the chunks of a task, and they are joined afterwards; elsewhere a
//! task joins its own. So a result depends on its query and what it sees alone, bit for bit, not on other tokens of the
//! step, on the number of threads or on where blocks lie. Many tokens of a sequence go another way, see `wide`.

mod elements;
mod join;
mod staging;
mod task;
mod vectors;
mod weights;
mod wide;

use join::{Join, empty, finish, part_floats};
use task::{Parts, Results, Task, chunk_blocks, scratch_floats};
use wide::Wide;

use crate::cpu::Cpu;
use crate::error::{KernelError, exact};
use crate::kv_cache::KvCache;
use crate::long::FEWEST;
use crate::shared::SharedMut;
use crate::workspace::{Needs, floats};

/// Rows (pairs of token and head) that a task aims at.
const TASK_ROWS: usize = 32;
/// Tasks per thread below which contexts are split into parts.
const TASKS: usize = 4;
/// Elements per task that joins chunks.
const JOINED: usize = 32 << 10;
/// Chunks for whose results there is room, for each part that there may be.
const ROOM: usize = 4;

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

    /// The sequence of a tile, and its tokens; `size` says, by the length of a sequence, how many tokens its tiles have, 0
    /// if there are none.
    fn tile(&self, mut tile: usize, size: impl Fn(usize) -> usize) -> (usize, std::ops::Range<usize>) {
        for (sequence, length) in self.lengths().enumerate() {
            let size = size(length);
            let tiles = tiles(length, size);
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

/// Tiles of a sequence.
fn tiles(length: usize, size: usize) -> usize {
    if size == 0 { 0 } else { length.div_ceil(size) }
}

/// Tokens per task and rows per task.
fn task_shape(heads: usize, kv_heads: usize) -> (usize, usize) {
    let group = heads / kv_heads.max(1);
    let tokens = (TASK_ROWS / group.max(1)).max(1);
    (tokens, tokens * group)
}

/// How many parts `tasks` tasks over contexts of up to `chunks` chunks are split into.
fn parts(tasks: usize, chunks: usize, threads: usize) -> usize {
    if threads == 1 || tasks == 0 || tasks >= TASKS * threads {
        return 1;
    }
    (TASKS * threads).div_ceil(tasks).min(chunks).max(1)
}

/// Chunks of blocks that the tokens of a tile see, which are at these positions.
fn chunks(positions: &[u32], window: Option<u32>, block_size: usize) -> usize {
    let chunk = chunk_blocks(block_size) * block_size;
    let [Some(&first), Some(&last)] = [positions.first(), positions.last()] else { return 0 };
    let oldest = window.map_or(0, |w| (first as usize + 1).saturating_sub(w as usize));
    (last as usize / chunk + 1).saturating_sub(oldest / chunk)
}

impl Cpu {
    /// What [`attention`](Cpu::attention) needs on `threads` threads.
    pub fn attention_needs(
        heads: usize,
        kv_heads: usize,
        block_size: usize,
        (key_dim, value_dim): (usize, usize),
        threads: usize,
    ) -> Needs {
        let (_, rows) = task_shape(heads, kv_heads);
        // Rounding up, the parts of all tasks are less than twice as many as wanted; and one place for what is joined.
        let places = 2 * (ROOM + 1) * TASKS * threads;
        let packed = if threads > 1 { places.saturating_mul(rows).saturating_mul(part_floats(value_dim)) } else { 0 };
        let wide = wide::scratch_floats(heads / kv_heads.max(1), key_dim, value_dim);
        Needs { packed, per_thread: scratch_floats(rows, block_size, key_dim, value_dim).max(wide) }
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
        self.wide(attention, cache, sequences, q, out)?;
        let (few, wide) = (task_shape(heads, shape.heads).0, self.rounds && self.isa.int8().is_some());
        let tile = |n: usize| if wide && n >= FEWEST { 0 } else { few };
        let tiles = sequences.lengths().map(|n| tiles(n, tile(n))).sum::<usize>();
        let (tasks, threads) = (tiles * shape.heads, self.pool.threads());
        let seen =
            |tile: std::ops::Range<usize>| chunks(&sequences.positions[tile], attention.window, shape.block_size);
        let most = match threads > 1 && tasks < TASKS * threads {
            true => (0..tiles).map(|i| seen(sequences.tile(i, tile).1)).max().unwrap_or(0),
            false => 1,
        };
        let parts = parts(tasks, most, threads);
        let dims = (shape.key_dim, shape.value_dim);
        let needs = Cpu::attention_needs(heads, shape.heads, shape.block_size, dims, threads);
        let isa = self.isa;
        let run = |i: usize, results: Results<'_, '_>, scratch: &mut [f32]| {
            let (sequence, tokens) = sequences.tile(i / shape.heads, tile);
            let kv_head = i % shape.heads;
            isa.run(Task { attention, cache, sequences, sequence, tokens, kv_head, q, results, scratch });
        };
        if parts > 1 {
            let group = heads / shape.heads;
            let rows = sequences.lengths().map(|n| n.min(tile(n))).max().unwrap_or(0) * group;
            let shared = Shared { tasks, rows, most, parts, dim: shape.value_dim };
            // Of a row of a task: its token, if there is one, and its head.
            let place = |i: usize, row: usize| {
                let tokens = sequences.tile(i / shape.heads, tile).1;
                let token = tokens.start + row / group;
                (tokens.contains(&token).then_some(token), i % shape.heads * group + row % group)
            };
            return self.attend_in_parts(needs, shared, attention, out, (place, run));
        }
        let (_, scratch) = self.workspace.parts(needs)?;
        let out = SharedMut::new(out);
        self.pool.parallel_for(tasks, 1, |thread, range| {
            let mut scratch = scratch.lock(thread);
            range.for_each(|i| run(i, Results::Whole(&out), floats(&mut scratch)));
        })
    }

    /// The sequences that have many tokens in the step, if they may be rounded. Later tokens come first: they take longer.
    fn wide(
        &mut self,
        attention: Attention<'_>,
        cache: &KvCache,
        sequences: Sequences<'_>,
        q: &[f32],
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let (shape, threads) = (cache.shape, self.pool.threads());
        let Some(token) = self.isa.int8().filter(|_| self.rounds) else { return Ok(()) };
        let (few, group) = (task_shape(attention.heads, shape.heads).0, attention.heads / shape.heads);
        let tile = |n| if n >= FEWEST { wide::tokens(n, group, shape.heads, threads) } else { 0 };
        let tasks = sequences.lengths().map(|n| tiles(n, tile(n))).sum::<usize>() * shape.heads;
        let dims = (shape.key_dim, shape.value_dim);
        let needs = Cpu::attention_needs(attention.heads, shape.heads, shape.block_size, dims, threads);
        let isa = self.isa;
        let (_, scratch) = self.workspace.parts(needs)?;
        let out = SharedMut::new(out);
        let results = Results::Whole(&out);
        self.pool.parallel_for(tasks, 1, |thread, range| {
            let mut memory = scratch.lock(thread);
            for i in range {
                let (sequence, tokens) = sequences.tile((tasks - 1 - i) / shape.heads, tile);
                let (kv_head, mut finite) = (i % shape.heads, true);
                let (all, scratch) = (tokens.clone(), floats(&mut memory));
                let task = Task { attention, cache, sequences, sequence, tokens, kv_head, q, results, scratch };
                token.run(Wide { task, finite: &mut finite });
                for first in all.clone().step_by(few).filter(|_| !finite) {
                    let (tokens, scratch) = (first..all.end.min(first + few), floats(&mut memory));
                    isa.run(Task { attention, cache, sequences, sequence, tokens, kv_head, q, results, scratch });
                }
            }
        })
    }

    /// Tasks that several threads share: as many chunks at a time as there is room for, which are then joined.
    fn attend_in_parts(
        &mut self,
        needs: Needs,
        shared: Shared,
        attention: Attention<'_>,
        out: &mut [f32],
        (place, run): (
            impl Fn(usize, usize) -> (Option<usize>, usize),
            impl Fn(usize, Results<'_, '_>, &mut [f32]) + Sync,
        ),
    ) -> Result<(), KernelError> {
        let Shared { tasks, rows, most, parts, dim } = shared;
        if dim == 0 {
            return Ok(());
        }
        let (isa, each, all) = (self.isa, part_floats(dim), tasks * rows);
        let room = (needs.packed / (all * each)).saturating_sub(1).clamp(1, most);
        let (partial, scratch) = self.workspace.parts(needs)?;
        let partial = &mut partial[..all * (1 + room) * each];
        for (i, places) in partial.chunks_exact_mut((1 + room) * each).enumerate() {
            places.chunks_exact_mut(each).for_each(|place| place[dim + 1] = 0.0);
            let (_, head) = place(i / rows, i % rows);
            empty(attention.sinks.map(|sinks| sinks[head]), &mut places[..each]);
        }
        let partial = SharedMut::new(partial);
        for before in (0..most).step_by(room) {
            self.pool.parallel_for(tasks * parts, 1, |thread, range| {
                let mut scratch = scratch.lock(thread);
                for i in range {
                    let part = Parts { first: i / parts * rows, before, room, count: parts, part: i % parts };
                    run(i / parts, Results::Part(&partial, part), floats(&mut scratch));
                }
            })?;
            self.pool.parallel_for(all, JOINED.div_ceil(room * each), |_, range| {
                let places = range.start * (1 + room) * each..range.end * (1 + room) * each;
                // SAFETY: the ranges of a loop do not overlap.
                isa.run(Join { parts: unsafe { partial.part(places) }, room, value_dim: dim });
            })?;
        }
        // SAFETY: nothing else uses it any more.
        let joined = unsafe { partial.part(0..all * (1 + room) * each) };
        for (i, joined) in joined.chunks_exact((1 + room) * each).enumerate() {
            if let (Some(token), head) = place(i / rows, i % rows) {
                let at = (token * attention.heads + head) * dim;
                finish(&joined[..each], &mut out[at..at + dim]);
            }
        }
        Ok(())
    }
}

/// Tasks that are shared.
struct Shared {
    tasks: usize,
    /// The most rows of one.
    rows: usize,
    /// The most chunks of one.
    most: usize,
    parts: usize,
    /// Elements of a value.
    dim: usize,
}
