//! What a step says, as words in one buffer: one copy per step takes it to the device.

use rocmforge_kernels_hip::{KernelArgs, RfSampleRequest};
use rocmforge_sdk::program::{NO_BLOCK, RowSampling, Step};

/// A slot that is none: the kernels write nothing there.
pub(crate) const NO_SLOT: u32 = u32::MAX;

/// Words of a row's request for a token.
pub(crate) const REQUEST_WORDS: usize = size_of::<RfSampleRequest>() / 4;

/// Sizes of a step, or those that it is filled up to: tokens, sequences, rows with logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Rows {
    pub(crate) tokens: usize,
    pub(crate) sequences: usize,
    pub(crate) logits: usize,
}

impl Rows {
    pub(crate) fn of(step: &Step<'_>) -> Rows {
        Rows { tokens: step.tokens(), sequences: step.sequences(), logits: step.logits_rows.len() }
    }

    /// By the number of a leading dimension.
    pub(crate) fn lead(&self, lead: usize) -> usize {
        [self.tokens, self.sequences, self.logits][lead]
    }
}

/// Where in the buffer, in words, each part of a step lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) rows: Rows,
    /// Columns of block tables.
    pub(crate) blocks: usize,
    pub(crate) token_ids: usize,
    pub(crate) positions: usize,
    pub(crate) sequence_of: usize,
    pub(crate) query_start: usize,
    pub(crate) context_lens: usize,
    pub(crate) logits_rows: usize,
    /// How tokens are drawn, [`REQUEST_WORDS`] each.
    pub(crate) requests: usize,
    /// By cache group.
    pub(crate) slots: Vec<usize>,
    pub(crate) tables: Vec<usize>,
    /// Words in all.
    pub(crate) len: usize,
}

impl Layout {
    pub(crate) fn new(rows: Rows, groups: usize, blocks: usize) -> Layout {
        let mut next = 0usize;
        // Each part starts on a multiple of 64 bytes.
        let mut take = |n: usize| {
            let at = next;
            next += n.next_multiple_of(16);
            at
        };
        let token_ids = take(rows.tokens);
        let positions = take(rows.tokens);
        let sequence_of = take(rows.tokens);
        let query_start = take(rows.sequences + 1);
        let context_lens = take(rows.sequences);
        let logits_rows = take(rows.logits);
        let requests = take(REQUEST_WORDS * rows.logits);
        let slots = (0..groups).map(|_| take(rows.tokens)).collect();
        let tables = (0..groups).map(|_| take(rows.sequences * blocks)).collect();
        let len = next.max(16);
        Layout {
            rows,
            blocks,
            token_ids,
            positions,
            sequence_of,
            query_start,
            context_lens,
            logits_rows,
            requests,
            slots,
            tables,
            len,
        }
    }

    /// Writes how tokens are drawn from rows of the step.
    pub(crate) fn write_requests(&self, sampling: &[RowSampling], words: &mut [u32]) {
        let mut bytes = Vec::with_capacity(4 * REQUEST_WORDS * sampling.len());
        for &RowSampling { top_k, temperature, top_p, min_p, draw, .. } in sampling {
            RfSampleRequest { temperature, top_p, min_p, top_k, draw }.pack(&mut bytes);
        }
        let (packed, _) = bytes.as_chunks::<4>();
        let words = &mut words[self.requests..self.requests + packed.len()];
        words.iter_mut().zip(packed).for_each(|(word, bytes)| *word = u32::from_ne_bytes(*bytes));
    }

