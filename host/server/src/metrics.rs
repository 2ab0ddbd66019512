//! What `/metrics` reports.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use rocmforge_engine::EngineStats;

use crate::state::Models;

/// A model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ModelLabel {
    pub(crate) model: String,
}

/// An answered HTTP request. Routes, not paths, so that clients cannot make up labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct HttpLabel {
    pub(crate) route: String,
    pub(crate) status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupLabel {
    model: String,
    group: u32,
}

pub(crate) type Counters = Family<ModelLabel, Counter>;
pub(crate) type Histograms = Family<ModelLabel, Histogram, fn() -> Histogram>;

/// Counters and histograms, and the registry that they are in.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) http: Family<HttpLabel, Counter>,
    pub(crate) in_flight: Gauge,
    pub(crate) started: Counters,
    pub(crate) completed: Counters,
    pub(crate) failed: Counters,
    pub(crate) cancelled: Counters,
    pub(crate) prompt_tokens: Counters,
    pub(crate) cached_tokens: Counters,
    pub(crate) generated_tokens: Counters,
    pub(crate) first_token: Histograms,
    pub(crate) inter_token: Histograms,
    pub(crate) queue: Histograms,
    pub(crate) prefill: Histograms,
    pub(crate) decode: Histograms,
    pub(crate) total: Histograms,
}

/// From 1 ms to about 17 minutes.
fn long() -> Histogram {
    Histogram::new([0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1000.0])
}

/// From 0.5 ms to 5 s.
fn short() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0])
}

impl Metrics {
    pub(crate) fn new(models: Arc<Models>) -> Metrics {
        let mut registry = Registry::with_prefix("rocmforge");
        let http = Family::default();
        registry.register("http_responses", "HTTP requests by route and status", http.clone());
        let in_flight = Gauge::default();
        registry.register("http_requests_in_flight", "HTTP requests whose answers have not ended", in_flight.clone());
        let mut counter = |name: &str, help: &str| {
            let family = Counters::default();
            registry.register(name, help, family.clone());
            family
        };
        let started = counter("requests_started", "Requests given to the engine");
        let completed = counter("requests_completed", "Requests answered in full");
        let failed =
            counter("requests_failed", "Requests that ended with an error after they were given to the engine");
        let cancelled = counter("requests_cancelled", "Requests whose clients went away, or that a shutdown ended");
        let prompt_tokens = counter("prompt_tokens", "Tokens of prompts");
        let cached_tokens = counter("cached_prompt_tokens", "Tokens of prompts that were found in the prefix cache");
        let generated_tokens = counter("generated_tokens", "Tokens generated");
        let mut histogram = |name: &str, help: &str, make: fn() -> Histogram| {
            let family = Histograms::new_with_constructor(make);
            registry.register_with_unit(name, help, Unit::Seconds, family.clone());
            family
        };
        let first_token = histogram("time_to_first_token", "From a request's arrival to its first token", long);
        let inter_token = histogram("inter_token_latency", "Between tokens of one answer", short);
        let queue = histogram("request_queue_time", "Until a request's prompt began to be computed", long);
        let prefill = histogram("request_prefill_time", "From there to the first token", long);
        let decode = histogram("request_decode_time", "From the first token to the end", long);
        let total = histogram("request_duration", "From a request's arrival to the end of its answer", long);
        registry.register_collector(Box::new(Engines(models)));
        Metrics {
            registry,
            http,
            in_flight,
            started,
            completed,
            failed,
            cancelled,
            prompt_tokens,
            cached_tokens,
            generated_tokens,
            first_token,
            inter_token,
            queue,
            prefill,
            decode,
            total,
        }
    }

    /// Lets the series of a model start at 0.
    pub(crate) fn add_model(&self, model: &str) {
        let label = ModelLabel { model: model.into() };
        let counters = [&self.started, &self.completed, &self.failed, &self.cancelled];
        let tokens = [&self.prompt_tokens, &self.cached_tokens, &self.generated_tokens];
        counters.into_iter().chain(tokens).for_each(|c| drop(c.get_or_create(&label)));
        let histograms = [&self.first_token, &self.inter_token, &self.queue, &self.prefill, &self.decode, &self.total];
        histograms.into_iter().for_each(|h| drop(h.get_or_create(&label)));
    }

    /// In OpenMetrics text format.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Reads the engines' own numbers when asked.
#[derive(Debug)]
struct Engines(Arc<Models>);

impl Collector for Engines {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let stats: Vec<(String, EngineStats)> = self.0.all().iter().map(|m| (m.id.clone(), m.engine.stats())).collect();
        let mut gauge = |name: &str, help: &str, of: fn(&EngineStats) -> usize| {
            let values = stats.iter().map(|(id, s)| (ModelLabel { model: id.clone() }, count(of(s))));
            family(&mut encoder, name, help, values.map(|(label, n)| (label, ConstGauge::new(n))))
        };
        gauge("queue_length", "Requests that wait for their first step", |s| s.waiting)?;
        gauge("active_requests", "Requests that run", |s| s.running)?;
        gauge("paused_requests", "Requests whose clients do not read", |s| s.paused)?;
        let mut counter = |name: &str, help: &str, of: fn(&EngineStats) -> u64| {
            let values = stats.iter().map(|(id, s)| (ModelLabel { model: id.clone() }, of(s)));
            family(&mut encoder, name, help, values.map(|(label, n)| (label, ConstCounter::new(n))))
        };
        counter("engine_steps", "Steps run", |s| s.steps)?;
        counter("engine_failed_steps", "Steps that failed", |s| s.failed_steps)?;
        counter("preemptions", "Times that a request lost its blocks to others", |s| s.preemptions)?;
        let mut blocks = |name: &str, help: &str, of: fn(&rocmforge_engine::BlockCounts) -> usize| {
            let values = stats.iter().flat_map(|(id, s)| {
                let group =
                    |(g, counts)| (GroupLabel { model: id.clone(), group: g }, ConstGauge::new(count(of(counts))));
                (0u32..).zip(&s.blocks).map(group)
            });
            family(&mut encoder, name, help, values)
        };
        blocks("kv_blocks_used", "KV cache blocks held by requests", |b| b.used)?;
        blocks("kv_blocks_cached", "KV cache blocks kept for prompts that begin alike", |b| b.cached)?;
        blocks("kv_blocks_total", "KV cache blocks", |b| b.total)
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn family<L: EncodeLabelSet, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (L, M)>,
) -> Result<(), fmt::Error> {
    let mut values = values.peekable();
    let Some((_, first)) = values.peek() else { return Ok(()) };
    let mut metric = encoder.encode_descriptor(name, help, None, first.metric_type())?;
    values.try_for_each(|(label, value)| value.encode(metric.encode_family(&label)?))
}
