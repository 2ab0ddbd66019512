use serde_json::Value;

use super::common::tokens;
use super::fields::describe;
use crate::error::ApiError;

/// Most prompts in one request for completions.
pub(crate) const MAX_PROMPTS: usize = 1024;

/// A text to continue or to embed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

/// The value of `param`: a string, a list of at most `most` strings, a list of tokens, or a list of at most `most` lists of
/// tokens.
pub(crate) fn prompts(value: Value, param: &str, most: usize) -> Result<Vec<Prompt>, ApiError> {
    const EXPECTED: &str = "a string, an array of strings, an array of tokens, or an array of arrays of tokens";
    let items = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text)]),
        Value::Array(items) => items,
        other => return Err(ApiError::invalid(param, EXPECTED, describe(&other))),
    };
    match items.first() {
        None => return Err(ApiError::invalid(param, EXPECTED, "an empty array")),
        Some(Value::Number(_)) => return Ok(vec![Prompt::Tokens(tokens(&items, param)?)]),
        Some(_) if items.len() > most => {
            return Err(ApiError::invalid(param, format!("at most {most} texts"), items.len()));
        }
        Some(Value::String(_) | Value::Array(_)) => {}
        Some(other) => return Err(ApiError::invalid(format!("{param}[0]"), EXPECTED, describe(other))),
    }
    let of_text = items[0].is_string();
    let prompt = |(i, item): (usize, Value)| match item {
        Value::String(text) if of_text => Ok(Prompt::Text(text)),
        Value::Array(ids) if !of_text => Ok(Prompt::Tokens(tokens(&ids, &format!("{param}[{i}]"))?)),
        other => Err(ApiError::invalid(format!("{param}[{i}]"), "the type of the first one", describe(&other))),
    };
    items.into_iter().enumerate().map(prompt).collect()
}
