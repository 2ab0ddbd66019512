use serde_json::{Map, Value};

use super::Fields;
use super::fields::describe;
use crate::error::ApiError;

const ROLES: &str = "one of system, developer, user, assistant, tool";
/// Members of a message that nothing depends on. Clients send back what they have received.
const IGNORED: &[&str] = &["refusal", "annotations", "cache_control", "id", "metadata", "provider_specific_fields"];
/// Members that templates may read.
const PASSED: &[&str] = &["name", "tool_call_id", "reasoning", "reasoning_content"];

/// Checks messages, and brings them into the form that chat templates expect: roles that they know, and content as a
/// string.
pub(crate) fn messages(value: Value) -> Result<Value, ApiError> {
    match value {
        Value::Array(items) if !items.is_empty() => {
            items.into_iter().enumerate().map(|(i, m)| message(m, i)).collect::<Result<Vec<_>, _>>().map(Value::Array)
        }
        other => Err(ApiError::invalid("messages", "an array of at least 1 message", describe(&other))),
    }
}

fn message(value: Value, index: usize) -> Result<Value, ApiError> {
    let mut fields = Fields::of(value, &format!("messages[{index}]"))?;
    let role = fields.required("role")?;
    let role = match role.as_str() {
        // Templates know the older of the two names only.
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        Some("tool") => "tool",
        _ => return Err(ApiError::invalid(fields.name("role"), ROLES, describe(&role))),
    };
    let path = fields.name("content");
    let content = fields.take("content").map(|c| content(c, &path)).transpose()?;
    let calls = fields.take("tool_calls");
    let calls = calls.map(|c| tool_calls(c, &fields.name("tool_calls"))).transpose()?.flatten();
    if role != "assistant" && calls.is_some() {
        return Err(ApiError::invalid(fields.name("tool_calls"), "messages of the assistant only", role));
    }

    let mut out = Map::new();
    out.insert("role".into(), role.into());
    // Templates add the content to other strings, which must work for null as well.
    out.insert("content".into(), content.unwrap_or_default().into());
    out.extend(calls.map(|c| ("tool_calls".to_string(), c)));
    for &key in PASSED {
        out.extend(fields.string(key)?.map(|text| (key.to_string(), Value::String(text))));
    }
    for (param, key, value) in fields.rest() {
        match key.as_str() {
            _ if value.is_null() || IGNORED.contains(&key.as_str()) => {}
            "function_call" | "audio" | "prefix" | "partial" => {
                return Err(ApiError::Unsupported { param, hint: String::new() });
            }
            _ => return Err(ApiError::Unknown(param)),
        }
    }
    Ok(Value::Object(out))
}

/// The text of a message. Parts are put on lines of their own, as in vLLM and llama.cpp.
fn content(value: Value, path: &str) -> Result<String, ApiError> {
    let parts = match value {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => return Err(ApiError::invalid(path, "a string or an array of parts", describe(&other))),
    };
    let part = |(i, part): (usize, Value)| {
        let part = match part {
            Value::String(text) => return Ok(text),
            part => part,
        };
        let mut fields = Fields::of(part, &format!("{path}[{i}]"))?;
        let kind = fields.required("type")?;
        let key = match kind.as_str() {
            Some("text") => "text",
            Some("refusal") => "refusal",
            Some(_) => {
                let hint = format!(" as {}: only text is", describe(&kind));
                return Err(ApiError::Unsupported { param: fields.name("type"), hint });
            }
            None => return Err(ApiError::invalid(fields.name("type"), "a string", describe(&kind))),
        };
        fields.string(key)?.ok_or_else(|| ApiError::Missing(fields.name(key)))
    };
    Ok(parts.into_iter().enumerate().map(part).collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// Calls of tools in earlier answers. The API has arguments as a string of JSON, templates expect what it says.
fn tool_calls(value: Value, path: &str) -> Result<Option<Value>, ApiError> {
    let calls = match value {
        Value::Array(calls) if calls.is_empty() => return Ok(None),
        Value::Array(calls) => calls,
        other => return Err(ApiError::invalid(path, "an array", describe(&other))),
    };
    let call = |(i, mut call): (usize, Value)| {
        let at = format!("{path}[{i}].function");
        let function = call.get_mut("function").and_then(Value::as_object_mut);
        let function = function.ok_or_else(|| ApiError::Missing(at.clone()))?;
        if !function.get("name").is_some_and(Value::is_string) {
            return Err(ApiError::Missing(format!("{at}.name")));
        }
        if let Some(Value::String(text)) = function.get("arguments")
            && let Ok(arguments @ Value::Object(_)) = serde_json::from_str(text)
        {
            function.insert("arguments".into(), arguments);
        }
        Ok(call)
    };
    calls.into_iter().enumerate().map(call).collect::<Result<Vec<_>, _>>().map(|c| Some(Value::Array(c)))
}
