//! Decides which tokens of which sequences the next step computes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::block::{BlockCounts, BlockManager, BlockTables};
use crate::error::EngineError;
use crate::lengths::Lengths;
use crate::pace::Pace;
use crate::sequence::{Rank, RequestId, Sequence};

/// Limits of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// Most tokens in a step: prompts longer than this are computed in pieces.
    pub max_tokens: usize,
    /// Most sequences in a step; at most `max_tokens`, so that no running stream ever has to sit out a step.
    pub max_sequences: usize,
    /// Most rows of logits in a step for the prompts of requests that want them.
    pub max_prompt_logits: usize,
    /// Prompts make a step at most about so many times longer than it were if those who wait generated already; more
    /// than 1. `None`: as much of prompts as fits a step.
    pub max_slowdown: Option<f64>,
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
    /// It continues an answer; otherwise it is a piece of a prompt, or of what a preempted sequence has to repeat.
    pub generates: bool,
    /// Of the tokens, the last so many are guesses; see [`Scheduler::propose`].
    pub guesses: usize,
}

/// A step to run, in an order that [`Scheduler::commit`] expects back.
#[derive(Debug, Default)]
pub struct Plan {
    /// At most one slice per sequence.
    pub slices: Vec<PlannedSlice>,
    /// Sequences that lost their blocks because there was none left; they start over when there is room.
    pub preempted: Vec<RequestId>,
    /// Sequences that lost their place to one of an earlier priority; they start over as well.
    pub outranked: Vec<RequestId>,
}

impl Plan {
    fn tokens(&self) -> usize {
        self.slices.iter().map(|s| s.len).sum()
    }

    /// Tokens of slices that continue answers, and of all others.
    pub(crate) fn load(&self) -> (usize, usize) {
        let tokens = |generates| self.slices.iter().filter(|s| s.generates == generates).map(|s| s.len).sum();
        (tokens(true), tokens(false))
    }
}

/// Continuous batching over paged blocks.
///
/// Sequences are ranked by priority and then by arrival. Every step takes first one token for each stream that is
/// generating, then pieces of prompts in their order while the token budget lasts and, beside streams, as far as
/// [`max_slowdown`](SchedulerConfig::max_slowdown) allows. Waiting requests are admitted in their order, when the blocks
/// of their whole prompt are there and not promised to a prompt that is still being computed; one whose priority is
/// ahead of a running one's takes its place. When a running sequence needs a block and none is left, the last one in the
/// order loses all of its blocks and waits to be computed again; the first one therefore always advances, and every
/// request ends.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    blocks: BlockManager,
    lengths: Lengths,
    sequences: BTreeMap<RequestId, Sequence>,
    waiting: BTreeSet<Rank>,
    running: BTreeSet<Rank>,
    paused: BTreeSet<Rank>,
    pace: Option<Pace>,
}

impl Scheduler {
    /// An empty scheduler.
    ///
    /// # Errors
    /// A limit of 0, or more sequences than tokens in a step.
    pub fn new(config: SchedulerConfig, blocks: BlockManager) -> Result<Scheduler, EngineError> {
        let SchedulerConfig { max_tokens, max_sequences, max_prompt_logits, max_slowdown } = config;
        if max_sequences == 0 || max_sequences > max_tokens {
            let expected = format!("1 to {max_tokens} (tokens in a step)");
            return Err(EngineError::config("sequences in a step", expected, max_sequences));
        }
        if max_prompt_logits == 0 {
            return Err(EngineError::config("prompt logits in a step", "at least 1", 0));
        }
        if let Some(ratio) = max_slowdown.filter(|ratio| !(*ratio > 1.0 && ratio.is_finite())) {
            return Err(EngineError::config("slowdown of running streams", "more than 1", ratio));
        }
        let (lengths, sequences, waiting, running, paused) = Default::default();
        let pace = max_slowdown.map(|ratio| Pace::new(ratio, max_tokens, max_sequences));
        Ok(Scheduler { config, blocks, lengths, sequences, waiting, running, paused, pace })
    }

    /// The same for a program with these lengths.
    #[must_use]
    pub fn with_lengths(self, lengths: Lengths) -> Scheduler {
        Scheduler { lengths, ..self }
    }

    /// Lengths at which the model computes in another way.
    pub fn lengths(&self) -> &Lengths {
        &self.lengths
    }

