//! OpenAI's `/v1/responses`. Nothing is stored: every request brings its whole conversation.

mod request;
mod stream;

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::{End, Part, start};
use crate::error::ApiError;
use crate::http::body::json_bytes;
use crate::http::observe::unique_id;
use crate::params::Fields;
use crate::recorder::RequestContext;
use crate::state::AppState;
use crate::wire::{Usage, now};
use request::{Echo, NAMES, translate};
use stream::Events;

pub(in crate::routes) async fn create(
    State(state): State<Arc<AppState>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = json_bytes(&state, request).await?;
    let (talk, echo) = start(&state, context, NAMES, move || translate(Fields::parse(&body)?)).await?;
    let object = Object { id: unique_id("resp_"), created: now(), model: talk.model().id.clone(), echo };
    if object.echo.stream {
        return Ok(talk.stream(Events::new(object)));
    }
    let (parts, end) = talk.whole().await?;
    let output = parts.into_iter().map(|part| item(part, &end)).collect();
    Ok(Json(object.ended(output, &end)).into_response())
}

/// Whoever asks for an earlier response learns why there is none.
pub(in crate::routes) async fn stored(Path(id): Path<String>) -> ApiError {
    ApiError::NotStored(id)
}

/// What a response object repeats of the request, and what it is named.
pub(super) struct Object {
    id: String,
    created: u64,
    model: String,
    echo: Echo,
}

impl Object {
    fn with(&self, status: &str, output: Vec<Value>, more: Value) -> Value {
        let mut object = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": false,
            "error": null,
            "incomplete_details": null,
            "model": self.model,
            "output": output,
            "previous_response_id": null,
            "service_tier": "default",
            // Whatever was asked for.
            "store": false,
            "truncation": "disabled",
            "usage": null,
        });
        for (key, value) in self.echo.members.iter().chain(more.as_object().into_iter().flatten()) {
            object[key] = value.clone();
        }
        object
    }

    /// While it runs.
    fn begun(&self) -> Value {
        self.with("in_progress", vec![], json!({}))
    }

    fn ended(&self, output: Vec<Value>, end: &End) -> Value {
        let usage = usage(&end.usage);
        match end.reason {
            "length" => {
                let details = json!({"reason": "max_output_tokens"});
                self.with("incomplete", output, json!({"usage": usage, "incomplete_details": details}))
            }
            _ => self.with("completed", output, json!({"usage": usage})),
        }
    }

    fn failed(&self, error: &ApiError) -> Value {
        let error = json!({"code": error.code(), "message": error.to_string()});
        self.with("failed", vec![], json!({"error": error}))
    }
}

fn usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.prompt_tokens_details.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.completion_tokens_details.map_or(0, |d| d.reasoning_tokens)},
        "total_tokens": usage.total_tokens,
    })
}

fn status(end: &End) -> &'static str {
    if end.reason == "length" { "incomplete" } else { "completed" }
}

fn item(part: Part, end: &End) -> Value {
    match part {
        Part::Reasoning(text) => reasoning(&unique_id("rs_"), Some(&text), status(end)),
        Part::Content(text) => message(&unique_id("msg_"), Some(&text), status(end)),
        Part::Call { id, name, arguments } => call(&unique_id("fc_"), &id, &name, &arguments, status(end)),
    }
}

fn reasoning(id: &str, text: Option<&str>, status: &str) -> Value {
    let content: Vec<Value> = text.map(|text| json!({"type": "reasoning_text", "text": text})).into_iter().collect();
    json!({"id": id, "type": "reasoning", "summary": [], "content": content, "status": status})
}

fn message(id: &str, text: Option<&str>, status: &str) -> Value {
    let content: Vec<Value> = text.map(output_text).into_iter().collect();
    json!({"id": id, "type": "message", "role": "assistant", "status": status, "content": content})
}

fn output_text(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn call(id: &str, call_id: &str, name: &str, arguments: &str, status: &str) -> Value {
    json!({"id": id, "type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, "status": status})
}
