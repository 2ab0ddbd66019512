//! Shapes of the answers of the OpenAI API.

use std::collections::BTreeMap;
use std::time::Duration;

use rocmforge_engine::{FinishReason, Logprobs};
use rocmforge_tokenizer::Tokenizer;
use schemars::JsonSchema;
use serde::Serialize;

use crate::output::Call;
use crate::tokens::token_text;

/// What clients expect in place of minus infinity, which JSON cannot say.
const LEAST_LOGPROB: f32 = -9999.0;

/// An answer, or a chunk of one, with choices of the kind that the route has.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Envelope<'a, C> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) choices: Vec<C>,
    /// Chunks of a stream with usage have it as `null` until the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timings: Option<Timings>,
    /// Of chat, which has one prompt however many choices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_logprobs: Option<PromptLogprobs>,
}

/// For each token of the prompt, by id: itself and the likeliest ones at its place; `null` for the first.
pub(crate) type PromptLogprobs = Vec<Option<BTreeMap<u32, PromptLogprob>>>;

#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize)]
pub(crate) struct PromptLogprob {
    logprob: f32,
    /// 1 for the likeliest.
    rank: usize,
    decoded_token: String,
}

/// `logprobs`: of the second and later tokens of `prompt`.
pub(crate) fn prompt_logprobs(
    tokenizer: &Tokenizer,
    prompt: &[u32],
    logprobs: &[Logprobs],
    top: usize,
) -> PromptLogprobs {
    let entry = |id: u32, logprob: f32, rank: usize| {
        (id, PromptLogprob { logprob: finite(logprob), rank, decoded_token: token_text(tokenizer, id) })
    };
    let place = |(&id, l): (&u32, &Logprobs)| {
        let likeliest = l.top.iter().take(top).enumerate().map(|(i, &(id, p))| entry(id, p, i + 1));
        Some(likeliest.chain([entry(id, l.chosen, l.rank)]).collect())
    };
    let scored = prompt.iter().skip(1).zip(logprobs).map(place);
    // Nothing predicts the first token.
    [None].into_iter().chain(scored).collect()
}

/// Numbers of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
    pub(crate) total_tokens: usize,
    pub(crate) prompt_tokens_details: PromptDetails,
    /// Of chat answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub(crate) struct CompletionDetails {
    pub(crate) reasoning_tokens: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub(crate) struct PromptDetails {
    pub(crate) cached_tokens: usize,
}

impl Usage {
    pub(crate) fn new(prompt: usize, completion: usize, cached: usize) -> Usage {
        Usage {
            prompt_tokens: prompt,
            completion_tokens: completion,
            total_tokens: prompt + completion,
            prompt_tokens_details: PromptDetails { cached_tokens: cached },
            completion_tokens_details: None,
        }
    }
}

/// How long an answer took, in llama-server's terms: `prompt_n` counts the tokens that were not found in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, JsonSchema, Serialize)]
pub(crate) struct Timings {
    pub(crate) cache_n: usize,
    pub(crate) prompt_n: usize,
    pub(crate) prompt_ms: f64,
    pub(crate) prompt_per_token_ms: f64,
    pub(crate) prompt_per_second: f64,
    pub(crate) predicted_n: usize,
    pub(crate) predicted_ms: f64,
    pub(crate) predicted_per_token_ms: f64,
    pub(crate) predicted_per_second: f64,
}

impl Timings {
    pub(crate) fn new(usage: Usage, prefill: Duration, decode: Duration) -> Timings {
        let cache_n = usage.prompt_tokens_details.cached_tokens;
        let (prompt_n, predicted_n) = (usage.prompt_tokens.saturating_sub(cache_n), usage.completion_tokens);
        // JSON has no infinity.
        let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        let (prompt_ms, predicted_ms) = (prefill.as_secs_f64() * 1e3, decode.as_secs_f64() * 1e3);
        Timings {
            cache_n,
            prompt_n,
            prompt_ms,
            prompt_per_token_ms: ratio(prompt_ms, prompt_n as f64),
            prompt_per_second: ratio(1e3 * prompt_n as f64, prompt_ms),
            predicted_n,
            predicted_ms,
            predicted_per_token_ms: ratio(predicted_ms, predicted_n as f64),
            predicted_per_second: ratio(1e3 * predicted_n as f64, predicted_ms),
        }
    }
}

/// `finish_reason`. Cancelled answers end with an error instead.
pub(crate) fn finish_reason(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::StopToken(_) | FinishReason::StopString(_) => "stop",
        FinishReason::Length | FinishReason::Cancelled => "length",
    }
}

/// A whole chat answer.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct ChatChoice {
    pub(crate) index: usize,
    pub(crate) message: Message,
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: &'static str,
}

#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Message {
    pub(crate) role: &'static str,
    /// `null` where there are only calls.
    pub(crate) content: Option<String>,
    pub(crate) refusal: Option<()>,
    /// Clients know the reasoning by one of two names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<ToolCall>,
    /// What a call was before there were several in an answer; for requests that are as old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) function_call: Option<Function>,
}

