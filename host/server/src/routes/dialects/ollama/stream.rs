//! Answers, one JSON object per line or all in one.

use std::time::Instant;

use axum::body::Bytes;
use serde_json::{Value, json};

use super::request::Kind;
use super::{calls, error_body, timestamp, totals};
use crate::error::ApiError;
use crate::routes::dialects::{End, Part, Reader, Shape};
use crate::sse::{Wire, line};
use crate::wire::now;

pub(super) struct Lines {
    pub(super) model: String,
    pub(super) kind: Kind,
    pub(super) began: Instant,
}

impl Lines {
    fn object(&self, content: &str, reasoning: &str, calls: Vec<Value>, done: bool) -> Value {
        let mut object = json!({"model": self.model, "created_at": timestamp(now())});
        let mut message = match self.kind {
            Kind::Chat => json!({"role": "assistant", "content": content}),
            Kind::Generate => json!({"response": content}),
        };
        if !reasoning.is_empty() {
            message["thinking"] = reasoning.into();
        }
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        match (self.kind, message) {
            (Kind::Chat, message) => object["message"] = message,
            (Kind::Generate, Value::Object(members)) => {
                object.as_object_mut().into_iter().for_each(|o| o.extend(members.clone()));
            }
            _ => {}
        }
        object["done"] = done.into();
        object
    }

    fn with_totals(&self, mut object: Value, end: &End) -> Value {
        object["done_reason"] = if end.reason == "length" { "length" } else { "stop" }.into();
        for (key, value) in totals(self.began, end).as_object().into_iter().flatten() {
            object[key] = value.clone();
        }
        object
    }

    pub(super) fn whole(&self, parts: Vec<Part>, end: &End) -> Value {
        let text = |of: fn(&Part) -> Option<&str>| parts.iter().filter_map(of).collect::<String>();
        let content = text(|p| if let Part::Content(text) = p { Some(text) } else { None });
        let reasoning = text(|p| if let Part::Reasoning(text) = p { Some(text) } else { None });
        self.with_totals(self.object(&content, &reasoning, calls(&parts), true), end)
    }
}

impl Shape for Lines {
    const WIRE: Wire = Wire::Lines;
    /// Arguments are objects here, which cannot come in pieces.
    const EAGER: bool = false;

    fn begin(&mut self, _: &Reader) -> Vec<Bytes> {
        vec![]
    }

    fn part(&mut self, part: Part) -> Vec<Bytes> {
        let object = match &part {
            Part::Content(text) => self.object(text, "", vec![], false),
            Part::Reasoning(text) => self.object("", text, vec![], false),
            Part::Call { .. } => self.object("", "", calls(std::slice::from_ref(&part)), false),
        };
        vec![line(&object)]
    }

    fn arguments(&mut self, _: &str) -> Vec<Bytes> {
        vec![]
    }

    fn end(&mut self, end: End) -> Vec<Bytes> {
        vec![line(&self.with_totals(self.object("", "", vec![], true), &end))]
    }

    fn error(&mut self, error: &ApiError) -> Vec<Bytes> {
        vec![line(&error_body(error))]
    }
}
