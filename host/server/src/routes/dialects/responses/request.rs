//! From the members of a request for a response to those of a chat completion.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::params::Fields;
use crate::params::fields::describe;
use crate::routes::dialects::{Members, Names, put};

/// What the response repeats.
pub(super) struct Echo {
    pub(super) stream: bool,
    pub(super) members: Members,
}

/// Parameters that chat completions have under other names.
pub(super) const NAMES: Names = &[
    ("max_completion_tokens", "max_output_tokens"),
    ("reasoning_effort", "reasoning.effort"),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("verbosity", "text.verbosity"),
    ("messages", "input"),
];
/// Members without effect on an answer.
const IGNORED: &[&str] = &[
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
    "store",
    "include",
    "max_tool_calls",
    "reasoning",
    "stream_options",
];
/// Members that would need what is not stored, or what this server does not do; and what means the same as without.
const ABSENT: &[(&str, &str, &str)] = &[
    ("previous_response_id", "null", "; nothing is stored: send the whole conversation as `input`"),
    ("conversation", "null", "; nothing is stored: send the whole conversation as `input`"),
    ("prompt", "null", "; send `instructions` and `input`"),
    ("background", "false", ", except as false"),
    ("truncation", "\"disabled\"", ", except as disabled"),
    ("top_logprobs", "0", ", except as 0; use /v1/chat/completions"),
];

pub(super) fn translate(mut fields: Fields) -> Result<(Members, Echo), ApiError> {
    let (mut chat, mut echo) = (Members::new(), Members::new());
    put(&mut chat, "model", fields.take("model"));
    let instructions = fields.string("instructions")?;
    let mut messages: Vec<Value> = instructions.iter().map(|text| json!({"role": "system", "content": text})).collect();
    input(fields.required("input")?, &mut messages)?;
    put(&mut chat, "messages", Some(messages.into()));
    echo.insert("instructions".into(), json!(instructions));
    for (key, name) in [
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("max_output_tokens", "max_completion_tokens"),
        ("parallel_tool_calls", "parallel_tool_calls"),
    ] {
        let value = fields.take(key);
        let default = match key {
            "max_output_tokens" => Value::Null,
            "parallel_tool_calls" => json!(true),
            _ => json!(1.0),
        };
        echo.insert(key.into(), value.clone().unwrap_or(default));
        put(&mut chat, name, value);
    }
    echo.insert("metadata".into(), fields.take("metadata").unwrap_or_else(|| json!({})));
    echo.insert("user".into(), fields.take("user").unwrap_or_default());
    let reasoning = fields.take("reasoning").unwrap_or_default();
    put(&mut chat, "reasoning_effort", Some(reasoning["effort"].clone()));
    echo.insert("reasoning".into(), json!({"effort": reasoning["effort"], "summary": null}));
    let stream = fields.bool("stream")?.unwrap_or(false);
    put(&mut chat, "stream", Some(stream.into()));
    format(&mut fields, &mut chat, &mut echo)?;
    tools(&mut fields, &mut chat, &mut echo)?;
    rest(fields)?;
    Ok((chat, Echo { stream, members: echo }))
}

fn rest(fields: Fields) -> Result<(), ApiError> {
    for (param, key, value) in fields.rest() {
        let absent = ABSENT.iter().find(|(name, ..)| *name == key);
        match absent {
            _ if value.is_null() || IGNORED.contains(&key.as_str()) => {}
            Some((_, same, _)) if serde_json::from_str::<Value>(same).is_ok_and(|same| same == value) => {}
            Some((_, _, hint)) => return Err(ApiError::Unsupported { param, hint: (*hint).into() }),
            None => return Err(ApiError::Unknown(param)),
        }
    }
    Ok(())
}

