//! What `/metrics` reports: names of our own, `rocmforge_*`, and the same under vLLM's where it has one.

mod engines;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::catalog::Models;
use crate::traces::Counts;
use engines::{Engines, VllmEngines};

/// A model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ModelLabel {
    pub(crate) model: String,
}

/// A model, as vLLM names the label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct VllmLabel {
    pub(crate) model_name: String,
}

/// An answered HTTP request. Routes, not paths, so that clients cannot make up labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct HttpLabel {
    pub(crate) route: String,
    pub(crate) status: u16,
}

type Own<M> = Family<ModelLabel, M, fn() -> M>;
type Vllm<M> = Family<VllmLabel, M, fn() -> M>;

/// A metric under both names.
#[derive(Clone, Debug)]
struct Both<M> {
    own: Own<M>,
    vllm: Vllm<M>,
}

/// The two series of one model.
#[derive(Debug)]
pub(crate) struct Pair<M> {
    own: M,
    vllm: M,
}

impl<M: Clone> Both<M> {
    fn of(&self, model: &str) -> Pair<M> {
        Pair { own: own(&self.own, model), vllm: vllm(&self.vllm, model) }
    }
}

impl Pair<Counter> {
    pub(crate) fn add(&self, n: usize) {
        self.own.inc_by(n as u64);
        self.vllm.inc_by(n as u64);
    }
}

impl Pair<Histogram> {
    pub(crate) fn observe(&self, time: Duration) {
        self.own.observe(time.as_secs_f64());
        self.vllm.observe(time.as_secs_f64());
    }
}

fn own<M: Clone>(family: &Own<M>, model: &str) -> M {
    family.get_or_create_owned(&ModelLabel { model: model.into() })
}

fn vllm<M: Clone>(family: &Vllm<M>, model: &str) -> M {
    family.get_or_create_owned(&VllmLabel { model_name: model.into() })
}

/// Counters and histograms, and the registries that they are in.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// For our own names and for vLLM's.
    registries: [Registry; 2],
    pub(crate) http: Family<HttpLabel, Counter>,
    pub(crate) in_flight: Gauge,
    pub(crate) spans: Counts,
    started: Own<Counter>,
    completed: Own<Counter>,
    failed: Own<Counter>,
    cancelled: Own<Counter>,
    prompt_tokens: Both<Counter>,
    generated_tokens: Both<Counter>,
    cached_tokens: Both<Counter>,
    queried_tokens: Vllm<Counter>,
    first_token: Both<Histogram>,
    inter_token: Both<Histogram>,
    queue: Both<Histogram>,
    prefill: Both<Histogram>,
    decode: Both<Histogram>,
    total: Both<Histogram>,
    prompt_length: Vllm<Histogram>,
    answer_length: Vllm<Histogram>,
}

/// What is counted and measured of the requests of one model.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) started: Counter,
    pub(crate) completed: Counter,
    pub(crate) failed: Counter,
    pub(crate) cancelled: Counter,
    pub(crate) prompt_tokens: Pair<Counter>,
    pub(crate) generated_tokens: Pair<Counter>,
    /// Tokens of prompts that were found in the prefix cache.
    pub(crate) cached_tokens: Pair<Counter>,
    /// Tokens of prompts that were looked for there.
    pub(crate) queried_tokens: Counter,
    pub(crate) first_token: Pair<Histogram>,
    pub(crate) inter_token: Pair<Histogram>,
    pub(crate) queue: Pair<Histogram>,
    pub(crate) prefill: Pair<Histogram>,
    pub(crate) decode: Pair<Histogram>,
    pub(crate) total: Pair<Histogram>,
    pub(crate) prompt_length: Histogram,
    pub(crate) answer_length: Histogram,
}

/// Seconds, from 1 ms to about 17 minutes.
fn long() -> Histogram {
    Histogram::new([0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1000.0])
}

/// Seconds, from 0.5 ms to 5 s.
fn short() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0])
}

/// Tokens: 1, 2, 5, 10, … 1,000,000.
fn tokens() -> Histogram {
    let bounds = (0..6).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
    Histogram::new(bounds.chain([1e6]))
}

/// Registers metrics under one name or both.
struct Registrar<'r> {
    own: &'r mut Registry,
    vllm: &'r mut Registry,
}

