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
    /// Indices of those that may be called; `None`: all.
    pub(crate) allowed: Option<Vec<usize>>,
    /// The request has them as `functions`, and the answer says `function_call`.
    pub(crate) legacy: bool,
}

impl Tools {
    /// Those that may be called.
    pub(crate) fn callable(&self) -> impl Iterator<Item = &Tool> {
        let may = |i: &usize| self.allowed.as_ref().is_none_or(|allowed| allowed.contains(i));
        self.all.iter().enumerate().filter(move |(i, _)| may(i)).map(|(_, tool)| tool)
    }

    /// The one of this name, if it may be called.
    pub(crate) fn get(&self, name: &str) -> Option<&Tool> {
        self.callable().find(|t| t.name == name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.callable().map(|t| t.name.as_str())
    }

    pub(crate) fn to_json(&self) -> Value {
        self.all.iter().map(Tool::to_json).collect()
    }
}

/// Takes out `tools`, `tool_choice` and `parallel_tool_calls`, or what they were before, `functions` and `function_call`.
/// `None`: no tool may be called.
pub(crate) fn tools(fields: &mut Fields) -> Result<Option<Tools>, ApiError> {
    let parallel = fields.bool("parallel_tool_calls")?.unwrap_or(true);
    let given = (fields.take("tools"), fields.take("tool_choice"));
    let legacy = (fields.take("functions"), fields.take("function_call"));
    if legacy != (None, None) {
        if given != (None, None) {
            let param = if legacy.0.is_some() { "functions" } else { "function_call" };
            return Err(ApiError::invalid(param, "a request without `tools` and `tool_choice`", "both"));
        }
        return self::legacy(legacy.0, legacy.1);
    }
    let all = list(given.0, "tools", tool)?;
    for (i, tool) in all.iter().enumerate() {
        different(&all[..i], tool, || format!("tools[{i}].function.name"))?;
    }
    let chosen = choice(given.1, &all)?.filter(|_| !all.is_empty());
    Ok(chosen.map(|(choice, allowed)| Tools { all, choice, parallel, allowed, legacy: false }))
}

fn list(
    value: Option<Value>,
    param: &str,
    item: impl Fn(Value, usize) -> Result<Tool, ApiError>,
) -> Result<Vec<Tool>, ApiError> {
    match value {
        None => Ok(vec![]),
        Some(Value::Array(items)) if items.len() <= MAX_TOOLS => {
            items.into_iter().enumerate().map(|(i, v)| item(v, i)).collect()
        }
        Some(other) => {
            let expected = format!("an array of at most {MAX_TOOLS} {param}");
            Err(ApiError::invalid(param, expected, describe(&other)))
        }
    }
}

fn different(before: &[Tool], tool: &Tool, param: impl Fn() -> String) -> Result<(), ApiError> {
    match before.iter().any(|t| t.name == tool.name) {
        true => Err(ApiError::invalid(param(), "names that differ", format!("{:?} twice", tool.name))),
        false => Ok(()),
    }
}

/// One call at a time, as it was when these parameters were new.
fn legacy(functions: Option<Value>, call: Option<Value>) -> Result<Option<Tools>, ApiError> {
    let read = |value, i| function(Fields::of(value, &format!("functions[{i}]"))?);
    let all = list(functions, "functions", read)?;
    for (i, tool) in all.iter().enumerate() {
        different(&all[..i], tool, || format!("functions[{i}].name"))?;
    }
    let choice = match call {
        None => Choice::Auto,
        Some(Value::String(text)) if text == "auto" => Choice::Auto,
        Some(Value::String(text)) if text == "none" => return Ok(None),
        Some(value @ Value::Object(_)) => {
            let mut fields = Fields::of(value, "function_call")?;
            Choice::Named(named(&mut fields, &all, "functions")?)
        }
        Some(other) => {
            let expected = "none, auto, or an object that names a function";
            return Err(ApiError::invalid("function_call", expected, describe(&other)));
        }
    };
    let tools = Tools { all, choice, parallel: false, allowed: None, legacy: true };
    Ok(Some(tools).filter(|t| !t.all.is_empty()))
}

/// The index of the tool that the member `name` names.
fn named(fields: &mut Fields, all: &[Tool], list: &str) -> Result<usize, ApiError> {
    let param = fields.name("name");
    let name = fields.string("name")?.ok_or_else(|| ApiError::Missing(param.clone()))?;
    let at = all.iter().position(|t| t.name == name);
    at.ok_or_else(|| ApiError::invalid(param, format!("one of `{list}`"), format!("the string {name:?}")))
}

fn tool(value: Value, index: usize) -> Result<Tool, ApiError> {
    let mut fields = Fields::of(value, &format!("tools[{index}]"))?;
    let kind = fields.required("type")?;
    if kind != "function" {
        let hint = format!(" as {}: only functions are", describe(&kind));
        return Err(ApiError::Unsupported { param: fields.name("type"), hint });
    }
    let path = fields.name("function");
    let found = function(Fields::of(fields.required("function")?, &path)?)?;
    // Clients send these for other servers' caches.
    fields.take("cache_control");
    match fields.rest().find(|(_, _, value)| !value.is_null()) {
        Some((param, ..)) => Err(ApiError::Unknown(param)),
        None => Ok(found),
    }
}

/// What a function is, and what it is called with.
fn function(mut function: Fields) -> Result<Tool, ApiError> {
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
    match function.rest().find(|(_, _, value)| !value.is_null()) {
        Some((param, ..)) => Err(ApiError::Unknown(param)),
        None => Ok(Tool { name, description, parameters, strict }),
    }
}

/// Whether tools are called, and the indices of those that may be if not all.
type Chosen = (Choice, Option<Vec<usize>>);

/// `None`: no tool may be called.
fn choice(value: Option<Value>, all: &[Tool]) -> Result<Option<Chosen>, ApiError> {
    const EXPECTED: &str = "none, auto, required, or an object that names a function or lists allowed tools";
    let Some(value) = value else { return Ok(Some((Choice::Auto, None))) };
    let mut allowed = None;
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
            match kind.as_str() {
                Some("function") => {
                    let mut function = Fields::of(fields.required("function")?, "tool_choice.function")?;
                    Choice::Named(named(&mut function, all, "tools")?)
                }
                Some("allowed_tools") => {
                    let (choice, indices) = allowed_tools(fields, all)?;
                    allowed = Some(indices);
                    choice
                }
                _ => {
                    let hint = format!(" as {}: only a function and allowed_tools are", describe(&kind));
                    return Err(ApiError::Unsupported { param: fields.name("type"), hint });
                }
            }
        }
        other => return Err(ApiError::invalid("tool_choice", EXPECTED, describe(&other))),
    };
    if all.is_empty() && choice != Choice::Auto {
        return Err(ApiError::invalid("tool_choice", "`none` or `auto` in a request without `tools`", "a call"));
    }
    Ok(Some((choice, allowed)))
}