    /// The longest sequence, prompt and answer together, that the cache can hold.
    pub fn longest_sequence(&self) -> usize {
        self.blocks.longest_sequence(self.config.max_tokens)
    }

    /// Queues a sequence. The id must be new.
    ///
    /// # Errors
    /// An empty prompt, or one that can never fit.
    pub fn add(&mut self, id: RequestId, mut sequence: Sequence) -> Result<(), EngineError> {
        let (tokens, capacity) = (sequence.tokens().len(), self.longest_sequence());
        if tokens == 0 {
            return Err(EngineError::request("prompt", "at least 1 token", 0));
        }
        if tokens > capacity {
            return Err(EngineError::CacheTooSmall { prompt: tokens, capacity });
        }
        sequence.set_class(self.lengths.class(tokens));
        self.waiting.insert(Rank { priority: sequence.priority, id });
        self.sequences.insert(id, sequence);
        Ok(())
    }

    fn rank(&self, id: RequestId) -> Option<Rank> {
        Some(Rank { priority: self.sequences.get(&id)?.priority, id })
    }

    /// A sequence that has not finished.
    pub fn sequence(&self, id: RequestId) -> Option<&Sequence> {
        self.sequences.get(&id)
    }

    /// Sequences that run, wait, and are paused.
    pub fn queue_lengths(&self) -> (usize, usize, usize) {
        (self.running.len(), self.waiting.len(), self.paused.len())
    }

    /// Sequences that run, in order of service.
    pub fn running(&self) -> impl Iterator<Item = RequestId> {
        self.running.iter().map(|r| r.id)
    }

    /// The first sequence, in order of service, that runs or waits.
    pub fn first_unpaused(&self) -> Option<RequestId> {
        self.running.iter().chain(&self.waiting).min().map(|r| r.id)
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
        if let Some(rank) = self.waiting.iter().find(|r| !self.sequences[&r.id].blocks.is_empty()) {
            return Err(format!("{:?} waits and holds blocks", rank.id));
        }
        self.blocks.audit(self.sequences.values().map(|s| &s.blocks))
    }

    /// The next step. Empty when nothing can run: all wait for a pause to end, or there is nothing.
    pub fn schedule(&mut self) -> Plan {
        let mut plan = Plan::default();
        let mut prompt_rows = self.config.max_prompt_logits;
        self.make_way(&mut plan);
        self.plan_running(true, self.config.max_tokens, &mut plan, &mut prompt_rows);
        self.plan_guesses(&mut plan);
        let most = (plan.tokens() + self.prompt_allowance(&plan)).min(self.config.max_tokens);
        self.plan_running(false, most, &mut plan, &mut prompt_rows);
        while plan.preempted.is_empty() && plan.tokens() < most {
            let Some(id) = self.admit(prompt_rows) else { break };
            self.plan_slice(id, most, &mut plan, &mut prompt_rows);
        }
        plan
    }

    /// Plans the running sequences that generate, or those that do not yet, in steps of up to `most` tokens.
    fn plan_running(&mut self, generates: bool, most: usize, plan: &mut Plan, prompt_rows: &mut usize) {
        for rank in self.running.iter().copied().collect::<Vec<_>>() {
            // It may have been preempted for an earlier one.
            if self.running.contains(&rank) && self.sequences[&rank.id].generates() == generates {
                self.plan_slice(rank.id, most, plan, prompt_rows);
            }
        }
    }

    /// Adds what was guessed of the answers in the plan, as far as tokens and blocks are left over.
    fn plan_guesses(&mut self, plan: &mut Plan) {
        let left = self.config.max_tokens - plan.tokens();
        // Prompts get their share.
        let prompts = self.running.len() + self.waiting.len() > plan.slices.len();
        let mut budget = if prompts { left / 2 } else { left };
        let room = self.longest_sequence();
        for slice in &mut plan.slices {
            let Some(sequence) = self.sequences.get_mut(&slice.id) else { continue };
            let end = slice.start + slice.len;
            // Beyond a length at which the model changes, guesses would be computed in the old way.
            let room = room.min(self.lengths.next(end).unwrap_or(usize::MAX));
            sequence.draft.truncate(budget.min(room.saturating_sub(end)));
            if !self.blocks.reserve(&mut sequence.blocks, end + sequence.draft.len()) {
                sequence.draft.clear();
            }
            slice.guesses = sequence.draft.len();
            slice.len += slice.guesses;
            budget -= slice.guesses;
        }
    }

