//! Finds calls in the text of an answer.

use serde_json::{Map, Value};

use super::format::{Call, Format};
use super::python;
use crate::params::tools::Tools;

/// What the beginning of a text is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// So many bytes of content.
    Text(usize),
    /// So many bytes that are calls.
    Calls(usize, Vec<Call>),
    /// It may become a call; more text is needed.
    Wait,
}

/// Where a text is, for formats in which only whole answers are calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// No content came before it.
    pub(super) start: bool,
    /// No more text comes after it.
    pub(super) end: bool,
}

/// A value at the beginning of a text.
pub(super) enum Found<T> {
    /// It, and how many bytes it takes.
    Whole(T, usize),
    /// Its end is missing.
    Open,
    /// Something else.
    Other,
}

pub(super) fn scan(format: Format, text: &str, place: Place, tools: &Tools) -> Scan {
    let marked = |marker: &str, inner: &dyn Fn(&str, bool) -> Found<Vec<Call>>| scan_marked(text, marker, place, inner);
    match format {
        Format::Tagged | Format::TaggedArguments => marked("<tool_call>", &|rest, end| tagged(rest, end, tools)),
        Format::MistralList | Format::MistralNamed => marked("[TOOL_CALLS]", &|rest, _| mistral(rest, tools)),
        Format::Llama => scan_start(text, place, &|rest| llama(rest, tools)),
        Format::NameLine => scan_start(text, place, &|rest| name_line(rest, tools)),
        Format::Gemma => match scan_start(text, place, &|rest| gemma(rest, tools)) {
            Scan::Text(_) => marked("<start_function_call>", &|rest, _| gemma_tagged(rest, tools)),
            found => found,
        },
    }
}

/// Calls that begin with a marker, anywhere in an answer.
fn scan_marked(text: &str, marker: &str, place: Place, inner: &dyn Fn(&str, bool) -> Found<Vec<Call>>) -> Scan {
    let Some(at) = text.find(marker) else {
        if place.end {
            return Scan::Text(text.len());
        }
        // White space before a call is not content, and the end may be the beginning of a marker.
        let overlap = (1..marker.len()).rev().find(|&n| text.ends_with(&marker[..n])).unwrap_or(0);
        return match text[..text.len() - overlap].trim_end().len() {
            0 => Scan::Wait,
            n => Scan::Text(n),
        };
    };
    if !text[..at].trim().is_empty() {
        return Scan::Text(text[..at].trim_end().len());
    }
    let from = at + marker.len();
    match inner(&text[from..], place.end) {
        Found::Whole(calls, len) => Scan::Calls(from + len, calls),
        Found::Open if !place.end => Scan::Wait,
        // What looked like a call is content, as far as the next one.
        Found::Open | Found::Other => {
            let next = text[from..].find(marker);
            match next {
                Some(next) => Scan::Text(from + next),
                None if place.end => Scan::Text(text.len()),
                None => Scan::Text(from),
            }
        }
    }
}

/// Calls that an answer consists of.
fn scan_start(text: &str, place: Place, inner: &dyn Fn(&str) -> Found<Vec<Call>>) -> Scan {
    if !place.start {
        return Scan::Text(text.len());
    }
    // Between calls some models write these.
    let skipped = text.len() - text.trim_start_matches([' ', '\n', '\r', '\t', ';', ',']).len();
    let rest = &text[skipped..];
    if rest.is_empty() {
        return if place.end { Scan::Text(text.len()) } else { Scan::Wait };
    }
    match inner(rest) {
        Found::Whole(calls, len) => Scan::Calls(skipped + len, calls),
        Found::Open if !place.end => Scan::Wait,
        Found::Open | Found::Other => Scan::Text(text.len()),
    }
}

/// A JSON value at the beginning of a text.
fn json(text: &str) -> Found<Value> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => Found::Whole(value, values.byte_offset()),
        Some(Err(e)) if e.is_eof() => Found::Open,
        Some(Err(_)) => Found::Other,
        None => Found::Open,
    }
}

