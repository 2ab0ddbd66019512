use std::fmt::Display;
use std::sync::Arc;

use crate::error::EngineError;

/// Most entries of `top_logprobs`.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// How tokens are drawn. The defaults draw from the model's own distribution.
///
/// Applied in this order: logit bias, repetition penalty, frequency and presence penalty, DRY, tokens that are not allowed,
/// temperature, top-n-sigma, min-p, top-k, typical-p, top-p, XTC. Mirostat takes the place of what comes after the
/// temperature.
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
    /// Only tokens whose logits are at most so many standard deviations (of all logits) below the largest
    /// (arXiv:2411.07641); 0: all.
    pub top_n_sigma: f32,
    /// Only the tokens whose information content is nearest to the entropy, which together reach this probability
    /// (arXiv:2202.00666); 1: all.
    pub typical_p: f32,
    /// Now and then leave out the likeliest tokens.
    pub xtc: Option<Xtc>,
    /// Steer the surprise of the answer instead of cutting off at a fixed place.
    pub mirostat: Option<Mirostat>,
    /// Do not repeat what is there already.
    pub dry: Option<Dry>,
    /// Only these tokens; `None`: all.
    pub allowed_tokens: Option<Arc<[u32]>>,
    /// Sequences of tokens that must not be in the answer, each of at least one token: the last one of each is not drawn
    /// after the others.
    pub bad_words: Arc<[Vec<u32>]>,
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

/// Exclude top choices: with a probability, of all tokens that reach the threshold only the least likely one is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xtc {
    /// How often this happens, 0 to 1.
    pub probability: f32,
    /// The probability that a token must reach, above 0. From 0.5 on no two tokens can, and nothing happens.
    pub threshold: f32,
}

/// Mirostat (arXiv:2007.14966): tokens that surprise more than a bound are left out, and the bound follows the surprise
/// of the tokens that were drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mirostat {
    /// How the bound is met.
    pub version: MirostatVersion,
    /// The surprise to aim at, in bits per token.
    pub tau: f32,
    /// How fast the bound follows.
    pub eta: f32,
}

/// The two algorithms of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirostatVersion {
    /// Estimates from the likeliest tokens how many reach the bound, as if their probabilities followed Zipf's law.
    One,
    /// Leaves out each token beyond the bound.
    Two,
}

/// "Don't repeat yourself": a token that would prolong a repetition of `n` tokens loses `multiplier * base^(n -
/// allowed_length)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Dry {
    /// The penalty of a repetition that is just too long; above 0.
    pub multiplier: f32,
    /// By how much it grows with each further token; at least 1.
    pub base: f32,
    /// Repetitions shorter than this cost nothing.
    pub allowed_length: usize,
    /// How many of the latest tokens are looked at; `None`: all.
    pub window: Option<usize>,
    /// Tokens that no repetition goes across.
    pub breakers: Arc<[u32]>,
}

impl Default for SamplingParams {
    fn default() -> SamplingParams {
        SamplingParams {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            top_n_sigma: 0.0,
            typical_p: 1.0,
            xtc: None,
            mirostat: None,
            dry: None,
            allowed_tokens: None,
            bad_words: Arc::default(),
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
        let sigma = self.top_n_sigma;
        check(sigma >= 0.0 && sigma.is_finite(), "top_n_sigma", "0 or more", sigma)?;
        check(self.typical_p > 0.0 && self.typical_p <= 1.0, "typical_p", "more than 0, at most 1", self.typical_p)?;
        if let Some(xtc) = &self.xtc {
            check((0.0..=1.0).contains(&xtc.probability), "xtc_probability", "0 to 1", xtc.probability)?;
            check(xtc.threshold > 0.0 && xtc.threshold <= 1.0, "xtc_threshold", "above 0, at most 1", xtc.threshold)?;
        }
        if let Some(mirostat) = &self.mirostat {
            check((0.0..=100.0).contains(&mirostat.tau), "mirostat_tau", "0 to 100", mirostat.tau)?;
            check((0.0..=1.0).contains(&mirostat.eta), "mirostat_eta", "0 to 1", mirostat.eta)?;
        }
        if let Some(dry) = &self.dry {
            check((0.0..=100.0).contains(&dry.multiplier), "dry_multiplier", "0 to 100", dry.multiplier)?;
            check((1.0..=100.0).contains(&dry.base), "dry_base", "1 to 100", dry.base)?;
        }
        if let Some(allowed) = &self.allowed_tokens {
            check(!allowed.is_empty(), "allowed_token_ids", "at least 1 token", 0)?;
            let beyond = allowed.iter().find(|&&t| t as usize >= vocab_size);
            check(beyond.is_none(), "allowed_token_ids", format!("tokens below {vocab_size}"), beyond.unwrap_or(&0))?;
        }
        check(self.bad_words.iter().all(|w| !w.is_empty()), "bad_words", "words of at least 1 token", 0)?;
        let beyond = self.bad_words.iter().flatten().find(|&&t| t as usize >= vocab_size);
        check(beyond.is_none(), "bad_words", format!("tokens below {vocab_size}"), beyond.unwrap_or(&0))?;
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
