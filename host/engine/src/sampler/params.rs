use std::fmt::Display;

use crate::error::EngineError;

/// Most entries of `top_logprobs`.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// How tokens are drawn. The defaults draw from the model's own distribution.
///
/// Applied in this order, as in vLLM: logit bias, repetition penalty, frequency and presence penalty, temperature,
/// min-p, top-k, top-p.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Logits are divided by it. 0: always the likeliest token, the first one of equals.
    pub temperature: f32,
    /// Only the so many likeliest tokens; `None`: all.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together reach this probability; 1: all.
    pub top_p: f32,
    /// Only tokens at least this probable relative to the likeliest; 0: all.
    pub min_p: f32,
    /// Positive logits of tokens in the prompt or the answer are divided by it, negative ones multiplied
    /// (CTRL, arXiv:1909.05858); 1: off.
    pub repetition_penalty: f32,
    /// How many of the latest tokens the repetition penalty looks at; `None`: all.
    pub repetition_window: Option<usize>,
    /// Subtracted for each time that the token is in the answer, as OpenAI defines it.
    pub frequency_penalty: f32,
    /// Subtracted if the token is in the answer, as OpenAI defines it.
    pub presence_penalty: f32,
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same tokens from the same logits, whatever else runs. `None`: a random one.
    pub seed: Option<u64>,
    /// Report the log-probability of each token, and the so many likeliest ones. They are those of the model: taken
    /// before anything above is applied, as in vLLM and the OpenAI API.
    pub logprobs: Option<usize>,
}

impl Default for SamplingParams {
    fn default() -> SamplingParams {
        SamplingParams {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: None,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
            logprobs: None,
        }
    }
}

impl SamplingParams {
    /// The likeliest token each time.
    pub fn greedy() -> SamplingParams {
        SamplingParams { temperature: 0.0, ..Default::default() }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first value out of range, by its name.
    pub fn check(&self, vocab_size: usize) -> Result<(), EngineError> {
        check(self.temperature >= 0.0 && self.temperature.is_finite(), "temperature", "0 or more", self.temperature)?;
        check(self.top_k != Some(0), "top_k", "at least 1", 0)?;
        check(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", "more than 0, at most 1", self.top_p)?;
        check((0.0..=1.0).contains(&self.min_p), "min_p", "0 to 1", self.min_p)?;
        let repetition = self.repetition_penalty;
        // Bounded so that no logit is driven to infinity.
        check((0.01..=100.0).contains(&repetition), "repetition_penalty", "0.01 to 100", repetition)?;
        let pair = -2.0..=2.0;
        check(pair.contains(&self.frequency_penalty), "frequency_penalty", "-2 to 2", self.frequency_penalty)?;
        check(pair.contains(&self.presence_penalty), "presence_penalty", "-2 to 2", self.presence_penalty)?;
        for &(token, bias) in &self.logit_bias {
            check((token as usize) < vocab_size, "logit_bias", format!("tokens below {vocab_size}"), token)?;
            check((-100.0..=100.0).contains(&bias), "logit_bias", "-100 to 100", bias)?;
        }
        check_logprobs("top_logprobs", self.logprobs)
    }
}

pub(crate) fn check_logprobs(field: &'static str, count: Option<usize>) -> Result<(), EngineError> {
    let count = count.unwrap_or(0);
    check(count <= MAX_TOP_LOGPROBS, field, format!("at most {MAX_TOP_LOGPROBS}"), count)
}

fn check(holds: bool, field: &'static str, expected: impl Display, found: impl Display) -> Result<(), EngineError> {
    if holds { Ok(()) } else { Err(EngineError::request(field, expected, found)) }
}
