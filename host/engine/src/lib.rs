//! Scheduler, paged KV cache, sampler and the engine thread.
#![forbid(unsafe_code)]

mod active;
mod adapters;
mod batch;
mod block;
mod config;
mod course;
mod draft;
mod embedding;
mod engine;
mod error;
mod lengths;
mod pace;
mod request;
mod rows;
mod runner;
pub mod sampler;
mod scheduler;
mod score;
mod sequence;
mod several;
mod step;
mod stream;
mod text;
mod worker;

pub use batch::{LogitsRow, StepBatch};
pub use block::{BlockCounts, BlockManager, BlockTables, CacheGroup};
pub use config::{EngineConfig, plan_cache};
pub use course::{Course, CourseHandle, Piece};
pub use draft::{DraftModel, DraftRequest, Drafter, PromptLookup};
pub use engine::{EngineHandle, EngineStats};
pub use error::EngineError;
pub use lengths::Lengths;
pub use request::{
    Event, Finish, FinishReason, GenerateRequest, Pooling, SpecialText, StopParams, Timings, TokenEvent, Usage,
};
pub use runner::{RunError, Runner, RunnerLimits};
pub use sampler::{Logprobs, SamplingParams};
pub use scheduler::{Plan, PlannedSlice, Scheduler, SchedulerConfig};
pub use score::{Rows, SingleSequence};
pub use sequence::{RequestId, Sequence};
pub use several::SeveralSequences;
pub use stream::RequestStream;
pub use text::{StopMatcher, StopState, Utf8Stream, Vocabulary};
