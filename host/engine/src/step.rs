//! One step of the engine: from a plan to events.

use std::collections::HashMap;
use std::time::Instant;

use rocmforge_program::{OutputBuffer, output};

use crate::active::Active;
use crate::course::Piece;
use crate::draft::{DraftRequest, Luck};
use crate::embedding::output_of;
use crate::error::EngineError;
use crate::request::{FinishReason, Pooling};
use crate::rows::{self, Job, Outcome};
use crate::scheduler::Plan;
use crate::sequence::RequestId;
use crate::worker::Worker;

/// Most tokens to guess in a step for all sequences together: with many of them the device is busy without.
const MOST_GUESSES: usize = 32;
/// Ways of pooling, in the order in which their outputs are kept.
const POOLINGS: [Pooling; 2] = [Pooling::Mean, Pooling::Last];

impl Worker {
    pub(crate) fn step(&mut self, plan: &Plan) {
        self.note_start(plan);
        self.batch.fill(plan, &self.scheduler);
        self.stats.steps += 1;
        let begin = Instant::now();
        if let Err(error) = self.run_step(plan) {
            tracing::error!(%error, requests = plan.slices.len(), "step failed");
            self.stats.failed_steps += 1;
            self.failures += 1;
            plan.slices.iter().for_each(|s| self.fail(s.id, error.clone()));
            self.recover();
            return;
        }
        self.failures = 0;
        self.stats.device_draws += self.sampling.len() as u64;
        let took = begin.elapsed();
        let (streams, prompts) = plan.load();
        tracing::trace!(streams, prompts, milliseconds = took.as_secs_f64() * 1e3, "step");
        self.scheduler.observe(plan, took);
        self.scheduler.commit(plan);
        self.note_slices(plan, begin);
        self.take_rows();
        self.take_embeddings(plan);
        for slice in &plan.slices {
            self.settle(slice.id);
        }
    }

    /// After a failed step: goes on elsewhere if the device is lost.
    fn recover(&mut self) {
        match self.runner.recover() {
            Ok(false) => {}
            Ok(true) => {
                tracing::warn!("the device was lost; going on with another one, and sequences start over");
                self.scheduler.forget_cache();
                self.failures = 0;
            }
            Err(error) => {
                tracing::error!(%error, "the device was lost");
                self.stats.lost = true;
            }
        }
    }

    /// Has the sequences that generate guessed, as far as that has been worth it.
    pub(crate) fn propose(&mut self) {
        let Some(drafter) = &mut self.drafter else { return };
        let running: Vec<RequestId> = self.scheduler.running().collect();
        let share = MOST_GUESSES.checked_div(running.len()).unwrap_or(0).min(self.max_guess);
        let mut requests = Vec::new();
        for id in running {
            let (Some(active), Some(sequence)) = (self.active.get(&id), self.scheduler.sequence(id)) else { continue };
            // The step gives one token in any case.
            let most = share.min(active.left().saturating_sub(1));
            if most == 0 || !sequence.generates() {
                continue;
            }
            let most = self.lucks.entry(id).or_insert_with(|| Luck::new(share)).next(most);
            if most > 0 {
                requests.push(DraftRequest { id, tokens: sequence.tokens(), most });
            }
        }
        if requests.is_empty() {
            return;
        }
        let ids: Vec<RequestId> = requests.iter().map(|r| r.id).collect();
        match drafter.propose(&requests) {
            Ok(guesses) => ids.into_iter().zip(guesses).for_each(|(id, guess)| self.scheduler.propose(id, guess)),
            Err(error) => {
                tracing::error!(%error, "the draft model failed; going on without it");
                self.drafter = None;
            }
        }
    }

    fn note_start(&mut self, plan: &Plan) {
        let now = Instant::now();
        for slice in &plan.slices {
            let Some(active) = self.active.get_mut(&slice.id) else { continue };
            let mut course = active.course.lock();
            if course.started.is_none() {
                course.started = Some(now);
                course.cached_tokens = slice.start;
                self.stats.cached_tokens += slice.start as u64;
            }
            self.stats.prefill_tokens += if slice.generates { 0 } else { slice.len as u64 };
            self.stats.guessed_tokens += slice.guesses as u64;
        }
    }

    fn note_slices(&self, plan: &Plan, begin: Instant) {
        let end = Instant::now();
        for slice in &plan.slices {
            let Some(active) = self.active.get(&slice.id) else { continue };
            let piece = Piece { start: slice.start, tokens: slice.len, begin, end };
            active.course.step(slice.generates, slice.guesses, piece);
        }
    }