/// `mode`, and a list of tools by type and name: under `allowed_tools`, or beside the type, as the newer API has them.
fn allowed_tools(mut fields: Fields, all: &[Tool]) -> Result<(Choice, Vec<usize>), ApiError> {
    let mut inner = match fields.take("allowed_tools") {
        Some(value) => Fields::of(value, "tool_choice.allowed_tools")?,
        None => fields,
    };
    let choice = match inner.string("mode")?.as_deref() {
        Some("auto") => Choice::Auto,
        Some("required") => Choice::Required,
        None => return Err(ApiError::Missing(inner.name("mode"))),
        Some(other) => return Err(ApiError::invalid(inner.name("mode"), "auto or required", format!("{other:?}"))),
    };
    let path = inner.name("tools");
    let items = match inner.required("tools")? {
        Value::Array(items) if (1..=MAX_TOOLS).contains(&items.len()) => items,
        other => return Err(ApiError::invalid(path, format!("an array of 1 to {MAX_TOOLS} tools"), describe(&other))),
    };
    let index = |(i, item): (usize, Value)| {
        let mut fields = Fields::of(item, &format!("{path}[{i}]"))?;
        let kind = fields.required("type")?;
        if kind != "function" {
            return Err(ApiError::invalid(fields.name("type"), "function", describe(&kind)));
        }
        match fields.take("function") {
            Some(value) => named(&mut Fields::of(value, &format!("{path}[{i}].function"))?, all, "tools"),
            None => named(&mut fields, all, "tools"),
        }
    };
    Ok((choice, items.into_iter().enumerate().map(index).collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests;
