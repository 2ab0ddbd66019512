use std::collections::HashMap;

use super::{SamplingParams, dry};

/// Counts of a sequence's tokens, kept up to date token by token, and what they do to the logits.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Tokens that the repetition penalty looks at. With a window the latest only.
    seen: HashMap<u32, u32>,
    /// Tokens of the answer.
    generated: HashMap<u32, u32>,
    /// The whole sequence, where repetitions of several tokens cost something.
    tokens: Vec<u32>,
}

impl History {
    pub(super) fn new(prompt: &[u32], params: &SamplingParams) -> History {
        let mut history = History::default();
        if params.repetition_penalty != 1.0 {
            let from = params.repetition_window.map_or(0, |w| prompt.len().saturating_sub(w));
            prompt[from..].iter().for_each(|&t| *history.seen.entry(t).or_default() += 1);
        }
        if params.dry.is_some() {
            history.tokens = prompt.to_vec();
        }
        history
    }

    /// Counts the last of `tokens` (prompt and answer), which was just generated.
    pub(super) fn accept(&mut self, tokens: &[u32], params: &SamplingParams) {
        let Some(&token) = tokens.last() else { return };
        if params.frequency_penalty != 0.0 || params.presence_penalty != 0.0 {
            *self.generated.entry(token).or_default() += 1;
        }
        if params.dry.is_some() {
            self.tokens.push(token);
        }
        if params.repetition_penalty == 1.0 {
            return;
        }
        *self.seen.entry(token).or_default() += 1;
        let left = params.repetition_window.and_then(|w| tokens.len().checked_sub(w + 1)).map(|i| tokens[i]);
        if let Some(left) = left
            && let Some(count) = self.seen.get_mut(&left)
        {
            *count -= 1;
            if *count == 0 {
                self.seen.remove(&left);
            }
        }
    }

    pub(super) fn apply(&self, logits: &mut [f32], params: &SamplingParams) {
        for &(token, bias) in &params.logit_bias {
            if let Some(x) = logits.get_mut(token as usize) {
                *x += bias;
            }
        }
        for &token in self.seen.keys() {
            if let Some(x) = logits.get_mut(token as usize) {
                *x = if *x > 0.0 { *x / params.repetition_penalty } else { *x * params.repetition_penalty };
            }
        }
        for (&token, &count) in &self.generated {
            if let Some(x) = logits.get_mut(token as usize) {
                *x -= params.frequency_penalty * count as f32 + params.presence_penalty;
            }
        }
        let Some(dry) = &params.dry else { return };
        for (token, length) in dry::repetitions(&self.tokens, dry) {
            if let Some(x) = logits.get_mut(token as usize) {
                *x -= dry::penalty(dry, length);
            }
        }
    }
}
