//! From the members of a request to those of a chat completion.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::params::Fields;
use crate::params::fields::describe;
use crate::routes::dialects::{Members, Names, put};
use crate::state::AppState;

/// Which route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Generate,
}

/// Whether the model stays loaded after the answer. For how long is a matter of memory here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeepAlive {
    None,
    Some,
}

/// What is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) model: String,
    pub(super) keep_alive: KeepAlive,
    pub(super) stream: bool,
    /// `None`: only that the model is loaded, or unloaded.
    pub(super) chat: Option<Members>,
    /// The members are those of a completion, whose prompt goes to the model as it is.
    pub(super) raw: bool,
}

/// Options by their names here and in chat completions.
const OPTIONS: &[(&str, &str)] = &[
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("min_p", "min_p"),
    ("typical_p", "typical_p"),
    ("seed", "seed"),
    ("stop", "stop"),
    ("repeat_penalty", "repetition_penalty"),
    ("presence_penalty", "presence_penalty"),
    ("frequency_penalty", "frequency_penalty"),
];
/// The same the other way round, and the members beside the options.
pub(super) const NAMES: Names = &[
    ("temperature", "options.temperature"),
    ("top_p", "options.top_p"),
    ("top_k", "options.top_k"),
    ("min_p", "options.min_p"),
    ("typical_p", "options.typical_p"),
    ("seed", "options.seed"),
    ("stop", "options.stop"),
    ("repetition_penalty", "options.repeat_penalty"),
    ("presence_penalty", "options.presence_penalty"),
    ("frequency_penalty", "options.frequency_penalty"),
    ("max_tokens", "options.num_predict"),
    ("response_format.json_schema.schema", "format"),
    ("response_format", "format"),
    ("include_reasoning", "think"),
];
/// What the API takes where nothing is said.
const DEFAULTS: &[(&str, f64)] = &[("temperature", 0.8), ("top_p", 0.9), ("top_k", 40.0)];
/// Options of the machine, which are settings of the server here, and one that no longer means anything.
const IGNORED: &[&str] = &[
    "num_ctx",
    "num_keep",
    "num_batch",
    "num_gpu",
    "num_thread",
    "main_gpu",
    "use_mmap",
    "use_mlock",
    "low_vram",
    "numa",
    "vocab_only",
    "f16_kv",
    "logits_all",
    "penalize_newline",
    "repeat_last_n",
];

/// `NAME:latest` is `NAME`.
pub(super) fn named(state: &AppState, name: &str) -> String {
    match name.strip_suffix(":latest") {
        Some(bare) if state.models.slot(name).is_none() => bare.into(),
        _ => name.into(),
    }
}

pub(super) fn read(state: &AppState, mut fields: Fields, kind: Kind) -> Result<Asked, ApiError> {
    let name = fields.string("model")?.ok_or_else(|| ApiError::Missing("model".into()))?;
    let model = named(state, &name);
    let keep_alive = keep_alive(&mut fields);
    let stream = fields.bool("stream")?.unwrap_or(true);
    let suffix = match kind {
        Kind::Chat => None,
        Kind::Generate => fields.string("suffix")?.filter(|text| !text.is_empty()).map(Value::from),
    };
    // What stands between two texts has no conversation around it.
    let raw = kind == Kind::Generate && (fields.bool("raw")?.unwrap_or(false) || suffix.is_some());
    let prompt = match kind {
        Kind::Chat => chat_messages(&mut fields)?.map(|messages| ("messages", messages)),
        Kind::Generate if raw => fields.string("prompt")?.map(|text| ("prompt", text.into())),
        Kind::Generate => generate_messages(&mut fields)?.map(|messages| ("messages", messages)),
    };
    let mut chat = Members::new();
    put(&mut chat, "suffix", suffix);
    put(&mut chat, "model", Some(model.clone().into()));
    put(&mut chat, "tools", fields.take("tools").filter(|t| t != &json!([])));
    put(&mut chat, "response_format", format(&mut fields)?);
    options(&mut fields, &mut chat)?;
    let think = fields.take("think");
    put(&mut chat, "include_reasoning", think.filter(|t| t == &json!(false) && !raw));
    if let Some((param, ..)) = fields.rest().find(|(_, _, value)| !is_empty(value)) {
        return Err(ApiError::Unsupported { param, hint: String::new() });
    }
    let chat = prompt.filter(|(_, value)| value != "").map(|(key, value)| {
        chat.insert(key.into(), value);
        chat
    });
    Ok(Asked { model, keep_alive, stream, chat, raw })
}

/// Clients send members that say nothing.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// Zero, as a number or with a unit, means that the model is to go.
pub(super) fn keep_alive(fields: &mut Fields) -> KeepAlive {
    let none = match fields.take("keep_alive") {
        Some(Value::Number(n)) => n.as_f64() == Some(0.0),
        Some(Value::String(text)) => text.trim_end_matches(|c: char| c.is_ascii_alphabetic()) == "0",
        _ => false,
    };
    if none { KeepAlive::None } else { KeepAlive::Some }
}

