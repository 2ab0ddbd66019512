//! Members of requests in the forms of other APIs, as far as they are more than names: what is in their messages and tools,
//! the documents of these APIs say.

use serde_json::{Map, Value, json};

fn members(all: &Value) -> Map<String, Value> {
    all.as_object().cloned().unwrap_or_default()
}

fn objects() -> Value {
    json!({"type": "array", "items": {"type": "object"}})
}

/// A number, or nothing.
fn number(least: f64, most: f64) -> Value {
    json!({"type": ["number", "null"], "minimum": least, "maximum": most})
}

/// A text, or blocks of it.
fn blocks() -> Value {
    json!({"anyOf": [{"type": "string"}, objects()]})
}

pub(super) fn anthropic_count() -> Map<String, Value> {
    let choice = json!({"type": ["object", "null"], "properties": {"type": {"enum": ["auto", "any", "tool", "none"]}},
        "required": ["type"]});
    let mut all = members(&json!({
        "model": {"type": "string"},
        "messages": {"type": "array", "items": {"type": "object", "required": ["role", "content"]}},
        "tools": {"anyOf": [objects(), {"type": "null"}]},
        "tool_choice": choice,
    }));
    all.insert("system".into(), json!({"anyOf": [blocks(), {"type": "null"}]}));
    all
}

pub(super) fn anthropic() -> Map<String, Value> {
    let thinking = json!({"type": ["object", "null"], "properties": {"type": {"enum": ["enabled", "adaptive", "disabled"]}},
        "required": ["type"]});
    let efforts = json!(["low", "medium", "high", "xhigh", "max", null]);
    let output_config = json!({"type": ["object", "null"], "properties": {"effort": {"enum": efforts}}});
    let mut all = anthropic_count();
    all.extend(members(&json!({
        "max_tokens": {"type": "integer", "minimum": 1},
        "stream": {"type": ["boolean", "null"]},
        "temperature": number(0.0, 2.0),
        "top_p": number(0.0, 1.0),
        "top_k": {"type": ["integer", "null"], "minimum": -1},
        "stop_sequences": {"anyOf": [{"type": "array", "items": {"type": "string"}, "maxItems": 16}, {"type": "string"},
            {"type": "null"}]},
        "thinking": thinking,
        "output_config": output_config,
    })));
    all
}

pub(super) fn responses() -> Map<String, Value> {
    members(&json!({
        "model": {"type": ["string", "null"]},
        "input": blocks(),
        "instructions": {"type": ["string", "null"]},
        "max_output_tokens": {"type": ["integer", "null"], "minimum": 1},
        "stream": {"type": ["boolean", "null"]},
        "temperature": number(0.0, 2.0),
        "top_p": number(0.0, 1.0),
        "tools": {"anyOf": [objects(), {"type": "null"}]},
        "parallel_tool_calls": {"type": ["boolean", "null"]},
        "text": {"type": ["object", "null"]},
    }))
}

/// What Ollama's routes share.
fn ollama(more: &Value) -> Map<String, Value> {
    let mut all = members(&json!({
        "model": {"type": "string"},
        "options": {"type": ["object", "null"]},
    }));
    all.extend(members(more));
    all
}

/// How an answer of Ollama's is asked for.
fn ollama_answer(more: &Value) -> Map<String, Value> {
    let mut all = ollama(more);
    all.extend(members(&json!({
        "stream": {"type": ["boolean", "null"]},
        "format": {"anyOf": [{"enum": ["json", ""]}, {"type": "object"}, {"type": "null"}]},
    })));
    all
}

pub(super) fn ollama_chat() -> Map<String, Value> {
    ollama_answer(
        &json!({"messages": {"anyOf": [objects(), {"type": "null"}]}, "tools": {"anyOf": [objects(), {"type": "null"}]}}),
    )
}

pub(super) fn ollama_generate() -> Map<String, Value> {
    let text = json!({"type": ["string", "null"]});
    ollama_answer(&json!({"prompt": text, "suffix": text, "system": text, "raw": {"type": ["boolean", "null"]}}))
}

pub(super) fn ollama_embed() -> Map<String, Value> {
    ollama(&json!({
        "input": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        "truncate": {"type": ["boolean", "null"]},
        "dimensions": {"type": ["integer", "null"], "minimum": 1},
    }))
}

pub(super) fn ollama_embeddings() -> Map<String, Value> {
    ollama(&json!({"prompt": {"type": ["string", "null"]}}))
}
