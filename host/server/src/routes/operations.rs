//! For those who run the server: what it is, whether it lives, whether it serves, what it does.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use rocmforge_engine::SamplingParams;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::page;
use crate::state::{AppState, Readiness};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A page for browsers, and a few words for programs.
pub(super) async fn index(headers: HeaderMap) -> Response {
    if page::is_wanted(&headers) {
        return page::response();
    }
    let index = json!({
        "name": "ROCmForge",
        "version": env!("CARGO_PKG_VERSION"),
        "api": "/v1",
        "health": "/health",
        "ready": "/ready",
        "metrics": "/metrics",
    });
    Json(index).into_response()
}

pub(super) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// Which model a question without a body is about.
#[derive(Debug, Deserialize)]
pub(super) struct ModelQuery {
    pub(super) model: Option<String>,
}

/// What llama-server tells of itself, as far as it applies.
pub(super) async fn props(
    State(state): State<Arc<AppState>>,
    query: Result<Query<ModelQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let name = model_of(query)?;
    let model = state.prepare(move |state| state.model(name.as_deref())).await?;
    let sampling = SamplingParams::default();
    let text = |id: Option<u32>| id.map(|id| model.tokenizer.token_text(id).to_string());
    let params = json!({
        "temperature": sampling.temperature,
        "top_k": sampling.top_k.unwrap_or(0),
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "n_predict": state.settings.default_max_tokens.map_or(-1, |n| i64::from(n.get())),
    });
    Ok(Json(json!({
        "default_generation_settings": {"n_ctx": model.context_length, "params": params},
        "total_slots": model.max_sequences,
        "model_alias": model.id,
        "chat_template": model.template_source.as_deref().unwrap_or_default(),
        "bos_token": text(model.tokenizer.bos()),
        "eos_token": text(model.tokenizer.eos()),
        "modalities": {"vision": false, "audio": false},
        "build_info": concat!("rocmforge-", env!("CARGO_PKG_VERSION")),
    })))
}

pub(super) fn model_of(query: Result<Query<ModelQuery>, QueryRejection>) -> Result<Option<String>, ApiError> {
    let query = query.map_err(|e| ApiError::invalid("model", "a query such as ?model=NAME", e.body_text()))?;
    Ok(query.0.model)
}

/// As long as anything answers, the process lives.
pub(super) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

pub(super) async fn ready(State(state): State<Arc<AppState>>) -> Result<Json<Value>, ApiError> {
    match state.readiness() {
        Readiness::Loading => Err(ApiError::Loading),
        Readiness::Draining => Err(ApiError::Draining),
        Readiness::Ready => match state.models.all().iter().find(|m| !m.engine.is_healthy()) {
            Some(model) => Err(ApiError::Unhealthy(model.id.clone())),
            None => Ok(Json(json!({"status": "ready"}))),
        },
    }
}

pub(super) async fn metrics(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    let text = state.metrics.text().map_err(|e| ApiError::Internal(e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}