impl Registrar<'_> {
    fn own(&mut self, name: &str, help: &str) -> Own<Counter> {
        let family = Own::new_with_constructor(Counter::default as fn() -> Counter);
        self.own.register(name, help, family.clone());
        family
    }

    fn vllm<M: Clone>(&mut self, name: &str, help: &str, make: fn() -> M) -> Vllm<M>
    where
        Vllm<M>: Metric,
    {
        let family = Vllm::new_with_constructor(make);
        self.vllm.register(format!("vllm:{name}"), help, family.clone());
        family
    }

    fn counter(&mut self, name: &str, vllm: &str, help: &str) -> Both<Counter> {
        Both { own: self.own(name, help), vllm: self.vllm(vllm, help, Counter::default) }
    }

    fn seconds(&mut self, name: &str, vllm: &str, help: &str, make: fn() -> Histogram) -> Both<Histogram> {
        let own = Own::new_with_constructor(make);
        self.own.register_with_unit(name, help, Unit::Seconds, own.clone());
        Both { own, vllm: self.vllm(&format!("{vllm}_seconds"), help, make) }
    }
}

impl Metrics {
    pub(crate) fn new(models: Arc<Models>) -> Metrics {
        let mut registries = [Registry::with_prefix("rocmforge"), Registry::default()];
        let [server, routers] = &mut registries;
        let (http, in_flight, spans) = (Family::default(), Gauge::default(), Counts::default());
        server.register("http_responses", "HTTP requests by route and status", http.clone());
        server.register("http_requests_in_flight", "HTTP requests whose answers have not ended", in_flight.clone());
        server.register("trace_spans_exported", "Spans that a collector has taken", spans.exported.clone());
        server.register("trace_spans_dropped", "Spans that could not be sent", spans.dropped.clone());
        server.register_collector(Box::new(Engines(models.clone())));
        routers.register_collector(Box::new(VllmEngines(models)));
        let mut add = Registrar { own: server, vllm: routers };
        let started = add.own("requests_started", "Requests given to the engine");
        let completed = add.own("requests_completed", "Requests answered in full");
        let help = "Requests that ended with an error after they were given to the engine";
        let failed = add.own("requests_failed", help);
        let help = "Requests whose clients went away or cancelled them, or that a shutdown ended";
        let cancelled = add.own("requests_cancelled", help);
        let help = "Tokens of prompts that were found in the prefix cache";
        let cached_tokens = add.counter("cached_prompt_tokens", "prefix_cache_hits", help);
        let help = "Tokens of prompts that were looked for in the prefix cache";
        let queried_tokens = add.vllm("prefix_cache_queries", help, Counter::default as fn() -> Counter);
        let prompt_tokens = add.counter("prompt_tokens", "prompt_tokens", "Tokens of prompts");
        let generated_tokens = add.counter("generated_tokens", "generation_tokens", "Tokens generated");
        let prompt_length = add.vllm("request_prompt_tokens", "Tokens of each prompt", tokens as fn() -> Histogram);
        let answer_length = add.vllm("request_generation_tokens", "Tokens of each answer", tokens as fn() -> Histogram);
        let mut time = |name: &str, vllm: &str, help: &str| add.seconds(name, vllm, help, long);
        let help = "From a request's arrival to its first token";
        let first_token = time("time_to_first_token", "time_to_first_token", help);
        let help = "Until a request's prompt began to be computed";
        let queue = time("request_queue_time", "request_queue_time", help);
        let prefill = time("request_prefill_time", "request_prefill_time", "From there to the first token");
        let decode = time("request_decode_time", "request_decode_time", "From the first token to the end");
        let help = "From a request's arrival to the end of its answer";
        let total = time("request_duration", "e2e_request_latency", help);
        let inter_token =
            add.seconds("inter_token_latency", "inter_token_latency", "Between tokens of one answer", short);
        Metrics {
            registries,
            http,
            in_flight,
            spans,
            started,
            completed,
            failed,
            cancelled,
            prompt_tokens,
            generated_tokens,
            cached_tokens,
            queried_tokens,
            first_token,
            inter_token,
            queue,
            prefill,
            decode,
            total,
            prompt_length,
            answer_length,
        }
    }

    /// The series of a model. They start at 0 when they are first asked for.
    pub(crate) fn series(&self, model: &str) -> Series {
        Series {
            started: own(&self.started, model),
            completed: own(&self.completed, model),
            failed: own(&self.failed, model),
            cancelled: own(&self.cancelled, model),
            prompt_tokens: self.prompt_tokens.of(model),
            generated_tokens: self.generated_tokens.of(model),
            cached_tokens: self.cached_tokens.of(model),
            queried_tokens: vllm(&self.queried_tokens, model),
            first_token: self.first_token.of(model),
            inter_token: self.inter_token.of(model),
            queue: self.queue.of(model),
            prefill: self.prefill.of(model),
            decode: self.decode.of(model),
            total: self.total.of(model),
            prompt_length: vllm(&self.prompt_length, model),
            answer_length: vllm(&self.answer_length, model),
        }
    }

    /// In OpenMetrics text format.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        self.registries.iter().try_for_each(|r| encode_registry(&mut text, r))?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}