    /// Tokens of prompts that may join the streams of the plan.
    fn prompt_allowance(&mut self, plan: &Plan) -> usize {
        let (streams, tokens) = (plan.slices.len(), plan.tokens());
        let prompts = self.running.len().saturating_sub(streams) + self.waiting.len();
        match &mut self.pace {
            Some(pace) if streams > 0 && prompts > 0 => pace.allowance(tokens, prompts),
            _ => self.config.max_tokens,
        }
    }

    /// Preempts sequences of a later priority where the first one that waits would otherwise find no place.
    fn make_way(&mut self, plan: &mut Plan) {
        while let (Some(&first), Some(&last)) = (self.waiting.first(), self.running.last()) {
            let fits = |s: &Scheduler| {
                let tokens = s.sequences.get(&first.id).map_or(0, |s| s.tokens().len());
                let needed = s.blocks.missing(&BlockTables::default(), tokens, s.config.max_tokens);
                s.running.len() < s.config.max_sequences && s.blocks.available(&needed)
            };
            if first.priority >= last.priority || fits(self) {
                return;
            }
            self.preempt(last.id);
            plan.outranked.push(last.id);
        }
    }

    fn plan_slice(&mut self, id: RequestId, most: usize, plan: &mut Plan, prompt_rows: &mut usize) {
        let sequence = &self.sequences[&id];
        let (start, generates) = (sequence.computed, sequence.generates());
        let budget = most.saturating_sub(plan.tokens());
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
        plan.slices.push(PlannedSlice { id, start, len, samples, generates, guesses: 0 });
    }

    /// Who gives up blocks: first those whose clients do not read, then the last in the order.
    fn victim(&self) -> Option<RequestId> {
        let holds = |r: &&Rank| !self.sequences[&r.id].blocks.is_empty();
        self.paused.iter().rev().find(holds).or(self.running.last()).map(|r| r.id)
    }

    fn preempt(&mut self, id: RequestId) {
        let Some(rank) = self.rank(id) else { return };
        if let Some(sequence) = self.sequences.get_mut(&id) {
            self.blocks.release(&mut sequence.blocks);
            sequence.computed = 0;
            sequence.draft.clear();
        }
        if self.running.remove(&rank) {
            self.waiting.insert(rank);
        }
    }

