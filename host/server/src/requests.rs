//! Requests by id: how far they are, and how to end them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rocmforge_engine::{EngineHandle, RequestId};
use schemars::JsonSchema;
use serde::Serialize;

use crate::recorder::{RequestContext, Tokens};
use crate::wire::now;

/// So many requests that are over can still be asked about.
const MAX_ENDED: usize = 1024;

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// For its first token.
    Waiting,
    Running,
    Completed,
    /// By its client, by another request, or by a shutdown.
    Cancelled,
    Failed,
}

/// A request that was given to an engine.
pub(crate) struct Tracked {
    id: String,
    pub(crate) model: String,
    created: u64,
    arrived: Instant,
    tokens: Arc<Tokens>,
    progress: Mutex<Progress>,
    cancelled: AtomicBool,
}

#[derive(Debug)]
struct Progress {
    status: Status,
    finish_reason: Option<&'static str>,
    /// Set at the end.
    duration: Option<Duration>,
    /// Until then; an engine is not kept for what is over.
    engine: Option<(EngineHandle, Vec<RequestId>)>,
}

/// What is told of a request.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Report {
    id: String,
    status: Status,
    model: String,
    /// Seconds since 1970.
    created: u64,
    duration_seconds: f64,
    prompt_tokens: usize,
    completion_tokens: usize,
    finish_reason: Option<&'static str>,
}

impl Tracked {
    pub(crate) fn new(
        model: &str,
        context: &RequestContext,
        engine: EngineHandle,
        sequences: Vec<RequestId>,
    ) -> Tracked {
        let engine = Some((engine, sequences));
        let progress = Progress { status: Status::Waiting, finish_reason: None, duration: None, engine };
        Tracked {
            id: context.id.clone(),
            model: model.into(),
            created: now(),
            arrived: context.arrived,
            tokens: context.tokens.clone(),
            progress: Mutex::new(progress),
            cancelled: AtomicBool::new(false),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has its first token.
    pub(crate) fn runs(&self) {
        self.progress().status = Status::Running;
    }

    /// An answer is over; the reason of the last one is what is told.
    pub(crate) fn ends_with(&self, finish_reason: &'static str) {
        self.progress().finish_reason = Some(finish_reason);
    }

    /// Another sequence belongs to it.
    pub(crate) fn adds(&self, sequence: RequestId) {
        if let Some((engine, sequences)) = &mut self.progress().engine {
            sequences.push(sequence);
            if self.is_cancelled() {
                engine.cancel(sequence);
            }
        }
    }

    /// Ends it, unless it is over. What it holds is free after the step that runs now.
    pub(crate) fn cancel(&self) {
        if let Some((engine, sequences)) = &self.progress().engine {
            self.cancelled.store(true, Ordering::SeqCst);
            sequences.iter().for_each(|&id| engine.cancel(id));
        }
    }

    /// Whether another request has asked for its end.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    pub(crate) fn report(&self) -> Report {
        let (status, finish_reason, duration) = {
            let progress = self.progress();
            (progress.status, progress.finish_reason, progress.duration)
        };
        // One that was told to end does not go on, even if its client has not read so far yet.
        let status = if duration.is_none() && self.is_cancelled() { Status::Cancelled } else { status };
        Report {
            id: self.id.clone(),
            status,
            model: self.model.clone(),
            created: self.created,
            duration_seconds: duration.unwrap_or_else(|| self.arrived.elapsed()).as_secs_f64(),
            prompt_tokens: self.tokens.prompt.load(Ordering::Relaxed),
            completion_tokens: self.tokens.completion.load(Ordering::Relaxed),
            finish_reason: finish_reason.filter(|_| status == Status::Completed),
        }
    }
}

/// Those that run, and the latest of those that are over.
#[derive(Default)]
pub(crate) struct Requests(Mutex<Table>);

#[derive(Default)]
struct Table {
    live: HashMap<String, Arc<Tracked>>,
    ended: VecDeque<Arc<Tracked>>,
}

impl Requests {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a client uses an id twice, the later request is the one that is found.
    pub(crate) fn add(&self, tracked: Tracked) -> Arc<Tracked> {
        let tracked = Arc::new(tracked);
        self.table().live.insert(tracked.id.clone(), tracked.clone());
        tracked
    }

    pub(crate) fn end(&self, tracked: &Arc<Tracked>, status: Status) {
        {
            let mut progress = tracked.progress();
            progress.status = status;
            progress.duration = Some(tracked.arrived.elapsed());
            progress.engine = None;
        }
        let mut table = self.table();
        if table.live.get(&tracked.id).is_some_and(|live| Arc::ptr_eq(live, tracked)) {
            table.live.remove(&tracked.id);
        }
        if table.ended.len() >= MAX_ENDED {
            table.ended.pop_front();
        }
        table.ended.push_back(tracked.clone());
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Tracked>> {
        let table = self.table();
        table.live.get(id).or_else(|| table.ended.iter().rev().find(|t| t.id == id)).cloned()
    }
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.table().live.keys()).finish()
    }
}
