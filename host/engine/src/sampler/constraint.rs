//! Keeps an answer within a grammar, without holding up the engine thread.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

use crate::error::EngineError;

/// Bits of a word of a mask.
const BITS: usize = 32;

type Job = Box<dyn FnOnce() + Send>;

/// Threads that compute which tokens are possible next, while the device computes their logits.
#[derive(Debug)]
pub(super) struct MaskWorkers {
    jobs: Sender<Job>,
}

impl MaskWorkers {
    /// Starts half as many threads as there are processors: they must not crowd out a backend on the same ones.
    pub(super) fn start() -> MaskWorkers {
        let (jobs, receiver) = channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2).min(8));
        for _ in 0..threads {
            let receiver = receiver.clone();
            let work = move || {
                loop {
                    let job = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    job();
                }
            };
            if let Err(error) = std::thread::Builder::new().name("mask".into()).spawn(work) {
                tracing::warn!(%error, "no thread for masks of constrained answers");
            }
        }
        MaskWorkers { jobs }
    }

    /// Runs a job, here if there are no threads.
    fn run(&self, job: Job) {
        if let Err(unsent) = self.jobs.send(job) {
            (unsent.0)();
        }
    }
}

/// A compiled grammar, at the beginning of an answer.
pub(super) struct Compiled(Mutex<Matcher>);

impl Compiled {
    pub(super) fn new(matcher: Matcher) -> Compiled {
        Compiled(Mutex::new(matcher))
    }

    /// A matcher that shares no state with others, not even caches.
    fn begin(&self) -> Matcher {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).deep_clone()
    }
}

/// A grammar that an answer is to follow. Clones stand for the same grammar.
#[derive(Clone)]
pub struct Constraint {
    compiled: Arc<Compiled>,
    workers: Arc<MaskWorkers>,
}

impl Constraint {
    pub(super) fn new(compiled: Compiled, workers: Arc<MaskWorkers>) -> Constraint {
        Constraint { compiled: Arc::new(compiled), workers }
    }
}

impl PartialEq for Constraint {
    fn eq(&self, other: &Constraint) -> bool {
        Arc::ptr_eq(&self.compiled, &other.compiled)
    }
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}

/// A matcher, and which tokens it allows next.
struct Computed {
    matcher: Matcher,
    mask: Result<SimpleVob, String>,
}

impl Computed {
    fn new(mut matcher: Matcher, token: Option<u32>) -> Computed {
        let consumed = token.map_or(Ok(()), |t| matcher.consume_token(t));
        let mask = consumed.and_then(|()| matcher.compute_mask_or_eos()).map_err(|e| e.to_string());
        // A grammar that is too complex to go on with must not pass for one that is at its end.
        let reason = matcher.stop_reason();
        let mask = if reason.is_ok() { mask } else { Err(mask.err().unwrap_or_else(|| reason.to_string())) };
        Computed { matcher, mask }
    }
}

enum State {
    Computing(Receiver<Computed>),
    Ready(Box<Computed>),
    /// A worker has died over it.
    Lost,
}

/// Where one answer is in its grammar.
pub(super) struct Follower {
    state: State,
    workers: Arc<MaskWorkers>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").finish_non_exhaustive()
    }
}

impl Follower {
    /// Begins an answer. Its first mask is computed while the prompt is.
    pub(super) fn new(constraint: Constraint) -> Follower {
        let Constraint { compiled, workers } = constraint;
        let mut follower = Follower { state: State::Lost, workers };
        follower.compute(move || Computed::new(compiled.begin(), None));
        follower
    }

    fn compute(&mut self, job: impl FnOnce() -> Computed + Send + 'static) {
        let (sender, receiver) = channel();
        self.state = State::Computing(receiver);
        self.workers.run(Box::new(move || {
            // An answer that was cancelled needs no mask.
            let _ = sender.send(job());
        }));
    }

    fn ready(&mut self) -> Result<&mut Computed, EngineError> {
        if let State::Computing(receiver) = &self.state {
            self.state = receiver.recv().map_or(State::Lost, |computed| State::Ready(Box::new(computed)));
        }
        match &mut self.state {
            State::Ready(computed) => Ok(computed),
            _ => Err(EngineError::Grammar { message: "its next tokens could not be computed".into() }),
        }
    }

    /// Makes impossible what the grammar does not allow next.
    pub(super) fn apply(&mut self, logits: &mut [f32]) -> Result<(), EngineError> {
        let mask = match &self.ready()?.mask {
            Ok(mask) => mask,
            Err(message) => return Err(EngineError::Grammar { message: message.clone() }),
        };
        let words = mask.as_slice();
        let known = logits.len().min(mask.len());
        // Columns beyond the vocabulary are padding.
        logits[known..].fill(f32::NEG_INFINITY);
        for (chunk, &word) in logits[..known].chunks_mut(BITS).zip(words) {
            match word {
                0 => chunk.fill(f32::NEG_INFINITY),
                u32::MAX => {}
                _ => {
                    let forbidden = chunk.iter_mut().enumerate().filter(|(i, _)| word >> i & 1 == 0);
                    forbidden.for_each(|(_, x)| *x = f32::NEG_INFINITY);
                }
            }
        }
        if logits.iter().any(|x| x.is_finite()) {
            return Ok(());
        }
        Err(EngineError::Grammar { message: "the model gives none of the tokens that it allows".into() })
    }

    /// Goes on by a token, and begins to compute what may follow it.
    pub(super) fn accept(&mut self, token: u32) {
        let known = self.ready().is_ok();
        match std::mem::replace(&mut self.state, State::Lost) {
            State::Ready(computed) if known => self.compute(move || Computed::new(computed.matcher, Some(token))),
            _ => {}
        }
    }
}
