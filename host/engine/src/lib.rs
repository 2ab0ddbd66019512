//! Scheduler, paged KV cache, sampler and the engine thread.
#![forbid(unsafe_code)]

mod batch;
mod block;
mod error;
pub mod sampler;
mod scheduler;
mod sequence;

pub use batch::{LogitsRow, StepBatch};
pub use block::{BlockCounts, BlockManager, BlockTables, CacheGroup};
pub use error::EngineError;
pub use scheduler::{Plan, PlannedSlice, Scheduler, SchedulerConfig};
pub use sequence::{RequestId, Sequence};
