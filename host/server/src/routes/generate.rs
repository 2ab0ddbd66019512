//! Generation in a plain shape of our own, and what can be done with any request by its id.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use rocmforge_engine::{Event, Finish};
use serde::Serialize;

use super::completions::{CompletionRequest, Job, prepare};
use crate::answer::{UsageCount, collect};
use crate::error::ApiError;
use crate::generation::Generation;
use crate::http::body::json_bytes;
use crate::recorder::RequestContext;
use crate::requests::{Report, Status};
use crate::sse::{Chunks, frame, respond};
use crate::state::{AppState, ServedModel};
use crate::wire::{Timings, Usage, finish_reason};

/// A whole answer, or the last event of a stream.
#[derive(Debug, Serialize)]
struct Generated<'a> {
    id: &'a str,
    status: Status,
    model: &'a str,
    /// In a stream only what was held back, as it might have become a stop string.
    text: String,
    finish_reason: &'static str,
    usage: Usage,
    timings: Timings,
}

/// The first event of a stream, by which its id is known.
#[derive(Debug, Serialize)]
struct Accepted<'a> {
    id: &'a str,
    status: Status,
    model: &'a str,
}

#[derive(Debug, Serialize)]
struct Token<'a> {
    id: &'a str,
    token: u32,
    /// What can be sent now: whole characters, and nothing that may be the start of a stop string.
    text: String,
}

/// The parameters of `/v1/completions`, for one answer to one prompt.
fn parse(body: &[u8]) -> Result<CompletionRequest, ApiError> {
    let request = CompletionRequest::parse(body)?;
    if request.prompts.len() != 1 {
        return Err(ApiError::invalid("prompt", "one prompt", request.prompts.len()));
    }
    if request.common.n != 1 {
        return Err(ApiError::invalid("n", "1", request.common.n));
    }
    if request.best_of != 1 {
        return Err(ApiError::invalid("best_of", "1", request.best_of));
    }
    let unsupported = |param: &str| ApiError::Unsupported { param: param.into(), hint: "; use /v1/completions".into() };
    if request.echo {
        return Err(unsupported("echo"));
    }
    if request.common.sampling.logprobs.is_some() {
        return Err(unsupported("logprobs"));
    }
    if request.common.prompt_logprobs.is_some() {
        return Err(unsupported("prompt_logprobs"));
    }
    Ok(request)
}

pub(super) async fn create(
    State(state): State<Arc<AppState>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    generate(state, context, request, false).await
}

pub(super) async fn stream(
    State(state): State<Arc<AppState>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    generate(state, context, request, true).await
}

async fn generate(
    state: Arc<AppState>,
    context: RequestContext,
    request: Request,
    stream: bool,
) -> Result<Response, ApiError> {
    let body = json_bytes(&state, request).await?;
    let Job { model, common, requests, .. } = state.prepare(move |state| prepare(state, parse(&body)?)).await?;
    let usage = UsageCount::new(&requests, 1);
    let id = context.id.clone();
    let generation = Generation::start(&state, &model, context, requests, usage.prompt_tokens())?;
    if stream || common.stream.is_some() {
        return Ok(respond(generation, TokenEvents { id, model, usage }));
    }
    let (mut answers, usage) = collect(generation, usage).await?;
    let answer = answers.pop().unwrap_or_default();
    let generated = Generated {
        id: &id,
        status: Status::Completed,
        model: &model.id,
        text: answer.text,
        finish_reason: answer.finish_reason,
        usage: usage.total(),
        timings: usage.timings(),
    };
    Ok(Json(generated).into_response())
}

struct TokenEvents {
    id: String,
    model: Arc<ServedModel>,
    usage: UsageCount,
}

impl Chunks for TokenEvents {
    fn start(&mut self) -> Vec<Bytes> {
        vec![frame(&Accepted { id: &self.id, status: Status::Waiting, model: &self.model.id })]
    }

    fn event(&mut self, index: usize, event: Event) -> Vec<Bytes> {
        self.usage.event(index, &event);
        match event {
            Event::Token(token) => vec![frame(&Token { id: &self.id, token: token.token, text: token.text })],
            Event::Finished(Finish { reason, text, .. }) => vec![frame(&Generated {
                id: &self.id,
                status: Status::Completed,
                model: &self.model.id,
                text,
                finish_reason: finish_reason(&reason),
                usage: self.usage.total(),
                timings: self.usage.timings(),
            })],
            Event::Prompt(_) | Event::Embedding(_) | Event::Error(_) => vec![],
        }
    }

    fn end(&mut self) -> Vec<Bytes> {
        vec![]
    }
}

/// Ids come from clients as well, and may contain slashes.
pub(super) async fn status(
    State(state): State<Arc<AppState>>,
    Path(id): Path<String>,
) -> Result<Json<Report>, ApiError> {
    let tracked = state.requests.get(&id).ok_or(ApiError::RequestNotFound(id))?;
    Ok(Json(tracked.report()))
}

/// A request that is over already stays as it is.
pub(super) async fn cancel(
    State(state): State<Arc<AppState>>,
    Path(id): Path<String>,
) -> Result<Json<Report>, ApiError> {
    let tracked = state.requests.get(&id).ok_or(ApiError::RequestNotFound(id))?;
    tracked.cancel();
    Ok(Json(tracked.report()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn one_answer_to_one_prompt_is_generated() {
        let check = |body: Value, expected: Option<(&str, &str)>| {
            let error = parse(body.to_string().as_bytes()).err().map(|e| e.body()["error"].clone());
            let found = error.as_ref().map(|e| (e["code"].as_str().unwrap_or(""), e["param"].as_str().unwrap_or("")));
            assert_eq!(found, expected, "{body}");
        };
        check(json!({"prompt": "x"}), None);
        check(json!({"prompt": [1, 2], "n": 1, "max_tokens": 3}), None);
        check(json!({"prompt": ["x"]}), None);
        check(json!({"prompt": ["x", "y"]}), Some(("invalid_value", "prompt")));
        check(json!({"prompt": "x", "n": 2}), Some(("invalid_value", "n")));
        check(json!({"prompt": "x", "echo": true}), Some(("unsupported_parameter", "echo")));
        check(json!({"prompt": "x", "logprobs": 0}), Some(("unsupported_parameter", "logprobs")));
        check(json!({"prompt": "x", "top_p": 2}), Some(("invalid_value", "top_p")));
        check(json!({}), Some(("missing_required_parameter", "prompt")));
    }
}
