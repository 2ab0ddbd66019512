//! Conversations with calls, for models whose templates know none.

use serde_json::{Value, json};

use crate::params::tools::Tools;

/// Whether a template writes the tools that it is given: it asks for the variable, not only for the word.
pub(crate) fn knows_tools(template: Option<&str>) -> bool {
    const USES: &[&str] =
        &["if tools", "in tools", "not tools", "and tools", "tools is", "tools|", "tools |", "tools)"];
    template.is_some_and(|t| USES.iter().any(|u| t.contains(u)))
}

/// Whether a template writes calls or what they have returned.
pub(crate) fn knows_calls(template: Option<&str>) -> bool {
    template.is_some_and(|t| ["tool_calls", "'tool'", "\"tool\""].iter().any(|u| t.contains(u)))
}

/// What such a model is told about its tools.
pub(crate) fn instructions(tools: &Tools) -> String {
    let lines: Vec<String> = tools.all.iter().map(|t| t.to_json()["function"].to_string()).collect();
    format!(
        "These functions can be called, each described by one line of JSON:\n{}\n\nTo call one, write nothing but\n\
         <tool_call>\n{{\"name\": \"NAME\", \"arguments\": {{ARGUMENTS}}}}\n</tool_call>\nand wait for its result. \
         Answer in plain text if no function is needed.",
        lines.join("\n")
    )
}

/// The conversation with the instructions in front, as a message of the system or, for templates that refuse one, as the
/// beginning of what the user says.
pub(crate) fn with_instructions(messages: &Value, text: &str, system: bool) -> Value {
    let mut messages = messages.as_array().cloned().unwrap_or_default();
    let role = if system { "system" } else { "user" };
    match messages.iter_mut().find(|m| m["role"] == role) {
        Some(message) => {
            let before = message["content"].as_str().unwrap_or_default();
            message["content"] = if before.is_empty() { text.into() } else { format!("{before}\n\n{text}").into() };
        }
        None => messages.insert(0, json!({"role": role, "content": text})),
    }
    messages.into()
}

/// The conversation with calls as the assistant's text, and their results as the user's.
pub(crate) fn without_calls(messages: &Value) -> Value {
    let plain = |message: &Value| {
        let content = message["content"].as_str().unwrap_or_default();
        match message["role"].as_str() {
            Some("tool") => json!({"role": "user", "content": format!("<tool_response>\n{content}\n</tool_response>")}),
            Some("assistant") if message.get("tool_calls").is_some() => {
                let calls = message["tool_calls"].as_array().into_iter().flatten();
                let text = |c: &Value| {
                    let call = json!({"name": c["function"]["name"], "arguments": c["function"]["arguments"]});
                    format!("<tool_call>\n{call}\n</tool_call>")
                };
                let parts = (!content.is_empty()).then(|| content.to_string()).into_iter().chain(calls.map(text));
                json!({"role": "assistant", "content": parts.collect::<Vec<_>>().join("\n")})
            }
            _ => message.clone(),
        }
    };
    messages.as_array().into_iter().flatten().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_show_whether_they_know_tools() {
        let check = |template: &str, tools: bool, calls: bool| {
            let found = (knows_tools(Some(template)), knows_calls(Some(template)));
            assert_eq!(found, (tools, calls), "{template}");
        };
        check("{% for m in messages %}{{ m.role }}{% endfor %}", false, false);
        check("{% if m.role == 'tool' %}{{ raise_exception('tools come later') }}{% endif %}", false, true);
        check("{%- if tools %}{{ tools | tojson }}{% endif %}{% if m.tool_calls %}", true, true);
        check("{% if tools is not none and tools|length > 0 %}", true, false);
        assert!(!knows_tools(None) && !knows_calls(None));
    }

    #[test]
    fn calls_become_text_for_templates_that_know_none() {
        let call = json!({"type": "function", "id": "1", "function": {"name": "f", "arguments": {"a": 1}}});
        let messages = json!([
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "5"},
        ]);
        let expected = json!([
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "<tool_call>\n{\"name\":\"f\",\"arguments\":{\"a\":1}}\n</tool_call>"},
            {"role": "user", "content": "<tool_response>\n5\n</tool_response>"},
        ]);
        assert_eq!(without_calls(&messages), expected);
    }

    #[test]
    fn instructions_join_a_message_that_is_there() {
        let check = |messages: Value, system: bool, expected: Value| {
            assert_eq!(with_instructions(&messages, "T", system), expected);
        };
        let user = json!({"role": "user", "content": "Hi"});
        check(json!([user]), true, json!([{"role": "system", "content": "T"}, user]));
        let system = json!({"role": "system", "content": "S"});
        check(json!([system, user]), true, json!([{"role": "system", "content": "S\n\nT"}, user]));
        check(json!([user]), false, json!([{"role": "user", "content": "Hi\n\nT"}]));
    }
}
