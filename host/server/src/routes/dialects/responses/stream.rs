//! The events of a streamed response.

use axum::body::Bytes;
use serde_json::{Value, json};

use super::{Object, call, message, output_text, reasoning, status};
use crate::error::ApiError;
use crate::http::observe::unique_id;
use crate::routes::dialects::{End, Part, Reader, Shape};
use crate::sse::{Wire, named};

/// What grows.
enum Kind {
    Message,
    Reasoning,
    Call { call_id: String, name: String },
}

/// The item that grows.
struct Open {
    kind: Kind,
    id: String,
    text: String,
}

impl Open {
    /// With no text as long as nothing is done.
    fn item(&self, text: Option<&str>, status: &str) -> Value {
        match &self.kind {
            Kind::Message => message(&self.id, text, status),
            Kind::Reasoning => reasoning(&self.id, text, status),
            Kind::Call { call_id, name } => call(&self.id, call_id, name, text.unwrap_or_default(), status),
        }
    }

    /// The part that the text is in, where the item has parts.
    fn part(&self) -> Option<Value> {
        match self.kind {
            Kind::Message => Some(output_text(&self.text)),
            Kind::Reasoning => Some(json!({"type": "reasoning_text", "text": self.text})),
            Kind::Call { .. } => None,
        }
    }

    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Message => "response.output_text",
            Kind::Reasoning => "response.reasoning_text",
            Kind::Call { .. } => "response.function_call_arguments",
        }
    }
}

/// Events are numbered; items come one after the other.
pub(super) struct Events {
    object: Object,
    number: usize,
    output: Vec<Value>,
    open: Option<Open>,
}

impl Events {
    pub(super) fn new(object: Object) -> Events {
        Events { object, number: 0, output: Vec::new(), open: None }
    }

    fn event(&mut self, kind: &str, mut value: Value) -> Bytes {
        value["type"] = kind.into();
        value["sequence_number"] = self.number.into();
        self.number += 1;
        named(kind, &value)
    }

    /// Where in an item something happens, and the member `key`, which says what.
    fn at(&self, open: &Open, key: &str, what: Value) -> Value {
        let mut value = json!({"item_id": open.id, "output_index": self.output.len(), key: what});
        if !matches!(open.kind, Kind::Call { .. }) {
            value["content_index"] = 0.into();
        }
        if matches!(open.kind, Kind::Message) && key != "part" {
            value["logprobs"] = json!([]);
        }
        value
    }

    fn added(&mut self, item: Value) -> Bytes {
        let value = json!({"output_index": self.output.len(), "item": item});
        self.event("response.output_item.added", value)
    }

    fn done(&mut self, item: Value) -> Bytes {
        let value = json!({"output_index": self.output.len(), "item": item});
        self.output.push(item);
        self.event("response.output_item.done", value)
    }

    /// Ends the item that grows, and begins another.
    fn begin_item(&mut self, kind: Kind) -> Vec<Bytes> {
        let mut events = self.end_item("completed");
        let id = unique_id(match kind {
            Kind::Message => "msg_",
            Kind::Reasoning => "rs_",
            Kind::Call { .. } => "fc_",
        });
        let open = Open { kind, id, text: String::new() };
        events.push(self.added(open.item(None, "in_progress")));
        if let Some(part) = open.part() {
            let part = self.at(&open, "part", part);
            events.push(self.event("response.content_part.added", part));
        }
        self.open = Some(open);
        events
    }

    fn end_item(&mut self, status: &str) -> Vec<Bytes> {
        let Some(open) = self.open.take() else { return vec![] };
        let text = open.text.as_str().into();
        let mut done = self.at(&open, if open.part().is_some() { "text" } else { "arguments" }, text);
        if let Kind::Call { name, .. } = &open.kind {
            done["name"] = name.as_str().into();
        }
        let mut events = vec![self.event(&format!("{}.done", open.name()), done)];
        if let Some(part) = open.part() {
            let part = self.at(&open, "part", part);
            events.push(self.event("response.content_part.done", part));
        }
        events.push(self.done(open.item(Some(&open.text), status)));
        events
    }

    fn grow(&mut self, text: &str) -> Option<Bytes> {
        if text.is_empty() {
            return None;
        }
        let mut open = self.open.take()?;
        open.text.push_str(text);
        let delta = self.at(&open, "delta", text.into());
        let event = self.event(&format!("{}.delta", open.name()), delta);
        self.open = Some(open);
        Some(event)
    }

    fn grow_item(&mut self, same: fn(&Kind) -> bool, kind: Kind, text: &str) -> Vec<Bytes> {
        let grows = self.open.as_ref().is_some_and(|open| same(&open.kind));
        let mut events = if grows { vec![] } else { self.begin_item(kind) };
        events.extend(self.grow(text));
        events
    }
}

impl Shape for Events {
    const WIRE: Wire = Wire::Events;
    const EAGER: bool = true;

    fn begin(&mut self, _: &Reader) -> Vec<Bytes> {
        let response = json!({"response": self.object.begun()});
        ["response.created", "response.in_progress"].map(|kind| self.event(kind, response.clone())).to_vec()
    }

    fn part(&mut self, part: Part) -> Vec<Bytes> {
        match part {
            Part::Content(text) => self.grow_item(|kind| matches!(kind, Kind::Message), Kind::Message, &text),
            Part::Reasoning(text) => self.grow_item(|kind| matches!(kind, Kind::Reasoning), Kind::Reasoning, &text),
            Part::Call { id, name, arguments } => {
                self.grow_item(|_| false, Kind::Call { call_id: id, name }, &arguments)
            }
        }
    }

    fn arguments(&mut self, text: &str) -> Vec<Bytes> {
        self.grow(text).into_iter().collect()
    }

    fn end(&mut self, end: End) -> Vec<Bytes> {
        let mut events = self.end_item(status(&end));
        let response = self.object.ended(std::mem::take(&mut self.output), &end);
        let kind = format!("response.{}", status(&end));
        events.push(self.event(&kind, json!({"response": response})));
        events
    }

    fn error(&mut self, error: &ApiError) -> Vec<Bytes> {
        let response = self.object.failed(error);
        vec![self.event("response.failed", json!({"response": response}))]
    }
}
