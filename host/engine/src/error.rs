use std::fmt::Display;
use std::time::Duration;

/// What can go wrong with a request or with the engine.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// Too many requests are running or waiting.
    #[error("overloaded: {outstanding} requests are running or waiting, the limit is {limit}; try again later")]
    Overloaded {
        /// Requests in the engine.
        outstanding: usize,
        /// Running plus queued requests allowed.
        limit: usize,
        /// After how long there is likely to be room.
        retry_after: Duration,
    },
    /// The queue is too long to be served within the longest wait that is allowed.
    #[error("overloaded: requests wait {} s or longer; try again later", limit.as_secs_f64())]
    WaitsTooLong {
        /// Longest wait allowed.
        limit: Duration,
        /// After how long there is likely to be room.
        retry_after: Duration,
    },
    /// The time for the request is over.
    #[error("the request took longer than its limit of {} s", limit.as_secs_f64())]
    OutOfTime {
        /// The limit.
        limit: Duration,
    },
    /// The prompt leaves no room in the context.
    #[error(
        "the prompt has {prompt} tokens, the context holds {context} (prompt and answer together); shorten the prompt"
    )]
    ContextExceeded {
        /// Tokens of the prompt.
        prompt: usize,
        /// Longest sequence, in tokens.
        context: usize,
    },
    /// The prompt needs more KV cache than there is.
    #[error(
        "the prompt has {prompt} tokens, the whole KV cache holds {capacity}; shorten the prompt or give the cache more memory"
    )]
    CacheTooSmall {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that one sequence can have when nothing else runs.
        capacity: usize,
    },
    /// A value in the request is out of range.
    #[error("{field}: expected {expected}, found {found}")]
    Request {
        /// Name of the parameter, as in the OpenAI API where it has one.
        field: &'static str,
        /// What is allowed.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The engine cannot be set up like this.
    #[error("engine configuration, {what}: expected {expected}, found {found}")]
    Config {
        /// The setting.
        what: String,
        /// What is allowed.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The model produced logits that are no numbers.
    #[error(
        "the logits for position {position} contain {found} at token {token}; the model file or the backend is at fault"
    )]
    Logits {
        /// Position in the sequence.
        position: usize,
        /// Column of the logits.
        token: usize,
        /// NaN or infinity.
        found: f32,
    },
    /// The device could draw no token, because the logits are no numbers.
    #[error(
        "no token can be drawn for position {position}: a logit is no number or infinite, or none is finite; the model file or the backend is at fault"
    )]
    NoToken {
        /// Position in the sequence.
        position: usize,
    },
    /// The model produced hidden states that are no numbers.
    #[error("the embedding contains {found} at {column}; the model file or the backend is at fault")]
    Embedding {
        /// Place among the numbers.
        column: usize,
        /// NaN or infinity.
        found: f32,
    },
    /// The grammar of an answer cannot be followed any further.
    #[error("the grammar of the answer cannot be followed any further: {message}")]
    Grammar {
        /// Why.
        message: String,
    },
    /// The backend failed to run a step.
    #[error("the backend failed: {message}")]
    Step {
        /// The backend's words.
        message: String,
    },
    /// The client did not read its stream for too long.
    #[error("the stream was not read for {seconds} s while its buffer of {buffer} events was full")]
    Stalled {
        /// How long.
        seconds: u64,
        /// Capacity of the stream.
        buffer: usize,
    },
    /// The engine accepts no more requests.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The engine thread is gone.
    #[error("the engine has stopped")]
    Stopped,
}

impl EngineError {
    pub(crate) fn request(field: &'static str, expected: impl Display, found: impl Display) -> EngineError {
        EngineError::Request { field, expected: expected.to_string(), found: found.to_string() }
    }

    pub(crate) fn config(what: impl Display, expected: impl Display, found: impl Display) -> EngineError {
        EngineError::Config { what: what.to_string(), expected: expected.to_string(), found: found.to_string() }
    }

    pub(crate) fn step(error: impl Display) -> EngineError {
        EngineError::Step { message: error.to_string() }
    }
}
