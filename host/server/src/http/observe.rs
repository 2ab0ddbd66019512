//! Request ids, the log line of a request, and the count of requests that are not over.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};

use crate::error::ApiError;
use crate::metrics::HttpLabel;
use crate::recorder::{RequestContext, Tokens};
use crate::state::{AppState, Readiness};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_ID: usize = 128;
/// Status in log and metrics of a request whose client went away, as nginx has it.
const CLIENT_CLOSED: u16 = 499;

/// A name that is not used again: `prefix` and 32 hexadecimal digits.
pub(crate) fn unique_id(prefix: &str) -> String {
    static KEYS: LazyLock<(RandomState, RandomState)> = LazyLock::new(Default::default);
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{:016x}{:016x}", KEYS.0.hash_one(n), KEYS.1.hash_one(n))
}

fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|v| v.to_str().ok());
    let usable = |id: &&str| !id.is_empty() && id.len() <= MAX_ID && id.bytes().all(|b| b.is_ascii_graphic());
    given.filter(usable).map_or_else(|| unique_id("req_"), str::to_string)
}

/// A request from its headers to the end of its answer.
struct Observation {
    state: Arc<AppState>,
    context: RequestContext,
    method: Method,
    route: String,
    status: u16,
    error: Option<&'static str>,
    /// The answer is sent as it is generated.
    streamed: bool,
    ended: bool,
}

impl Drop for Observation {
    fn drop(&mut self) {
        let status = if self.ended { self.status } else { CLIENT_CLOSED };
        let label = HttpLabel { route: self.route.clone(), status };
        self.state.metrics.http.get_or_create(&label).inc();
        self.state.metrics.in_flight.dec();
        self.state.in_flight.send_modify(|n| *n -= 1);
        self.context.trace.end(status, self.error, self.streamed);
        self.state.traces.add(&self.context.trace);
        let Tokens { prompt, completion } = &*self.context.tokens;
        tracing::info!(
            id = self.context.id,
            method = %self.method,
            route = self.route,
            status,
            error = self.error,
            prompt_tokens = prompt.load(Ordering::Relaxed),
            completion_tokens = completion.load(Ordering::Relaxed),
            trace = %self.context.trace.id,
            duration_ms = self.context.arrived.elapsed().as_secs_f64() * 1e3,
            "request"
        );
    }
}

pub(crate) async fn observe(State(state): State<Arc<AppState>>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    state.metrics.in_flight.inc();
    state.in_flight.send_modify(|n| *n += 1);
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_string();
    let method = request.method().clone();
    let trace = state.traces.begin(request.headers(), &id, method.as_str(), &route);
    let (arrived, tokens) = (Instant::now(), Arc::default());
    let context = RequestContext { id: id.clone(), arrived, tokens, trace: trace.clone() };
    request.extensions_mut().insert(context.clone());
    let mut observation = Observation {
        state: state.clone(),
        context,
        method,
        route,
        status: 0,
        error: None,
        streamed: false,
        ended: false,
    };

    let mut response = trace.scope(next.run(request)).await;
    observation.status = response.status().as_u16();
    observation.error = response.extensions().get::<ApiError>().map(ApiError::code);
    observation.streamed = is_stream(response.headers());
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if state.readiness() == Readiness::Draining {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| Body::new(ObservedBody { body, observation }))
}

fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    kind.starts_with("text/event-stream") || kind.starts_with("application/x-ndjson")
}

/// A body that carries an observation to its end.
struct ObservedBody {
    body: Body,
    observation: Observation,
}

impl Drop for ObservedBody {
    fn drop(&mut self) {
        self.observation.ended |= self.body.is_end_stream();
    }
}

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.observation.ended |= matches!(frame, Poll::Ready(None));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usable_request_ids_are_kept_and_others_replaced() {
        let check = |given: Option<&[u8]>, kept: bool| {
            let value = given.map(|g| (REQUEST_ID, HeaderValue::from_bytes(g).expect("a header value")));
            let id = request_id(&HeaderMap::from_iter(value));
            assert_eq!(given == Some(id.as_bytes()), kept, "{given:?} {id}");
            assert!(kept || id.starts_with("req_") && id.len() == 36, "{id}");
        };
        check(Some(b"trace-1/2"), true);
        check(Some(&[b'a'; 128]), true);
        check(Some(&[b'a'; 129]), false);
        check(Some(b""), false);
        check(Some(b"two words"), false);
        check(Some("é".as_bytes()), false);
        check(None, false);
    }
}
