//! How tokens are drawn, in the names that clients of OpenAI, vLLM and llama-server use.

use std::sync::Arc;

use rocmforge_engine::SamplingParams;
use rocmforge_engine::sampler::{Dry, Mirostat, MirostatVersion, Xtc};
use rocmforge_tokenizer::{EncodeOptions, Tokenizer};
use serde_json::Value;

use super::Fields;
use super::common::tokens;
use super::fields::{as_integer, describe};
use crate::error::ApiError;

const MAX_LOGIT_BIAS: usize = 1024;
const MAX_BREAKERS: usize = 32;
const MAX_BAD_WORDS: usize = 256;
/// Where sentences, names and quotations begin, as in the other programs with this penalty.
const BREAKERS: &[&str] = &["\n", ":", "\"", "*"];

pub(super) fn sampling(fields: &mut Fields) -> Result<SamplingParams, ApiError> {
    let default = SamplingParams::default();
    // 0 means the likeliest token alone, which the smallest positive probability does.
    let positive = |p: f32| p.max(f32::MIN_POSITIVE);
    // -1 and 0 mean all tokens to clients of vLLM and llama.cpp.
    let top_k = fields.integer("top_k", -1..=i64::MAX)?.filter(|&k| k > 0);
    let top_n_sigma = fields.number("top_n_sigma", -1.0..=100.0)?.unwrap_or(default.top_n_sigma);
    let repeat = fields.number("repeat_penalty", 0.01..=100.0)?.unwrap_or(default.repetition_penalty);
    Ok(SamplingParams {
        temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(default.temperature),
        top_k: top_k.map(|k| usize::try_from(k).unwrap_or(usize::MAX)),
        top_p: fields.number("top_p", 0.0..=1.0)?.map_or(default.top_p, positive),
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(default.min_p),
        top_n_sigma: top_n_sigma.max(0.0),
        typical_p: fields.number("typical_p", 0.0..=1.0)?.map_or(default.typical_p, positive),
        xtc: xtc(fields)?,
        mirostat: mirostat(fields)?,
        dry: dry(fields)?,
        allowed_tokens: allowed_tokens(fields)?,
        repetition_penalty: fields.number("repetition_penalty", 0.01..=100.0)?.unwrap_or(repeat),
        repetition_window: fields.integer("repeat_last_n", -1..=i64::MAX)?.and_then(|n| usize::try_from(n).ok()),
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(default.frequency_penalty),
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(default.presence_penalty),
        logit_bias: logit_bias(fields)?,
        seed: seed(fields)?,
        ..default
    })
}

fn xtc(fields: &mut Fields) -> Result<Option<Xtc>, ApiError> {
    let probability = fields.number("xtc_probability", 0.0..=1.0)?.unwrap_or(0.0);
    let threshold = fields.number("xtc_threshold", 0.0..=1.0)?.unwrap_or(0.1).max(f32::MIN_POSITIVE);
    Ok((probability > 0.0).then_some(Xtc { probability, threshold }))
}

fn mirostat(fields: &mut Fields) -> Result<Option<Mirostat>, ApiError> {
    let version = match fields.integer("mirostat", 0..=2)? {
        Some(1) => Some(MirostatVersion::One),
        Some(2) => Some(MirostatVersion::Two),
        _ => None,
    };
    let tau = fields.number("mirostat_tau", 0.0..=100.0)?.unwrap_or(5.0);
    let eta = fields.number("mirostat_eta", 0.0..=1.0)?.unwrap_or(0.1);
    Ok(version.map(|version| Mirostat { version, tau, eta }))
}

/// The breakers wait for the tokenizer: see [`breakers`].
fn dry(fields: &mut Fields) -> Result<Option<Dry>, ApiError> {
    let multiplier = fields.number("dry_multiplier", 0.0..=100.0)?.unwrap_or(0.0);
    let base = fields.number("dry_base", 1.0..=100.0)?.unwrap_or(1.75);
    let allowed_length = fields.count("dry_allowed_length", 0..=u32::MAX)?.unwrap_or(2);
    let last = fields.integer("dry_penalty_last_n", -1..=i64::MAX)?.unwrap_or(-1);
    let window = usize::try_from(last).ok();
    let on = multiplier > 0.0 && window != Some(0);
    Ok(on.then(|| Dry { multiplier, base, allowed_length, window, breakers: Arc::default() }))
}

/// The texts that no repetition goes across.
pub(super) fn breaker_texts(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    match fields.take("dry_sequence_breakers") {
        None => Ok(BREAKERS.iter().map(|t| (*t).to_string()).collect()),
        Some(Value::Array(items)) if items.len() <= MAX_BREAKERS => {
            let text = |(i, value): (usize, Value)| match value {
                Value::String(text) if !text.is_empty() => Ok(text),
                other => {
                    let param = format!("dry_sequence_breakers[{i}]");
                    Err(ApiError::invalid(param, "a string that is not empty", describe(&other)))
                }
            };
            items.into_iter().enumerate().map(text).collect()
        }
        Some(other) => {
            let expected = format!("an array of at most {MAX_BREAKERS} strings");
            Err(ApiError::invalid("dry_sequence_breakers", expected, describe(&other)))
        }
    }
}

/// Texts that must not be in an answer.
pub(super) fn bad_words(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    match fields.take("bad_words") {
        None => Ok(vec![]),
        Some(Value::Array(items)) if items.len() <= MAX_BAD_WORDS => {
            let word = |(i, value): (usize, Value)| match value {
                Value::String(text) if !text.trim().is_empty() => Ok(text),
                other => {
                    let param = format!("bad_words[{i}]");
                    Err(ApiError::invalid(param, "a string that is not blank", describe(&other)))
                }
            };
            items.into_iter().enumerate().map(word).collect()
        }
        Some(other) => {
            let expected = format!("an array of at most {MAX_BAD_WORDS} strings");
            Err(ApiError::invalid("bad_words", expected, describe(&other)))
        }
    }
}

/// A word as tokens, at the beginning of a text and after a space.
pub(super) fn spellings(word: &str, tokenizer: &Tokenizer) -> Vec<Vec<u32>> {
    let plain = EncodeOptions { add_special: false, parse_special: false };
    let word = word.trim_start();
    let mut found: Vec<Vec<u32>> =
        [word.to_string(), format!(" {word}")].iter().map(|text| tokenizer.encode(text, plain)).collect();
    found.dedup();
    found.retain(|tokens| !tokens.is_empty());
    found
}

/// The tokens that such a text is in, and those that it ends with where it takes several.
pub(super) fn breakers(texts: &[String], tokenizer: &Tokenizer) -> Arc<[u32]> {
    let holds = |id: u32, text: &[u8]| tokenizer.token_bytes(id).windows(text.len()).any(|w| w == text);
    let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    let mut found: Vec<u32> = ids.filter(|&id| texts.iter().any(|t| holds(id, t.as_bytes()))).collect();
    let plain = EncodeOptions { add_special: false, parse_special: false };
    found.extend(texts.iter().filter_map(|t| tokenizer.encode(t, plain).last().copied()));
    found.into()
}

fn allowed_tokens(fields: &mut Fields) -> Result<Option<Arc<[u32]>>, ApiError> {
    match fields.take("allowed_token_ids") {
        None => Ok(None),
        // Clients that have no list send an empty one.
        Some(Value::Array(items)) if items.is_empty() => Ok(None),
        Some(Value::Array(items)) => Ok(Some(tokens(&items, "allowed_token_ids")?.into())),
        Some(other) => Err(ApiError::invalid("allowed_token_ids", "an array of tokens", describe(&other))),
    }
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
