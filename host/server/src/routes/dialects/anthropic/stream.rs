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

    /// Opens a block of this kind, if the one that is open is none.
    fn switch(&mut self, block: Block) -> Vec<Bytes> {
        if self.open == Some(block) {
            return vec![];
        }
        let mut events: Vec<Bytes> = self.open.is_some().then(|| self.close()).into_iter().collect();
        events.push(match block {
            Block::Text => self.begin(json!({"type": "text", "text": "", "citations": null})),
            Block::Thinking => self.begin(json!({"type": "thinking", "thinking": "", "signature": ""})),
        });
        self.open = Some(block);
        events
    }
}

/// An event whose name is its type.
fn event(value: Value) -> Bytes {
    named(value["type"].as_str().unwrap_or_default(), &value)
}

impl Shape for Events {
    const WIRE: Wire = Wire::Events;

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
        let (block, delta) = match part {
            Part::Content(text) => (Block::Text, json!({"type": "text_delta", "text": text})),
            Part::Reasoning(_) if !self.thinking => return vec![],
            Part::Reasoning(text) => (Block::Thinking, json!({"type": "thinking_delta", "thinking": text})),
            Part::Call { id, name, arguments } => {
                let mut events: Vec<Bytes> = self.open.is_some().then(|| self.close()).into_iter().collect();
                events.push(self.begin(json!({"type": "tool_use", "id": id, "name": name, "input": {}})));
                events.push(self.delta(json!({"type": "input_json_delta", "partial_json": arguments})));
                events.push(self.close());
                return events;
            }
        };
        let mut events = self.switch(block);
        events.push(self.delta(delta));
        events
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