/// The call that an object describes, if it is one of a tool that exists.
fn call(value: &Value, tools: &Tools) -> Option<Call> {
    let inner = value.get("function").filter(|f| f.is_object()).unwrap_or(value);
    let name = inner.get("name")?.as_str()?;
    let arguments = inner.get("arguments").or_else(|| inner.get("parameters"));
    let arguments = match arguments {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(Value::String(text)) => serde_json::from_str(text).ok()?,
        Some(other) => other.clone(),
    };
    (arguments.is_object() && tools.has(name)).then(|| Call::new(name, &arguments))
}

/// The calls of an object, or of an array of them; all or none.
fn calls(value: &Value, tools: &Tools) -> Option<Vec<Call>> {
    match value {
        Value::Array(items) if !items.is_empty() => items.iter().map(|v| call(v, tools)).collect(),
        Value::Array(_) => None,
        value => call(value, tools).map(|c| vec![c]),
    }
}

/// Calls in JSON at the beginning of a text.
fn json_calls(text: &str, tools: &Tools) -> Found<Vec<Call>> {
    match json(text) {
        Found::Whole(value, len) => calls(&value, tools).map_or(Found::Other, |c| Found::Whole(c, len)),
        Found::Open => Found::Open,
        Found::Other => Found::Other,
    }
}

fn tagged(rest: &str, end: bool, tools: &Tools) -> Found<Vec<Call>> {
    const CLOSE: &str = "</tool_call>";
    let (body, len) = match rest.find(CLOSE) {
        Some(at) => (&rest[..at], at + CLOSE.len()),
        // The end of the answer closes it as well.
        None if end => (rest, rest.len()),
        None => return Found::Open,
    };
    let body = body.trim();
    let parsed: Option<Value> = serde_json::from_str(body).ok();
    let found = match parsed {
        Some(value) => calls(&value, tools),
        None => argument_tags(body, tools).map(|c| vec![c]),
    };
    found.map_or(Found::Other, |calls| Found::Whole(calls, len))
}

/// `name`, then pairs of `<arg_key>` and `<arg_value>`. A value is JSON unless the parameter is a string.
fn argument_tags(body: &str, tools: &Tools) -> Option<Call> {
    let (name, mut rest) = body.split_once("<arg_key>").unwrap_or((body, ""));
    let name = name.trim();
    let tool = tools.get(name)?;
    let mut arguments = Map::new();
    while !rest.trim().is_empty() {
        let (key, after) = rest.split_once("</arg_key>")?;
        let (_, after) = after.split_once("<arg_value>")?;
        let (value, after) = after.split_once("</arg_value>")?;
        arguments.insert(key.trim().into(), tool.value(key.trim(), value));
        rest = after.trim_start().strip_prefix("<arg_key>").unwrap_or(after);
    }
    Some(Call::new(name, &Value::Object(arguments)))
}

fn mistral(rest: &str, tools: &Tools) -> Found<Vec<Call>> {
    let body = rest.trim_start();
    let skipped = rest.len() - body.len();
    if body.starts_with('[') {
        return match json_calls(body, tools) {
            Found::Whole(calls, len) => Found::Whole(calls, skipped + len),
            other => other,
        };
    }
    let Some(at) = body.find(['[', '{']) else { return Found::Open };
    let (name, mut after) = (body[..at].trim(), &body[at..]);
    if after.starts_with("[CALL_ID]") {
        let Some(at) = after.find("[ARGS]") else { return Found::Open };
        after = &after[at..];
    }
    if !after.starts_with('{') && !after.starts_with("[ARGS]") {
        return if "[CALL_ID]".starts_with(after) || "[ARGS]".starts_with(after) { Found::Open } else { Found::Other };
    }
    let after = after.strip_prefix("[ARGS]").unwrap_or(after);
    match json(after) {
        Found::Whole(arguments @ Value::Object(_), len) if tools.has(name) => {
            Found::Whole(vec![Call::new(name, &arguments)], rest.len() - after.len() + len)
        }
        Found::Open => Found::Open,
        _ => Found::Other,
    }
}