    /// Moves the first waiting sequence to the running ones if there is room for it.
    fn admit(&mut self, prompt_rows: usize) -> Option<RequestId> {
        let rank = *self.waiting.first()?;
        let id = rank.id;
        let no_rows = prompt_rows == 0 && self.sequences.get(&id)?.prompt_logits_from.is_some();
        if no_rows || self.running.len() >= self.config.max_sequences {
            return None;
        }
        let chunk = self.config.max_tokens;
        let missing =
            |blocks: &BlockManager, tables: &BlockTables, tokens: &[u32]| blocks.missing(tables, tokens.len(), chunk);
        let mut promised = vec![0; self.blocks.groups()];
        // Those later in the order give way if need be.
        for other in self.running.range(..rank) {
            let other = &self.sequences[&other.id];
            for (sum, n) in promised.iter_mut().zip(missing(&self.blocks, &other.blocks, other.tokens())) {
                *sum += n;
            }
        }
        let mut sequence = self.sequences.remove(&id)?;
        if !sequence.wants_all() {
            let mut tables = std::mem::take(&mut sequence.blocks);
            sequence.computed = self.blocks.adopt_prefix(&mut tables, sequence.tokens(), sequence.cache_key());
            sequence.blocks = tables;
        }
        let needed = missing(&self.blocks, &sequence.blocks, sequence.tokens());
        let needed: Vec<usize> = needed.iter().zip(&promised).map(|(n, p)| n + p).collect();
        while !self.blocks.available(&needed) && self.release_paused() {}
        // With nothing else running it is let in regardless, so that no rule above can keep it out for ever.
        let admitted = self.blocks.available(&needed) || self.running.is_empty();
        if admitted {
            self.waiting.remove(&rank);
            self.running.insert(rank);
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
        let holds = |r: &&Rank| self.sequences.get(&r.id).is_some_and(|s| !s.blocks.is_empty());
        let Some(rank) = self.paused.iter().rev().find(holds).copied() else { return false };
        self.preempt(rank.id);
        true
    }

    /// Tells how long the step of `plan` took, from which later steps learn how much of prompts they can hold.
    pub fn observe(&mut self, plan: &Plan, took: Duration) {
        if let Some(pace) = &mut self.pace {
            let (streams, prompt_tokens) = plan.load();
            pace.observe(streams, prompt_tokens, took);
        }
    }

    /// Records that the step of `plan` has run.
    pub fn commit(&mut self, plan: &Plan) {
        for slice in &plan.slices {
            let Some(sequence) = self.sequences.get_mut(&slice.id) else { continue };
            sequence.computed = slice.start + slice.len - slice.guesses;
            sequence.draft.clear();
            if let Some(from) = &mut sequence.prompt_logits_from {
                *from = (*from).max(sequence.computed);
            }
            self.blocks.advance_sequence(sequence);
        }
    }

    /// Adds generated tokens to a sequence, of which the first `guessed` are computed already, as guesses of the last
    /// step that came true.
    pub fn append(&mut self, id: RequestId, tokens: &[u32], guessed: usize) {
        let Some(mut all) = self.take_tokens(id) else { return };
        all.extend_from_slice(tokens);
        self.put_tokens(id, all, guessed);
    }

    /// The tokens of a sequence, to be given back, with more at the end, before anything else happens to it.
    pub(crate) fn take_tokens(&mut self, id: RequestId) -> Option<Vec<u32>> {
        self.sequences.get_mut(&id).map(Sequence::take_tokens)
    }

    /// Gives tokens back; see [`append`](Self::append). A sequence that has grown past a length at which the model computes
    /// in another way starts over.
    pub(crate) fn put_tokens(&mut self, id: RequestId, tokens: Vec<u32>, guessed: usize) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        sequence.put_tokens(tokens);
        if guessed > 0 {
            sequence.computed += guessed;
            self.blocks.advance_sequence(sequence);
        }
        let class = self.lengths.class(sequence.tokens().len());
        if class != sequence.class() {
            self.preempt(id);
        }
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.set_class(class);
        }
    }

    /// Gives a guess of the tokens that come next in a sequence. The next step computes them with it if there is room,
    /// with a row of logits after each, so that as many as are right need no step of their own.
    pub fn propose(&mut self, id: RequestId, guess: Vec<u32>) {
        if let Some(sequence) = self.sequences.get_mut(&id).filter(|s| s.generates()) {
            sequence.draft = guess;
        }
    }

    /// The contents of the cache are gone: every sequence starts over, and no prefix is reused.
    pub fn forget_cache(&mut self) {
        let holding: Vec<RequestId> =
            self.sequences.iter().filter(|(_, s)| !s.blocks.is_empty()).map(|(id, _)| *id).collect();
        holding.into_iter().for_each(|id| self.preempt(id));
        self.blocks.forget();
    }

    /// Takes a sequence out, in whatever state it is, and frees its blocks. Not to be called while a step that
    /// contains it is being run.
    pub fn remove(&mut self, id: RequestId) -> Option<Sequence> {
        let rank = self.rank(id)?;
        let mut sequence = self.sequences.remove(&id)?;
        self.blocks.release(&mut sequence.blocks);
        for queue in [&mut self.waiting, &mut self.running, &mut self.paused] {
            queue.remove(&rank);
        }
        Some(sequence)
    }

    /// Leaves a running or waiting sequence out of the next steps. It keeps its blocks until others need them.
    pub fn pause(&mut self, id: RequestId) {
        if let Some(rank) = self.rank(id)
            && (self.running.remove(&rank) || self.waiting.remove(&rank))
        {
            self.paused.insert(rank);
        }
    }

    /// Ends a pause.
    pub fn resume(&mut self, id: RequestId) {
        let Some(rank) = self.rank(id).filter(|r| self.paused.contains(r)) else { return };
        self.paused.remove(&rank);
        self.running.insert(rank);
        let holds_blocks = self.sequences.get(&id).is_some_and(|s| !s.blocks.is_empty());
        if !holds_blocks || self.running.len() > self.config.max_sequences {
            self.preempt(id);
        }
    }
}
