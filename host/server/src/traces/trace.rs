//! The spans of one request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use rocmforge_engine::Course;
use serde_json::{Value, json};

use super::context::{Parent, SpanId, TraceId};

/// Spans of one trace; a request with many answers has more, and says how many.
const MAX_SPANS: usize = 512;

tokio::task_local! {
    /// That of the request whose handler runs.
    static CURRENT: Arc<Trace>;
}

pub(crate) type Attributes = Vec<(&'static str, Value)>;

/// Some time within a request, and what it went to.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) id: SpanId,
    pub(crate) parent: SpanId,
    pub(crate) name: &'static str,
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
    pub(crate) attributes: Attributes,
}

/// What became of a request, as a tree of spans. Never holds anything of prompts or answers.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) id: TraceId,
    pub(crate) root: SpanId,
    pub(crate) parent: Option<Parent>,
    /// Whether it is sent to a collector.
    pub(crate) sampled: bool,
    pub(crate) request_id: String,
    pub(crate) method: String,
    pub(crate) route: String,
    begin: Instant,
    begin_at: SystemTime,
    content: Mutex<Content>,
}

/// What is found out as the request goes on.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// Without the root.
    pub(crate) spans: Vec<Span>,
    /// Spans beyond the limit.
    pub(crate) left_out: usize,
    /// Of the root.
    pub(crate) attributes: Attributes,
    /// When the first event came from the engine, and when the last.
    delivery: Option<(Instant, Instant)>,
    pub(crate) end: Option<Instant>,
    pub(crate) status: u16,
    pub(crate) error: Option<&'static str>,
}

impl Trace {
    pub(crate) fn new(headers: &HeaderMap, ratio: f64, request_id: &str, method: &str, route: &str) -> Trace {
        let parent = Parent::of(headers);
        let id = parent.as_ref().map_or_else(TraceId::new, |p| p.trace);
        Trace {
            id,
            root: SpanId::new(),
            sampled: parent.as_ref().map_or_else(|| id.is_within(ratio), |p| p.sampled),
            parent,
            request_id: request_id.into(),
            method: method.into(),
            route: route.into(),
            begin: Instant::now(),
            begin_at: SystemTime::now(),
            content: Mutex::default(),
        }
    }

    /// Runs a handler, which can find the trace under [`current`](Self::current) then.
    pub(crate) async fn scope<T>(self: &Arc<Trace>, handler: impl Future<Output = T>) -> T {
        CURRENT.scope(self.clone(), handler).await
    }

    /// That of the request whose handler runs.
    pub(crate) fn current() -> Option<Arc<Trace>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    pub(crate) fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the request is about a conversation.
    pub(crate) fn is_chat(&self) -> bool {
        ["chat", "messages", "responses"].iter().any(|part| self.route.contains(part))
    }

    pub(crate) fn begin(&self) -> Instant {
        self.begin
    }

