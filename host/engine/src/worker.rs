use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rocmforge_program::RowSampling;

use crate::active::Active;
use crate::batch::StepBatch;
use crate::config::EngineConfig;
use crate::course::CourseHandle;
use crate::draft::{Drafter, Luck};
use crate::embedding;
use crate::engine::{EngineStats, Place};
use crate::error::EngineError;
use crate::request::{Event, FinishReason, GenerateRequest};
use crate::runner::Runner;
use crate::scheduler::Scheduler;
use crate::sequence::{RequestId, Sequence};
use crate::stream::EventSender;
use crate::text::Vocabulary;

/// Without another command for so long the first step after a rest begins.
const GATHER: Duration = Duration::from_micros(200);
/// It begins after so long in any case.
const GATHER_MOST: Duration = Duration::from_millis(2);

/// A request on its way to the engine thread.
#[derive(Debug)]
pub(crate) struct NewRequest {
    pub(crate) id: RequestId,
    pub(crate) request: GenerateRequest,
    /// Most tokens to generate.
    pub(crate) limit: usize,
    pub(crate) events: EventSender,
    pub(crate) course: CourseHandle,
    pub(crate) place: Place,
}

/// What the engine thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    Submit(Box<NewRequest>),
    Cancel(RequestId),
    Resume(RequestId),
    Shutdown(Instant),
}

/// The engine thread's state.
pub(crate) struct Worker {
    pub(crate) runner: Box<dyn Runner>,
    pub(crate) vocabulary: Arc<dyn Vocabulary>,
    pub(crate) scheduler: Scheduler,
    commands: Receiver<Command>,
    pub(crate) active: HashMap<RequestId, Active>,
    pub(crate) batch: StepBatch,
    /// Of the rows that are not drawn from elsewhere.
    pub(crate) logits: Vec<f32>,
    /// How the device draws from rows of the step, and the tokens that it has drawn.
    pub(crate) sampling: Vec<RowSampling>,
    pub(crate) sampled: Vec<u32>,
    pub(crate) vocab_size: usize,
    /// Numbers in an embedding; 0 if the program tells none.
    pub(crate) embedding_width: usize,
    /// The pooled states of the sequences of a step, for each way of pooling.
    pub(crate) pooled: [Vec<f32>; 2],
    stall_timeout: Duration,
    max_wait: Option<Duration>,
    max_time: Option<Duration>,
    /// When the latest request ended.
    latest_end: Option<Instant>,
    stream_buffer: usize,
    max_failures: usize,
    pub(crate) failures: usize,
    deadline: Option<Instant>,
    pub(crate) drafter: Option<Box<dyn Drafter>>,
    /// Most tokens to guess for one sequence.
    pub(crate) max_guess: usize,
    pub(crate) lucks: HashMap<RequestId, Luck>,
    pub(crate) stats: EngineStats,
    published: Arc<Mutex<EngineStats>>,
}

impl Worker {
    pub(crate) fn new(
        runner: Box<dyn Runner>,
        drafter: Option<Box<dyn Drafter>>,
        vocabulary: Arc<dyn Vocabulary>,
        config: &EngineConfig,
        scheduler: Scheduler,
        commands: Receiver<Command>,
        published: Arc<Mutex<EngineStats>>,
    ) -> Worker {
        let batch = StepBatch::new(runner.program().group_count(), runner.limits().block_size)
            .with_lengths(scheduler.lengths().clone());
        let vocab_size = runner.program().info.vocab_size;
        let embedding_width = embedding::width(runner.program()).unwrap_or(0);
        Worker {
            runner,
            vocabulary,
            scheduler,
            commands,
            active: HashMap::new(),
            batch,
            logits: Vec::new(),
            sampling: Vec::new(),
            sampled: Vec::new(),
            vocab_size,
            embedding_width,
            pooled: Default::default(),
            stall_timeout: config.stall_timeout,
            max_wait: config.max_wait,
            max_time: config.max_time,
            latest_end: None,
            stream_buffer: config.stream_buffer,
            max_failures: config.max_failures.max(1),
            failures: 0,
            deadline: None,
            drafter,
            max_guess: config.max_guess,
            lucks: HashMap::new(),
            stats: EngineStats::default(),
            published,
        }
    }

    /// Serves requests until a shutdown is complete or nobody can send any more.
    pub(crate) fn run(mut self) {
        while self.receive() {
            self.end_overdue();
            if self.deadline.is_some() && self.active.is_empty() {
                break;
            }
            self.propose();
            let plan = self.scheduler.schedule();
            self.stats.preemptions += (plan.preempted.len() + plan.outranked.len()) as u64;
            self.stats.outranked += plan.outranked.len() as u64;
            for id in plan.preempted.iter().chain(&plan.outranked) {
                if let Some(active) = self.active.get(id) {
                    active.course.lock().preemptions += 1;
                }
            }
            if plan.slices.is_empty() {
                self.refuse_stuck();
            } else {
                self.step(&plan);
            }
            self.publish();
        }
        self.publish();
    }

