//! What of sampling a backend can do by itself.

use rocmforge_program::{LEAST_TEMPERATURE, RowSampling};

use super::{Sampler, SamplingParams};

impl Sampler {
    /// What a backend needs to know to draw the token after `position` from a row of logits as
    /// [`sample`](Sampler::sample) does; `None` where that needs more than a backend can do, or the logits are wanted.
    pub fn row_sampling(&self, row: u32, position: usize) -> Option<RowSampling> {
        if self.follower.is_some() || changes_logits(&self.params) || self.params.logprobs.is_some() {
            return None;
        }
        let SamplingParams { temperature, top_k, top_p, min_p, .. } = self.params;
        if temperature == 0.0 {
            return Some(RowSampling { row, top_p: 1.0, ..RowSampling::default() });
        }
        if temperature < LEAST_TEMPERATURE || filters_otherwise(&self.params) {
            return None;
        }
        // A vocabulary has fewer tokens than that.
        let top_k = top_k.map_or(0, |k| u32::try_from(k).unwrap_or(u32::MAX));
        Some(RowSampling { row, top_k, temperature, top_p, min_p, draw: self.rng.quantile(position as u64) })
    }
}

/// Whether logits are changed before anything is drawn from them.
fn changes_logits(params: &SamplingParams) -> bool {
    let penalties =
        params.repetition_penalty != 1.0 || params.frequency_penalty != 0.0 || params.presence_penalty != 0.0;
    let tokens = !params.logit_bias.is_empty() || params.allowed_tokens.is_some() || !params.bad_words.is_empty();
    penalties || tokens || params.dry.is_some()
}

/// Whether tokens are left out by rules that backends do not know.
fn filters_otherwise(params: &SamplingParams) -> bool {
    params.top_n_sigma > 0.0 || params.typical_p < 1.0 || params.xtc.is_some() || params.mirostat.is_some()
}
