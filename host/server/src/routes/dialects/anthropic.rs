//! Anthropic's `/v1/messages`.

mod request;
mod stream;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::{End, Part, count_tokens, start};
use crate::error::ApiError;
use crate::http::body::json_bytes;
use crate::http::observe::unique_id;
use crate::params::Fields;
use crate::recorder::RequestContext;
use crate::state::AppState;
use crate::wire::Usage;
use request::{NAMES, translate};
use stream::Events;

/// `{"type": "error", …}`, as this API has it.
pub(crate) fn error_body(error: &ApiError) -> Value {
    let kind = match error.status() {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        status if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": error.to_string()}})
}

pub(in crate::routes) async fn create(
    State(state): State<Arc<AppState>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = json_bytes(&state, request).await?;
    let (talk, options) = start(&state, context, NAMES, move || translate(Fields::parse(&body)?)).await?;
    let id = unique_id("msg_");
    if options.stream {
        return Ok(talk.stream(Events::new(id, options.thinking)));
    }
    let model = talk.model().clone();
    let (parts, end) = talk.whole().await?;
    let parts = parts.into_iter().filter(|p| options.thinking || !matches!(p, Part::Reasoning(_)));
    let (stop_reason, stop_sequence) = stop(&end);
    Ok(Json(json!({
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model.id,
        "content": parts.map(block).collect::<Vec<_>>(),
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "usage": usage(&end.usage),
    }))
    .into_response())
}

/// How many tokens a conversation has, without an answer.
pub(in crate::routes) async fn count(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let body = json_bytes(&state, request).await?;
    let tokens = state
        .prepare(move |state| {
            let mut fields = Fields::parse(&body)?;
            // The one member that is needed for an answer only.
            let max_tokens = fields.take("max_tokens").unwrap_or_else(|| json!(1));
            fields.put("max_tokens", max_tokens);
            let (members, _) = translate(fields)?;
            count_tokens(state, NAMES, members)
        })
        .await?;
    Ok(Json(json!({"input_tokens": tokens})))
}

fn block(part: Part) -> Value {
    match part {
        Part::Content(text) => json!({"type": "text", "text": text, "citations": null}),
        // A signature is what their servers check when it comes back; ours need none.
        Part::Reasoning(text) => json!({"type": "thinking", "thinking": text, "signature": ""}),
        Part::Call { id, name, arguments } => {
            json!({"type": "tool_use", "id": id, "name": name, "input": input(&arguments)})
        }
    }
}

/// Arguments as what they say; what is no JSON stays a string.
fn input(arguments: &str) -> Value {
    serde_json::from_str(arguments).unwrap_or_else(|_| Value::String(arguments.into()))
}

fn stop(end: &End) -> (&'static str, Option<String>) {
    match (end.reason, &end.stop) {
        ("tool_calls", _) => ("tool_use", None),
        ("length", _) => ("max_tokens", None),
        (_, Some(stop)) => ("stop_sequence", Some(stop.clone())),
        _ => ("end_turn", None),
    }
}

/// What was found in the prefix cache is counted apart.
fn usage(usage: &Usage) -> Value {
    let cached = usage.prompt_tokens_details.cached_tokens;
    json!({
        "input_tokens": usage.prompt_tokens.saturating_sub(cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
    })
}
