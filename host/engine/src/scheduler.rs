//! Decides which tokens of which sequences the next step computes.

use std::collections::{BTreeMap, BTreeSet};

use crate::block::{BlockCounts, BlockManager, BlockTables};
use crate::error::EngineError;
use crate::sequence::{RequestId, Sequence};

/// Limits of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Most tokens in a step: prompts longer than this are computed in pieces.
    pub max_tokens: usize,
    /// Most sequences in a step; at most `max_tokens`, so that no running stream ever has to sit out a step.
    pub max_sequences: usize,
    /// Most rows of logits in a step for the prompts of requests that want them.
    pub max_prompt_logits: usize,
}

/// Tokens of one sequence in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedSlice {
    /// The sequence.
    pub id: RequestId,
    /// First position.
    pub start: usize,
    /// Number of tokens, at least 1.
    pub len: usize,
    /// The slice reaches the end of the sequence: its last row gives the next token.
    pub samples: bool,
}

/// A step to run, in an order that [`Scheduler::commit`] expects back.
#[derive(Debug, Default)]
pub struct Plan {
    /// At most one slice per sequence.
    pub slices: Vec<PlannedSlice>,
    /// Sequences that lost their blocks; they start over when there is room.
    pub preempted: Vec<RequestId>,
}

impl Plan {
    fn tokens(&self) -> usize {
        self.slices.iter().map(|s| s.len).sum()
    }
}

/// Continuous batching over paged blocks.
///
/// Every step takes first one token for each stream that is generating, then pieces of prompts in order of arrival
/// while the token budget lasts. Waiting requests are admitted first come, first served, when the blocks of their whole
/// prompt are there and not promised to a prompt that is still being computed. When a running sequence needs a block
/// and none is left, the newest sequence loses all of its blocks and waits to be computed again; the oldest one
/// therefore always advances, and every request ends.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    blocks: BlockManager,
    sequences: BTreeMap<RequestId, Sequence>,
    waiting: BTreeSet<RequestId>,
    running: BTreeSet<RequestId>,
    paused: BTreeSet<RequestId>,
}

impl Scheduler {
    /// An empty scheduler.
    ///
    /// # Errors
    /// A limit of 0, or more sequences than tokens in a step.
    pub fn new(config: SchedulerConfig, blocks: BlockManager) -> Result<Scheduler, EngineError> {
        let SchedulerConfig { max_tokens, max_sequences, max_prompt_logits } = config;
        if max_sequences == 0 || max_sequences > max_tokens {
            let expected = format!("1 to {max_tokens} (tokens in a step)");
            return Err(EngineError::config("sequences in a step", expected, max_sequences));
        }
        if max_prompt_logits == 0 {
            return Err(EngineError::config("prompt logits in a step", "at least 1", 0));
        }
        let (sequences, waiting, running, paused) = Default::default();
        Ok(Scheduler { config, blocks, sequences, waiting, running, paused })
    }

    /// The longest sequence, prompt and answer together, that the cache can hold.
    pub fn longest_sequence(&self) -> usize {
        self.blocks.longest_sequence(self.config.max_tokens)
    }

    /// Queues a sequence. The id must be new.
    ///
    /// # Errors
    /// An empty prompt, or one that can never fit.
    pub fn add(&mut self, id: RequestId, sequence: Sequence) -> Result<(), EngineError> {
        let (tokens, capacity) = (sequence.tokens().len(), self.longest_sequence());
        if tokens == 0 {
            return Err(EngineError::request("prompt", "at least 1 token", 0));
        }
        if tokens > capacity {
            return Err(EngineError::CacheTooSmall { prompt: tokens, capacity });
        }
        self.sequences.insert(id, sequence);
        self.waiting.insert(id);
        Ok(())
    }

    /// A sequence that has not finished.
    pub fn sequence(&self, id: RequestId) -> Option<&Sequence> {
        self.sequences.get(&id)
    }

