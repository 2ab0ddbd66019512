use std::time::Duration;

use rocmforge_engine::sampler::{Constraint, MAX_TOP_LOGPROBS};
use rocmforge_engine::{GenerateRequest, SamplingParams, SpecialText, StopParams};
use serde_json::Value;

use super::Fields;
use super::fields::{as_integer, describe};
use super::sampling::{bad_words, breaker_texts, breakers, sampling, spellings};
use super::structured::{Structured, structured};
use crate::error::ApiError;
use crate::state::ServedModel;

const MAX_STOPS: usize = 16;
pub(crate) const MAX_N: u32 = 128;
const MAX_STOP_TOKENS: usize = 1024;
/// A day, in seconds.
const MAX_TIME: f64 = 86_400.0;

/// Parameters that chat and plain completions share.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Common {
    pub(crate) model: Option<String>,
    pub(crate) sampling: SamplingParams,
    dry_breakers: Vec<String>,
    bad_words: Vec<String>,
    /// Report the log-probabilities of the prompt's tokens, and of so many of the likeliest at each place.
    pub(crate) prompt_logprobs: Option<usize>,
    pub(crate) stop: StopParams,
    /// What the answer has to look like.
    pub(crate) structured: Option<Structured>,
    /// That, compiled for a model.
    pub(crate) constraint: Option<Constraint>,
    pub(crate) special: SpecialText,
    /// Answers per prompt.
    pub(crate) n: usize,
    pub(crate) cache_salt: String,
    /// Smaller numbers are served first.
    pub(crate) priority: i32,
    /// Longest time for the whole request.
    pub(crate) max_time: Option<Duration>,
    /// `None`: the answer comes in one piece.
    pub(crate) stream: Option<StreamOptions>,
}

/// How a stream reports numbers of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamOptions {
    /// In a chunk of its own, the last one.
    pub(crate) include_usage: bool,
    /// In every chunk.
    pub(crate) continuous: bool,
}

impl Common {
    /// Takes the shared parameters out, except for `logprobs` and the limit of tokens, which differ.
    pub(crate) fn take(fields: &mut Fields) -> Result<Common, ApiError> {
        Ok(Common {
            model: fields.string("model")?,
            sampling: sampling(fields)?,
            dry_breakers: breaker_texts(fields)?,
            bad_words: bad_words(fields)?,
            prompt_logprobs: top_logprobs(fields, "prompt_logprobs")?,
            stop: StopParams {
                max_tokens: None,
                strings: stop_strings(fields)?,
                tokens: stop_tokens(fields)?,
                ignore_eos: fields.bool("ignore_eos")?.unwrap_or(false),
                min_tokens: fields.count("min_tokens", 0..=u32::MAX)?.unwrap_or(0),
                keep_stop: fields.bool("include_stop_str_in_output")?.unwrap_or(false),
            },
            structured: structured(fields)?,
            constraint: None,
            special: match fields.bool("skip_special_tokens")? {
                Some(false) => SpecialText::All,
                _ => SpecialText::None,
            },
            n: fields.count("n", 1..=MAX_N)?.unwrap_or(1),
            cache_salt: fields.string("cache_salt")?.unwrap_or_default(),
            priority: priority(fields)?,
            max_time: max_time(fields)?,
            stream: stream(fields)?,
        })
    }

    /// Makes the parameters those of a model, which takes long. `reasoning`: the answer begins within the model's
    /// reasoning, which has no form to keep to.
    pub(crate) fn resolve(&mut self, model: &ServedModel, reasoning: bool) -> Result<(), ApiError> {
        if let Some(dry) = &mut self.sampling.dry {
            dry.breakers = breakers(&self.dry_breakers, &model.tokenizer);
        }
        self.sampling.bad_words = self.bad_words.iter().flat_map(|word| spellings(word, &model.tokenizer)).collect();
        self.constraint = self.structured.as_ref().map(|s| s.compile(model, reasoning)).transpose()?;
        Ok(())
    }

    /// The parameters for the `sample`th answer to a prompt.
    pub(crate) fn sampling_of(&self, sample: usize) -> SamplingParams {
        let seed = self.sampling.seed.map(|s| s.wrapping_add(sample as u64));
        SamplingParams { seed, ..self.sampling.clone() }
    }

    /// The request for the `sample`th answer to a prompt, of at most `max_tokens` tokens.
    pub(crate) fn request(&self, prompt: Vec<u32>, sample: usize, max_tokens: Option<usize>) -> GenerateRequest {
        GenerateRequest {
            prompt,
            sampling: self.sampling_of(sample),
            stop: StopParams { max_tokens, ..self.stop.clone() },
            constraint: self.constraint.clone(),
            special: self.special.clone(),
            cache_salt: self.cache_salt.clone(),
            priority: self.priority,
            max_time: self.max_time,
            prompt_logprobs: self.prompt_logprobs,
            ..GenerateRequest::default()
        }
    }

