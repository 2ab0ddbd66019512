use std::time::Duration;

use crate::error::EngineError;
use crate::sampler::{Constraint, Logprobs, SamplingParams, check_logprobs};

/// When to end an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StopParams {
    /// Most tokens to generate; `None`: as many as the context holds. 0 computes the prompt only.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer; not part of it.
    pub strings: Vec<String>,
    /// Tokens that end the answer, besides those of the vocabulary; not part of its text.
    pub tokens: Vec<u32>,
    /// Do not end at the tokens that the vocabulary says end an answer.
    pub ignore_eos: bool,
    /// So many tokens are generated before any that ends the answer, and before stop strings are looked for.
    pub min_tokens: usize,
    /// A stop string that ends the answer is part of its text.
    pub keep_stop: bool,
}

/// Which control tokens are part of an answer's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SpecialText {
    /// None.
    #[default]
    None,
    /// These.
    Some(Vec<u32>),
    /// All.
    All,
}

/// Which tokens of a text stand for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all of them.
    Mean,
    /// The last one.
    Last,
}

/// A prompt to continue.
#[derive(Clone, Debug, Default)]
pub struct GenerateRequest {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// How to draw tokens.
    pub sampling: SamplingParams,
    /// When to end.
    pub stop: StopParams,
    /// What the answer has to look like; `None`: anything.
    pub constraint: Option<Constraint>,
    /// Which control tokens are part of the text.
    pub special: SpecialText,
    /// Report the log-probabilities of the prompt's tokens, and so many of the likeliest at each place
    /// (`echo` with `logprobs` of the completions API). Such a prompt is always computed in full.
    pub prompt_logprobs: Option<usize>,
    /// Report the model's final hidden states of the prompt, pooled, and generate nothing.
    pub embed: Option<Pooling>,
    /// Requests share cached prefixes with those of the same salt only, so that timing tells nobody about the prompts
    /// of others.
    pub cache_salt: String,
    /// Smaller numbers are served first; equal ones in order of arrival.
    pub priority: i32,
    /// Longest time for the whole request, waiting included; `None`: as the engine is set.
    pub max_time: Option<Duration>,
}

impl GenerateRequest {
    /// Checks everything that does not depend on the load.
    ///
    /// # Errors
    /// The first value out of range.
    pub fn check(&self, vocab_size: usize) -> Result<(), EngineError> {
        if self.prompt.is_empty() {
            return Err(EngineError::request("prompt", "at least 1 token", 0));
        }
        let beyond = |tokens: &[u32]| tokens.iter().copied().find(|&t| t as usize >= vocab_size);
        if let Some(token) = beyond(&self.prompt) {
            return Err(EngineError::request("prompt", format!("tokens below {vocab_size}"), token));
        }
        if let Some(token) = beyond(&self.stop.tokens) {
            return Err(EngineError::request("stop_token_ids", format!("tokens below {vocab_size}"), token));
        }
        check_logprobs("prompt_logprobs", self.prompt_logprobs)?;
        self.sampling.check(vocab_size)
    }
}

/// A generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEvent {
    /// The token.
    pub token: u32,
    /// Text that can be sent now: whole characters, and nothing that may be the start of a stop string. Often not
    /// exactly this token's, and possibly empty.
    pub text: String,
    /// Log-probabilities, if asked for.
    pub logprobs: Option<Logprobs>,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A token that ends answers, or a stop token of the request.
    StopToken(u32),
    /// A stop string of the request: its index.
    StopString(usize),
    /// `max_tokens`, or the end of the context or of the cache.
    Length,
    /// Cancelled by the client or by a shutdown.
    Cancelled,
}

/// Numbers of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In the prompt.
    pub prompt_tokens: usize,
    /// Of these, found in the cache.
    pub cached_tokens: usize,
    /// Generated, the one that ended the answer included.
    pub completion_tokens: usize,
}

/// How long a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Until its first token was computed on.
    pub queue: Duration,
    /// From there to the first generated token.
    pub prefill: Duration,
    /// From there to the end.
    pub decode: Duration,
}

/// The end of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// Text that was held back and belongs to the answer after all.
    pub text: String,
    /// Numbers of tokens.
    pub usage: Usage,
    /// How long it took.
    pub timings: Timings,
}

/// What a stream delivers. The last event is `Finished` or `Error`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Log-probabilities of the prompt's second and later tokens, in order. Only if asked for, before any token.
    Prompt(Vec<Logprobs>),
    /// The pooled hidden states of the prompt, as many numbers as the model's states have. Only if asked for.
    Embedding(Vec<f32>),
    /// A token. Not sent for a token that ends the answer.
    Token(TokenEvent),
    /// The end.
    Finished(Finish),
    /// The request failed.
    Error(EngineError),
}
