//! One thread per model that runs all of its requests.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::block::{BlockCounts, BlockManager};
use crate::config::EngineConfig;
use crate::draft::Drafter;
use crate::embedding;
use crate::error::EngineError;
use crate::lengths::Lengths;
use crate::request::GenerateRequest;
use crate::runner::Runner;
use crate::scheduler::Scheduler;
use crate::sequence::RequestId;
use crate::stream::{RequestStream, channel as stream_channel};
use crate::text::Vocabulary;
use crate::worker::{Command, NewRequest, Worker};

/// The state of an engine after its latest step. Totals count from the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Requests that run.
    pub running: usize,
    /// Requests that wait, preempted ones included.
    pub waiting: usize,
    /// Requests whose clients do not read.
    pub paused: usize,
    /// KV blocks per cache group.
    pub blocks: Vec<BlockCounts>,
    /// Tokens computed that were known, again after preemption included.
    pub prefill_tokens: u64,
    /// Prompt tokens that were found in the cache.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Steps run.
    pub steps: u64,
    /// Steps that failed.
    pub failed_steps: u64,
    /// Times that a request lost its blocks.
    pub preemptions: u64,
    /// Requests that ended with a stop token or string.
    pub stopped: u64,
    /// Requests that ended at their limit.
    pub out_of_length: u64,
    /// Requests cancelled.
    pub cancelled: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Tokens that were guessed and computed before it was known whether they come.
    pub guessed_tokens: u64,
    /// Of these, those that came.
    pub accepted_tokens: u64,
    /// Rows of logits that the device drew from, so that they were not copied to the host.
    pub device_draws: u64,
    /// Times that a request lost its place to one of an earlier priority.
    pub outranked: u64,
    /// Between the ends of requests while others wait, on average over the latest; zero before the first.
    pub time_per_request: Duration,
    /// Too many steps in a row have failed, or the device is lost.
    pub unhealthy: bool,
    /// The device is lost and nothing takes its place.
    pub lost: bool,
}

