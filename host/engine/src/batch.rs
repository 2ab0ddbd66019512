use rocmforge_program::{GroupTables, NO_BLOCK, NamedInput, Step};

use crate::lengths::Lengths;
use crate::scheduler::{Plan, Scheduler};
use crate::sequence::{RequestId, Sequence};

/// What a row of logits is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogitsRow {
    /// The sequence.
    pub id: RequestId,
    /// Position of the token that the row comes after.
    pub position: usize,
    /// The row gives the next token; otherwise the next token is known, and the row its probability.
    pub samples: bool,
    /// The token that was guessed to come next; the row after this one counts only if it does.
    pub guess: Option<u32>,
}

#[derive(Debug, Default)]
struct Group {
    tables: Vec<u32>,
    columns: usize,
    slots: Vec<u32>,
}

/// The arrays of a [`Step`]. Kept between steps for their allocations.
#[derive(Debug, Default)]
pub struct StepBatch {
    token_ids: Vec<u32>,
    positions: Vec<u32>,
    query_start: Vec<u32>,
    context_lens: Vec<u32>,
    groups: Vec<Group>,
    logits_rows: Vec<u32>,
    rows: Vec<LogitsRow>,
    lengths: Lengths,
    /// One per length, `[T, 1]` each.
    longer: Vec<Vec<f32>>,
    block_size: usize,
}

impl StepBatch {
    /// An empty batch for caches of so many groups.
    pub fn new(groups: usize, block_size: usize) -> StepBatch {
        let groups = (0..groups).map(|_| Group::default()).collect();
        StepBatch { groups, block_size, ..Default::default() }
    }

    /// The same for a program with these lengths.
    #[must_use]
    pub fn with_lengths(mut self, lengths: Lengths) -> StepBatch {
        self.longer = vec![Vec::new(); lengths.names().len()];
        self.lengths = lengths;
        self
    }

    /// Fills the arrays from a plan, whose sequences are all in the scheduler.
    pub fn fill(&mut self, plan: &Plan, scheduler: &Scheduler) {
        let sequences = plan.slices.iter().filter_map(|s| Some((s, scheduler.sequence(s.id)?)));
        let sequences: Vec<_> = sequences.collect();
        let end = sequences.iter().map(|(s, _)| s.start + s.len).max().unwrap_or(0);
        self.clear(end);
        for (slice, sequence) in sequences {
            let first_row = self.token_ids.len();
            let end = slice.start + slice.len;
            self.push(sequence, slice.start, end);
            let known = sequence.prompt_logit_positions(slice.start, end).map(|p| (p, false, None));
            // The last known token, and the guesses after it.
            let first = end - 1 - slice.guesses;
            let sampled = (first..end).filter(|_| slice.samples && sequence.pooling.is_none());
            let sampled = sampled.map(|p| (p, true, sequence.draft.get(p - first).copied().filter(|_| p + 1 < end)));
            for (position, samples, guess) in known.chain(sampled) {
                self.logits_rows.push((first_row + position - slice.start) as u32);
                self.rows.push(LogitsRow { id: slice.id, position, samples, guess });
            }
        }
    }

    /// Empties the batch, for sequences of up to `end` tokens.
    pub(crate) fn clear(&mut self, end: usize) {
        for list in [&mut self.token_ids, &mut self.positions, &mut self.context_lens, &mut self.logits_rows] {
            list.clear();
        }
        self.query_start.clear();
        self.query_start.push(0);
        self.rows.clear();
        self.longer.iter_mut().for_each(Vec::clear);
        for group in &mut self.groups {
            group.tables.clear();
            group.slots.clear();
            group.columns = end.div_ceil(self.block_size);
        }
    }

    /// Adds the tokens `start..end` of a sequence and its draft, which the last `clear` allowed for and whose blocks are
    /// reserved.
    pub(crate) fn push(&mut self, sequence: &Sequence, start: usize, end: usize) {
        let known = &sequence.tokens()[start..end.min(sequence.tokens().len())];
        self.token_ids.extend_from_slice(known);
        self.token_ids.extend_from_slice(&sequence.draft[..end - start - known.len()]);
        self.positions.extend(start as u32..end as u32);
        self.query_start.push(self.token_ids.len() as u32);
        self.context_lens.push(end as u32);
        for (i, longer) in self.longer.iter_mut().enumerate() {
            longer.extend(std::iter::repeat_n(if i < sequence.class() { 1.0 } else { 0.0 }, end - start));
        }
        for (g, group) in self.groups.iter_mut().enumerate() {
            let table = sequence.blocks().group(g);
            let filled = table.len().min(group.columns);
            group.tables.extend_from_slice(&table[..filled]);
            group.tables.extend(std::iter::repeat_n(NO_BLOCK, group.columns - filled));
            let slot = |p: usize| table[p / self.block_size] * self.block_size as u32 + (p % self.block_size) as u32;
            group.slots.extend((start..end).map(slot));
        }
    }

    /// Asks for the logits of a row of the batch.
    pub(crate) fn want_logits(&mut self, row: u32) {
        self.logits_rows.push(row);
    }

    /// What the rows of logits are for, in order.
    pub fn rows(&self) -> &[LogitsRow] {
        &self.rows
    }

    /// Calls `f` with the step.
    pub fn with_step<R>(&self, f: impl FnOnce(&Step<'_>) -> R) -> R {
        let groups: Vec<GroupTables<'_>> = self
            .groups
            .iter()
            .map(|g| GroupTables { block_tables: &g.tables, max_blocks: g.columns, slot_mapping: &g.slots })
            .collect();
        let inputs: Vec<NamedInput<'_>> =
            self.lengths.names().zip(&self.longer).map(|(name, data)| NamedInput { name, data }).collect();
        f(&Step {
            token_ids: &self.token_ids,
            positions: &self.positions,
            query_start: &self.query_start,
            context_lens: &self.context_lens,
            groups: &groups,
            logits_rows: &self.logits_rows,
            inputs: &inputs,
        })
    }
}
