//! Turns logits into tokens.

mod logprobs;
mod params;
mod penalties;
mod rng;
mod select;
#[cfg(test)]
mod tests;

pub use logprobs::{Logprobs, log_sum_exp, logprobs};
pub(crate) use params::check_logprobs;
pub use params::{MAX_TOP_LOGPROBS, SamplingParams};
pub use rng::Rng;

use crate::error::EngineError;
use penalties::History;

/// A drawn token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: u32,
    /// Log-probabilities, if the parameters ask for them.
    pub logprobs: Option<Logprobs>,
}

/// Draws the tokens of one sequence.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    rng: Rng,
    history: History,
    scratch: Vec<select::Candidate>,
}

impl Sampler {
    /// A sampler for the continuation of `prompt`. The parameters must be checked.
    pub fn new(params: SamplingParams, prompt: &[u32]) -> Sampler {
        let rng = Rng::new(params.seed.unwrap_or_else(Rng::random_seed));
        let history = History::new(prompt, &params);
        Sampler { params, rng, history, scratch: Vec::new() }
    }

    /// Draws the token after `position`. The logits, one row, are altered.
    ///
    /// # Errors
    /// Logits that are NaN, +infinity, or all -infinity.
    pub fn sample(&mut self, logits: &mut [f32], position: usize) -> Result<Sampled, EngineError> {
        check_logits(logits, position)?;
        // Bias and penalties may change every logit that the log-probabilities need.
        let unchanged = self.params.logprobs.map(|_| logits.to_vec());
        self.history.apply(logits, &self.params);
        let token = if self.params.temperature == 0.0 {
            select::argmax(logits)
        } else {
            select::candidates(logits, &self.params, &mut self.scratch);
            select::draw(&self.scratch, self.rng.uniform(position as u64))
        };
        let top = self.params.logprobs.unwrap_or(0);
        let logprobs = unchanged.map(|logits| logprobs(&logits, token, top));
        Ok(Sampled { token, logprobs })
    }

    /// Tells the sampler that the last of `tokens` (prompt and answer) was generated.
    pub fn accept(&mut self, tokens: &[u32]) {
        self.history.accept(tokens, &self.params);
    }
}

/// Checks that a row of logits can be turned into probabilities. -infinity is allowed: such a token is never drawn.
///
/// # Errors
/// NaN, +infinity, or no finite value at all.
pub fn check_logits(logits: &[f32], position: usize) -> Result<(), EngineError> {
    let (max, nan) = select::maximum(logits);
    if !nan && max.is_finite() {
        return Ok(());
    }
    let bad = |x: &f32| x.is_nan() || *x == f32::INFINITY;
    let token = logits.iter().position(bad).unwrap_or(0);
    Err(EngineError::Logits { position, token, found: logits.get(token).copied().unwrap_or(max) })
}
