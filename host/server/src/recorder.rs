use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rocmforge_engine::{Event, Finish};

use crate::metrics::ModelLabel;
use crate::state::AppState;

/// What a request turned out to be, for its line in the log.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    pub(crate) prompt: AtomicUsize,
    pub(crate) completion: AtomicUsize,
}

/// What is known of a request from its headers on.
#[derive(Clone, Debug)]
pub(crate) struct RequestContext {
    pub(crate) id: String,
    pub(crate) arrived: Instant,
    pub(crate) tokens: Arc<Tokens>,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Open,
    Completed,
    Failed,
}

/// Measures one request in the engine. One that is dropped before its end counts as cancelled.
pub(crate) struct Recorder {
    state: Arc<AppState>,
    label: ModelLabel,
    context: RequestContext,
    outcome: Outcome,
    /// When each sequence got its latest token.
    latest: Vec<Option<Instant>>,
    /// How many tokens of each sequence have been counted.
    counted: Vec<usize>,
    waits_for_first: bool,
}

impl Recorder {
    pub(crate) fn start(
        state: Arc<AppState>,
        model: &str,
        context: RequestContext,
        sequences: usize,
        prompt_tokens: usize,
    ) -> Recorder {
        let label = ModelLabel { model: model.into() };
        state.metrics.started.get_or_create(&label).inc();
        state.metrics.prompt_tokens.get_or_create(&label).inc_by(prompt_tokens as u64);
        context.tokens.prompt.store(prompt_tokens, Ordering::Relaxed);
        let (latest, counted) = (vec![None; sequences], vec![0; sequences]);
        Recorder { state, label, context, outcome: Outcome::Open, latest, counted, waits_for_first: true }
    }

    pub(crate) fn event(&mut self, sequence: usize, event: &Event) {
        let metrics = &self.state.metrics;
        match event {
            Event::Prompt(_) | Event::Error(_) => {}
            Event::Token(_) => {
                let now = Instant::now();
                if std::mem::take(&mut self.waits_for_first) {
                    let wait = now.saturating_duration_since(self.context.arrived);
                    metrics.first_token.get_or_create(&self.label).observe(wait.as_secs_f64());
                }
                if let Some(previous) = self.latest[sequence].replace(now) {
                    let gap = now.saturating_duration_since(previous);
                    metrics.inter_token.get_or_create(&self.label).observe(gap.as_secs_f64());
                }
                self.count(sequence, self.counted[sequence] + 1);
            }
            Event::Finished(Finish { usage, timings, .. }) => {
                metrics.cached_tokens.get_or_create(&self.label).inc_by(usage.cached_tokens as u64);
                metrics.queue.get_or_create(&self.label).observe(timings.queue.as_secs_f64());
                metrics.prefill.get_or_create(&self.label).observe(timings.prefill.as_secs_f64());
                metrics.decode.get_or_create(&self.label).observe(timings.decode.as_secs_f64());
                // There is no event for a token that ends the answer.
                self.count(sequence, usage.completion_tokens);
            }
        }
    }

    /// Notes that a sequence has so many tokens.
    fn count(&mut self, sequence: usize, tokens: usize) {
        let new = tokens.saturating_sub(std::mem::replace(&mut self.counted[sequence], tokens));
        self.state.metrics.generated_tokens.get_or_create(&self.label).inc_by(new as u64);
        self.context.tokens.completion.fetch_add(new, Ordering::Relaxed);
    }

    /// The request's id.
    pub(crate) fn id(&self) -> &str {
        &self.context.id
    }

    pub(crate) fn completed(&mut self) {
        self.outcome = Outcome::Completed;
    }

    pub(crate) fn failed(&mut self) {
        self.outcome = Outcome::Failed;
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let metrics = &self.state.metrics;
        let counter = match self.outcome {
            Outcome::Open => &metrics.cancelled,
            Outcome::Completed => &metrics.completed,
            Outcome::Failed => &metrics.failed,
        };
        counter.get_or_create(&self.label).inc();
        let total = self.context.arrived.elapsed().as_secs_f64();
        metrics.total.get_or_create(&self.label).observe(total);
    }
}