/// JSON, with `<|python_tag|>` in front or without, or `name.call(…)` for the tools that the models come with.
fn llama(rest: &str, tools: &Tools) -> Found<Vec<Call>> {
    const TAG: &str = "<|python_tag|>";
    if rest.len() < TAG.len() && TAG.starts_with(rest) {
        return Found::Open;
    }
    let body = rest.strip_prefix(TAG).unwrap_or(rest);
    let skipped = rest.len() - body.trim_start().len();
    let body = body.trim_start();
    let found = match body.chars().next() {
        None => Found::Open,
        Some('{' | '[') => json_calls(body, tools),
        Some(_) if skipped > 0 => python::method_call(body, tools),
        Some(_) => Found::Other,
    };
    match found {
        Found::Whole(calls, len) => Found::Whole(calls, skipped + len),
        other => other,
    }
}

fn name_line(rest: &str, tools: &Tools) -> Found<Vec<Call>> {
    let Some((name, after)) = rest.split_once('\n') else {
        return if tools.names().any(|n| n.starts_with(rest.trim_end())) { Found::Open } else { Found::Other };
    };
    let name = name.trim();
    if !tools.has(name) {
        return Found::Other;
    }
    match json(after) {
        Found::Whole(arguments @ Value::Object(_), len) => {
            Found::Whole(vec![Call::new(name, &arguments)], rest.len() - after.len() + len)
        }
        Found::Open => Found::Open,
        _ => Found::Other,
    }
}

fn gemma(rest: &str, tools: &Tools) -> Found<Vec<Call>> {
    const FENCE: &str = "```";
    const TAG: &str = "<start_function_call>";
    if rest.len() < TAG.len() && (TAG.starts_with(rest) || FENCE.starts_with(rest)) {
        return Found::Open;
    }
    if let Some(fenced) = rest.strip_prefix(FENCE) {
        let Some(at) = fenced.find(FENCE) else { return Found::Open };
        let (_, body) = fenced[..at].split_once('\n').unwrap_or(("", ""));
        let body = body.trim();
        let len = 2 * FENCE.len() + at;
        return match bare(body, tools) {
            Found::Whole(calls, used) if used == body.len() => Found::Whole(calls, len),
            _ => match python::single_call(body, tools) {
                Found::Whole(calls, used) if used == body.len() => Found::Whole(calls, len),
                _ => Found::Other,
            },
        };
    }
    bare(rest, tools)
}

/// JSON, or a list of calls in Python.
fn bare(text: &str, tools: &Tools) -> Found<Vec<Call>> {
    match text.chars().next() {
        Some('{') => json_calls(text, tools),
        Some('[') => match json(text) {
            Found::Whole(value, len) => calls(&value, tools).map_or(Found::Other, |c| Found::Whole(c, len)),
            Found::Open => Found::Open,
            Found::Other => python::list(text, tools),
        },
        _ => Found::Other,
    }
}

/// `call:name{key:<escape>text<escape>,key:value}<end_function_call>`
fn gemma_tagged(rest: &str, tools: &Tools) -> Found<Vec<Call>> {
    const CLOSE: &str = "<end_function_call>";
    let Some(end) = rest.find(CLOSE) else { return Found::Open };
    let parsed = || {
        let (name, body) = rest[..end].trim().strip_prefix("call:")?.split_once('{')?;
        let tool = tools.get(name.trim())?;
        let mut body = body.strip_suffix('}')?.trim();
        let mut arguments = Map::new();
        while !body.is_empty() {
            let (key, after) = body.split_once(':')?;
            let (value, after) = match after.strip_prefix("<escape>") {
                Some(text) => text.split_once("<escape>").map(|(v, a)| (Value::from(v), a))?,
                None => {
                    let (value, after) = after.split_once(',').map_or((after, ""), |(v, _)| (v, &after[v.len()..]));
                    (tool.value(key.trim(), value.trim()), after)
                }
            };
            arguments.insert(key.trim().into(), value);
            body = after.trim_start().trim_start_matches(',').trim_start();
        }
        Some(vec![Call::new(name.trim(), &Value::Object(arguments))])
    };
    parsed().map_or(Found::Other, |calls| Found::Whole(calls, end + CLOSE.len()))
}