    /// Checks what depends on the limit of generated tokens, once it is known.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        if self.prompt_logprobs.is_some() && self.stream.is_some() {
            let expected = "a request without `stream`";
            return Err(ApiError::invalid("prompt_logprobs", expected, "a stream"));
        }
        match self.stop.max_tokens {
            Some(most) if self.stop.min_tokens > most => {
                let expected = format!("at most the limit of {most} generated tokens");
                Err(ApiError::invalid("min_tokens", expected, self.stop.min_tokens))
            }
            _ => Ok(()),
        }
    }
}

pub(crate) fn priority(fields: &mut Fields) -> Result<i32, ApiError> {
    let number = fields.integer("priority", i32::MIN.into()..=i32::MAX.into())?;
    Ok(number.and_then(|n| i32::try_from(n).ok()).unwrap_or(0))
}

pub(crate) fn max_time(fields: &mut Fields) -> Result<Option<Duration>, ApiError> {
    let seconds = fields.number("max_time", 0.0..=MAX_TIME)?;
    Ok(seconds.and_then(|s| Duration::try_from_secs_f32(s).ok()))
}

fn stop_strings(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let items = match fields.take("stop") {
        None => return Ok(vec![]),
        Some(Value::String(text)) => vec![Value::String(text)],
        Some(Value::Array(items)) if items.len() <= MAX_STOPS => items,
        Some(other) => {
            let expected = format!("a string or an array of at most {MAX_STOPS} strings");
            return Err(ApiError::invalid("stop", expected, describe(&other)));
        }
    };
    let item = |(i, value): (usize, Value)| match value {
        Value::String(text) => Ok(text),
        other => Err(ApiError::invalid(format!("stop[{i}]"), "a string", describe(&other))),
    };
    let texts: Result<Vec<String>, ApiError> = items.into_iter().enumerate().map(item).collect();
    // An empty string can never be what a text ends at.
    Ok(texts?.into_iter().filter(|t| !t.is_empty()).collect())
}

fn stop_tokens(fields: &mut Fields) -> Result<Vec<u32>, ApiError> {
    match fields.take("stop_token_ids") {
        None => Ok(vec![]),
        Some(Value::Array(items)) if items.len() <= MAX_STOP_TOKENS => tokens(&items, "stop_token_ids"),
        Some(other) => {
            let expected = format!("an array of at most {MAX_STOP_TOKENS} tokens");
            Err(ApiError::invalid("stop_token_ids", expected, describe(&other)))
        }
    }
}

/// Token ids from JSON.
pub(crate) fn tokens(items: &[Value], param: &str) -> Result<Vec<u32>, ApiError> {
    let token = |(i, v): (usize, &Value)| {
        let id = as_integer(v).and_then(|n| u32::try_from(n).ok());
        id.ok_or_else(|| ApiError::invalid(format!("{param}[{i}]"), "a token id", describe(v)))
    };
    items.iter().enumerate().map(token).collect()
}

fn stream(fields: &mut Fields) -> Result<Option<StreamOptions>, ApiError> {
    let stream = fields.bool("stream")?.unwrap_or(false);
    let Some(value) = fields.take("stream_options") else {
        return Ok(stream.then(StreamOptions::default));
    };
    if !stream {
        return Err(ApiError::invalid("stream_options", "`stream` to be true", "a request without it"));
    }
    let mut options = Fields::of(value, "stream_options")?;
    let read = StreamOptions {
        include_usage: options.bool("include_usage")?.unwrap_or(false),
        continuous: options.bool("continuous_usage_stats")?.unwrap_or(false),
    };
    // Padding against observers of the network, which TLS in front of the server is for.
    options.bool("include_obfuscation")?;
    match options.rest().next() {
        Some((param, ..)) => Err(ApiError::Unknown(param)),
        None => Ok(Some(read)),
    }
}

/// A limit of generated tokens.
pub(crate) fn max_tokens(fields: &mut Fields, key: &str, least: u32) -> Result<Option<usize>, ApiError> {
    fields.count(key, least..=u32::MAX)
}

/// A number of likeliest tokens to report.
pub(crate) fn top_logprobs(fields: &mut Fields, key: &str) -> Result<Option<usize>, ApiError> {
    fields.count(key, 0..=MAX_TOP_LOGPROBS as u32)
}
