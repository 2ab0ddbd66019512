//! Parameters that the server knows of but does nothing with.

use serde_json::Value;

use super::Fields;
use crate::error::ApiError;

/// What to do with a parameter that no code has asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// It changes nothing about the answer that a client could rely on.
    Ignore,
    /// Only these values, as JSON, mean what the server does anyway; others would change the answer.
    Only(&'static [&'static str]),
    /// It changes the answer in a way that is not implemented.
    Unsupported,
}
use Rule::{Ignore, Only, Unsupported};

/// Parameters of both kinds of completions: OpenAI's, then those that clients of vLLM and llama.cpp send.
const COMMON: &[(&str, Rule)] = &[
    ("user", Ignore),
    ("metadata", Ignore),
    ("store", Ignore),
    ("service_tier", Ignore),
    ("safety_identifier", Ignore),
    ("prompt_cache_key", Ignore),
    ("prompt_cache_retention", Ignore),
    ("prompt_cache_options", Ignore),
    ("best_of", Only(&["1"])),
    ("request_id", Ignore),
    ("cache_prompt", Ignore),
    ("timings_per_token", Ignore),
    ("min_tokens", Only(&["0"])),
    ("use_beam_search", Only(&["false"])),
    ("length_penalty", Only(&["1", "1.0"])),
    ("skip_special_tokens", Only(&["true"])),
    ("spaces_between_special_tokens", Ignore),
    ("include_stop_str_in_output", Only(&["false"])),
    ("return_tokens_as_token_ids", Only(&["false"])),
    ("return_token_ids", Only(&["false"])),
    ("prompt_logprobs", Unsupported),
    ("truncate_prompt_tokens", Unsupported),
    ("allowed_token_ids", Only(&["[]"])),
    ("bad_words", Only(&["[]"])),
    ("response_format", Only(&[r#"{"type":"text"}"#])),
    ("structured_outputs", Unsupported),
    ("guided_json", Unsupported),
    ("guided_regex", Unsupported),
    ("guided_choice", Unsupported),
    ("guided_grammar", Unsupported),
    ("grammar", Only(&[r#""""#])),
    ("json_schema", Unsupported),
];

/// Of chat completions only.
const CHAT: &[(&str, Rule)] = &[
    ("tools", Only(&["[]"])),
    ("tool_choice", Only(&[r#""none""#, r#""auto""#])),
    ("parallel_tool_calls", Ignore),
    ("functions", Only(&["[]"])),
    ("function_call", Only(&[r#""none""#, r#""auto""#])),
    ("modalities", Only(&[r#"["text"]"#])),
    ("audio", Unsupported),
    // Only makes answers arrive sooner where it is used.
    ("prediction", Ignore),
    ("web_search_options", Unsupported),
    ("moderation", Unsupported),
    ("reasoning_effort", Unsupported),
    ("verbosity", Only(&[r#""medium""#])),
    ("continue_final_message", Only(&["false"])),
    ("chat_template", Unsupported),
    ("chat_template_kwargs", Only(&["{}"])),
    ("documents", Only(&["[]"])),
    ("echo", Only(&["false"])),
];

/// Of plain completions only.
const COMPLETIONS: &[(&str, Rule)] = &[("suffix", Only(&[r#""""#]))];

/// Which parameters a route has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Route {
    Chat,
    Completions,
}

/// Looks at what is left of a request: known parameters that change nothing pass, all others are errors.
pub(crate) fn check_rest(fields: Fields, route: Route) -> Result<(), ApiError> {
    let own = match route {
        Route::Chat => CHAT,
        Route::Completions => COMPLETIONS,
    };
    let known = |key: &str| COMMON.iter().chain(own).find(|(name, _)| *name == key);
    for (param, key, value) in fields.rest() {
        match known(&key) {
            None if value.is_null() => {}
            None => return Err(ApiError::Unknown(param)),
            Some((_, rule)) => check(*rule, param, &value)?,
        }
    }
    Ok(())
}

fn check(rule: Rule, param: String, value: &Value) -> Result<(), ApiError> {
    let hint = match rule {
        _ if value.is_null() => return Ok(()),
        Ignore => return Ok(()),
        Only(values) if values.contains(&value.to_string().as_str()) => return Ok(()),
        Only(values) => format!(", except as {}", values.join(" or ")),
        Unsupported => String::new(),
    };
    Err(ApiError::Unsupported { param, hint })
}
