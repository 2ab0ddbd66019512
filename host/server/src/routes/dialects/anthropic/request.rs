//! From the members of a message request to those of a chat completion.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::params::Fields;
use crate::params::fields::describe;
use crate::routes::dialects::{Members, Names, put};

/// What the answer needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) stream: bool,
    /// Reasoning is part of the answer.
    pub(super) thinking: bool,
}

/// Parameters that chat completions have under other names.
pub(super) const NAMES: Names = &[
    ("stop", "stop_sequences"),
    ("response_format.json_schema", "output_config.format"),
    ("response_format", "output_config.format"),
];
/// Members without effect on an answer.
const IGNORED: &[&str] =
    &["metadata", "service_tier", "anthropic_version", "anthropic_beta", "betas", "inference_geo", "cache_control"];

pub(super) fn translate(mut fields: Fields) -> Result<(Members, Options), ApiError> {
    let mut chat = Members::new();
    put(&mut chat, "model", Some(fields.required("model")?));
    put(&mut chat, "max_tokens", Some(fields.required("max_tokens")?));
    let mut messages = Vec::new();
    if let Some(system) = fields.take("system") {
        messages.push(json!({"role": "system", "content": text(system, "system")?}));
    }
    let Value::Array(items) = fields.required("messages")? else {
        return Err(ApiError::invalid("messages", "an array of messages", "something else"));
    };
    for (i, item) in items.into_iter().enumerate() {
        message(item, &format!("messages[{i}]"), &mut messages)?;
    }
    put(&mut chat, "messages", Some(messages.into()));
    for key in ["temperature", "top_p", "top_k", "stream"] {
        put(&mut chat, key, fields.take(key));
    }
    put(&mut chat, "stop", fields.take("stop_sequences"));
    tools(&mut fields, &mut chat)?;
    let thinking = thinking(&mut fields)?;
    output(&mut fields, &mut chat)?;
    context_management(&mut fields)?;
    let nothing = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    let unknown = fields.rest().find(|(_, key, value)| !nothing(value) && !IGNORED.contains(&key.as_str()));
    if let Some((param, ..)) = unknown {
        return Err(ApiError::Unknown(param));
    }
    let stream = chat.get("stream") == Some(&Value::Bool(true));
    Ok((chat, Options { stream, thinking }))
}

/// `{"type": "enabled"}` or `"adaptive"`; how much is the model's own choice.
fn thinking(fields: &mut Fields) -> Result<bool, ApiError> {
    let Some(value) = fields.take("thinking") else { return Ok(false) };
    match value["type"].as_str() {
        Some("enabled" | "adaptive") => Ok(true),
        Some("disabled") => Ok(false),
        _ => Err(ApiError::invalid("thinking.type", "enabled, adaptive or disabled", describe(&value["type"]))),
    }
}

/// What the answer has to look like. How much effort goes into it is the model's own choice, as with thinking.
fn output(fields: &mut Fields, chat: &mut Members) -> Result<(), ApiError> {
    let mut config = Fields::of(fields.take("output_config").unwrap_or_else(|| json!({})), "output_config")?;
    if let Some(effort) = config.string("effort")?
        && !["low", "medium", "high", "xhigh", "max"].contains(&effort.as_str())
    {
        return Err(ApiError::invalid("output_config.effort", "low, medium, high, xhigh or max", effort));
    }
    // The older name.
    let format = config.take("format").or_else(|| fields.take("output_format"));
    if let Some((param, ..)) = config.rest().find(|(_, _, value)| !value.is_null()) {
        return Err(ApiError::Unknown(param));
    }
    let Some(format) = format else { return Ok(()) };
    if format["type"] != "json_schema" {
        return Err(ApiError::invalid("output_config.format.type", "json_schema", describe(&format["type"])));
    }
    let schema = json!({"name": "output", "schema": format["schema"], "strict": true});
    put(chat, "response_format", Some(json!({"type": "json_schema", "json_schema": schema})));
    Ok(())
}

