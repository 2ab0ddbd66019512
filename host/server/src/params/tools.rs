//! Tools that a model may call.

use serde_json::{Map, Value};

use super::Fields;
use super::fields::describe;
use crate::error::ApiError;

const MAX_TOOLS: usize = 128;
const MAX_NAME: usize = 64;

/// A function that the client has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    /// A JSON schema; an empty one where the client gives none.
    pub(crate) parameters: Value,
    /// Arguments must be as the schema says.
    pub(crate) strict: bool,
}

impl Tool {
    /// The value of a parameter that a model has written as text.
    pub(crate) fn value(&self, key: &str, text: &str) -> Value {
        let kind = self.parameters.pointer(&format!("/properties/{}/type", key.replace('~', "~0").replace('/', "~1")));
        let parsed = if kind == Some(&Value::from("string")) { None } else { serde_json::from_str(text.trim()).ok() };
        parsed.unwrap_or_else(|| Value::from(text))
    }

    /// In OpenAI's form, which templates expect.
    pub(crate) fn to_json(&self) -> Value {
        let mut function = Map::new();
        function.insert("name".into(), self.name.clone().into());
        function.extend(self.description.clone().map(|d| ("description".to_string(), d.into())));
        function.insert("parameters".into(), self.parameters.clone());
        let mut tool = Map::new();
        tool.insert("type".into(), "function".into());
        tool.insert("function".into(), Value::Object(function));
        Value::Object(tool)
    }
}

/// Whether tools are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// As the model likes.
    Auto,
    /// At least one.
    Required,
    /// The one with this index.
    Named(usize),
}

/// The tools of a request, and how they may be called.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tools {
    pub(crate) all: Vec<Tool>,
    pub(crate) choice: Choice,
    /// Several calls in one answer.
    pub(crate) parallel: bool,
}

impl Tools {
    pub(crate) fn get(&self, name: &str) -> Option<&Tool> {
        self.all.iter().find(|t| t.name == name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|t| t.name.as_str())
    }

    pub(crate) fn to_json(&self) -> Value {
        self.all.iter().map(Tool::to_json).collect()
    }
}

/// Takes out `tools`, `tool_choice` and `parallel_tool_calls`. `None`: no tool may be called.
pub(crate) fn tools(fields: &mut Fields) -> Result<Option<Tools>, ApiError> {
    let parallel = fields.bool("parallel_tool_calls")?.unwrap_or(true);
    let choice = fields.take("tool_choice");
    let all = match fields.take("tools") {
        None => vec![],
        Some(Value::Array(items)) if items.len() <= MAX_TOOLS => {
            items.into_iter().enumerate().map(|(i, v)| tool(v, i)).collect::<Result<Vec<_>, _>>()?
        }
        Some(other) => {
            let expected = format!("an array of at most {MAX_TOOLS} tools");
            return Err(ApiError::invalid("tools", expected, describe(&other)));
        }
    };
    for (i, tool) in all.iter().enumerate() {
        if all[..i].iter().any(|t| t.name == tool.name) {
            let expected = "names that differ";
            return Err(ApiError::invalid(
                format!("tools[{i}].function.name"),
                expected,
                format!("{:?} twice", tool.name),
            ));
        }
    }
    let choice = self::choice(choice, &all)?;
    Ok(choice.filter(|_| !all.is_empty()).map(|choice| Tools { all, choice, parallel }))
}

fn tool(value: Value, index: usize) -> Result<Tool, ApiError> {
    let mut fields = Fields::of(value, &format!("tools[{index}]"))?;
    let kind = fields.required("type")?;
    if kind != "function" {
        let hint = format!(" as {}: only functions are", describe(&kind));
        return Err(ApiError::Unsupported { param: fields.name("type"), hint });
    }
    let path = fields.name("function");
    let mut function = Fields::of(fields.required("function")?, &path)?;
    // Clients send these for other servers' caches.
    fields.take("cache_control");
    let name = function.string("name")?.ok_or_else(|| ApiError::Missing(function.name("name")))?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if !(1..=MAX_NAME).contains(&name.len()) || !name.chars().all(allowed) {
        let expected = format!("1 to {MAX_NAME} letters, digits, `_`, `-` or `.`");
        return Err(ApiError::invalid(function.name("name"), expected, describe(&Value::from(name))));
    }
    let description = function.string("description")?;
    let strict = function.bool("strict")?.unwrap_or(false);
    let parameters = match function.take("parameters") {
        None => serde_json::json!({"type": "object", "properties": {}}),
        Some(schema @ Value::Object(_)) => schema,
        Some(other) => {
            return Err(ApiError::invalid(
                function.name("parameters"),
                "a JSON schema, which is an object",
                describe(&other),
            ));
        }
    };
    let left = function.rest().chain(fields.rest()).find(|(_, _, value)| !value.is_null());
    match left {
        Some((param, ..)) => Err(ApiError::Unknown(param)),
        None => Ok(Tool { name, description, parameters, strict }),
    }
}