/// A call of a tool.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct ToolCall {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function,
}

#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Function {
    name: String,
    /// JSON as a string.
    arguments: String,
}

impl From<Call> for Function {
    fn from(call: Call) -> Function {
        Function { name: call.name, arguments: call.arguments }
    }
}

impl ToolCall {
    pub(crate) fn new(id: String, call: Call) -> ToolCall {
        ToolCall { id, kind: "function", function: call.into() }
    }
}

/// A piece of a call: the first has all but the arguments.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct DeltaCall {
    pub(crate) index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<&'static str>,
    pub(crate) function: DeltaFunction,
}

#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct DeltaFunction {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) arguments: String,
}

/// A piece of a chat answer.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct ChunkChoice {
    pub(crate) index: usize,
    pub(crate) delta: Delta,
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, JsonSchema, Serialize)]
pub(crate) struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tool_calls: Option<Vec<DeltaCall>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) function_call: Option<DeltaFunction>,
}

/// Log-probabilities in the form of chat completions.
#[derive(Debug, Default, PartialEq, JsonSchema, Serialize)]
pub(crate) struct ChatLogprobs {
    pub(crate) content: Vec<TokenLogprob>,
}

#[derive(Debug, PartialEq, JsonSchema, Serialize)]
pub(crate) struct TokenLogprob {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<Vec<TokenLogprob>>,
}

impl TokenLogprob {
    /// Of a generated token.
    pub(crate) fn new(tokenizer: &Tokenizer, id: u32, logprobs: &Logprobs) -> TokenLogprob {
        let one = |id: u32, logprob: f32, top_logprobs| {
            let bytes = tokenizer.token_bytes(id).to_vec();
            TokenLogprob { token: token_text(tokenizer, id), logprob: finite(logprob), bytes, top_logprobs }
        };
        let top = logprobs.top.iter().map(|&(id, p)| one(id, p, None)).collect();
        one(id, logprobs.chosen, Some(top))
    }
}

fn finite(logprob: f32) -> f32 {
    logprob.max(LEAST_LOGPROB)
}

/// An answer, or a piece of one, of plain completions.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct CompletionChoice {
    pub(crate) index: usize,
    pub(crate) text: String,
    pub(crate) logprobs: Option<CompletionLogprobs>,
    pub(crate) finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_logprobs: Option<PromptLogprobs>,
}

/// Log-probabilities in the form of plain completions: arrays of equal length.
#[derive(Debug, Default, PartialEq, JsonSchema, Serialize)]
pub(crate) struct CompletionLogprobs {
    pub(crate) tokens: Vec<String>,
    /// `null` for the first token of a prompt, which nothing predicts.
    pub(crate) token_logprobs: Vec<Option<f32>>,
    pub(crate) top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// In characters, from the beginning of the choice's text.
    pub(crate) text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// `count`: so many of the likeliest.
    pub(crate) fn push(
        &mut self,
        tokenizer: &Tokenizer,
        id: u32,
        logprobs: Option<&Logprobs>,
        count: usize,
        offset: usize,
    ) {
        let text = token_text(tokenizer, id);
        let top = logprobs.map(|l| {
            // The likeliest of several tokens with the same text comes first, and stays.
            let likeliest = l.top.iter().take(count).rev().map(|&(id, p)| (token_text(tokenizer, id), finite(p)));
            let mut top: BTreeMap<String, f32> = likeliest.collect();
            top.entry(text.clone()).or_insert(finite(l.chosen));
            top
        });
        self.tokens.push(text);
        self.token_logprobs.push(logprobs.map(|l| finite(l.chosen)));
        self.top_logprobs.push(top);
        self.text_offset.push(offset);
    }

    pub(crate) fn append(&mut self, mut other: CompletionLogprobs) {
        self.tokens.append(&mut other.tokens);
        self.token_logprobs.append(&mut other.token_logprobs);
        self.top_logprobs.append(&mut other.top_logprobs);
        self.text_offset.append(&mut other.text_offset);
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_are_numbers_even_where_nothing_took_time() {
        let check = |usage: Usage, prefill: u64, decode: u64, expected: [f64; 6]| {
            let t = Timings::new(usage, Duration::from_millis(prefill), Duration::from_millis(decode));
            let found = [
                t.prompt_n as f64,
                t.prompt_per_token_ms,
                t.prompt_per_second,
                t.predicted_n as f64,
                t.predicted_per_token_ms,
                t.predicted_per_second,
            ];
            assert_eq!(found, expected, "{usage:?}");
        };
        check(Usage::new(10, 5, 2), 16, 20, [8.0, 2.0, 500.0, 5.0, 4.0, 250.0]);
        check(Usage::new(10, 0, 10), 0, 0, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        check(Usage::new(4, 1, 0), 8, 0, [4.0, 2.0, 500.0, 1.0, 0.0, 0.0]);
    }
}