    fn run_step(&mut self, plan: &Plan) -> Result<(), EngineError> {
        self.choose_sampling();
        let rows = self.batch.rows().len() - self.sampling.len();
        self.logits.resize(rows.saturating_mul(self.vocab_size), 0.0);
        let (runner, sampling) = (&mut self.runner, &self.sampling);
        let submitted = self.batch.with_step(|step| match &sampling[..] {
            [] => runner.submit(step),
            rows => runner.submit_sampling(step, rows),
        });
        submitted.map_err(EngineError::step)?;
        let mut outputs = vec![OutputBuffer { name: output::LOGITS, data: &mut self.logits }];
        for (pooling, states) in POOLINGS.into_iter().zip(&mut self.pooled) {
            let wanted = plan.slices.iter().filter_map(|s| self.scheduler.sequence(s.id)?.pooling);
            if wanted.into_iter().any(|p| p == pooling) {
                states.resize(plan.slices.len().saturating_mul(self.embedding_width), 0.0);
                outputs.push(OutputBuffer { name: output_of(pooling), data: states });
            }
        }
        runner.wait(&mut outputs).map_err(EngineError::step)?;
        self.sampled.resize(self.sampling.len(), 0);
        if self.sampling.is_empty() { Ok(()) } else { runner.sampled(&mut self.sampled).map_err(EngineError::step) }
    }

    /// Which rows of the step the device draws from, where it can: those of requests that need nothing else. The others
    /// come as logits in the same step.
    fn choose_sampling(&mut self) {
        self.sampling.clear();
        if !self.runner.samples() {
            return;
        }
        for (row, place) in self.batch.rows().iter().zip(0..) {
            let active = self.active.get(&row.id).filter(|_| row.samples);
            self.sampling.extend(active.and_then(|a| a.row_sampling(place, row.position)));
        }
    }

    /// Takes the pooled states of those that are to be embedded, and ends those of which nothing is left.
    fn take_embeddings(&mut self, plan: &Plan) {
        // The step's sequences are the slices, in order.
        for (i, slice) in plan.slices.iter().enumerate() {
            let Some(active) = self.active.get_mut(&slice.id) else { continue };
            let Some(embedding) = &mut active.embedding else { continue };
            let states = &self.pooled[usize::from(embedding.pooling() != POOLINGS[0])];
            let states = &states[i * self.embedding_width..(i + 1) * self.embedding_width];
            match embedding.add(slice.start, slice.len, states) {
                Err(error) => self.fail(slice.id, error),
                Ok(()) if slice.samples => {
                    active.send_embedding();
                    self.finish(slice.id, FinishReason::Length);
                }
                Ok(()) => {}
            }
        }
    }

    /// Turns the rows of logits into tokens and events.
    fn take_rows(&mut self) {
        let mut actives: HashMap<RequestId, &mut Active> = self.active.iter_mut().map(|(id, a)| (*id, a)).collect();
        let mut logits = self.logits.as_mut_slice();
        let mut drawn = vec![None; self.batch.rows().len()];
        for (row, token) in self.sampling.iter().zip(&self.sampled) {
            drawn[row.row as usize] = Some(*token);
        }
        let mut drawn = drawn.as_slice();
        let mut jobs: Vec<Job<'_>> = Vec::new();
        // Every sequence has one slice, so its rows follow each other.
        for rows in self.batch.rows().chunk_by(|a, b| a.id == b.id) {
            let (own, others) = drawn.split_at(rows.len());
            drawn = others;
            let (part, rest) = logits.split_at_mut(own.iter().filter(|d| d.is_none()).count() * self.vocab_size);
            logits = rest;
            let id = rows[0].id;
            let Some(active) = actives.remove(&id) else { continue };
            let Some(tokens) = self.scheduler.take_tokens(id) else { continue };
            jobs.push(Job { id, active, tokens, rows, drawn: own, logits: part, outcome: Outcome::default() });
        }
        rows::run(&mut jobs, self.vocab_size, &*self.vocabulary);
        let guesses = |job: &Job<'_>| job.rows.iter().filter(|row| row.guess.is_some()).count();
        let outcomes: Vec<_> = jobs.into_iter().map(|job| (job.id, guesses(&job), job.tokens, job.outcome)).collect();
        for (id, guesses, tokens, outcome) in outcomes {
            self.scheduler.put_tokens(id, tokens, outcome.guessed);
            if let Some(luck) = self.lucks.get_mut(&id) {
                luck.observe(guesses, outcome.guessed);
            }
            self.stats.generated_tokens += outcome.generated as u64;
            self.stats.accepted_tokens += outcome.guessed as u64;
            match outcome.end {
                None => {}
                Some(Ok(reason)) => self.finish(id, reason),
                Some(Err(error)) => self.fail(id, error),
            }
        }
    }

    /// After a step: lets go of a request that nobody reads, pauses one that is read too slowly.
    fn settle(&mut self, id: RequestId) {
        let Some(active) = self.active.get_mut(&id) else { return };
        if active.events.is_closed() {
            self.finish(id, FinishReason::Cancelled);
        } else if active.events.must_pause() {
            active.paused_since = Some(Instant::now());
            self.scheduler.pause(id);
        }
    }
}
