//! What an answer has to look like, in the forms of OpenAI, vLLM and llama-server.

use rocmforge_engine::sampler::{Constraint, Grammar, GrammarError};
use serde_json::{Value, json};

use super::Fields;
use super::fields::describe;
use crate::error::ApiError;
use crate::state::ServedModel;

const MAX_CHOICES: usize = 1024;

/// A grammar, and the parameter that asks for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Structured {
    pub(crate) grammar: Grammar,
    pub(crate) param: String,
}

impl Structured {
    /// Compiles the grammar, which takes long. `reasoning`: for what comes after the end of the reasoning.
    pub(crate) fn compile(&self, model: &ServedModel, reasoning: bool) -> Result<Constraint, ApiError> {
        let unusable =
            |error: &dyn std::fmt::Display| ApiError::Grammar { param: self.param.clone(), message: error.to_string() };
        let grammars = model.grammars.get(&model.tokenizer).map_err(|e| unusable(&e))?;
        let grammar = self.grammar.clone();
        let grammar = if reasoning { Grammar::AfterReasoning(Box::new(grammar)) } else { grammar };
        grammars.compile(&grammar).map_err(|e| match e {
            GrammarError::Busy => {
                ApiError::Overloaded { message: e.to_string(), retry_after: std::time::Duration::ZERO }
            }
            e => unusable(&e),
        })
    }
}

/// Takes out the parameters that say what an answer has to look like. At most one may.
pub(crate) fn structured(fields: &mut Fields) -> Result<Option<Structured>, ApiError> {
    let mut found = Vec::new();
    found.extend(response_format(fields)?);
    found.extend(structured_outputs(fields)?);
    for (key, form) in [
        ("guided_json", Form::Json),
        ("guided_regex", Form::Regex),
        ("guided_choice", Form::Choice),
        ("guided_grammar", Form::Grammar),
        ("json_schema", Form::Json),
        ("grammar", Form::Grammar),
    ] {
        found.extend(member(fields, key, form)?);
    }
    let mut found = found.into_iter();
    let first = found.next();
    match (&first, found.next()) {
        (Some(first), Some(second)) => {
            Err(ApiError::invalid(second.param, format!("to be absent beside `{}`", first.param), "both"))
        }
        _ => Ok(first),
    }
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Json,
    Regex,
    Choice,
    Grammar,
}

/// A grammar in a member of its own; one that is empty is none.
fn member(fields: &mut Fields, key: &str, form: Form) -> Result<Option<Structured>, ApiError> {
    let param = fields.name(key);
    let Some(value) = fields.take(key) else { return Ok(None) };
    let grammar = match (form, value) {
        (Form::Regex | Form::Grammar, Value::String(text)) if text.is_empty() => return Ok(None),
        (Form::Regex, Value::String(text)) => Grammar::Regex(text),
        (Form::Grammar, Value::String(text)) => Grammar::Text(text),
        (Form::Regex | Form::Grammar, other) => return Err(ApiError::invalid(param, "a string", describe(&other))),
        (Form::Choice, value) => Grammar::Choice(choices(value, &param)?),
        (Form::Json, value) => json_schema(value, &param, false)?,
    };
    Ok(Some(Structured { grammar, param }))
}

fn choices(value: Value, param: &str) -> Result<Vec<String>, ApiError> {
    let items = match value {
        Value::Array(items) if (1..=MAX_CHOICES).contains(&items.len()) => items,
        other => {
            let expected = format!("an array of 1 to {MAX_CHOICES} strings");
            return Err(ApiError::invalid(param, expected, describe(&other)));
        }
    };
    let text = |(i, value): (usize, Value)| match value {
        Value::String(text) if !text.is_empty() => Ok(text),
        other => Err(ApiError::invalid(format!("{param}[{i}]"), "a string that is not empty", describe(&other))),
    };
    items.into_iter().enumerate().map(text).collect()
}

