//! Sends traces to a collector, in batches, without anything else ever waiting for it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::transport::{Collector, Failure};
use super::{Counts, Trace, Traces, otlp};
use crate::error::ServerError;

/// Traces that may wait to be sent; more are given up.
const QUEUE: usize = 1024;
/// Spans in one sending, above which no further trace joins it.
const BATCH: usize = 4096;
const ATTEMPTS: u32 = 4;
/// Before the second attempt; twice as long before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const DEFAULT_INTERVAL: u64 = 5000;

/// The task that sends.
pub(crate) struct Exporter {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Exporter {
    /// Starts it, if the settings name a collector.
    ///
    /// # Errors
    /// Settings that cannot be used. A collector that cannot be reached is no error: it may come later.
    pub(crate) fn start(traces: &Traces) -> Result<Option<Exporter>, ServerError> {
        let Some(collector) = Collector::of(&traces.settings)? else { return Ok(None) };
        tracing::info!(endpoint = collector.endpoint(), "sending traces");
        let (sender, queue) = mpsc::channel(QUEUE);
        let (stop, stopped) = oneshot::channel();
        let interval = traces.settings.export_interval_ms.map_or(DEFAULT_INTERVAL, |ms| ms.get());
        let task = Task {
            collector,
            resource: Arc::new(otlp::resource(&traces.settings)),
            interval: Duration::from_millis(interval),
            counts: traces.counts.clone(),
            in_trouble: false,
        };
        let task = tokio::spawn(task.run(queue, stopped));
        // A server is started once; a second one with the same state would go without.
        let _ = traces.queue.set(sender);
        Ok(Some(Exporter { task, stop }))
    }

    /// Sends what is left, but no longer than `limit`.
    pub(crate) async fn finish(mut self, limit: Duration) {
        let _ = self.stop.send(());
        if timeout(limit, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!("the last traces could not be sent in time");
        }
    }
}

struct Task {
    collector: Collector,
    resource: Arc<Value>,
    interval: Duration,
    counts: Counts,
    /// The latest sending has failed, and the log has it.
    in_trouble: bool,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Arc<Trace>>, mut stop: oneshot::Receiver<()>) {
        let mut stopping = false;
        while !stopping {
            let first = tokio::select! {
                first = queue.recv() => first,
                _ = &mut stop => None,
            };
            // Without a first one this is the end, and what is in the queue the last batch.
            stopping = first.is_none();
            let mut batch: Vec<Arc<Trace>> = first.into_iter().collect();
            let mut spans: usize = batch.iter().map(|t| otlp::count(t)).sum();
            let mut due = std::pin::pin!(sleep(self.interval));
            while !stopping && spans < BATCH {
                tokio::select! {
                    () = &mut due => break,
                    _ = &mut stop => stopping = true,
                    Some(trace) = queue.recv() => {
                        spans += otlp::count(&trace);
                        batch.push(trace);
                    }
                }
            }
            while stopping && let Ok(trace) = queue.try_recv() {
                batch.push(trace);
            }
            if !batch.is_empty() {
                self.send(batch).await;
            }
        }
    }

    async fn send(&mut self, batch: Vec<Arc<Trace>>) {
        let spans: u64 = batch.iter().map(|t| otlp::count(t) as u64).sum();
        let resource = self.resource.clone();
        let encode = move || otlp::request(&resource, batch.iter().map(|t| &**t)).to_string();
        let Ok(body) = tokio::task::spawn_blocking(encode).await else {
            self.counts.dropped.inc_by(spans);
            return;
        };
        match self.deliver(body.into()).await {
            Ok(rejected) => {
                self.counts.exported.inc_by(spans.saturating_sub(rejected));
                self.counts.dropped.inc_by(rejected.min(spans));
                if std::mem::take(&mut self.in_trouble) {
                    tracing::info!("traces are sent again");
                }
            }
            Err(error) => {
                self.counts.dropped.inc_by(spans);
                // Once, not for every batch.
                if !std::mem::replace(&mut self.in_trouble, true) {
                    tracing::warn!(endpoint = self.collector.endpoint(), %error, "traces cannot be sent and are dropped");
                }
            }
        }
    }

    /// Sends a body until it is taken or there is no point any more. The number of spans that the collector refused.
    async fn deliver(&self, body: Bytes) -> Result<u64, Failure> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            match self.collector.post(body.clone()).await {
                Err(failure) if failure.is_passing() => {
                    sleep(failure.retry_after().unwrap_or(pause).min(LONGEST_PAUSE)).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
        self.collector.post(body).await
    }
}