/// `text.format`, which chat completions have as `response_format`.
fn format(fields: &mut Fields, chat: &mut Members, echo: &mut Members) -> Result<(), ApiError> {
    let text = fields.take("text").unwrap_or_else(|| json!({}));
    let mut text = Fields::of(text, "text")?;
    let format = text.take("format").unwrap_or_else(|| json!({"type": "text"}));
    put(chat, "verbosity", text.take("verbosity"));
    if let Some((param, ..)) = text.rest().find(|(_, _, v)| !v.is_null()) {
        return Err(ApiError::Unknown(param));
    }
    let wanted = match format["type"].as_str() {
        Some("text") => None,
        Some("json_object") => Some(json!({"type": "json_object"})),
        Some("json_schema") => {
            let mut schema = Members::new();
            for key in ["name", "schema", "strict", "description"] {
                put(&mut schema, key, Some(format[key].clone()));
            }
            Some(json!({"type": "json_schema", "json_schema": schema}))
        }
        _ => {
            let expected = "text, json_object or json_schema";
            return Err(ApiError::invalid("text.format.type", expected, describe(&format["type"])));
        }
    };
    put(chat, "response_format", wanted);
    echo.insert("text".into(), json!({"format": format}));
    Ok(())
}

fn tools(fields: &mut Fields, chat: &mut Members, echo: &mut Members) -> Result<(), ApiError> {
    let tools = match fields.take("tools") {
        None => vec![],
        Some(Value::Array(tools)) => tools,
        Some(other) => return Err(ApiError::invalid("tools", "an array", describe(&other))),
    };
    let choice = fields.take("tool_choice");
    echo.insert("tools".into(), tools.clone().into());
    echo.insert("tool_choice".into(), choice.clone().unwrap_or_else(|| json!("auto")));
    let tool = |(i, tool): (usize, Value)| {
        let path = format!("tools[{i}]");
        let mut tool = Fields::of(tool, &path)?;
        match tool.string("type")?.as_deref() {
            Some("function") => {}
            kind => {
                let hint = format!(" as {}: only functions are", kind.unwrap_or("a tool without type"));
                return Err(ApiError::Unsupported { param: format!("{path}.type"), hint });
            }
        }
        let mut function = Members::new();
        put(&mut function, "name", Some(tool.required("name")?));
        for key in ["description", "parameters", "strict"] {
            put(&mut function, key, tool.take(key));
        }
        Ok(json!({"type": "function", "function": function}))
    };
    let tools = tools.into_iter().enumerate().map(tool).collect::<Result<Vec<_>, ApiError>>()?;
    let some = !tools.is_empty();
    put(chat, "tools", some.then(|| tools.into()));
    let choice = choice.map(|choice| match choice["type"].as_str() {
        Some("function") => json!({"type": "function", "function": {"name": choice["name"]}}),
        _ => choice,
    });
    put(chat, "tool_choice", choice.filter(|_| some));
    Ok(())
}

/// A text, or the items of a conversation.
fn input(value: Value, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let items = match value {
        Value::String(text) => vec![json!({"role": "user", "content": text})],
        Value::Array(items) => items,
        other => return Err(ApiError::invalid("input", "a string or an array of items", describe(&other))),
    };
    for (i, value) in items.into_iter().enumerate() {
        item(value, &format!("input[{i}]"), messages)?;
    }
    Ok(())
}

fn item(value: Value, path: &str, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let mut fields = Fields::of(value, path)?;
    match fields.string("type")?.as_deref().unwrap_or("message") {
        "message" => {
            let role = fields.required("role")?;
            let content = content(fields.required("content")?, &format!("{path}.content"))?;
            messages.push(json!({"role": role, "content": content}));
        }
        "function_call" => {
            let (id, name) = (fields.required("call_id")?, fields.required("name")?);
            let arguments = fields.required("arguments")?;
            let call = json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
            // Calls that were made together are one message.
            match messages.last_mut().filter(|m| m["role"] == "assistant") {
                Some(message) => match message.get_mut("tool_calls").and_then(Value::as_array_mut) {
                    Some(calls) => calls.push(call),
                    None => message["tool_calls"] = json!([call]),
                },
                None => messages.push(json!({"role": "assistant", "content": "", "tool_calls": [call]})),
            }
        }
        "function_call_output" => {
            let id = fields.required("call_id")?;
            let output = content(fields.required("output")?, &format!("{path}.output"))?;
            messages.push(json!({"role": "tool", "tool_call_id": id, "content": output}));
        }
        // What a model thought before is not told to it again, as templates have it.
        "reasoning" => {}
        kind => {
            let hint = format!(" as {kind}: only messages, function calls and their outputs are");
            return Err(ApiError::Unsupported { param: format!("{path}.type"), hint });
        }
    }
    Ok(())
}