fn format(fields: &mut Fields) -> Result<Option<Value>, ApiError> {
    match fields.take("format") {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) if text == "json" => Ok(Some(json!({"type": "json_object"}))),
        Some(schema @ Value::Object(_)) => {
            let schema = json!({"name": "format", "schema": schema, "strict": true});
            Ok(Some(json!({"type": "json_schema", "json_schema": schema})))
        }
        Some(other) => Err(ApiError::invalid("format", "\"json\" or a JSON schema", describe(&other))),
    }
}

/// Options where none of those that a model answers by counts.
pub(super) fn check_options(fields: &mut Fields) -> Result<(), ApiError> {
    let options = Fields::of(fields.take("options").unwrap_or_else(|| json!({})), "options")?;
    let known = |key: &str| IGNORED.contains(&key) || OPTIONS.iter().any(|(name, _)| *name == key);
    match options.rest().find(|(_, key, value)| !value.is_null() && !known(key)) {
        Some((param, ..)) => Err(ApiError::Unsupported { param, hint: String::new() }),
        None => Ok(()),
    }
}

fn options(fields: &mut Fields, chat: &mut Members) -> Result<(), ApiError> {
    let mut options = Fields::of(fields.take("options").unwrap_or_else(|| json!({})), "options")?;
    for (name, default) in DEFAULTS {
        put(chat, name, Some(json!(default)));
    }
    for (name, chat_name) in OPTIONS {
        put(chat, chat_name, options.take(name));
    }
    // Below 0: no limit.
    if let Some(limit) = options.integer("num_predict", i64::from(i32::MIN)..=i64::MAX)?.filter(|n| *n > 0) {
        put(chat, "max_tokens", Some(limit.into()));
    }
    match options.rest().find(|(_, key, value)| !value.is_null() && !IGNORED.contains(&key.as_str())) {
        Some((param, ..)) => Err(ApiError::Unsupported { param, hint: String::new() }),
        None => Ok(()),
    }
}

/// `None` without messages.
fn chat_messages(fields: &mut Fields) -> Result<Option<Value>, ApiError> {
    let items = match fields.take("messages") {
        None => return Ok(None),
        Some(Value::Array(items)) if items.is_empty() => return Ok(None),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(ApiError::invalid("messages", "an array of messages", describe(&other))),
    };
    let mut calls = 0;
    let message = |(i, item): (usize, Value)| message(item, &format!("messages[{i}]"), &mut calls);
    items.into_iter().enumerate().map(message).collect::<Result<Vec<_>, _>>().map(|m| Some(m.into()))
}

/// Calls have no ids here: they and their results are numbered in order.
fn message(item: Value, path: &str, calls: &mut usize) -> Result<Value, ApiError> {
    let mut fields = Fields::of(item, path)?;
    let mut out = Members::new();
    put(&mut out, "role", Some(fields.required("role")?));
    put(&mut out, "content", Some(fields.take("content").unwrap_or_else(|| "".into())));
    put(&mut out, "reasoning_content", fields.take("thinking"));
    match fields.take("tool_calls") {
        Some(Value::Array(items)) if !items.is_empty() => {
            let call = |item: Value| {
                let id = format!("call_{calls}");
                *calls += 1;
                let (name, arguments) = (item["function"]["name"].clone(), item["function"]["arguments"].to_string());
                json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
            };
            out.insert("tool_calls".into(), items.into_iter().map(call).collect());
        }
        _ => {}
    }
    if out["role"] == "tool" {
        put(&mut out, "tool_call_id", Some(format!("call_{}", calls.saturating_sub(1)).into()));
        let name = fields.take("tool_name").or_else(|| fields.take("name"));
        put(&mut out, "name", name);
    }
    match fields.rest().find(|(_, _, value)| !is_empty(value)) {
        Some((param, ..)) => Err(ApiError::Unsupported { param, hint: String::new() }),
        None => Ok(Value::Object(out)),
    }
}

/// `None` without a prompt.
fn generate_messages(fields: &mut Fields) -> Result<Option<Value>, ApiError> {
    let system = fields.string("system")?.filter(|s| !s.is_empty());
    let Some(prompt) = fields.string("prompt")?.filter(|p| !p.is_empty()) else { return Ok(None) };
    let system = system.map(|text| json!({"role": "system", "content": text}));
    Ok(Some(system.into_iter().chain([json!({"role": "user", "content": prompt})]).collect()))
}

#[cfg(test)]
mod tests {
    use rocmforge_loader::config::ServerSettings;

    use super::*;

    fn of(body: Value, kind: Kind) -> Result<Asked, ApiError> {
        let state = AppState::new(ServerSettings::default());
        read(&state, Fields::parse(body.to_string().as_bytes())?, kind)
    }