/// A place in the engine, given back when the request is over.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Place {
    /// A place among at most `limit`; else the number of those taken.
    fn take(outstanding: &Arc<AtomicUsize>, limit: usize) -> Result<Place, usize> {
        let add = |n: usize| (n < limit).then_some(n + 1);
        outstanding.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add).map(|_| Place(outstanding.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct Shared {
    commands: Sender<Command>,
    next_id: AtomicU64,
    outstanding: Arc<AtomicUsize>,
    /// Running and waiting requests together.
    limit: usize,
    /// Running requests.
    slots: usize,
    max_wait: Option<Duration>,
    vocab_size: usize,
    embedding_width: Option<usize>,
    context: usize,
    capacity: usize,
    stream_buffer: usize,
    stats: Arc<Mutex<EngineStats>>,
    stopping: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Talks to an engine. Clones talk to the same one; it ends with the last of them and of its streams.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    shared: Arc<Shared>,
}

impl EngineHandle {
    /// Allocates the KV cache and starts the engine's thread.
    ///
    /// # Errors
    /// Settings that do not go with the program or the executable, lack of memory, or no thread to be had.
    pub fn start(
        runner: impl Runner + 'static,
        vocabulary: Arc<dyn Vocabulary>,
        config: &EngineConfig,
    ) -> Result<EngineHandle, EngineError> {
        EngineHandle::start_with_drafter(runner, None, vocabulary, config)
    }

    /// The same, with guesses of what comes next; see [`Drafter`].
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with_drafter(
        mut runner: impl Runner + 'static,
        drafter: Option<Box<dyn Drafter>>,
        vocabulary: Arc<dyn Vocabulary>,
        config: &EngineConfig,
    ) -> Result<EngineHandle, EngineError> {
        let limits = runner.limits();
        let scheduling = config.scheduler(limits)?;
        let groups = config.groups(runner.program())?;
        let blocks = BlockManager::new(limits.block_size, &groups, config.prefix_caching)?;
        let scheduler = Scheduler::new(scheduling, blocks)?.with_lengths(Lengths::of(runner.program())?);
        let (vocab_size, context) = (runner.program().info.vocab_size, config.context(runner.program())?);
        let (capacity, embedding_width) = (scheduler.longest_sequence(), embedding::width(runner.program()));
        runner.allocate_cache(&config.cache_blocks).map_err(EngineError::step)?;

        let (commands, receiver) = channel();
        let stats = Arc::new(Mutex::new(EngineStats { blocks: scheduler.block_counts(), ..Default::default() }));
        let worker = Worker::new(Box::new(runner), drafter, vocabulary, config, scheduler, receiver, stats.clone());
        let thread = std::thread::Builder::new().name("engine".into()).spawn(move || worker.run());
        let thread = thread.map_err(|e| EngineError::config("engine thread", "a thread", e))?;
        let shared = Shared {
            commands,
            next_id: AtomicU64::new(0),
            outstanding: Arc::default(),
            limit: scheduling.max_sequences.saturating_add(config.max_queue),
            slots: scheduling.max_sequences,
            max_wait: config.max_wait,
            vocab_size,
            embedding_width,
            context,
            capacity,
            stream_buffer: config.stream_buffer,
            stats,
            stopping: AtomicBool::new(false),
            thread: Mutex::new(Some(thread)),
        };
        Ok(EngineHandle { shared: Arc::new(shared) })
    }

    /// Longest prompt and answer together, in tokens.
    pub fn context_length(&self) -> usize {
        self.shared.context.min(self.shared.capacity)
    }

    /// Numbers in an embedding; `None`: the model's program tells none, and such requests are refused.
    pub fn embedding_width(&self) -> Option<usize> {
        self.shared.embedding_width
    }

    /// Queues a request. Does not block.
    ///
    /// # Errors
    /// A request that is not valid or can never fit, or an engine that takes no more.
    pub fn submit(&self, request: GenerateRequest) -> Result<RequestStream, EngineError> {
        let shared = &self.shared;
        if shared.stopping.load(Ordering::SeqCst) {
            return Err(EngineError::ShuttingDown);
        }
        request.check(shared.vocab_size)?;
        if request.embed.is_some() && shared.embedding_width.is_none() {
            return Err(EngineError::request("model", "one whose hidden states can be told", "another"));
        }
        let limit = self.answer_limit(&request)?;
        let place = self.admit()?;
        let id = RequestId(shared.next_id.fetch_add(1, Ordering::SeqCst));
        let (events, stream) = stream_channel(id, shared.stream_buffer, shared.commands.clone());
        let new = NewRequest { id, request, limit, events, course: stream.course(), place };
        shared.commands.send(Command::Submit(Box::new(new))).map_err(|_| EngineError::Stopped)?;
        Ok(stream)
    }

    /// A place for another request, unless there are too many or it would wait for too long.
    fn admit(&self) -> Result<Place, EngineError> {
        let Shared { limit, slots, max_wait, .. } = *self.shared;
        // Expected from how fast requests have ended lately.
        let wait = |ahead: usize| self.stats().time_per_request.saturating_mul(ahead.try_into().unwrap_or(u32::MAX));
        let place = Place::take(&self.shared.outstanding, limit).map_err(|outstanding| {
            let retry_after = wait(outstanding.saturating_sub(slots) / 2 + 1);
            EngineError::Overloaded { outstanding, limit, retry_after }
        })?;
        let ahead = self.shared.outstanding.load(Ordering::SeqCst).saturating_sub(slots);
        match max_wait {
            Some(limit) if ahead > 0 && wait(ahead) > limit => {
                Err(EngineError::WaitsTooLong { limit, retry_after: wait(ahead) - limit })
            }
            _ => Ok(place),
        }
    }

    /// Most tokens that the request can generate.
    fn answer_limit(&self, request: &GenerateRequest) -> Result<usize, EngineError> {
        let wanted = if request.embed.is_some() { Some(0) } else { request.stop.max_tokens };
        let (prompt, wanted) = (request.prompt.len(), wanted.unwrap_or(usize::MAX));
        let Shared { context, capacity, .. } = *self.shared;
        if prompt + wanted.min(1) > context {
            return Err(EngineError::ContextExceeded { prompt, context });
        }
        if prompt > capacity {
            return Err(EngineError::CacheTooSmall { prompt, capacity });
        }
        // The last token of an answer is never computed on, so it needs no place in the cache.
        Ok(wanted.min(context - prompt).min((capacity - prompt).saturating_add(1)))
    }

    /// Cancels a request, wherever it is; its stream ends with [`FinishReason::Cancelled`](crate::FinishReason).
    /// Nothing happens if it is over.
    pub fn cancel(&self, id: RequestId) {
        // An engine that is gone has nothing to cancel.
        let _ = self.shared.commands.send(Command::Cancel(id));
    }

    /// The state after the latest step.
    pub fn stats(&self) -> EngineStats {
        self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the engine takes requests and its steps do not fail.
    pub fn is_healthy(&self) -> bool {
        let thread = self.shared.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = thread.as_ref().is_some_and(|t| !t.is_finished());
        alive && !self.shared.stopping.load(Ordering::SeqCst) && !self.stats().unhealthy
    }

    /// Takes no more requests, lets those in the engine run for `drain`, cancels the rest, and returns when the thread
    /// has ended. Blocks for that time: not to be called in an asynchronous task.
    pub fn shutdown(&self, drain: Duration) {
        // A drain beyond the clock's range means no limit worth the name.
        let deadline =
            Instant::now().checked_add(drain).unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400));
        let _ = self.shared.commands.send(Command::Shutdown(deadline));
        // The engine itself refuses what is submitted in between.
        self.shared.stopping.store(true, Ordering::SeqCst);
        let thread = self.shared.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the engine thread has panicked");
        }
    }
}