    /// Nanoseconds since 1970.
    pub(crate) fn unix_nanos(&self, at: Instant) -> u64 {
        let since = self.begin_at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let at = since + at.saturating_duration_since(self.begin);
        u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Adds a span under `parent`, the root if that is `None`.
    pub(crate) fn span(
        &self,
        parent: Option<SpanId>,
        name: &'static str,
        (begin, end): (Instant, Instant),
        attributes: Attributes,
    ) -> SpanId {
        let (id, parent) = (SpanId::new(), parent.unwrap_or(self.root));
        let mut content = self.content();
        if content.spans.len() < MAX_SPANS {
            content.spans.push(Span { id, parent, name, begin, end: end.max(begin), attributes });
        } else {
            content.left_out += 1;
        }
        id
    }

    /// Adds what happened in the engine: `courses` of the request's sequences.
    pub(crate) fn engine(&self, courses: &[Course]) {
        let now = Instant::now();
        for (i, course) in courses.iter().enumerate() {
            let number = |attributes: Attributes| match courses.len() {
                1 => attributes,
                _ => [vec![("rocmforge.sequence", json!(i))], attributes].concat(),
            };
            let end = course.ended.unwrap_or(now);
            self.span(None, "queue", (course.arrived, course.started.unwrap_or(end)), number(vec![]));
            let Some(started) = course.started else { continue };
            let first = course.first_token.unwrap_or(end);
            let of_prompt = course.pieces.iter().filter(|p| p.end <= first);
            let computed: usize = of_prompt.clone().map(|p| p.tokens).sum();
            let attributes =
                vec![("rocmforge.tokens", json!(computed)), ("rocmforge.cached_tokens", json!(course.cached_tokens))];
            let prefill = self.span(None, "prefill", (started, first), number(attributes));
            for piece in of_prompt {
                self.piece(prefill, "prefill chunk", piece);
            }
            let Some(first) = course.first_token else { continue };
            let attributes = vec![
                ("rocmforge.steps", json!(course.steps)),
                ("rocmforge.guessed_tokens", json!(course.guessed_tokens)),
                ("rocmforge.preemptions", json!(course.preemptions)),
            ];
            let decode = self.span(None, "decode", (first, end), number(attributes));
            for piece in course.pieces.iter().filter(|p| p.end > first) {
                self.piece(decode, "recompute", piece);
            }
        }
    }

    fn piece(&self, parent: SpanId, name: &'static str, piece: &rocmforge_engine::Piece) {
        let attributes = vec![("rocmforge.position", json!(piece.start)), ("rocmforge.tokens", json!(piece.tokens))];
        self.span(Some(parent), name, (piece.begin, piece.end), attributes);
    }

    /// An event has come from the engine.
    pub(crate) fn delivered(&self) {
        let now = Instant::now();
        let mut content = self.content();
        content.delivery = Some((content.delivery.map_or(now, |(first, _)| first), now));
    }

    /// The answer is over: `streamed` as it came from the engine, or sent as a whole.
    pub(crate) fn end(&self, status: u16, error: Option<&'static str>, streamed: bool) {
        let now = Instant::now();
        let delivery = self.content().delivery;
        if let Some((first, last)) = delivery {
            let (name, begin) = if streamed { ("stream", first) } else { ("respond", last) };
            self.span(None, name, (begin, now), vec![]);
        }
        let mut content = self.content();
        (content.end, content.status, content.error) = (Some(now), status, error);
    }

    /// Attributes of the root, those of every HTTP request first.
    pub(crate) fn root_attributes(&self, content: &Content) -> Attributes {
        let mut attributes = vec![
            ("http.request.method", json!(self.method)),
            ("http.route", json!(self.route)),
            ("http.response.status_code", json!(content.status)),
            ("rocmforge.request_id", json!(self.request_id)),
        ];
        attributes.extend(content.error.map(|code| ("error.type", json!(code))));
        attributes.extend((content.left_out > 0).then(|| ("rocmforge.spans_left_out", json!(content.left_out))));
        attributes.extend(content.attributes.iter().cloned());
        attributes
    }

    /// As a tree, for people.
    pub(crate) fn report(&self) -> Value {
        let content = self.content();
        let end = content.end.unwrap_or_else(Instant::now);
        let root = Span {
            id: self.root,
            parent: self.root,
            name: "request",
            begin: self.begin,
            end,
            attributes: self.root_attributes(&content),
        };
        json!({
            "trace_id": self.id.to_string(),
            "parent_span_id": self.parent.as_ref().map(|p| p.span.to_string()),
            "sampled": self.sampled,
            "request_id": self.request_id,
            "name": format!("{} {}", self.method, self.route),
            "status": content.status,
            "error": content.error,
            "begin": self.unix_nanos(self.begin) as f64 / 1e9,
            "duration_ms": milliseconds(end.saturating_duration_since(self.begin)),
            "root": self.tree(&root, &content.spans),
        })
    }

    fn tree(&self, span: &Span, spans: &[Span]) -> Value {
        // The root is its own parent.
        let children = spans.iter().filter(|s| s.parent == span.id && s.id != span.id);
        let mut children: Vec<&Span> = children.collect();
        children.sort_by_key(|s| s.begin);
        json!({
            "span_id": span.id.to_string(),
            "name": span.name,
            "start_ms": milliseconds(span.begin.saturating_duration_since(self.begin)),
            "duration_ms": milliseconds(span.end.saturating_duration_since(span.begin)),
            "attributes": attributes_object(&span.attributes),
            "children": children.iter().map(|s| self.tree(s, spans)).collect::<Vec<_>>(),
        })
    }
}

fn attributes_object(attributes: &Attributes) -> Value {
    attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn milliseconds(time: Duration) -> f64 {
    // Microseconds are what people compare.
    (time.as_secs_f64() * 1e6).round() / 1e3
}
