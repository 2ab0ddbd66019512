//! Traces in the JSON encoding of OTLP: an `ExportTraceServiceRequest`.

use std::time::Instant;

use rocmforge_loader::config::TracingSettings;
use serde_json::{Map, Value, json};

use super::trace::{Attributes, Span, Trace};

const INTERNAL: u8 = 1;
const SERVER: u8 = 2;
const ERROR: u8 = 2;
/// The caller has been on another machine, and that is known.
const REMOTE_PARENT: u32 = 0x300;

/// What sends the traces.
pub(crate) fn resource(settings: &TracingSettings) -> Value {
    let mut attributes = vec![
        attribute("service.name", &json!(settings.service_name.as_deref().unwrap_or("rocmforge"))),
        attribute("service.version", &json!(env!("CARGO_PKG_VERSION"))),
        attribute("process.pid", &json!(std::process::id())),
    ];
    attributes.extend(settings.resource_attributes.iter().map(|(name, value)| attribute(name, &json!(value))));
    json!({"attributes": attributes})
}

/// A request with all spans of the traces.
pub(crate) fn request<'a>(resource: &Value, traces: impl Iterator<Item = &'a Trace>) -> Value {
    let spans: Vec<Value> = traces.flat_map(spans).collect();
    let scope = json!({"name": "rocmforge", "version": env!("CARGO_PKG_VERSION")});
    json!({"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": spans}]}]})
}

/// How many spans a trace has.
pub(crate) fn count(trace: &Trace) -> usize {
    1 + trace.content().spans.len()
}

fn spans(trace: &Trace) -> Vec<Value> {
    let content = trace.content();
    let end = content.end.unwrap_or_else(Instant::now);
    let mut root = Map::from_iter([
        ("traceId".to_owned(), json!(trace.id.to_string())),
        ("spanId".to_owned(), json!(trace.root.to_string())),
        ("flags".to_owned(), json!(1)),
        ("name".to_owned(), json!(format!("{} {}", trace.method, trace.route))),
        ("kind".to_owned(), json!(SERVER)),
        ("startTimeUnixNano".to_owned(), json!(trace.unix_nanos(trace.begin()).to_string())),
        ("endTimeUnixNano".to_owned(), json!(trace.unix_nanos(end).to_string())),
        ("attributes".to_owned(), attributes(&trace.root_attributes(&content))),
    ]);
    if let Some(parent) = &trace.parent {
        root.insert("parentSpanId".into(), json!(parent.span.to_string()));
        root.insert("flags".into(), json!(REMOTE_PARENT | 1));
        if !parent.state.is_empty() {
            root.insert("traceState".into(), json!(parent.state));
        }
    }
    // A client's own mistake is no error of the server's span.
    let failed = content.status >= 500 || content.attributes.contains(&("rocmforge.outcome", json!("failed")));
    if failed {
        root.insert("status".into(), json!({"code": ERROR, "message": content.error.unwrap_or("failed")}));
    }
    let children = content.spans.iter().map(|span| child(trace, span));
    std::iter::once(Value::Object(root)).chain(children).collect()
}

fn child(trace: &Trace, span: &Span) -> Value {
    json!({
        "traceId": trace.id.to_string(),
        "spanId": span.id.to_string(),
        "parentSpanId": span.parent.to_string(),
        "flags": 1,
        "name": span.name,
        "kind": INTERNAL,
        "startTimeUnixNano": trace.unix_nanos(span.begin).to_string(),
        "endTimeUnixNano": trace.unix_nanos(span.end).to_string(),
        "attributes": attributes(&span.attributes),
    })
}

fn attributes(attributes: &Attributes) -> Value {
    attributes.iter().map(|(name, value)| attribute(name, value)).collect()
}

fn attribute(name: &str, value: &Value) -> Value {
    json!({"key": name, "value": any(value)})
}

/// An `AnyValue`. Whole numbers are text, because JSON's numbers do not hold 64 bits everywhere.
fn any(value: &Value) -> Value {
    match value {
        Value::Bool(flag) => json!({"boolValue": flag}),
        Value::Number(number) if number.is_f64() => json!({"doubleValue": number}),
        Value::Number(number) => json!({"intValue": number.to_string()}),
        Value::Array(values) => json!({"arrayValue": {"values": values.iter().map(any).collect::<Vec<_>>()}}),
        Value::String(text) => json!({"stringValue": text}),
        Value::Null | Value::Object(_) => json!({"stringValue": value.to_string()}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_types_of_the_protocol() {
        let check = |value: Value, expected: Value| assert_eq!(any(&value), expected);
        check(json!("a"), json!({"stringValue": "a"}));
        check(json!(7), json!({"intValue": "7"}));
        check(json!(u64::MAX), json!({"intValue": "18446744073709551615"}));
        check(json!(0.5), json!({"doubleValue": 0.5}));
        check(json!(true), json!({"boolValue": true}));
        check(json!(["stop"]), json!({"arrayValue": {"values": [{"stringValue": "stop"}]}}));
    }
}
