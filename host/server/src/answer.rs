use std::time::Duration;

use rocmforge_engine::{Event, GenerateRequest, Logprobs, TokenEvent};

use crate::error::ApiError;
use crate::generation::Generation;
use crate::params::common::StreamOptions;
use crate::state::{AppState, ServedModel};
use crate::wire::{CompletionDetails, Timings, Usage, finish_reason};

/// Most tokens for a request that asks for `wanted`.
///
/// # Errors
/// Prompt and answer do not fit the context. Nothing is cut off silently.
pub(crate) fn token_limit(
    state: &AppState,
    model: &ServedModel,
    param: &'static str,
    prompt: usize,
    wanted: Option<usize>,
) -> Result<Option<usize>, ApiError> {
    let default = state.settings.default_max_tokens.map(|n| n.get() as usize);
    limit_of(model.context_length, param, prompt, wanted, default)
}

fn limit_of(
    limit: usize,
    param: &'static str,
    prompt: usize,
    wanted: Option<usize>,
    default: Option<usize>,
) -> Result<Option<usize>, ApiError> {
    // A request without a limit needs room for one token at least.
    let completion = wanted.unwrap_or(1);
    if prompt.saturating_add(completion) > limit {
        return Err(ApiError::ContextLength { param, limit, prompt, completion });
    }
    Ok(wanted.or_else(|| default.map(|n| n.min(limit - prompt))))
}

/// One sequence, when it is over.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenEvent>,
    /// Of the prompt's second and later tokens, if asked for.
    pub(crate) prompt: Vec<Logprobs>,
    pub(crate) finish_reason: &'static str,
}

impl Answer {
    /// Log-probability per token; that of no token at all is the lowest.
    pub(crate) fn mean_logprob(&self) -> f32 {
        let known: Vec<f32> = self.tokens.iter().filter_map(|t| Some(t.logprobs.as_ref()?.chosen)).collect();
        if known.is_empty() { f32::NEG_INFINITY } else { known.iter().sum::<f32>() / known.len() as f32 }
    }
}

/// Waits for all sequences.
pub(crate) async fn collect(generation: Generation, usage: UsageCount) -> Result<(Vec<Answer>, UsageCount), ApiError> {
    collect_with(generation, usage, |_, _| {}).await
}

/// The same, and shows `seen` every event.
pub(crate) async fn collect_with(
    mut generation: Generation,
    mut usage: UsageCount,
    mut seen: impl FnMut(usize, &Event),
) -> Result<(Vec<Answer>, UsageCount), ApiError> {
    let mut answers: Vec<Answer> = (0..usage.sequences()).map(|_| Answer::default()).collect();
    while let Some(item) = generation.next().await {
        let (sequence, event) = item?;
        usage.event(sequence, &event);
        seen(sequence, &event);
        let answer = &mut answers[sequence];
        match event {
            Event::Prompt(logprobs) => answer.prompt = logprobs,
            Event::Token(token) => {
                answer.text.push_str(&token.text);
                // Only their log-probabilities are needed later.
                answer.tokens.extend(token.logprobs.is_some().then_some(token));
            }
            Event::Finished(finish) => {
                answer.text.push_str(&finish.text);
                answer.finish_reason = finish_reason(&finish.reason);
            }
            Event::Embedding(_) => {}
            Event::Error(error) => return Err(error.into()),
        }
    }
    Ok((answers, usage))
}

/// Counts the tokens of a request. A prompt counts once, however many answers it has.
#[derive(Clone, Debug)]
pub(crate) struct UsageCount {
    prompt: usize,
    /// Answers per prompt.
    n: usize,
    completion: Vec<usize>,
    cached: usize,
    /// Of the tokens of all answers, those of reasoning; `None`: nobody tells it from the rest.
    reasoning: Option<usize>,
    /// Answers that are over.
    ended: usize,
    /// The longest of all answers.
    prefill: Duration,
    decode: Duration,
}

impl UsageCount {
    /// For requests of which `n` in a row have the same prompt.
    pub(crate) fn new(requests: &[GenerateRequest], n: usize) -> UsageCount {
        let prompt = requests.iter().step_by(n.max(1)).map(|r| r.prompt.len()).sum();
        let (prefill, decode) = Default::default();
        let completion = vec![0; requests.len()];
        UsageCount { prompt, n, completion, cached: 0, reasoning: None, ended: 0, prefill, decode }
    }

    pub(crate) fn prompt_tokens(&self) -> usize {
        self.prompt
    }

    pub(crate) fn sequences(&self) -> usize {
        self.completion.len()
    }

    pub(crate) fn event(&mut self, sequence: usize, event: &Event) {
        match event {
            Event::Token(_) => self.completion[sequence] += 1,
            Event::Finished(finish) => {
                // Includes the token that ended the answer, for which there is no event.
                self.completion[sequence] = finish.usage.completion_tokens;
                self.ended += 1;
                self.prefill = self.prefill.max(finish.timings.prefill);
                self.decode = self.decode.max(finish.timings.decode);
                // The other answers to a prompt share what the first has computed.
                if sequence.is_multiple_of(self.n) {
                    self.cached += finish.usage.cached_tokens;
                }
            }
            Event::Prompt(_) | Event::Embedding(_) | Event::Error(_) => {}
        }
    }

    /// Notes how many tokens of all answers were reasoning.
    pub(crate) fn set_reasoning(&mut self, tokens: usize) {
        self.reasoning = Some(tokens);
    }

    pub(crate) fn total(&self) -> Usage {
        let completion_tokens_details = self.reasoning.map(|reasoning_tokens| CompletionDetails { reasoning_tokens });
        Usage { completion_tokens_details, ..Usage::new(self.prompt, self.completion.iter().sum(), self.cached) }
    }

    pub(crate) fn timings(&self) -> Timings {
        Timings::new(self.total(), self.prefill, self.decode)
    }

    /// The member `timings` of a chunk: in the last one only. `finish`: a choice of the chunk is over.
    pub(crate) fn timings_of_chunk(&self, options: StreamOptions, empty: bool, finish: bool) -> Option<Timings> {
        let last = if options.include_usage { empty } else { finish && self.ended == self.completion.len() };
        last.then(|| self.timings())
    }

    /// The member `usage` of a chunk: absent, null, or a value.
    pub(crate) fn of_chunk(&self, options: StreamOptions, last: bool) -> Option<Option<Usage>> {
        let value = last || options.continuous;
        (options.include_usage || options.continuous).then(|| value.then(|| self.total()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_fit_the_context_or_are_refused() {
        let check = |prompt, wanted, default, expected: Option<Option<usize>>| {
            let limit = limit_of(100, "prompt", prompt, wanted, default);
            assert_eq!(limit.clone().ok(), expected, "{prompt} {wanted:?} {default:?}");
            if let Err(error) = limit {
                assert_eq!(error.code(), "context_length_exceeded");
            }
        };
        check(10, None, None, Some(None));
        check(10, None, Some(16), Some(Some(16)));
        check(90, None, Some(16), Some(Some(10)));
        check(90, Some(10), Some(16), Some(Some(10)));
        check(90, Some(11), None, None);
        check(99, None, None, Some(None));
        check(100, None, None, None);
        check(100, Some(0), None, Some(Some(0)));
        check(101, Some(0), None, None);
        check(1, Some(usize::MAX), None, None);
    }
}
