//! The events of a streamed response.

use axum::body::Bytes;
use serde_json::{Value, json};

use super::{Object, call, message, output_text, reasoning, status};
use crate::error::ApiError;
use crate::http::observe::unique_id;
use crate::routes::dialects::{End, Part, Reader, Shape};
use crate::sse::{Wire, named};

/// The item that grows.
struct Open {
    reasoning: bool,
    id: String,
    text: String,
}

impl Open {
    fn item(&self, text: Option<&str>, status: &str) -> Value {
        match self.reasoning {
            true => reasoning(&self.id, text, status),
            false => message(&self.id, text, status),
        }
    }

    fn part(&self) -> Value {
        match self.reasoning {
            true => json!({"type": "reasoning_text", "text": self.text}),
            false => output_text(&self.text),
        }
    }

    fn name(&self) -> &'static str {
        if self.reasoning { "response.reasoning_text" } else { "response.output_text" }
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

    /// Where in an item something happens.
    fn at(&self, id: &str, more: Value) -> Value {
        let mut value = json!({"item_id": id, "output_index": self.output.len(), "content_index": 0});
        for (key, member) in more.as_object().into_iter().flatten() {
            value[key] = member.clone();
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

    fn begin_item(&mut self, reasoning: bool) -> Vec<Bytes> {
        let id = unique_id(if reasoning { "rs_" } else { "msg_" });
        let open = Open { reasoning, id, text: String::new() };
        let added = self.added(open.item(None, "in_progress"));
        let part = self.at(&open.id, json!({"part": open.part()}));
        self.open = Some(open);
        vec![added, self.event("response.content_part.added", part)]
    }

    fn end_item(&mut self, status: &str) -> Vec<Bytes> {
        let Some(open) = self.open.take() else { return vec![] };
        let mut text = self.at(&open.id, json!({"text": open.text}));
        if !open.reasoning {
            text["logprobs"] = json!([]);
        }
        let part = self.at(&open.id, json!({"part": open.part()}));
        vec![
            self.event(&format!("{}.done", open.name()), text),
            self.event("response.content_part.done", part),
            self.done(open.item(Some(&open.text), status)),
        ]
    }

    fn grow(&mut self, reasoning: bool, text: &str) -> Vec<Bytes> {
        let mut events = Vec::new();
        if self.open.as_ref().is_none_or(|open| open.reasoning != reasoning) {
            events.extend(self.end_item("completed"));
            events.extend(self.begin_item(reasoning));
        }
        let Some(open) = &mut self.open else { return events };
        open.text.push_str(text);
        let (id, name) = (open.id.clone(), format!("{}.delta", open.name()));
        let mut delta = self.at(&id, json!({"delta": text}));
        if !reasoning {
            delta["logprobs"] = json!([]);
        }
        events.push(self.event(&name, delta));
        events
    }
}

impl Shape for Events {
    const WIRE: Wire = Wire::Events;

    fn begin(&mut self, _: &Reader) -> Vec<Bytes> {
        let response = json!({"response": self.object.begun()});
        ["response.created", "response.in_progress"].map(|kind| self.event(kind, response.clone())).to_vec()
    }

    fn part(&mut self, part: Part) -> Vec<Bytes> {
        let (call_id, name, arguments) = match part {
            Part::Content(text) => return self.grow(false, &text),
            Part::Reasoning(text) => return self.grow(true, &text),
            Part::Call { id, name, arguments } => (id, name, arguments),
        };
        let mut events = self.end_item("completed");
        let id = unique_id("fc_");
        events.push(self.added(call(&id, &call_id, &name, "", "in_progress")));
        let place = json!({"item_id": id, "output_index": self.output.len()});
        let with = |key: &str, value: &str| {
            let mut event = place.clone();
            event[key] = value.into();
            event
        };
        let mut done = with("arguments", &arguments);
        done["name"] = name.as_str().into();
        events.push(self.event("response.function_call_arguments.delta", with("delta", &arguments)));
        events.push(self.event("response.function_call_arguments.done", done));
        events.push(self.done(call(&id, &call_id, &name, &arguments, "completed")));
        events
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