/// Nothing of a conversation is taken out, so only what asks for nothing of it is taken.
fn context_management(fields: &mut Fields) -> Result<(), ApiError> {
    let edits = fields.take("context_management").map(|management| management["edits"].clone());
    let keeps = |edit: &Value| edit["type"] == "clear_thinking_20251015" && edit["keep"] == "all";
    match edits.as_ref().and_then(Value::as_array).and_then(|edits| edits.iter().position(|edit| !keeps(edit))) {
        Some(i) => Err(ApiError::Unsupported {
            param: format!("context_management.edits[{i}]"),
            hint: ": conversations are taken as they come".into(),
        }),
        None => Ok(()),
    }
}

fn message(item: Value, path: &str, out: &mut Vec<Value>) -> Result<(), ApiError> {
    let mut fields = Fields::of(item, path)?;
    let role = fields.required("role")?;
    let content = fields.required("content")?;
    if let Some((param, ..)) = fields.rest().find(|(_, _, value)| !value.is_null()) {
        return Err(ApiError::Unknown(param));
    }
    let path = format!("{path}.content");
    match role.as_str() {
        Some("user") => user(content, &path, out),
        Some("assistant") => assistant(content, &path, out),
        Some("system") => {
            out.push(json!({"role": "system", "content": text(content, &path)?}));
            Ok(())
        }
        _ => Err(ApiError::invalid(path.replace(".content", ".role"), "user or assistant", describe(&role))),
    }
}

/// The blocks of a content, each with its type and its path.
fn blocks(content: Value, path: &str) -> Result<Vec<(String, Fields, String)>, ApiError> {
    let items = match content {
        Value::String(text) => vec![json!({"type": "text", "text": text})],
        Value::Array(items) => items,
        other => return Err(ApiError::invalid(path, "a string or an array of blocks", describe(&other))),
    };
    let block = |(i, item)| {
        let path = format!("{path}[{i}]");
        let mut fields = Fields::of(item, &path)?;
        let kind = fields.string("type")?.ok_or_else(|| ApiError::Missing(format!("{path}.type")))?;
        Ok((kind, fields, path))
    };
    items.into_iter().enumerate().map(block).collect()
}

fn unsupported(path: &str, kind: &str) -> ApiError {
    ApiError::Unsupported { param: format!("{path}.type"), hint: format!(" as {kind}: only text and tools are") }
}

/// The text of blocks that may hold nothing else.
fn text(content: Value, path: &str) -> Result<String, ApiError> {
    let mut out = String::new();
    for (kind, mut fields, path) in blocks(content, path)? {
        match kind.as_str() {
            "text" => out.push_str(&fields.string("text")?.ok_or_else(|| ApiError::Missing(format!("{path}.text")))?),
            kind => return Err(unsupported(&path, kind)),
        }
    }
    Ok(out)
}

/// Results of tools are messages of their own, before what the user says.
fn user(content: Value, path: &str, out: &mut Vec<Value>) -> Result<(), ApiError> {
    let mut said = None::<String>;
    for (kind, mut fields, path) in blocks(content, path)? {
        match kind.as_str() {
            "text" => {
                let text = fields.string("text")?.ok_or_else(|| ApiError::Missing(format!("{path}.text")))?;
                said.get_or_insert_default().push_str(&text);
            }
            "tool_result" => {
                let id = fields.required("tool_use_id")?;
                let result = fields.take("content").map(|c| text(c, &format!("{path}.content"))).transpose()?;
                out.push(json!({"role": "tool", "tool_call_id": id, "content": result.unwrap_or_default()}));
            }
            kind => return Err(unsupported(&path, kind)),
        }
    }
    out.extend(said.map(|text| json!({"role": "user", "content": text})));
    Ok(())
}

