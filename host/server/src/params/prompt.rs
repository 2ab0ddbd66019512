use serde_json::Value;

use super::common::tokens;
use super::fields::describe;
use crate::error::ApiError;

/// Most prompts in one request.
const MAX_PROMPTS: usize = 1024;

/// A prompt of a plain completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

/// A string, a list of strings, a list of tokens, or a list of lists of tokens.
pub(crate) fn prompts(value: Value) -> Result<Vec<Prompt>, ApiError> {
    const EXPECTED: &str = "a string, an array of strings, an array of tokens, or an array of arrays of tokens";
    let items = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text)]),
        Value::Array(items) => items,
        other => return Err(ApiError::invalid("prompt", EXPECTED, describe(&other))),
    };
    match items.first() {
        None => return Err(ApiError::invalid("prompt", EXPECTED, "an empty array")),
        Some(Value::Number(_)) => return Ok(vec![Prompt::Tokens(tokens(&items, "prompt")?)]),
        Some(_) if items.len() > MAX_PROMPTS => {
            return Err(ApiError::invalid("prompt", format!("at most {MAX_PROMPTS} prompts"), items.len()));
        }
        Some(Value::String(_) | Value::Array(_)) => {}
        Some(other) => return Err(ApiError::invalid("prompt[0]", EXPECTED, describe(other))),
    }
    let of_text = items[0].is_string();
    let prompt = |(i, item): (usize, Value)| match item {
        Value::String(text) if of_text => Ok(Prompt::Text(text)),
        Value::Array(ids) if !of_text => Ok(Prompt::Tokens(tokens(&ids, &format!("prompt[{i}]"))?)),
        other => Err(ApiError::invalid(format!("prompt[{i}]"), "the type of the first prompt", describe(&other))),
    };
    items.into_iter().enumerate().map(prompt).collect()
}
