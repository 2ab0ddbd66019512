use std::time::Duration;

use rocmforge_engine::sampler::MAX_TOP_LOGPROBS;
use rocmforge_engine::{SamplingParams, StopParams};
use serde_json::Value;

use super::Fields;
use super::fields::{as_integer, describe};
use crate::error::ApiError;

const MAX_STOPS: usize = 16;
const MAX_N: u32 = 128;
const MAX_LOGIT_BIAS: usize = 1024;
/// A day, in seconds.
const MAX_TIME: f64 = 86_400.0;

/// Parameters that chat and plain completions share.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Common {
    pub(crate) model: Option<String>,
    pub(crate) sampling: SamplingParams,
    pub(crate) stop: StopParams,
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
            stop: StopParams {
                max_tokens: None,
                strings: stop_strings(fields)?,
                tokens: stop_tokens(fields)?,
                ignore_eos: fields.bool("ignore_eos")?.unwrap_or(false),
            },
            n: fields.count("n", 1..=MAX_N)?.unwrap_or(1),
            cache_salt: fields.string("cache_salt")?.unwrap_or_default(),
            priority: priority(fields)?,
            max_time: max_time(fields)?,
            stream: stream(fields)?,
        })
    }

    /// The parameters for the `sample`th answer to a prompt.
    pub(crate) fn sampling_of(&self, sample: usize) -> SamplingParams {
        let seed = self.sampling.seed.map(|s| s.wrapping_add(sample as u64));
        SamplingParams { seed, ..self.sampling.clone() }
    }
}

fn sampling(fields: &mut Fields) -> Result<SamplingParams, ApiError> {
    let default = SamplingParams::default();
    // 0 means the likeliest token alone, which the smallest positive probability does.
    let top_p = fields.number("top_p", 0.0..=1.0)?.map(|p| p.max(f32::MIN_POSITIVE));
    // -1 and 0 mean all tokens to clients of vLLM and llama.cpp.
    let top_k = fields.integer("top_k", -1..=i64::MAX)?.filter(|&k| k > 0);
    Ok(SamplingParams {
        temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(default.temperature),
        top_k: top_k.map(|k| usize::try_from(k).unwrap_or(usize::MAX)),
        top_p: top_p.unwrap_or(default.top_p),
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(default.min_p),
        repetition_penalty: fields.number("repetition_penalty", 0.01..=100.0)?.unwrap_or(default.repetition_penalty),
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(default.frequency_penalty),
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(default.presence_penalty),
        logit_bias: logit_bias(fields)?,
        seed: seed(fields)?,
        ..default
    })
}

fn priority(fields: &mut Fields) -> Result<i32, ApiError> {
    let number = fields.integer("priority", i32::MIN.into()..=i32::MAX.into())?;
    Ok(number.and_then(|n| i32::try_from(n).ok()).unwrap_or(0))
}

fn max_time(fields: &mut Fields) -> Result<Option<Duration>, ApiError> {
    let seconds = fields.number("max_time", 0.0..=MAX_TIME)?;
    Ok(seconds.and_then(|s| Duration::try_from_secs_f32(s).ok()))
}

fn seed(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    let Some(value) = fields.take("seed") else { return Ok(None) };
    let seed = value.as_u64().or_else(|| as_integer(&value).map(|n| n as u64));
    seed.map(Some).ok_or_else(|| ApiError::invalid("seed", "a 64-bit integer", describe(&value)))
}

fn logit_bias(fields: &mut Fields) -> Result<Vec<(u32, f32)>, ApiError> {
    let members = match fields.take("logit_bias") {
        None => return Ok(vec![]),
        Some(Value::Object(members)) => members,
        Some(other) => return Err(ApiError::invalid("logit_bias", "an object", describe(&other))),
    };
    if members.len() > MAX_LOGIT_BIAS {
        let expected = format!("at most {MAX_LOGIT_BIAS} tokens");
        return Err(ApiError::invalid("logit_bias", expected, members.len()));
    }
    let entry = |(key, value): (String, Value)| {
        let token =
            key.parse().map_err(|_| ApiError::invalid("logit_bias", "token ids as keys", format!("{key:?}")))?;
        let bias = value.as_f64().filter(|b| (-100.0..=100.0).contains(b));
        let expected = "numbers from -100 to 100";
        let bias = bias.ok_or_else(|| ApiError::invalid(format!("logit_bias.{key}"), expected, describe(&value)))?;
        Ok((token, bias as f32))
    };
    members.into_iter().map(entry).collect()
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
        Some(Value::Array(items)) if items.len() <= MAX_LOGIT_BIAS => tokens(&items, "stop_token_ids"),
        Some(other) => {
            let expected = format!("an array of at most {MAX_LOGIT_BIAS} tokens");
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
