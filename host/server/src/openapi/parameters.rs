//! Parameters that take several forms.

use serde_json::{Value, json};

/// The forms of a parameter; `None`: it is not known here.
pub(super) fn form(name: &str) -> Option<Value> {
    let text = json!({"type": "string"});
    let tokens = json!({"type": "array", "items": {"type": "integer", "minimum": 0}});
    let texts = json!({"type": "array", "items": text});
    let any_of = |forms: &[&Value]| {
        let mut forms: Vec<Value> = forms.iter().map(|f| (*f).clone()).collect();
        forms.push(json!({"type": "null"}));
        json!({"anyOf": forms})
    };
    let object = json!({"type": "object"});
    Some(match name {
        "messages" => json!({"type": "array", "minItems": 1, "items": message()}),
        "prompt" | "input" => {
            let lists = json!({"type": "array", "items": tokens});
            json!({"anyOf": [text, texts, tokens, lists]})
        }
        "content" => text,
        "tokens" => tokens,
        "stop" => any_of(&[&text, &json!({"type": "array", "items": text, "maxItems": 16})]),
        "stop_token_ids" | "allowed_token_ids" => any_of(&[&tokens]),
        "dry_sequence_breakers" | "bad_words" => any_of(&[&texts]),
        "seed" => json!({"type": ["integer", "null"]}),
        "logit_bias" => {
            let bias = json!({"type": "number", "minimum": -100, "maximum": 100});
            any_of(&[&json!({"type": "object", "additionalProperties": bias, "maxProperties": 1024})])
        }
        "stream_options" => {
            let flag = json!({"type": ["boolean", "null"]});
            let properties =
                json!({"include_usage": flag, "continuous_usage_stats": flag, "include_obfuscation": flag});
            any_of(&[&json!({"type": "object", "properties": properties, "additionalProperties": false})])
        }
        "response_format" => {
            let kinds = json!(["text", "json_object", "json_schema"]);
            let properties = json!({"type": {"enum": kinds}, "json_schema": object, "schema": object});
            any_of(&[&json!({"type": "object", "properties": properties, "required": ["type"]})])
        }
        "structured_outputs" => {
            let properties = json!({"json": {"anyOf": [object, text]}, "regex": text, "choice": texts, "grammar": text,
                "json_object": {"type": "boolean"}});
            any_of(&[&json!({"type": "object", "properties": properties})])
        }
        "guided_json" | "json_schema" => any_of(&[&object, &text]),
        "guided_regex" | "guided_grammar" | "grammar" => any_of(&[&text]),
        "guided_choice" => any_of(&[&texts]),
        "tools" => any_of(&[&json!({"type": "array", "maxItems": 128, "items": tool()})]),
        "tool_choice" => {
            let words = json!({"enum": ["none", "auto", "required"]});
            let function = json!({"type": "object", "properties": {"name": text}, "required": ["name"]});
            let properties = json!({"type": {"const": "function"}, "function": function});
            let named = json!({"type": "object", "properties": properties, "required": ["type", "function"]});
            let tools = json!({"type": "array", "minItems": 1, "items": named});
            let list = json!({"type": "object", "properties": {"mode": {"enum": ["auto", "required"]}, "tools": tools},
                "required": ["mode", "tools"]});
            let properties = json!({"type": {"const": "allowed_tools"}, "allowed_tools": list});
            any_of(&[&words, &named, &json!({"type": "object", "properties": properties, "required": ["type"]})])
        }
        "functions" => any_of(&[&json!({"type": "array", "maxItems": 128, "items": tool()["properties"]["function"]})]),
        "function_call" => {
            let function = json!({"type": "object", "properties": {"name": text}, "required": ["name"]});
            any_of(&[&json!({"enum": ["none", "auto"]}), &function])
        }
        "chat_template_kwargs" => any_of(&[&object]),
        _ => return None,
    })
}

fn message() -> Value {
    let text = json!({"type": "string"});
    let part = json!({"type": "object", "properties": {"type": {"enum": ["text", "refusal"]}, "text": text}});
    let content = json!({"anyOf": [text, {"type": "array", "items": {"anyOf": [text, part]}}, {"type": "null"}]});
    json!({
        "type": "object",
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant", "tool", "function"]},
            "content": content,
            "name": {"type": ["string", "null"]},
            "tool_calls": {"type": ["array", "null"], "items": {"type": "object"}},
            "function_call": {"type": ["object", "null"]},
            "tool_call_id": {"type": ["string", "null"]},
            "reasoning": {"type": ["string", "null"]},
            "reasoning_content": {"type": ["string", "null"]},
        },
        "required": ["role"],
    })
}

fn tool() -> Value {
    let function = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 64},
            "description": {"type": ["string", "null"]},
            "parameters": {"type": ["object", "null"]},
            "strict": {"type": ["boolean", "null"]},
        },
        "required": ["name"],
    });
    json!({"type": "object", "properties": {"type": {"const": "function"}, "function": function},
        "required": ["type", "function"]})
}