/// `None`: no tool may be called.
fn choice(value: Option<Value>, all: &[Tool]) -> Result<Option<Choice>, ApiError> {
    const EXPECTED: &str = "none, auto, required, or an object that names a function";
    let Some(value) = value else { return Ok(Some(Choice::Auto)) };
    let choice = match value {
        Value::String(text) => match text.as_str() {
            "none" => return Ok(None),
            "auto" => Choice::Auto,
            "required" | "any" => Choice::Required,
            _ => return Err(ApiError::invalid("tool_choice", EXPECTED, format!("the string {text:?}"))),
        },
        Value::Object(_) => {
            let mut fields = Fields::of(value, "tool_choice")?;
            let kind = fields.required("type")?;
            if kind != "function" {
                let hint = format!(" as {}: only a function is", describe(&kind));
                return Err(ApiError::Unsupported { param: fields.name("type"), hint });
            }
            let mut function = Fields::of(fields.required("function")?, "tool_choice.function")?;
            let name = function.string("name")?.ok_or_else(|| ApiError::Missing("tool_choice.function.name".into()))?;
            let at = all.iter().position(|t| t.name == name);
            let found = format!("the string {name:?}");
            Choice::Named(at.ok_or_else(|| ApiError::invalid("tool_choice.function.name", "one of `tools`", found))?)
        }
        other => return Err(ApiError::invalid("tool_choice", EXPECTED, describe(&other))),
    };
    if all.is_empty() && choice != Choice::Auto {
        return Err(ApiError::invalid("tool_choice", "`none` or `auto` in a request without `tools`", "a call"));
    }
    Ok(Some(choice))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn take(body: Value) -> Result<Option<Tools>, ApiError> {
        tools(&mut Fields::parse(body.to_string().as_bytes())?)
    }

    fn function(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name, "description": null, "strict": true}})
    }

    #[test]
    fn tools_may_be_called_as_the_client_chooses() {
        let check = |choice: Value, expected: Option<Choice>| {
            let body = json!({"tools": [function("f"), function("g")], "tool_choice": choice});
            assert_eq!(take(body.clone()).map(|t| t.map(|t| t.choice)), Ok(expected), "{body}");
        };
        check(Value::Null, Some(Choice::Auto));
        check(json!("auto"), Some(Choice::Auto));
        check(json!("none"), None);
        check(json!("required"), Some(Choice::Required));
        check(json!({"type": "function", "function": {"name": "g"}}), Some(Choice::Named(1)));
        assert_eq!(take(json!({"tools": [], "tool_choice": "auto"})), Ok(None));
        let one = take(json!({"tools": [function("f")], "parallel_tool_calls": false})).expect("a tool").expect("one");
        assert!(!one.parallel && one.all[0].strict && one.has("f") && !one.has("g"));
    }

    #[test]
    fn wrong_tools_are_named() {
        let check = |body: Value, code: &str, param: &str| {
            let error = take(body.clone()).expect_err(&body.to_string());
            assert_eq!((error.code(), error.body()["error"]["param"].clone()), (code, json!(param)), "{body}: {error}");
        };
        let one = |tool: Value| json!({"tools": [function("first"), tool]});
        check(json!({"tools": {}}), "invalid_value", "tools");
        check(json!({"tools": vec![function("f"); 129]}), "invalid_value", "tools");
        check(one(json!("f")), "invalid_value", "tools[1]");
        check(one(json!({})), "missing_required_parameter", "tools[1].type");
        check(one(json!({"type": "web_search"})), "unsupported_parameter", "tools[1].type");
        check(one(json!({"type": "function"})), "missing_required_parameter", "tools[1].function");
        check(one(json!({"type": "function", "function": {}})), "missing_required_parameter", "tools[1].function.name");
        check(one(function("")), "invalid_value", "tools[1].function.name");
        check(one(function("a b")), "invalid_value", "tools[1].function.name");
        check(one(function("first")), "invalid_value", "tools[1].function.name");
        let parameters = json!({"type": "function", "function": {"name": "f", "parameters": []}});
        check(one(parameters), "invalid_value", "tools[1].function.parameters");
        let unknown = json!({"type": "function", "function": {"name": "f", "x": 1}});
        check(one(unknown), "unknown_parameter", "tools[1].function.x");
        let choice = |choice: Value| json!({"tools": [function("f")], "tool_choice": choice});
        check(choice(json!("maybe")), "invalid_value", "tool_choice");
        check(choice(json!(1)), "invalid_value", "tool_choice");
        check(choice(json!({"type": "function"})), "missing_required_parameter", "tool_choice.function");
        let unknown = json!({"type": "function", "function": {"name": "g"}});
        check(choice(unknown), "invalid_value", "tool_choice.function.name");
        check(choice(json!({"type": "allowed_tools"})), "unsupported_parameter", "tool_choice.type");
        check(json!({"tool_choice": "required"}), "invalid_value", "tool_choice");
        check(json!({"parallel_tool_calls": 1}), "invalid_value", "parallel_tool_calls");
    }

    #[test]
    fn values_written_as_text_have_the_type_of_their_parameter() {
        let parameters = json!({"properties": {"text": {"type": "string"}, "count": {"type": "integer"}}});
        let tool = Tool { name: "f".into(), description: None, parameters, strict: false };
        assert_eq!(tool.value("text", "5"), json!("5"));
        assert_eq!(tool.value("count", " 5 "), json!(5));
        assert_eq!(tool.value("other", "[1]"), json!([1]));
        assert_eq!(tool.value("other", "word"), json!("word"));
    }
}