/// The text of a content.
fn content(value: Value, path: &str) -> Result<String, ApiError> {
    let parts = match value {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => return Err(ApiError::invalid(path, "a string or an array of parts", describe(&other))),
    };
    let part = |(i, part)| {
        let path = format!("{path}[{i}]");
        let mut fields = Fields::of(part, &path)?;
        let kind = fields.string("type")?.ok_or_else(|| ApiError::Missing(format!("{path}.type")))?;
        let key = match kind.as_str() {
            "input_text" | "output_text" | "text" => "text",
            "refusal" => "refusal",
            kind => {
                let hint = format!(" as {kind}: only text is");
                return Err(ApiError::Unsupported { param: format!("{path}.type"), hint });
            }
        };
        fields.string(key)?.ok_or_else(|| ApiError::Missing(format!("{path}.{key}")))
    };
    Ok(parts.into_iter().enumerate().map(part).collect::<Result<Vec<_>, _>>()?.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: Value) -> Result<Members, ApiError> {
        Ok(translate(Fields::parse(body.to_string().as_bytes())?)?.0)
    }

    #[test]
    fn items_take_the_form_of_messages() {
        let check = |input: Value, expected: Value| {
            assert_eq!(of(json!({"model": "m", "input": input})).expect("a request")["messages"], expected);
        };
        check(json!("Hi"), json!([{"role": "user", "content": "Hi"}]));
        let parts = json!([{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]);
        check(json!([{"role": "user", "content": parts}]), json!([{"role": "user", "content": "ab"}]));
        let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
        let made = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
        check(
            json!([
                {"type": "reasoning", "summary": []},
                {"type": "message", "role": "assistant", "id": "x", "status": "completed",
                 "content": [{"type": "output_text", "text": "See:", "annotations": []}]},
                call("1"), call("2"),
                {"type": "function_call_output", "call_id": "1", "output": "one"}
            ]),
            json!([
                {"role": "assistant", "content": "See:", "tool_calls": [made("1"), made("2")]},
                {"role": "tool", "tool_call_id": "1", "content": "one"}
            ]),
        );
    }

    #[test]
    fn parameters_are_renamed() {
        let format = json!({"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": true});
        let body = json!({"model": "m", "input": "Hi", "instructions": "Be brief.", "max_output_tokens": 5, "store": true,
            "text": {"format": format}, "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": null}],
            "tool_choice": {"type": "function", "name": "f"}});
        let chat = of(body).expect("a request");
        assert_eq!(chat["messages"][0], json!({"role": "system", "content": "Be brief."}));
        assert_eq!(chat["max_completion_tokens"], 5);
        let schema = json!({"name": "n", "schema": {"type": "object"}, "strict": true});
        assert_eq!(chat["response_format"], json!({"type": "json_schema", "json_schema": schema}));
        assert_eq!(chat["tools"], json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]));
        assert_eq!(chat["tool_choice"], json!({"type": "function", "function": {"name": "f"}}));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |members: Value, code: &str, param: &str| {
            let mut body = json!({"model": "m", "input": "Hi"});
            for (key, value) in members.as_object().expect("an object") {
                body[key] = value.clone();
            }
            let error = of(body).expect_err(param);
            assert_eq!((error.code(), error.body()["error"]["param"].clone()), (code, json!(param)), "{error}");
        };
        check(json!({"input": null}), "missing_required_parameter", "input");
        check(json!({"input": 1}), "invalid_value", "input");
        check(json!({"input": [{"type": "item_reference", "id": "x"}]}), "unsupported_parameter", "input[0].type");
        let image = json!([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]);
        check(json!({"input": image}), "unsupported_parameter", "input[0].content[0].type");
        check(json!({"previous_response_id": "resp_1"}), "unsupported_parameter", "previous_response_id");
        check(json!({"background": true}), "unsupported_parameter", "background");
        check(json!({"text": {"format": {"type": "xml"}}}), "invalid_value", "text.format.type");
        check(json!({"tools": [{"type": "web_search"}]}), "unsupported_parameter", "tools[0].type");
        check(json!({"temperatur": 1}), "unknown_parameter", "temperatur");
    }
}
