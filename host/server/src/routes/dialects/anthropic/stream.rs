//! The events of a streamed message.

use axum::body::Bytes;
use serde_json::{Value, json};

use super::{error_body, stop, usage};
use crate::error::ApiError;
use crate::routes::dialects::{End, Part, Reader, Shape};
use crate::sse::{Wire, named};
use crate::wire::Usage;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Text,
    Thinking,
    Tool,
}

/// Blocks come one after the other, each with a beginning and an end.
pub(super) struct Events {
    id: String,
    thinking: bool,
    index: usize,
    open: Option<Block>,
}

impl Events {
    pub(super) fn new(id: String, thinking: bool) -> Events {
        Events { id, thinking, index: 0, open: None }
    }

    fn begin(&mut self, block: Value) -> Bytes {
        event(json!({"type": "content_block_start", "index": self.index, "content_block": block}))
    }

    fn delta(&self, delta: Value) -> Bytes {
        event(json!({"type": "content_block_delta", "index": self.index, "delta": delta}))
    }

    fn close(&mut self) -> Bytes {
        let stop = event(json!({"type": "content_block_stop", "index": self.index}));
        self.index += 1;
        self.open = None;
        stop
    }

    /// Closes the block that is open, and opens another.
    fn open(&mut self, kind: Block, block: Value) -> Vec<Bytes> {
        let mut events: Vec<Bytes> = self.open.is_some().then(|| self.close()).into_iter().collect();
        events.push(self.begin(block));
        self.open = Some(kind);
        events
    }

    /// More of a block of this kind; it is opened if the one that is open is none.
    fn grow(&mut self, kind: Block, empty: Value, delta: Value) -> Vec<Bytes> {
        let mut events = if self.open == Some(kind) { vec![] } else { self.open(kind, empty) };
        events.push(self.delta(delta));
        events
    }
}

/// An event whose name is its type.
fn event(value: Value) -> Bytes {
    named(value["type"].as_str().unwrap_or_default(), &value)
}

impl Shape for Events {
    const WIRE: Wire = Wire::Events;
    const EAGER: bool = true;

    fn begin(&mut self, reader: &Reader) -> Vec<Bytes> {
        let message = json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": reader.model.id,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": usage(&Usage::new(reader.prompt_tokens(), 0, 0)),
        });
        vec![event(json!({"type": "message_start", "message": message}))]
    }

    fn part(&mut self, part: Part) -> Vec<Bytes> {
        match part {
            Part::Content(text) => {
                let empty = json!({"type": "text", "text": "", "citations": null});
                self.grow(Block::Text, empty, json!({"type": "text_delta", "text": text}))
            }
            Part::Reasoning(_) if !self.thinking => vec![],
            Part::Reasoning(text) => {
                let empty = json!({"type": "thinking", "thinking": "", "signature": ""});
                self.grow(Block::Thinking, empty, json!({"type": "thinking_delta", "thinking": text}))
            }
            Part::Call { id, name, arguments } => {
                let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                let mut events = self.open(Block::Tool, block);
                events.extend(self.arguments(&arguments));
                events
            }
        }
    }

    fn arguments(&mut self, text: &str) -> Vec<Bytes> {
        let delta = || self.delta(json!({"type": "input_json_delta", "partial_json": text}));
        (!text.is_empty()).then(delta).into_iter().collect()
    }

    fn end(&mut self, end: End) -> Vec<Bytes> {
        let mut events: Vec<Bytes> = self.open.is_some().then(|| self.close()).into_iter().collect();
        let (stop_reason, stop_sequence) = stop(&end);
        let delta = json!({"stop_reason": stop_reason, "stop_sequence": stop_sequence});
        events.push(event(json!({"type": "message_delta", "delta": delta, "usage": usage(&end.usage)})));
        events.push(event(json!({"type": "message_stop"})));
        events
    }

    fn error(&mut self, error: &ApiError) -> Vec<Bytes> {
        vec![event(error_body(error))]
    }
}