    #[test]
    fn requests_take_the_form_of_chat_completions() {
        let check = |kind: Kind, body: Value, expected: Value| {
            let asked = of(body, kind).expect("a request");
            assert_eq!((asked.model.as_str(), asked.stream), ("m", true));
            assert_eq!(Value::Object(asked.chat.expect("a prompt")), expected);
        };
        let defaults = |more: Value| {
            let mut all = json!({"model": "m", "temperature": 0.8, "top_p": 0.9, "top_k": 40.0});
            all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            all
        };
        let hi = json!([{"role": "user", "content": "Hi"}]);
        check(Kind::Chat, json!({"model": "m:latest", "messages": hi}), defaults(json!({"messages": hi})));
        let system = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}]);
        check(
            Kind::Generate,
            json!({"model": "m", "prompt": "Hi", "system": "s", "suffix": "", "images": [], "context": null}),
            defaults(json!({"messages": system})),
        );
        let options =
            json!({"temperature": 0, "num_predict": 5, "repeat_penalty": 1.1, "num_ctx": 4096, "stop": ["x"]});
        check(
            Kind::Chat,
            json!({"model": "m", "messages": hi, "options": options, "format": "json", "think": false}),
            defaults(
                json!({"messages": hi, "temperature": 0, "max_tokens": 5, "repetition_penalty": 1.1, "stop": ["x"],
                "response_format": {"type": "json_object"}, "include_reasoning": false}),
            ),
        );
        let call = json!({"function": {"name": "f", "arguments": {"a": 1}}});
        let messages = json!([{"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "3", "tool_name": "f"}]);
        let made = json!({"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}});
        let expected = json!([{"role": "assistant", "content": "", "tool_calls": [made]},
            {"role": "tool", "content": "3", "tool_call_id": "call_0", "name": "f"}]);
        check(Kind::Chat, json!({"model": "m", "messages": messages}), defaults(json!({"messages": expected})));
    }

    #[test]
    fn raw_prompts_are_completed() {
        let check = |body: Value, expected: Value| {
            let asked = of(body, Kind::Generate).expect("a request");
            assert!(asked.raw);
            let mut members = asked.chat.expect("a prompt");
            ["model", "temperature", "top_p", "top_k"].iter().for_each(|key| drop(members.remove(*key)));
            assert_eq!(Value::Object(members), expected);
        };
        let raw = json!({"model": "m", "prompt": "a", "raw": true, "options": {"num_predict": 3}});
        check(raw, json!({"prompt": "a", "max_tokens": 3}));
        check(json!({"model": "m", "prompt": "a", "suffix": "c"}), json!({"prompt": "a", "suffix": "c"}));
        let error = of(json!({"model": "m", "prompt": "a", "raw": true, "system": "s"}), Kind::Generate);
        assert_eq!(error.expect_err("no place for it").body()["error"]["param"], "system");
    }

    #[test]
    fn a_request_without_a_prompt_is_about_the_model() {
        let check = |kind: Kind, body: Value, expected: KeepAlive| {
            let asked = of(body, kind).expect("a request");
            assert_eq!((asked.chat, asked.keep_alive), (None, expected));
        };
        check(Kind::Chat, json!({"model": "m", "messages": []}), KeepAlive::Some);
        check(Kind::Generate, json!({"model": "m"}), KeepAlive::Some);
        check(Kind::Generate, json!({"model": "m", "prompt": "", "keep_alive": 0}), KeepAlive::None);
        check(Kind::Chat, json!({"model": "m", "keep_alive": "0s"}), KeepAlive::None);
        check(Kind::Chat, json!({"model": "m", "keep_alive": "5m"}), KeepAlive::Some);
        check(Kind::Chat, json!({"model": "m", "keep_alive": -1}), KeepAlive::Some);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |members: Value, code: &str, param: &str| {
            let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
            for (key, value) in members.as_object().expect("an object") {
                body[key] = value.clone();
            }
            let error = of(body, Kind::Chat).expect_err(param);
            assert_eq!((error.code(), error.body()["error"]["param"].clone()), (code, json!(param)), "{error}");
        };
        check(json!({"model": null}), "missing_required_parameter", "model");
        check(json!({"messages": 1}), "invalid_value", "messages");
        check(json!({"messages": [{"role": "user", "images": ["x"]}]}), "unsupported_parameter", "messages[0].images");
        check(json!({"options": {"colour": 1}}), "unsupported_parameter", "options.colour");
        check(json!({"options": 1}), "invalid_value", "options");
        check(json!({"format": "xml"}), "invalid_value", "format");
        check(json!({"images": ["x"]}), "unsupported_parameter", "images");
        check(json!({"suffix": "x"}), "unsupported_parameter", "suffix");
    }
}