    /// Sequences that run, wait, and are paused.
    pub fn queue_lengths(&self) -> (usize, usize, usize) {
        (self.running.len(), self.waiting.len(), self.paused.len())
    }

    /// Sequences that run, in order of arrival.
    pub fn running(&self) -> impl Iterator<Item = RequestId> {
        self.running.iter().copied()
    }

    /// The first sequence, in order of arrival, that runs or waits.
    pub fn first_unpaused(&self) -> Option<RequestId> {
        self.running.iter().chain(&self.waiting).min().copied()
    }

    /// How the blocks of each group are used.
    pub fn block_counts(&self) -> Vec<BlockCounts> {
        self.blocks.counts()
    }

    /// Checks that every block is accounted for; see [`BlockManager::audit`].
    ///
    /// # Errors
    /// What does not add up.
    pub fn audit(&self) -> Result<(), String> {
        let in_queues = self.running.len() + self.waiting.len() + self.paused.len();
        if in_queues != self.sequences.len() {
            return Err(format!("{} sequences, {in_queues} in the queues", self.sequences.len()));
        }
        if let Some(id) = self.waiting.iter().find(|id| !self.sequences[id].blocks.is_empty()) {
            return Err(format!("{id:?} waits and holds blocks"));
        }
        self.blocks.audit(self.sequences.values().map(|s| &s.blocks))
    }

    /// The next step. Empty when nothing can run: all wait for a pause to end, or there is nothing.
    pub fn schedule(&mut self) -> Plan {
        let mut plan = Plan::default();
        let mut prompt_rows = self.config.max_prompt_logits;
        for prefill in [false, true] {
            for id in self.running.iter().copied().collect::<Vec<_>>() {
                // It may have been preempted for an earlier one.
                if self.running.contains(&id) && (self.sequences[&id].remaining() > 1) == prefill {
                    self.plan_slice(id, &mut plan, &mut prompt_rows);
                }
            }
        }
        while plan.preempted.is_empty() && plan.tokens() < self.config.max_tokens {
            let Some(id) = self.admit(prompt_rows) else { break };
            self.plan_slice(id, &mut plan, &mut prompt_rows);
        }
        plan
    }

    fn plan_slice(&mut self, id: RequestId, plan: &mut Plan, prompt_rows: &mut usize) {
        let sequence = &self.sequences[&id];
        let start = sequence.computed;
        let budget = self.config.max_tokens - plan.tokens();
        let mut len = sequence.remaining().min(budget);
        while sequence.prompt_logit_positions(start, start + len).len() > *prompt_rows {
            len -= 1;
        }
        if len == 0 {
            return;
        }
        let samples = len == sequence.remaining();
        *prompt_rows -= sequence.prompt_logit_positions(start, start + len).len();
        loop {
            let Some(sequence) = self.sequences.get_mut(&id) else { return };
            if self.blocks.reserve(&mut sequence.blocks, start + len) {
                break;
            }
            let Some(victim) = self.victim() else { return };
            self.preempt(victim);
            plan.slices.retain(|s| s.id != victim);
            plan.preempted.push(victim);
            if victim == id {
                return;
            }
        }
        plan.slices.push(PlannedSlice { id, start, len, samples });
    }

    /// Who gives up blocks: first those whose clients do not read, then the newest.
    fn victim(&self) -> Option<RequestId> {
        let holds = |id: &&RequestId| !self.sequences[id].blocks.is_empty();
        self.paused.iter().rev().find(holds).or(self.running.iter().next_back()).copied()
    }

