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

/// The text of a message. Templates that take parts write their texts one after the other, with nothing in between.
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
    Ok(parts.into_iter().enumerate().map(part).collect::<Result<Vec<_>, _>>()?.concat())
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_take_the_form_that_templates_expect() {
        let check = |message: Value, expected: Value| {
            assert_eq!(messages(json!([message])), Ok(json!([expected])));
        };
        let user = |content: &str| json!({"role": "user", "content": content});
        check(user("Hi"), user("Hi"));
        check(json!({"role": "user", "content": null}), user(""));
        check(json!({"role": "user", "content": []}), user(""));
        let parts = json!([{"type": "text", "text": "a "}, {"type": "text", "text": "b"}, "c"]);
        check(json!({"role": "user", "content": parts}), user("a bc"));
        check(json!({"role": "developer", "content": "x"}), json!({"role": "system", "content": "x"}));
        check(
            json!({"role": "assistant", "content": "x", "refusal": null, "audio": null, "tool_calls": [], "annotations": []}),
            json!({"role": "assistant", "content": "x"}),
        );
        check(
            json!({"role": "tool", "content": "4", "tool_call_id": "c1"}),
            json!({"role": "tool", "content": "4", "tool_call_id": "c1"}),
        );
        let call = |arguments: Value| {
            let function = json!({"name": "add", "arguments": arguments});
            json!({"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": function}]})
        };
        check(call(json!("{\"a\": 2}")), call(json!({"a": 2})));
        check(call(json!("no JSON")), call(json!("no JSON")));
    }

    #[test]
    fn what_is_wrong_with_a_message_is_named() {
        let check = |message: Value, code: &str, param: &str| {
            let error = messages(json!([{"role": "user", "content": "first"}, message])).expect_err(param);
            assert_eq!((error.code(), error.body()["error"]["param"].clone()), (code, json!(param)), "{error}");
        };
        check(json!("Hi"), "invalid_value", "messages[1]");
        check(json!({"content": "x"}), "missing_required_parameter", "messages[1].role");
        check(json!({"role": "robot"}), "invalid_value", "messages[1].role");
        check(json!({"role": 1}), "invalid_value", "messages[1].role");
        check(json!({"role": "user", "content": 1}), "invalid_value", "messages[1].content");
        check(json!({"role": "user", "content": [1]}), "invalid_value", "messages[1].content[0]");
        check(json!({"role": "user", "content": [{}]}), "missing_required_parameter", "messages[1].content[0].type");
        let image = json!([{"type": "text", "text": ""}, {"type": "image_url", "image_url": {"url": "x"}}]);
        check(json!({"role": "user", "content": image}), "unsupported_parameter", "messages[1].content[1].type");
        let no_text = json!([{"type": "text"}]);
        check(json!({"role": "user", "content": no_text}), "missing_required_parameter", "messages[1].content[0].text");
        check(json!({"role": "user", "name": 1}), "invalid_value", "messages[1].name");
        check(json!({"role": "user", "colour": 1}), "unknown_parameter", "messages[1].colour");
        check(json!({"role": "assistant", "function_call": {}}), "unsupported_parameter", "messages[1].function_call");
        check(json!({"role": "assistant", "tool_calls": 1}), "invalid_value", "messages[1].tool_calls");
        check(
            json!({"role": "user", "tool_calls": [{"function": {"name": "f"}}]}),
            "invalid_value",
            "messages[1].tool_calls",
        );
        check(
            json!({"role": "assistant", "tool_calls": [{}]}),
            "missing_required_parameter",
            "messages[1].tool_calls[0].function",
        );
    }
}