    /// Takes in commands; waits for one if there is nothing to run. False when nobody can send any more.
    fn receive(&mut self) -> bool {
        let (running, waiting, paused) = self.scheduler.queue_lengths();
        if running + waiting == 0 && !(self.deadline.is_some() && paused == 0) {
            let now = Instant::now();
            let stalls = self.active.values().filter_map(|a| a.paused_since?.checked_add(self.stall_timeout));
            let ends = self.active.values().filter_map(|a| Some(a.deadline()?.0));
            let first = match stalls.chain(ends).chain(self.deadline).min() {
                Some(wake) => self.commands.recv_timeout(wake.saturating_duration_since(now)),
                None => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match first {
                Ok(command) => {
                    self.obey(command);
                    self.gather();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Takes in what comes right behind the first command after a rest: answers and texts of one request should be
    /// computed in the same step, and the first one would otherwise begin one by itself.
    fn gather(&mut self) {
        let end = Instant::now() + GATHER_MOST;
        while Instant::now() < end {
            let Ok(command) = self.commands.recv_timeout(GATHER) else { return };
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(new) => self.add(*new),
            Command::Cancel(id) => self.finish(id, FinishReason::Cancelled),
            Command::Resume(id) => {
                if let Some(active) = self.active.get_mut(&id) {
                    active.paused_since = None;
                    self.scheduler.resume(id);
                }
            }
            Command::Shutdown(deadline) => self.deadline = Some(self.deadline.map_or(deadline, |d| d.min(deadline))),
        }
    }

    fn add(&mut self, new: NewRequest) {
        let NewRequest { id, mut request, limit, events, course, place } = new;
        request.max_time = request.max_time.into_iter().chain(self.max_time).min();
        let sequence =
            Sequence::new(request.prompt.clone(), request.cache_salt.clone()).with_priority(request.priority);
        let sequence = match request.prompt_logprobs {
            Some(_) => sequence.with_prompt_logits(),
            None => sequence,
        };
        let sequence = match request.embed {
            Some(pooling) => sequence.with_pooling(pooling),
            None => sequence,
        };
        let active = Active::new(request, limit, events, course, place, &*self.vocabulary);
        self.active.insert(id, active);
        let added = match self.deadline {
            Some(_) => Err(EngineError::ShuttingDown),
            None => self.scheduler.add(id, sequence),
        };
        if let Err(error) = added {
            self.fail(id, error);
        }
    }

    /// Ends requests that nobody reads or whose time is over, and all of them when the time to drain is over.
    fn end_overdue(&mut self) {
        let now = Instant::now();
        if self.deadline.is_some_and(|d| d <= now) {
            for id in self.active.keys().copied().collect::<Vec<_>>() {
                self.finish(id, FinishReason::Cancelled);
            }
        }
        let stalled = |a: &Active| a.paused_since.is_some_and(|since| now.duration_since(since) >= self.stall_timeout);
        let stalled: Vec<_> = self.active.iter().filter(|(_, a)| stalled(a)).map(|(id, _)| *id).collect();
        for id in stalled {
            let (seconds, buffer) = (self.stall_timeout.as_secs(), self.stream_buffer);
            self.fail(id, EngineError::Stalled { seconds, buffer });
        }
        self.end_late(now);
    }

    fn end_late(&mut self, now: Instant) {
        let waits_too_long = |a: &Active| {
            let limit = self.max_wait?;
            let retry_after = self.stats.time_per_request;
            a.waited(limit).filter(|&t| t <= now).map(|_| EngineError::WaitsTooLong { limit, retry_after })
        };
        let out_of_time =
            |a: &Active| a.deadline().filter(|(t, _)| *t <= now).map(|(_, limit)| EngineError::OutOfTime { limit });
        let late = self.active.iter().filter_map(|(id, a)| Some((*id, out_of_time(a).or_else(|| waits_too_long(a))?)));
        for (id, error) in late.collect::<Vec<_>>() {
            self.fail(id, error);
        }
    }

    /// Something waits, nothing holds blocks, and still nothing can run. `submit` refuses what can never fit, so this
    /// is a second line of defence against waiting for ever.
    fn refuse_stuck(&mut self) {
        if let Some(id) = self.scheduler.first_unpaused() {
            let prompt = self.scheduler.sequence(id).map_or(0, |s| s.tokens().len());
            self.fail(id, EngineError::CacheTooSmall { prompt, capacity: self.scheduler.longest_sequence() });
        }
    }

    pub(crate) fn finish(&mut self, id: RequestId, reason: FinishReason) {
        let sequence = self.remove(id);
        let Some(active) = self.active.remove(&id) else { return };
        self.note_end();
        match reason {
            FinishReason::StopToken(_) | FinishReason::StopString(_) => self.stats.stopped += 1,
            FinishReason::Length => self.stats.out_of_length += 1,
            FinishReason::Cancelled => self.stats.cancelled += 1,
        }
        self.publish();
        active.finish(reason, sequence.map_or(0, |s| s.reused()));
    }

    pub(crate) fn fail(&mut self, id: RequestId, error: EngineError) {
        self.remove(id);
        let Some(active) = self.active.remove(&id) else { return };
        self.stats.failed += 1;
        self.publish();
        active.end(Event::Error(error));
    }

    fn remove(&mut self, id: RequestId) -> Option<Sequence> {
        self.lucks.remove(&id);
        if let Some(drafter) = &mut self.drafter {
            drafter.forget(id);
        }
        self.scheduler.remove(id)
    }

    /// Learns how fast requests end, for those who ask when there will be room.
    fn note_end(&mut self) {
        let now = Instant::now();
        let before = self.latest_end.replace(now);
        // Without a queue the pace is that of arrivals.
        if let Some(before) = before.filter(|_| self.scheduler.queue_lengths().1 > 0) {
            let (latest, mean) = (now.duration_since(before), self.stats.time_per_request);
            self.stats.time_per_request = if mean.is_zero() { latest } else { mean * 7 / 8 + latest / 8 };
        }
    }

    fn publish(&mut self) {
        let (running, waiting, paused) = self.scheduler.queue_lengths();
        let unhealthy = self.failures >= self.max_failures || self.stats.lost;
        let blocks = self.scheduler.block_counts();
        self.stats = EngineStats { running, waiting, paused, blocks, unhealthy, ..std::mem::take(&mut self.stats) };
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = self.stats.clone();
    }
}