/// A schema, which some clients write as a string.
fn json_schema(value: Value, param: &str, lenient: bool) -> Result<Grammar, ApiError> {
    let parsed = match &value {
        Value::String(text) => serde_json::from_str(text).ok(),
        _ => None,
    };
    let schema = parsed.unwrap_or(value);
    if !schema.is_object() {
        return Err(ApiError::invalid(param, "a JSON schema, which is an object", describe(&schema)));
    }
    Ok(Grammar::JsonSchema { schema, lenient })
}

fn any_object() -> Grammar {
    Grammar::JsonSchema { schema: json!({"type": "object"}), lenient: false }
}

/// `response_format` of OpenAI; llama-server's form has the schema beside the type.
fn response_format(fields: &mut Fields) -> Result<Option<Structured>, ApiError> {
    const TYPES: &str = "one of text, json_object, json_schema";
    let Some(value) = fields.take("response_format") else { return Ok(None) };
    let mut format = Fields::of(value, "response_format")?;
    let kind = format.required("type")?;
    let kind = kind.as_str().ok_or_else(|| ApiError::invalid(format.name("type"), TYPES, describe(&kind)))?.to_owned();
    let beside =
        format.take("schema").map(|schema| json_schema(schema, "response_format.schema", false)).transpose()?;
    let beside = beside.map(|grammar| Structured { grammar, param: "response_format.schema".into() });
    let found = match kind.as_str() {
        "text" => None,
        "json_object" => Some(beside.unwrap_or(Structured { grammar: any_object(), param: "response_format".into() })),
        "json_schema" => match format.take("json_schema") {
            None if beside.is_some() => beside,
            None => return Err(ApiError::Missing("response_format.json_schema".into())),
            Some(value) => Some(named_schema(value)?),
        },
        _ => {
            let found = format!("the string {kind:?}");
            return Err(ApiError::invalid("response_format.type", TYPES, found));
        }
    };
    match format.rest().next() {
        Some((param, _, value)) if !value.is_null() => Err(ApiError::Unknown(param)),
        _ => Ok(found),
    }
}

/// `{"name", "schema", "strict"}`. Without `strict` what cannot be enforced is left out.
fn named_schema(value: Value) -> Result<Structured, ApiError> {
    let mut named = Fields::of(value, "response_format.json_schema")?;
    named.string("name")?;
    named.string("description")?;
    let strict = named.bool("strict")?.unwrap_or(false);
    let param = named.name("schema");
    let grammar = match named.take("schema") {
        Some(schema) => json_schema(schema, &param, !strict)?,
        None => any_object(),
    };
    match named.rest().next() {
        Some((param, _, value)) if !value.is_null() => Err(ApiError::Unknown(param)),
        _ => Ok(Structured { grammar, param }),
    }
}