    fn preempt(&mut self, id: RequestId) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            self.blocks.release(&mut sequence.blocks);
            sequence.computed = 0;
        }
        if self.running.remove(&id) {
            self.waiting.insert(id);
        }
    }

    /// Moves the first waiting sequence to the running ones if there is room for it.
    fn admit(&mut self, prompt_rows: usize) -> Option<RequestId> {
        let id = *self.waiting.first()?;
        let no_rows = prompt_rows == 0 && self.sequences.get(&id)?.prompt_logits_from.is_some();
        if no_rows || self.running.len() >= self.config.max_sequences {
            return None;
        }
        let chunk = self.config.max_tokens;
        let missing =
            |blocks: &BlockManager, tables: &BlockTables, tokens: &[u32]| blocks.missing(tables, tokens.len(), chunk);
        let mut promised = vec![0; self.blocks.groups()];
        for other in &self.running {
            let other = &self.sequences[other];
            for (sum, n) in promised.iter_mut().zip(missing(&self.blocks, &other.blocks, other.tokens())) {
                *sum += n;
            }
        }
        let mut sequence = self.sequences.remove(&id)?;
        if sequence.prompt_logits_from.is_none() {
            let salt = sequence.salt().to_owned();
            let mut tables = std::mem::take(&mut sequence.blocks);
            sequence.computed = self.blocks.adopt_prefix(&mut tables, sequence.tokens(), &salt);
            sequence.blocks = tables;
        }
        let needed = missing(&self.blocks, &sequence.blocks, sequence.tokens());
        let needed: Vec<usize> = needed.iter().zip(&promised).map(|(n, p)| n + p).collect();
        while !self.blocks.available(&needed) && self.release_paused() {}
        // With nothing else running it is let in regardless, so that no rule above can keep it out for ever.
        let admitted = self.blocks.available(&needed) || self.running.is_empty();
        if admitted {
            self.waiting.remove(&id);
            self.running.insert(id);
            if sequence.generated().is_empty() {
                sequence.reused = sequence.computed;
            }
        } else {
            self.blocks.release(&mut sequence.blocks);
            sequence.computed = 0;
        }
        self.sequences.insert(id, sequence);
        admitted.then_some(id)
    }

    fn release_paused(&mut self) -> bool {
        let holds = |id: &&RequestId| self.sequences.get(id).is_some_and(|s| !s.blocks.is_empty());
        let Some(id) = self.paused.iter().rev().find(holds).copied() else { return false };
        self.preempt(id);
        true
    }

    /// Records that the step of `plan` has run.
    pub fn commit(&mut self, plan: &Plan) {
        for slice in &plan.slices {
            let Some(sequence) = self.sequences.get_mut(&slice.id) else { continue };
            sequence.computed = slice.start + slice.len;
            if let Some(from) = &mut sequence.prompt_logits_from {
                *from = (*from).max(sequence.computed);
            }
            let mut tables = std::mem::take(&mut sequence.blocks);
            self.blocks.advance(&mut tables, sequence.tokens(), sequence.computed, sequence.salt());
            sequence.blocks = tables;
        }
    }

    /// Adds a generated token to a sequence.
    pub fn append(&mut self, id: RequestId, token: u32) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.push(token);
        }
    }

    /// Takes a sequence out, in whatever state it is, and frees its blocks. Not to be called while a step that
    /// contains it is being run.
    pub fn remove(&mut self, id: RequestId) -> Option<Sequence> {
        let mut sequence = self.sequences.remove(&id)?;
        self.blocks.release(&mut sequence.blocks);
        for queue in [&mut self.waiting, &mut self.running, &mut self.paused] {
            queue.remove(&id);
        }
        Some(sequence)
    }

    /// Leaves a running or waiting sequence out of the next steps. It keeps its blocks until others need them.
    pub fn pause(&mut self, id: RequestId) {
        if self.running.remove(&id) || self.waiting.remove(&id) {
            self.paused.insert(id);
        }
    }

    /// Ends a pause.
    pub fn resume(&mut self, id: RequestId) {
        if !self.paused.remove(&id) {
            return;
        }
        self.running.insert(id);
        let holds_blocks = self.sequences.get(&id).is_some_and(|s| !s.blocks.is_empty());
        if !holds_blocks || self.running.len() > self.config.max_sequences {
            self.preempt(id);
        }
    }
}
