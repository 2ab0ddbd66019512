//! Scheduler, paged KV cache, sampler and the engine thread.