/// `structured_outputs` of vLLM.
fn structured_outputs(fields: &mut Fields) -> Result<Option<Structured>, ApiError> {
    let Some(value) = fields.take("structured_outputs") else { return Ok(None) };
    let mut inner = Fields::of(value, "structured_outputs")?;
    let mut found = Vec::new();
    for (key, form) in
        [("json", Form::Json), ("regex", Form::Regex), ("choice", Form::Choice), ("grammar", Form::Grammar)]
    {
        found.extend(member(&mut inner, key, form)?);
    }
    if inner.bool("json_object")?.unwrap_or(false) {
        found.push(Structured { grammar: any_object(), param: inner.name("json_object") });
    }
    // What white space JSON may have is ours to say: a model that likes it could else go on for ever.
    for key in ["disable_fallback", "disable_any_whitespace", "disable_additional_properties"] {
        if inner.bool(key)?.unwrap_or(false) {
            return Err(ApiError::Unsupported { param: inner.name(key), hint: String::new() });
        }
    }
    if let Some((param, _, value)) = inner.rest().next()
        && !value.is_null()
    {
        return Err(ApiError::Unknown(param));
    }
    if found.len() > 1 {
        let expected = "exactly one of json, regex, choice, grammar, json_object";
        return Err(ApiError::invalid("structured_outputs", expected, found.len()));
    }
    Ok(found.pop())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(body: Value) -> Result<Option<Structured>, ApiError> {
        structured(&mut Fields::parse(body.to_string().as_bytes())?)
    }

    #[test]
    fn a_grammar_is_asked_for_in_many_forms() {
        let check = |body: Value, expected: Option<(Grammar, &str)>| {
            let expected = expected.map(|(grammar, param)| Structured { grammar, param: param.into() });
            assert_eq!(take(body.clone()), Ok(expected), "{body}");
        };
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
        let json = |lenient| Grammar::JsonSchema { schema: schema.clone(), lenient };
        check(json!({}), None);
        check(json!({"response_format": null, "grammar": "", "structured_outputs": {}}), None);
        check(json!({"response_format": {"type": "text"}}), None);
        check(json!({"response_format": {"type": "json_object"}}), Some((any_object(), "response_format")));
        let named = |strict: Value| {
            json!({"response_format": {"type": "json_schema",
                "json_schema": {"name": "n", "strict": strict, "schema": schema}}})
        };
        check(named(json!(true)), Some((json(false), "response_format.json_schema.schema")));
        check(named(json!(null)), Some((json(true), "response_format.json_schema.schema")));
        let beside = json!({"response_format": {"type": "json_object", "schema": schema}});
        check(beside, Some((json(false), "response_format.schema")));
        check(json!({"guided_json": schema.to_string()}), Some((json(false), "guided_json")));
        check(json!({"json_schema": schema}), Some((json(false), "json_schema")));
        check(json!({"guided_regex": "a+"}), Some((Grammar::Regex("a+".into()), "guided_regex")));
        let choice = Grammar::Choice(vec!["a".into(), "b".into()]);
        check(json!({"guided_choice": ["a", "b"]}), Some((choice.clone(), "guided_choice")));
        check(json!({"structured_outputs": {"choice": ["a", "b"]}}), Some((choice, "structured_outputs.choice")));
        check(json!({"grammar": "start: x"}), Some((Grammar::Text("start: x".into()), "grammar")));
    }

    #[test]
    fn wrong_grammars_are_named() {
        let check = |body: Value, code: &str, param: &str| {
            let error = take(body.clone()).expect_err(&body.to_string());
            assert_eq!((error.code(), error.body()["error"]["param"].clone()), (code, json!(param)), "{body}: {error}");
        };
        let format = |format: Value| json!({"response_format": format});
        let invalid = |body: Value, param: &str| check(body, "invalid_value", param);
        invalid(format(json!("json")), "response_format");
        invalid(format(json!({"type": "xml"})), "response_format.type");
        invalid(format(json!({"type": 1})), "response_format.type");
        check(format(json!({})), "missing_required_parameter", "response_format.type");
        check(format(json!({"type": "json_schema"})), "missing_required_parameter", "response_format.json_schema");
        invalid(format(json!({"type": "json_schema", "json_schema": []})), "response_format.json_schema");
        let schema = json!({"type": "json_schema", "json_schema": {"schema": []}});
        invalid(format(schema), "response_format.json_schema.schema");
        let strict = json!({"type": "json_schema", "json_schema": {"strict": 1}});
        invalid(format(strict), "response_format.json_schema.strict");
        check(format(json!({"type": "text", "x": 1})), "unknown_parameter", "response_format.x");
        let unknown = json!({"type": "json_schema", "json_schema": {"x": 1}});
        check(format(unknown), "unknown_parameter", "response_format.json_schema.x");
        invalid(json!({"guided_json": "no schema"}), "guided_json");
        invalid(json!({"guided_regex": 1}), "guided_regex");
        invalid(json!({"guided_choice": []}), "guided_choice");
        invalid(json!({"guided_choice": ["a", ""]}), "guided_choice[1]");
        invalid(json!({"structured_outputs": {"regex": "a", "choice": ["b"]}}), "structured_outputs");
        invalid(json!({"structured_outputs": {"json_object": 1}}), "structured_outputs.json_object");
        check(json!({"structured_outputs": {"x": 1}}), "unknown_parameter", "structured_outputs.x");
        let space = json!({"structured_outputs": {"disable_any_whitespace": true}});
        check(space, "unsupported_parameter", "structured_outputs.disable_any_whitespace");
        invalid(json!({"grammar": "a", "guided_regex": "b"}), "grammar");
    }
}
