//! Variables of chat templates that a request may set.

use serde_json::{Map, Value};

use super::Fields;
use super::fields::describe;
use crate::error::ApiError;

/// Those that a client may set, and whether they are texts. Others could stand for anything in a template.
const ALLOWED: &[(&str, bool)] = &[
    ("enable_thinking", false),
    ("thinking", false),
    ("preserve_thinking", false),
    ("tools_in_user_message", false),
    ("reasoning_effort", true),
    ("date_string", true),
];
const EFFORTS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh"];
const MAX_TEXT: usize = 64;

/// Checked variables.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Variables {
    own: Map<String, Value>,
    effort: Option<String>,
}

/// Takes out `chat_template_kwargs` and `reasoning_effort`.
pub(crate) fn variables(fields: &mut Fields) -> Result<Variables, ApiError> {
    let mut own = Map::new();
    if let Some(value) = fields.take("chat_template_kwargs") {
        for (param, key, value) in Fields::of(value, "chat_template_kwargs")?.rest() {
            let Some((_, text)) = ALLOWED.iter().find(|(name, _)| *name == key) else {
                return Err(ApiError::Unsupported { param, hint: String::new() });
            };
            match (&value, text) {
                (Value::Null, _) => continue,
                (Value::Bool(_), false) => {}
                (Value::String(t), true) if t.len() <= MAX_TEXT => {}
                (_, true) => {
                    return Err(ApiError::invalid(param, format!("at most {MAX_TEXT} bytes"), describe(&value)));
                }
                (_, false) => return Err(ApiError::invalid(param, "a boolean", describe(&value))),
            }
            own.insert(key, value);
        }
    }
    let effort = fields.string("reasoning_effort")?;
    match effort {
        Some(e) if !EFFORTS.contains(&e.as_str()) => {
            Err(ApiError::invalid("reasoning_effort", format!("one of {}", EFFORTS.join(", ")), format!("{e:?}")))
        }
        effort => Ok(Variables { own, effort }),
    }
}

impl Variables {
    /// The variables for a template. An effort that it does not know would change nothing, which is an error.
    pub(crate) fn for_template(&self, source: Option<&str>) -> Result<Map<String, Value>, ApiError> {
        let mut all = self.own.clone();
        let Some(effort) = &self.effort else { return Ok(all) };
        let knows = |name: &str| source.is_some_and(|s| s.contains(name));
        if knows("reasoning_effort") {
            all.entry("reasoning_effort").or_insert_with(|| effort.clone().into());
        } else if knows("enable_thinking") {
            all.entry("enable_thinking").or_insert_with(|| (effort != "none").into());
        } else if effort != "none" {
            let hint = ": the model's template has no such setting".into();
            return Err(ApiError::Unsupported { param: "reasoning_effort".into(), hint });
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn take(body: Value) -> Result<Variables, ApiError> {
        variables(&mut Fields::parse(body.to_string().as_bytes())?)
    }

    #[test]
    fn templates_get_what_they_know() {
        let check = |body: Value, source: &str, expected: Value| {
            let found = take(body.clone()).and_then(|v| v.for_template(Some(source)));
            assert_eq!(found.map(Value::Object), Ok(expected), "{body} {source}");
        };
        check(json!({}), "", json!({}));
        let thinking = json!({"chat_template_kwargs": {"enable_thinking": false, "date_string": null}});
        check(thinking, "", json!({"enable_thinking": false}));
        check(json!({"reasoning_effort": "low"}), "{{ reasoning_effort }}", json!({"reasoning_effort": "low"}));
        check(json!({"reasoning_effort": "none"}), "{{ enable_thinking }}", json!({"enable_thinking": false}));
        check(json!({"reasoning_effort": "none"}), "", json!({}));
    }

    #[test]
    fn other_variables_are_refused() {
        let check = |body: Value, code: &str, param: &str| {
            let error = take(body.clone()).and_then(|v| v.for_template(Some(""))).expect_err(&body.to_string());
            assert_eq!((error.code(), error.body()["error"]["param"].clone()), (code, json!(param)), "{body}: {error}");
        };
        let kwargs = |v: Value| json!({"chat_template_kwargs": v});
        check(kwargs(json!(1)), "invalid_value", "chat_template_kwargs");
        check(kwargs(json!({"messages": []})), "unsupported_parameter", "chat_template_kwargs.messages");
        check(kwargs(json!({"enable_thinking": "x"})), "invalid_value", "chat_template_kwargs.enable_thinking");
        check(kwargs(json!({"date_string": "x".repeat(65)})), "invalid_value", "chat_template_kwargs.date_string");
        check(json!({"reasoning_effort": "huge"}), "invalid_value", "reasoning_effort");
        check(json!({"reasoning_effort": "high"}), "unsupported_parameter", "reasoning_effort");
    }
}
