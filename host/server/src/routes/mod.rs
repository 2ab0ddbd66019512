//! One file per family of routes.

mod chat;
mod completions;
mod dialects;
mod embeddings;
mod generate;
mod models;
mod operations;
pub(crate) mod shapes;
mod status;
mod tokenizer;
mod traces;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};

use crate::error::{ApiError, ServerError};
use crate::http::access::{Access, cors, guard};
use crate::http::keys::{ApiKeys, authenticate};
use crate::http::observe::observe;
use crate::http::shape;
use crate::openapi;
use crate::state::AppState;
use dialects::{anthropic, ollama, responses};

pub(crate) use anthropic::error_body as anthropic_error;
pub(crate) use ollama::error_body as ollama_error;

/// All routes, for a listener at `address`.
pub(crate) fn router(state: Arc<AppState>, address: SocketAddr) -> Result<Router, ServerError> {
    let access = Arc::new(Access::new(&state.settings, address));
    let mut router = Router::new()
        .route("/", get(operations::index))
        .route("/health", get(operations::health))
        .route("/ready", get(operations::ready))
        .route("/metrics", get(operations::metrics))
        .route("/models", get(models::list))
        .route("/models/load", post(models::load))
        .route("/models/unload", post(models::unload))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/generate", post(generate::create))
        .route("/generate/stream", post(generate::stream))
        .route("/status", get(status::server))
        .route("/status/{*id}", get(generate::status))
        .route("/cancel/{*id}", post(generate::cancel))
        .route("/traces", get(traces::list))
        .route("/tokenize", post(tokenizer::tokenize))
        .route("/detokenize", post(tokenizer::detokenize))
        .route("/tokenizer_info", get(tokenizer::info))
        .route("/apply-template", post(tokenizer::apply_template))
        .route("/props", get(operations::props))
        .route("/version", get(operations::version))
        .route("/openapi.json", get(openapi::document))
        .merge(dialects())
        .method_not_allowed_fallback(wrong_method)
        .fallback(no_route);
    if let Some(keys) = ApiKeys::of(&state.settings)? {
        tracing::info!(keys = keys.len(), "requests need an API key");
        router = router.layer(from_fn_with_state(Arc::new(keys), authenticate));
    }
    // Around the keys, because browsers ask without one whether they may send it.
    if let Some(cors) = cors(&state.settings)? {
        router = router.layer(cors);
    }
    let router = router
        .layer(from_fn_with_state(access, guard))
        .layer(from_fn(shape::errors))
        .layer(map_response(no_sniffing))
        .layer(from_fn_with_state(state.clone(), observe));
    Ok(router.with_state(state))
}

/// The routes of other APIs.
fn dialects() -> Router<Arc<AppState>> {
    Router::new()
        .route("/v1/messages", post(anthropic::create))
        .route("/v1/messages/count_tokens", post(anthropic::count))
        .route("/v1/responses", post(responses::create))
        .route("/v1/responses/{id}", get(responses::stored).delete(responses::stored))
        .route("/api/chat", post(ollama::chat))
        .route("/api/generate", post(ollama::generate))
        .route("/api/embed", post(ollama::embed))
        .route("/api/embeddings", post(ollama::embed_one))
        .route("/api/tags", get(ollama::list))
        .route("/api/ps", get(ollama::running))
        .route("/api/show", post(ollama::show))
        .route("/api/version", get(ollama::version))
        .route("/api/create", post(ollama::refused))
        .route("/api/copy", post(ollama::refused))
        .route("/api/pull", post(ollama::refused))
        .route("/api/push", post(ollama::refused))
        .route("/api/delete", delete(ollama::refused))
}

async fn no_route(request: Request) -> ApiError {
    ApiError::NoRoute { method: request.method().to_string(), path: request.uri().path().to_string() }
}

async fn wrong_method(request: Request) -> ApiError {
    ApiError::Method { method: request.method().to_string(), path: request.uri().path().to_string() }
}

/// Generated text must never be taken for a page.
async fn no_sniffing(response: Response) -> Response {
    ([("x-content-type-options", "nosniff")], response).into_response()
}