    /// Writes a step. What it is filled up with are sequences of one token without context, which leave no trace.
    pub(crate) fn write(&self, step: &Step<'_>, words: &mut [u32]) {
        let words = &mut words[..self.len];
        let mut put = |at: usize, values: &[u32], n: usize, filler: u32| {
            words[at..at + values.len()].copy_from_slice(values);
            words[at + values.len()..at + n].fill(filler);
        };
        let (t, s) = (step.tokens(), step.sequences());
        put(self.token_ids, step.token_ids, self.rows.tokens, 0);
        put(self.positions, step.positions, self.rows.tokens, 0);
        put(self.query_start, step.query_start, self.rows.sequences + 1, t as u32);
        put(self.context_lens, step.context_lens, self.rows.sequences, 0);
        put(self.logits_rows, step.logits_rows, self.rows.logits, 0);
        for (g, group) in step.groups.iter().enumerate() {
            put(self.slots[g], group.slot_mapping, self.rows.tokens, NO_SLOT);
            for sequence in 0..self.rows.sequences {
                let row = &group.block_tables[sequence.min(s) * group.max_blocks..];
                let row = if sequence < s { &row[..group.max_blocks.min(self.blocks)] } else { &[] };
                put(self.tables[g] + sequence * self.blocks, row, self.blocks, NO_BLOCK);
            }
        }
        for sequence in 0..s {
            let (start, end) = (step.query_start[sequence] as usize, step.query_start[sequence + 1] as usize);
            words[self.sequence_of + start..self.sequence_of + end].fill(sequence as u32);
        }
        // One filled-up token for each filled-up sequence.
        for (i, token) in (t..self.rows.tokens).enumerate() {
            words[self.sequence_of + token] = (s + i).min(self.rows.sequences.saturating_sub(1)) as u32;
        }
        for (i, sequence) in (s..self.rows.sequences).enumerate() {
            words[self.query_start + sequence + 1] = (t + i + 1).min(self.rows.tokens) as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use rocmforge_sdk::program::GroupTables;

    use super::*;

    #[test]
    fn a_step_is_filled_up_with_sequences_that_leave_no_trace() {
        let groups = [GroupTables { block_tables: &[4, 5, 6, NO_BLOCK], max_blocks: 2, slot_mapping: &[90, 12] }];
        let step = Step {
            token_ids: &[7, 8],
            positions: &[5, 1],
            query_start: &[0, 1, 2],
            context_lens: &[6, 2],
            groups: &groups,
            logits_rows: &[0, 1],
            inputs: &[],
        };
        let layout = Layout::new(Rows { tokens: 4, sequences: 4, logits: 4 }, 1, 3);
        let mut words = vec![77; layout.len];
        layout.write(&step, &mut words);
        let part = |at: usize, n: usize| words[at..at + n].to_vec();
        assert_eq!(part(layout.token_ids, 4), [7, 8, 0, 0]);
        assert_eq!(part(layout.positions, 4), [5, 1, 0, 0]);
        assert_eq!(part(layout.sequence_of, 4), [0, 1, 2, 3]);
        assert_eq!(part(layout.query_start, 5), [0, 1, 2, 3, 4]);
        assert_eq!(part(layout.context_lens, 4), [6, 2, 0, 0]);
        assert_eq!(part(layout.logits_rows, 4), [0, 1, 0, 0]);
        assert_eq!(part(layout.slots[0], 4), [90, 12, NO_SLOT, NO_SLOT]);
        let n = NO_BLOCK;
        assert_eq!(part(layout.tables[0], 12), [4, 5, n, 6, n, n, n, n, n, n, n, n]);
    }

    #[test]
    fn a_prefill_is_written_as_it_is() {
        let groups = [GroupTables { block_tables: &[3], max_blocks: 1, slot_mapping: &[12, 13, 14] }];
        let step = Step {
            token_ids: &[1, 2, 3],
            positions: &[0, 1, 2],
            query_start: &[0, 3],
            context_lens: &[3],
            groups: &groups,
            logits_rows: &[2],
            inputs: &[],
        };
        let layout = Layout::new(Rows::of(&step), 1, 1);
        let mut words = vec![77; layout.len];
        layout.write(&step, &mut words);
        assert_eq!(words[layout.sequence_of..][..3], [0, 0, 0]);
        assert_eq!(words[layout.query_start..][..2], [0, 3]);
        assert_eq!(words[layout.tables[0]], 3);
    }
}
