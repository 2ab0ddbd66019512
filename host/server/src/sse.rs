use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use http_body::Frame;
use rocmforge_engine::Event;
use serde::Serialize;
use tokio::time::{Instant, Sleep, sleep};

use crate::error::ApiError;
use crate::generation::Generation;

/// A comment is sent after so long without an event, so that nothing on the way takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const COMMENT: &[u8] = b": keep-alive\n\n";
const DONE: &[u8] = b"data: [DONE]\n\n";

/// One server-sent event with a JSON value.
pub(crate) fn frame(value: &impl Serialize) -> Bytes {
    let mut line = b"data: ".to_vec();
    if let Err(error) = serde_json::to_writer(&mut line, value) {
        // No type of ours can fail, but a stream must not end without a word.
        line = format!("data: {}", ApiError::Internal(error.to_string()).body()).into_bytes();
    }
    line.extend_from_slice(b"\n\n");
    line.into()
}

/// An event with a name.
pub(crate) fn named(name: &str, value: &impl Serialize) -> Bytes {
    let mut event = format!("event: {name}\n").into_bytes();
    event.extend_from_slice(&frame(value));
    event.into()
}

/// One line with a JSON value.
pub(crate) fn line(value: &serde_json::Value) -> Bytes {
    format!("{value}\n").into()
}

/// How chunks are put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// Server-sent events, the last of which is `[DONE]`.
    Data,
    /// Server-sent events with names, the last of which says so by itself.
    Events,
    /// One JSON value per line.
    Lines,
}

impl Wire {
    fn content_type(self) -> &'static str {
        match self {
            Wire::Data | Wire::Events => "text/event-stream",
            Wire::Lines => "application/x-ndjson",
        }
    }

    /// After everything else.
    fn end(self) -> Option<Bytes> {
        (self == Wire::Data).then(|| Bytes::from_static(DONE))
    }
}

/// Turns the events of a generation into the chunks of a route.
pub(crate) trait Chunks: Send {
    /// How they are put on the wire.
    fn wire(&self) -> Wire {
        Wire::Data
    }
    /// Instead of what would still come.
    fn error(&mut self, error: &ApiError) -> Vec<Bytes> {
        vec![frame(&error.body())]
    }
    /// Before anything else.
    fn start(&mut self) -> Vec<Bytes>;
    /// For an event of a sequence.
    fn event(&mut self, sequence: usize, event: Event) -> Vec<Bytes>;
    /// After the last event of all sequences.
    fn end(&mut self) -> Vec<Bytes>;
}

/// A body that follows a generation. Dropping it, as when the client goes away, cancels the generation.
struct SseBody<C> {
    generation: Option<Generation>,
    chunks: C,
    ready: VecDeque<Bytes>,
    keep_alive: Pin<Box<Sleep>>,
}

/// A response with the events of `generation` as `chunks` puts them.
pub(crate) fn respond(generation: Generation, mut chunks: impl Chunks + Unpin + 'static) -> Response {
    let ready = chunks.start().into();
    let content_type = HeaderValue::from_static(chunks.wire().content_type());
    let body = SseBody { generation: Some(generation), chunks, ready, keep_alive: Box::pin(sleep(KEEP_ALIVE)) };
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // Tells nginx not to collect the stream.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::new(body)).into_response()
}

impl<C: Chunks + Unpin> http_body::Body for SseBody<C> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        loop {
            if let Some(bytes) = this.ready.pop_front() {
                this.keep_alive.as_mut().reset(Instant::now() + KEEP_ALIVE);
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            let Some(generation) = &mut this.generation else { return Poll::Ready(None) };
            match generation.poll_next(cx) {
                Poll::Ready(Some(Ok((sequence, event)))) => this.ready.extend(this.chunks.event(sequence, event)),
                Poll::Ready(Some(Err(error))) => {
                    this.generation = None;
                    this.ready.extend(this.chunks.error(&error));
                    this.ready.extend(this.chunks.wire().end());
                }
                Poll::Ready(None) => {
                    this.generation = None;
                    this.ready.extend(this.chunks.end());
                    this.ready.extend(this.chunks.wire().end());
                }
                // Lines have no comments.
                Poll::Pending if this.chunks.wire() != Wire::Lines && this.keep_alive.as_mut().poll(cx).is_ready() => {
                    this.ready.push_back(Bytes::from_static(COMMENT));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_one_line_with_a_space_after_the_colon() {
        let check = |value: serde_json::Value, expected: &str| assert_eq!(frame(&value), expected.as_bytes());
        check(serde_json::json!({"a": 1}), "data: {\"a\":1}\n\n");
        check(
            serde_json::json!({"text": "two\nlines\r\n\u{2028}"}),
            "data: {\"text\":\"two\\nlines\\r\\n\u{2028}\"}\n\n",
        );
        check(
            ApiError::Draining.body(),
            "data: {\"error\":{\"message\":\"the server is shutting down; try again later\",\"type\":\"service_unavailable\",\"param\":null,\"code\":\"server_draining\"}}\n\n",
        );
    }
}
