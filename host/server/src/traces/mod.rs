//! What became of the latest requests, as trees of spans; for `GET /traces` and for collectors of OpenTelemetry.

mod context;
mod export;
mod otlp;
mod trace;
mod transport;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::http::HeaderMap;
use prometheus_client::metrics::counter::Counter;
use rocmforge_loader::config::TracingSettings;
use serde_json::Value;
use tokio::sync::mpsc;

pub(crate) use export::Exporter;
pub(crate) use trace::Trace;

/// The latest traces, and where they are sent.
#[derive(Debug)]
pub(crate) struct Traces {
    settings: TracingSettings,
    latest: Mutex<VecDeque<Arc<Trace>>>,
    /// Set where there is a collector.
    queue: OnceLock<mpsc::Sender<Arc<Trace>>>,
    pub(crate) counts: Counts,
}

/// Spans on their way to a collector.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// It has taken them.
    pub(crate) exported: Counter,
    /// They were given up.
    pub(crate) dropped: Counter,
}

impl Traces {
    pub(crate) fn new(settings: TracingSettings, counts: Counts) -> Traces {
        Traces { settings, latest: Mutex::default(), queue: OnceLock::new(), counts }
    }

    /// Begins the trace of a request.
    pub(crate) fn begin(&self, headers: &HeaderMap, request_id: &str, method: &str, route: &str) -> Arc<Trace> {
        let ratio = self.settings.sample_ratio.unwrap_or(1.0);
        Arc::new(Trace::new(headers, ratio, request_id, method, route))
    }

    /// Takes in the trace of a request that is over. Requests for which nothing was done leave none.
    pub(crate) fn add(&self, trace: &Arc<Trace>) {
        if trace.content().spans.is_empty() {
            return;
        }
        if let Some(queue) = self.queue.get().filter(|_| trace.sampled)
            && queue.try_send(trace.clone()).is_err()
        {
            // Better fewer traces than a server that waits for a collector.
            self.counts.dropped.inc_by(otlp::count(trace) as u64);
        }
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.push_back(trace.clone());
        while latest.len() > self.settings.keep {
            latest.pop_front();
        }
    }

    /// The latest, newest first: at most `limit` of those that `wanted` says.
    pub(crate) fn reports(&self, limit: usize, wanted: impl Fn(&Trace) -> bool) -> Vec<Value> {
        let latest: Vec<Arc<Trace>> = {
            let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            latest.iter().rev().filter(|t| wanted(t)).take(limit).cloned().collect()
        };
        latest.iter().map(|t| t.report()).collect()
    }
}
