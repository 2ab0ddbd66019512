use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rocmforge_engine::{Course, Event, Finish, FinishReason};
use serde_json::json;

use crate::metrics::Series;
use crate::requests::{Status, Tracked};
use crate::state::AppState;
use crate::traces::Trace;
use crate::wire::finish_reason;

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
    pub(crate) trace: Arc<Trace>,
}

/// Measures one request in the engine. One that is dropped before its end counts as cancelled.
pub(crate) struct Recorder {
    state: Arc<AppState>,
    series: Series,
    context: RequestContext,
    tracked: Arc<Tracked>,
    outcome: Status,
    /// When each sequence got its latest token.
    latest: Vec<Option<Instant>>,
    /// How many tokens of each sequence have been counted.
    counted: Vec<usize>,
    waits_for_first: bool,
    reasons: Vec<&'static str>,
    cached: usize,
}

impl Recorder {
    pub(crate) fn start(
        state: Arc<AppState>,
        tracked: Tracked,
        context: RequestContext,
        sequences: usize,
        prompt_tokens: usize,
    ) -> Recorder {
        let series = state.metrics.series(&tracked.model);
        series.started.inc();
        series.prompt_tokens.add(prompt_tokens);
        context.tokens.prompt.store(prompt_tokens, Ordering::Relaxed);
        let (latest, counted) = (vec![None; sequences], vec![0; sequences]);
        let tracked = state.requests.add(tracked);
        let outcome = Status::Cancelled;
        let reasons = Vec::new();
        Recorder {
            state,
            series,
            context,
            tracked,
            outcome,
            latest,
            counted,
            waits_for_first: true,
            reasons,
            cached: 0,
        }
    }

    pub(crate) fn event(&mut self, sequence: usize, event: &Event) {
        let series = &self.series;
        self.context.trace.delivered();
        match event {
            Event::Prompt(_) | Event::Embedding(_) | Event::Error(_) => {}
            Event::Token(_) => {
                let now = Instant::now();
                if std::mem::take(&mut self.waits_for_first) {
                    series.first_token.observe(now.saturating_duration_since(self.context.arrived));
                    self.tracked.runs();
                }
                if let Some(previous) = self.latest[sequence].replace(now) {
                    series.inter_token.observe(now.saturating_duration_since(previous));
                }
                self.count(sequence, self.counted[sequence] + 1);
            }
            Event::Finished(Finish { usage, timings, reason, .. }) => {
                series.queried_tokens.inc_by(usage.prompt_tokens as u64);
                series.cached_tokens.add(usage.cached_tokens);
                self.cached += usage.cached_tokens;
                self.reasons.push(finish_reason(reason));
                series.queue.observe(timings.queue);
                series.prefill.observe(timings.prefill);
                series.decode.observe(timings.decode);
                series.prompt_length.observe(usage.prompt_tokens as f64);
                series.answer_length.observe(usage.completion_tokens as f64);
                if *reason != FinishReason::Cancelled {
                    self.tracked.ends_with(finish_reason(reason));
                }
                // There is no event for a token that ends the answer.
                self.count(sequence, usage.completion_tokens);
            }
        }
    }

    /// Notes that a sequence has so many tokens.
    fn count(&mut self, sequence: usize, tokens: usize) {
        let new = tokens.saturating_sub(std::mem::replace(&mut self.counted[sequence], tokens));
        self.series.generated_tokens.add(new);
        self.context.tokens.completion.fetch_add(new, Ordering::Relaxed);
    }

    /// The request's id.
    pub(crate) fn id(&self) -> &str {
        &self.context.id
    }

    /// The request is over in the engine, or nobody waits for it any more.
    pub(crate) fn trace(&self, courses: &[Course]) {
        let Tokens { prompt, completion } = &*self.context.tokens;
        let operation = if self.context.trace.is_chat() { "chat" } else { "text_completion" };
        let outcome = match self.outcome {
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Waiting | Status::Running | Status::Cancelled => "cancelled",
        };
        self.context.trace.content().attributes.extend([
            ("gen_ai.operation.name", json!(operation)),
            ("gen_ai.provider.name", json!("rocmforge")),
            ("gen_ai.request.model", json!(self.tracked.model)),
            ("gen_ai.usage.input_tokens", json!(prompt.load(Ordering::Relaxed))),
            ("gen_ai.usage.output_tokens", json!(completion.load(Ordering::Relaxed))),
            ("gen_ai.response.finish_reasons", json!(self.reasons)),
            ("rocmforge.cached_tokens", json!(self.cached)),
            ("rocmforge.outcome", json!(outcome)),
        ]);
        self.context.trace.engine(courses);
    }

    pub(crate) fn tracked(&self) -> &Tracked {
        &self.tracked
    }

    pub(crate) fn completed(&mut self) {
        self.outcome = Status::Completed;
    }

    pub(crate) fn failed(&mut self) {
        self.outcome = Status::Failed;
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let counter = match self.outcome {
            Status::Completed => &self.series.completed,
            Status::Failed => &self.series.failed,
            Status::Waiting | Status::Running | Status::Cancelled => &self.series.cancelled,
        };
        counter.inc();
        self.series.total.observe(self.context.arrived.elapsed());
        self.state.requests.end(&self.tracked, self.outcome);
    }
}
