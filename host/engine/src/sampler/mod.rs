//! Turns logits into tokens.

mod constraint;
mod device;
mod dry;
mod gbnf;
mod grammar;
mod logprobs;
mod mirostat;
mod params;
mod penalties;
mod rng;
mod run;
mod select;
#[cfg(test)]
mod tests;
mod truncate;
mod whole;

pub use constraint::Constraint;
pub use grammar::{COMPILE_LIMIT, Grammar, GrammarError, Grammars, JSON_SPACE, LINE_SPACE, MAX_GRAMMAR_BYTES};
pub use logprobs::{Logprobs, log_sum_exp, logprobs};
pub(crate) use params::check_logprobs;
pub use params::{Dry, MAX_TOP_LOGPROBS, Mirostat, MirostatVersion, SamplingParams, Xtc};
pub use rng::Rng;

use crate::error::EngineError;
use constraint::Follower;
use mirostat::Bound;
use penalties::History;
use select::Order;

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
    surprise: Option<Bound>,
    follower: Option<Follower>,
    /// Tokens with which a bad word would be complete.
    banned: Vec<u32>,
    // Kept, as memory that is new costs more than what is done in it.
    scratch: Vec<select::Candidate>,
    items: Vec<run::Item>,
    sums: Vec<f64>,
}

impl Sampler {
    /// A sampler for the continuation of `prompt`. The parameters must be checked.
    pub fn new(params: SamplingParams, prompt: &[u32]) -> Sampler {
        let rng = Rng::new(params.seed.unwrap_or_else(Rng::random_seed));
        let history = History::new(prompt, &params);
        let surprise = params.mirostat.map(Bound::new);
        let banned = endings(&params.bad_words, prompt);
        let (follower, scratch, items, sums) = Default::default();
        Sampler { params, rng, history, surprise, follower, banned, scratch, items, sums }
    }

    /// The same, within a grammar.
    #[must_use]
    pub fn constrained(self, constraint: Option<Constraint>) -> Sampler {
        Sampler { follower: constraint.map(Follower::new), ..self }
    }

    /// Whether there is a grammar to follow.
    pub fn is_constrained(&self) -> bool {
        self.follower.is_some()
    }

    /// Draws the token after `position`, none of `suppressed` unless nothing else is possible. The logits, one row, are
    /// altered.
    ///
    /// # Errors
    /// Logits that are NaN, +infinity, or all -infinity; a grammar that cannot be followed any further.
    pub fn sample(&mut self, logits: &mut [f32], position: usize, suppressed: &[u32]) -> Result<Sampled, EngineError> {
        check_logits(logits, position)?;
        // Bias and penalties may change every logit that the log-probabilities need.
        let unchanged = self.params.logprobs.map(|_| logits.to_vec());
        self.history.apply(logits, &self.params);
        if let Some(follower) = &mut self.follower {
            follower.apply(logits)?;
        }
        if let Some(allowed) = &self.params.allowed_tokens {
            keep_only(logits, allowed);
        }
        suppress(logits, &self.banned);
        suppress(logits, suppressed);
        let token = if self.params.temperature == 0.0 { select::argmax(logits) } else { self.draw(logits, position) };
        let top = self.params.logprobs.unwrap_or(0);
        let logprobs = unchanged.map(|logits| logprobs(&logits, token, top));
        Ok(Sampled { token, logprobs })
    }

    fn draw(&mut self, logits: &[f32], position: usize) -> u32 {
        let (candidates, items, position) = (&mut self.scratch, &mut self.items, position as u64);
        if whole::applies(&self.params) {
            return whole::draw(logits, self.params.temperature, self.rng.uniform(position), &mut self.sums);
        }
        if let Some(bound) = &mut self.surprise {
            select::weights(logits, self.params.temperature, candidates);
            bound.cut(candidates);
            let token = select::draw(candidates, Order::Given, logits, items, self.rng.uniform(position));
            bound.observe(candidates, token);
            return token;
        }
        let order = select::candidates(logits, &self.params, candidates, items);
        if let Some(xtc) = self.params.xtc
            && self.rng.derived().uniform(position) < f64::from(xtc.probability)
        {
            truncate::exclude_top(candidates, xtc.threshold);
        }
        select::draw(candidates, order, logits, items, self.rng.uniform(position))
    }

    /// Tells the sampler that the last of `tokens` (prompt and answer) was generated.
    pub fn accept(&mut self, tokens: &[u32]) {
        self.history.accept(tokens, &self.params);
        self.banned = endings(&self.params.bad_words, tokens);
        if let (Some(follower), Some(&token)) = (&mut self.follower, tokens.last()) {
            follower.accept(token);
        }
    }
}

/// The last tokens of those words whose others are at the end of `tokens`.
fn endings(words: &[Vec<u32>], tokens: &[u32]) -> Vec<u32> {
    let ending =
        |word: &Vec<u32>| word.split_last().filter(|(_, before)| tokens.ends_with(before)).map(|(last, _)| *last);
    words.iter().filter_map(ending).collect()
}

/// Makes all other tokens impossible, unless that leaves none.
fn keep_only(logits: &mut [f32], allowed: &[u32]) {
    let kept: Vec<(u32, f32)> = allowed.iter().filter_map(|&t| Some((t, *logits.get(t as usize)?))).collect();
    if kept.iter().any(|k| k.1.is_finite()) {
        logits.fill(f32::NEG_INFINITY);
        kept.into_iter().for_each(|(token, logit)| logits[token as usize] = logit);
    }
}

/// Makes these tokens impossible, unless that leaves none.
fn suppress(logits: &mut [f32], tokens: &[u32]) {
    let before: Vec<(u32, f32)> = tokens.iter().filter_map(|&t| Some((t, *logits.get(t as usize)?))).collect();
    before.iter().for_each(|&(token, _)| logits[token as usize] = f32::NEG_INFINITY);
    if !before.is_empty() && select::maximum(logits).0 == f32::NEG_INFINITY {
        before.into_iter().for_each(|(token, logit)| logits[token as usize] = logit);
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