fn assistant(content: Value, path: &str, out: &mut Vec<Value>) -> Result<(), ApiError> {
    let (mut said, mut thought, mut calls) = (String::new(), String::new(), Vec::new());
    for (kind, mut fields, path) in blocks(content, path)? {
        match kind.as_str() {
            "text" => said.push_str(&fields.string("text")?.ok_or_else(|| ApiError::Missing(format!("{path}.text")))?),
            "thinking" => thought.push_str(&fields.string("thinking")?.unwrap_or_default()),
            // Only the servers that wrote it can read it.
            "redacted_thinking" => {}
            "tool_use" => {
                let (id, name) = (fields.required("id")?, fields.required("name")?);
                let arguments = fields.take("input").unwrap_or_else(|| json!({})).to_string();
                calls.push(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}));
            }
            kind => return Err(unsupported(&path, kind)),
        }
    }
    let mut message = json!({"role": "assistant", "content": said});
    if !thought.is_empty() {
        message["reasoning_content"] = thought.into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    out.push(message);
    Ok(())
}

fn tools(fields: &mut Fields, chat: &mut Members) -> Result<(), ApiError> {
    let tools = match fields.take("tools") {
        None => vec![],
        Some(Value::Array(tools)) => tools,
        Some(other) => return Err(ApiError::invalid("tools", "an array", describe(&other))),
    };
    let tool = |(i, tool): (usize, Value)| {
        let path = format!("tools[{i}]");
        let mut tool = Fields::of(tool, &path)?;
        match tool.string("type")?.as_deref() {
            None | Some("custom") => {}
            Some(kind) => {
                let hint = format!(" as {kind}: only tools of the client are");
                return Err(ApiError::Unsupported { param: format!("{path}.type"), hint });
            }
        }
        let mut function = Members::new();
        put(&mut function, "name", Some(tool.required("name")?));
        put(&mut function, "description", tool.take("description"));
        put(&mut function, "parameters", Some(tool.required("input_schema")?));
        put(&mut function, "strict", tool.take("strict"));
        Ok(json!({"type": "function", "function": function}))
    };
    let tools = tools.into_iter().enumerate().map(tool).collect::<Result<Vec<_>, ApiError>>()?;
    let some = !tools.is_empty();
    put(chat, "tools", some.then(|| tools.into()));
    let Some(choice) = fields.take("tool_choice") else { return Ok(()) };
    let wanted = match choice["type"].as_str() {
        Some("auto") => json!("auto"),
        Some("any") => json!("required"),
        Some("none") => json!("none"),
        Some("tool") => json!({"type": "function", "function": {"name": choice["name"]}}),
        _ => return Err(ApiError::invalid("tool_choice.type", "auto, any, tool or none", describe(&choice["type"]))),
    };
    put(chat, "tool_choice", some.then_some(wanted));
    if choice["disable_parallel_tool_use"] == true {
        put(chat, "parallel_tool_calls", Some(json!(false)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: Value) -> Result<(Members, Options), ApiError> {
        translate(Fields::parse(body.to_string().as_bytes())?)
    }

    #[test]
    fn conversations_take_the_form_of_chat_completions() {
        let check = |messages: Value, expected: Value| {
            let body = json!({"model": "m", "max_tokens": 5, "messages": messages});
            assert_eq!(of(body).expect("a request").0["messages"], expected);
        };
        check(json!([{"role": "user", "content": "Hi"}]), json!([{"role": "user", "content": "Hi"}]));
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}]);
        check(json!([{"role": "user", "content": parts}]), json!([{"role": "user", "content": "ab"}]));
        check(
            json!([
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "x"},
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "3"}]},
                    {"type": "text", "text": "Well?"}]}
            ]),
            json!([
                {"role": "assistant", "content": "Let me see.", "reasoning_content": "hm", "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "add", "arguments": "{\"a\":1}"}}]},
                {"role": "tool", "tool_call_id": "t1", "content": "3"},
                {"role": "user", "content": "Well?"}
            ]),
        );
    }

    #[test]
    fn parameters_are_renamed() {
        let body = json!({"model": "m", "max_tokens": 5, "messages": [], "system": [{"type": "text", "text": "s"}],
            "stop_sequences": ["x"], "temperature": 0.5, "stream": true, "thinking": {"type": "enabled", "budget_tokens": 9},
            "metadata": {"user_id": "u"}, "tools": [{"name": "f", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": true}});
        let (chat, options) = of(body).expect("a request");
        assert_eq!(options, Options { stream: true, thinking: true });
        let expected = json!({"model": "m", "max_tokens": 5, "messages": [{"role": "system", "content": "s"}],
            "temperature": 0.5, "stream": true, "stop": ["x"],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            "tool_choice": "required", "parallel_tool_calls": false});
        assert_eq!(Value::Object(chat), expected);
    }

    #[test]
    fn what_clients_send_without_being_asked_is_taken() {
        let mut body = json!({"model": "m", "max_tokens": 5, "messages": []});
        let plain = of(body.clone()).expect("a request").0;
        for (key, value) in [
            ("mcp_servers", json!([])),
            ("container", Value::Null),
            ("cache_control", json!({"type": "ephemeral"})),
            ("context_management", json!({"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]})),
            ("output_config", json!({"effort": "high"})),
        ] {
            body[key] = value;
        }
        assert_eq!(of(body.clone()).expect("a request").0, plain);
        let format = json!({"type": "json_schema", "schema": {"type": "object"}});
        body["output_config"]["format"] = format.clone();
        let config = of(body.clone()).expect("a request").0;
        let schema = json!({"name": "output", "schema": {"type": "object"}, "strict": true});
        assert_eq!(config["response_format"], json!({"type": "json_schema", "json_schema": schema}));
        body["output_config"] = Value::Null;
        body["output_format"] = format;
        assert_eq!(of(body).expect("a request").0, config);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |members: Value, code: &str, param: &str| {
            let mut body = json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]});
            for (key, value) in members.as_object().expect("an object") {
                body[key] = value.clone();
            }
            let error = of(body).expect_err(param);
            assert_eq!((error.code(), error.body()["error"]["param"].clone()), (code, json!(param)), "{error}");
        };
        check(json!({"max_tokens": null}), "missing_required_parameter", "max_tokens");
        check(json!({"model": null}), "missing_required_parameter", "model");
        check(json!({"messages": "Hi"}), "invalid_value", "messages");
        check(json!({"messages": [{"role": "robot", "content": ""}]}), "invalid_value", "messages[0].role");
        check(json!({"messages": [{"role": "user"}]}), "missing_required_parameter", "messages[0].content");
        let image = json!([{"role": "user", "content": [{"type": "image", "source": {}}]}]);
        check(json!({"messages": image}), "unsupported_parameter", "messages[0].content[0].type");
        check(
            json!({"tools": [{"type": "web_search_20250305", "name": "w"}]}),
            "unsupported_parameter",
            "tools[0].type",
        );
        check(json!({"tools": [{"name": "f"}]}), "missing_required_parameter", "tools[0].input_schema");
        check(json!({"tool_choice": {"type": "maybe"}}), "invalid_value", "tool_choice.type");
        check(json!({"thinking": {}}), "invalid_value", "thinking.type");
        check(json!({"temperatur": 1}), "unknown_parameter", "temperatur");
        check(json!({"mcp_servers": [{}]}), "unknown_parameter", "mcp_servers");
        check(json!({"output_config": {"effort": "huge"}}), "invalid_value", "output_config.effort");
        check(json!({"output_config": {"efort": "low"}}), "unknown_parameter", "output_config.efort");
        check(json!({"output_format": {"type": "xml"}}), "invalid_value", "output_config.format.type");
        let clears = json!({"edits": [{"type": "clear_tool_uses_20250919"}]});
        check(json!({"context_management": clears}), "unsupported_parameter", "context_management.edits[0]");
    }
}
