use serde_json::{Map, Value};

use super::Fields;
use super::fields::describe;
use crate::error::ApiError;

const ROLES: &str = "one of system, developer, user, assistant, tool, function";
/// Members of a message that nothing depends on. Clients send back what they have received.
const IGNORED: &[&str] = &["refusal", "annotations", "cache_control", "id", "metadata", "provider_specific_fields"];
/// Members that templates may read.
const PASSED: &[&str] = &["name", "tool_call_id", "reasoning", "reasoning_content"];

/// Checks messages, and brings them into the form that chat templates expect: roles that they know, and content as a
/// string.
pub(crate) fn messages(value: Value) -> Result<Value, ApiError> {
    match value {
        Value::Array(items) if !items.is_empty() => {
            let mut calls = 0;
            let message = |(i, m)| message(m, i, &mut calls);
            items.into_iter().enumerate().map(message).collect::<Result<Vec<_>, _>>().map(Value::Array)
        }
        other => Err(ApiError::invalid("messages", "an array of at least 1 message", describe(&other))),
    }
}

/// `calls`: how many there were in the older form, which has no ids.
fn message(value: Value, index: usize, calls: &mut usize) -> Result<Value, ApiError> {
    let mut fields = Fields::of(value, &format!("messages[{index}]"))?;
    let role = fields.required("role")?;
    let role = match role.as_str() {
        // Templates know the older of the two names only.
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        Some("tool") => "tool",
        Some("function") => "function",
        _ => return Err(ApiError::invalid(fields.name("role"), ROLES, describe(&role))),
    };
    let path = fields.name("content");
    let content = fields.take("content").map(|c| content(c, &path)).transpose()?;
    let given = fields.take("tool_calls");
    let mut made = given.map(|c| tool_calls(c, &fields.name("tool_calls"))).transpose()?.flatten();
    let legacy = fields.take("function_call");
    for (param, given) in [("tool_calls", made.is_some()), ("function_call", legacy.is_some())] {
        if role != "assistant" && given {
            return Err(ApiError::invalid(fields.name(param), "messages of the assistant only", role));
        }
    }
    if let Some(function) = legacy {
        *calls += 1;
        let path = fields.name("function_call");
        made = Some(
            serde_json::json!([{"id": legacy_id(*calls), "type": "function", "function": called(function, &path)?}]),
        );
    }

    let mut out = Map::new();
    // What a function gave back, in the older form, belongs to the latest call.
    let role = if role == "function" {
        out.insert("tool_call_id".into(), legacy_id(*calls).into());
        "tool"
    } else {
        role
    };
    out.insert("role".into(), role.into());
    // Templates add the content to other strings, which must work for null as well.
    out.insert("content".into(), content.unwrap_or_default().into());
    out.extend(made.map(|c| ("tool_calls".to_string(), c)));
    for &key in PASSED {
        out.extend(fields.string(key)?.map(|text| (key.to_string(), Value::String(text))));
    }
    for (param, key, value) in fields.rest() {
        match key.as_str() {
            _ if value.is_null() || IGNORED.contains(&key.as_str()) => {}
            "audio" | "prefix" | "partial" => {
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
        let function = call.get_mut("function").map(Value::take).filter(Value::is_object);
        let function = called(function.ok_or_else(|| ApiError::Missing(at.clone()))?, &at)?;
        call["function"] = function;
        Ok(call)
    };
    calls.into_iter().enumerate().map(call).collect::<Result<Vec<_>, _>>().map(|c| Some(Value::Array(c)))
}

/// A function with a name, and its arguments as what they say.
fn called(mut function: Value, path: &str) -> Result<Value, ApiError> {
    let Some(members) = function.as_object_mut() else {
        return Err(ApiError::invalid(path, "an object", describe(&function)));
    };
    match members.get("name") {
        Some(Value::String(_)) => {}
        None | Some(Value::Null) => return Err(ApiError::Missing(format!("{path}.name"))),
        Some(other) => return Err(ApiError::invalid(format!("{path}.name"), "a string", describe(other))),
    }
    if let Some(Value::String(text)) = members.get("arguments")
        && let Ok(arguments @ Value::Object(_)) = serde_json::from_str(text)
    {
        members.insert("arguments".into(), arguments);
    }
    Ok(function)
}

/// An id of nine characters, which is what Mistral's templates insist on.
fn legacy_id(number: usize) -> String {
    format!("call{number:05}")
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
    fn the_older_form_of_calls_becomes_the_newer() {
        let given = json!([
            {"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{\"a\": 1}"}},
            {"role": "function", "name": "f", "content": "5"},
        ]);
        let function = json!({"name": "f", "arguments": {"a": 1}});
        let expected = json!([
            {"role": "assistant", "content": "", "tool_calls": [{"id": "call00001", "type": "function", "function": function}]},
            {"role": "tool", "tool_call_id": "call00001", "name": "f", "content": "5"},
        ]);
        assert_eq!(messages(given), Ok(expected));
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
        let call = |call: Value| json!({"role": "assistant", "function_call": call});
        check(call(json!({})), "missing_required_parameter", "messages[1].function_call.name");
        check(call(json!("f")), "invalid_value", "messages[1].function_call");
        check(json!({"role": "user", "function_call": {"name": "f"}}), "invalid_value", "messages[1].function_call");
        let named = json!({"role": "assistant", "tool_calls": [{"function": {"name": 1}}]});
        check(named, "invalid_value", "messages[1].tool_calls[0].function.name");
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
