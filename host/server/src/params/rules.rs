//! Parameters that the server knows of but does nothing with.

use serde_json::{Value, json};

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
    ("request_id", Ignore),
    ("cache_prompt", Ignore),
    ("timings_per_token", Ignore),
    ("use_beam_search", Only(&["false"])),
    ("length_penalty", Only(&["1", "1.0"])),
    ("spaces_between_special_tokens", Ignore),
    ("return_tokens_as_token_ids", Only(&["false"])),
    ("return_token_ids", Only(&["false"])),
    ("truncate_prompt_tokens", Unsupported),
];

/// Of chat completions only.
const CHAT: &[(&str, Rule)] = &[
    ("best_of", Only(&["1"])),
    ("modalities", Only(&[r#"["text"]"#])),
    ("audio", Unsupported),
    // Only makes answers arrive sooner where it is used.
    ("prediction", Ignore),
    ("web_search_options", Unsupported),
    ("moderation", Unsupported),
    ("verbosity", Only(&[r#""medium""#])),
    ("chat_template", Unsupported),
    ("documents", Only(&["[]"])),
    ("echo", Only(&["false"])),
];

/// Of plain completions only.
const COMPLETIONS: &[(&str, Rule)] = &[];

/// Of embeddings.
const EMBEDDINGS: &[(&str, Rule)] =
    &[("user", Ignore), ("request_id", Ignore), ("metadata", Ignore), ("truncate_prompt_tokens", Unsupported)];

/// Which parameters a route has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Route {
    Chat,
    Completions,
    Embeddings,
}

impl Route {
    /// The known parameters: those of the route, and those that it shares.
    fn known(self) -> impl Iterator<Item = &'static (&'static str, Rule)> {
        let (shared, own) = match self {
            Route::Chat => (COMMON, CHAT),
            Route::Completions => (COMMON, COMPLETIONS),
            Route::Embeddings => (&[][..], EMBEDDINGS),
        };
        shared.iter().chain(own)
    }
}

/// Looks at what is left of a request: known parameters that change nothing pass, all others are errors.
pub(crate) fn check_rest(fields: Fields, route: Route) -> Result<(), ApiError> {
    let known = |key: &str| route.known().find(|(name, _)| *name == key);
    for (param, key, value) in fields.rest() {
        match known(&key) {
            None if value.is_null() => {}
            None => return Err(ApiError::Unknown(param)),
            Some((_, rule)) => check(*rule, param, &value)?,
        }
    }
    Ok(())
}

/// Schemas of the parameters that pass here, for descriptions of the routes.
pub(crate) fn described(route: Route) -> impl Iterator<Item = (&'static str, Value)> {
    route.known().filter_map(|(name, rule)| match rule {
        Ignore => Some((*name, json!({"description": "without effect"}))),
        Only(values) => {
            let mut values: Vec<Value> = values.iter().filter_map(|v| serde_json::from_str(v).ok()).collect();
            values.push(Value::Null);
            Some((*name, json!({"enum": values})))
        }
        Unsupported => None,
    })
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
