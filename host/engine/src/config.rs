use std::time::Duration;

use rocmforge_program::Program;

use crate::block::CacheGroup;
use crate::error::EngineError;
use crate::runner::RunnerLimits;
use crate::scheduler::SchedulerConfig;

/// Settings of an engine.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// Blocks per cache group; see [`plan_cache`].
    pub cache_blocks: Vec<u64>,
    /// Most tokens in a step; `None`: as many as the executable was compiled for.
    pub max_tokens: Option<usize>,
    /// Most sequences that run at once; `None`: as many as the executable was compiled for.
    pub max_sequences: Option<usize>,
    /// Requests that may wait beyond those that run; more are refused with [`EngineError::Overloaded`].
    pub max_queue: usize,
    /// Longest time that a request may wait before it first runs; longer ones are refused.
    pub max_wait: Option<Duration>,
    /// Longest time for a whole request, waiting included; requests may set shorter ones.
    pub max_time: Option<Duration>,
    /// See [`SchedulerConfig::max_slowdown`].
    pub max_slowdown: Option<f64>,
    /// Longest prompt and answer together; `None`: what the model was made for. More than that is not possible.
    pub max_context: Option<usize>,
    /// Let prompts with the same beginning share its blocks.
    pub prefix_caching: bool,
    /// Most tokens to guess in a row, where there is a drafter.
    pub max_guess: usize,
    /// Most rows of logits in a step for prompts whose log-probabilities are wanted; a row is as long as the vocabulary.
    pub max_prompt_logits: usize,
    /// Events that may wait in a stream before its request pauses.
    pub stream_buffer: usize,
    /// How long a request may be paused before it is given up.
    pub stall_timeout: Duration,
    /// So many failed steps in a row make the engine unhealthy.
    pub max_failures: usize,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            cache_blocks: Vec::new(),
            max_tokens: None,
            max_sequences: None,
            max_queue: 256,
            max_wait: None,
            max_time: None,
            max_slowdown: Some(2.0),
            max_context: None,
            prefix_caching: true,
            max_guess: 8,
            max_prompt_logits: 64,
            stream_buffer: 256,
            stall_timeout: Duration::from_secs(60),
            max_failures: 3,
        }
    }
}

impl EngineConfig {
    pub(crate) fn scheduler(&self, limits: RunnerLimits) -> Result<SchedulerConfig, EngineError> {
        let max_tokens = at_most("tokens in a step", self.max_tokens, limits.max_tokens)?;
        // Without a setting of its own the number of sequences follows a smaller token budget.
        let sequences = limits.max_sequences.min(max_tokens);
        let max_sequences = at_most("sequences in a step", self.max_sequences, sequences)?;
        let (max_prompt_logits, max_slowdown) = (self.max_prompt_logits, self.max_slowdown);
        Ok(SchedulerConfig { max_tokens, max_sequences, max_prompt_logits, max_slowdown })
    }

    pub(crate) fn context(&self, program: &Program) -> Result<usize, EngineError> {
        at_most("context", self.max_context, program.info.context_length as usize)
    }

    pub(crate) fn groups(&self, program: &Program) -> Result<Vec<CacheGroup>, EngineError> {
        let groups = program.group_count();
        if self.cache_blocks.len() != groups {
            let expected = format!("one number for each of {groups} cache groups");
            return Err(EngineError::config("cache blocks", expected, format!("{:?}", self.cache_blocks)));
        }
        let group = |(g, &blocks): (usize, &u64)| CacheGroup {
            blocks: usize::try_from(blocks).unwrap_or(usize::MAX),
            window: program.group_window(g).map(|w| w as usize),
        };
        Ok(self.cache_blocks.iter().enumerate().map(group).collect())
    }
}

fn at_most(what: &str, value: Option<usize>, most: usize) -> Result<usize, EngineError> {
    match value.unwrap_or(most) {
        n if (1..=most).contains(&n) => Ok(n),
        n => Err(EngineError::config(what, format!("1 to {most}"), n)),
    }
}

/// Divides `budget` bytes between the cache groups of a program: as many tokens as possible, and no more than
/// `limits.max_sequences` sequences of `context` tokens can use. `block_bytes`: bytes of a block, per group.
///
/// # Errors
/// The budget does not hold one block of each group.
pub fn plan_cache(
    program: &Program,
    limits: RunnerLimits,
    block_bytes: &[u64],
    context: usize,
    budget: u64,
) -> Result<Vec<u64>, EngineError> {
    let size = limits.block_size.max(1);
    let blocks = |tokens: usize, group: usize| {
        let window = program.group_window(group).map_or(usize::MAX, |w| {
            let one = (w as usize - 1 + limits.max_tokens).div_ceil(size) + 1;
            one.saturating_mul(limits.max_sequences)
        });
        tokens.div_ceil(size).min(window) as u64
    };
    let bytes = |tokens: usize| {
        let group = |(g, &bytes): (usize, &u64)| blocks(tokens, g).saturating_mul(bytes);
        block_bytes.iter().enumerate().map(group).fold(0, u64::saturating_add)
    };
    let (mut fits, mut most) = (0, context.saturating_mul(limits.max_sequences).div_ceil(size));
    while fits < most {
        let middle = most - (most - fits) / 2;
        match bytes(middle.saturating_mul(size)) <= budget {
            true => fits = middle,
            false => most = middle - 1,
        }
    }
    if fits == 0 && !block_bytes.is_empty() {
        return Err(EngineError::config("memory for the KV cache", format!("at least {} bytes", bytes(size)), budget));
    }
    Ok((0..block_bytes.len()).map(|g| blocks(fits * size, g)).collect())
}
