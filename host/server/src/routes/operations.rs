//! For those who run the server: what it is, whether it lives, whether it serves, what it does.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::state::{AppState, Readiness};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn index() -> Json<Value> {
    Json(json!({
        "name": "ROCmForge",
        "version": env!("CARGO_PKG_VERSION"),
        "api": "/v1",
        "health": "/health",
        "ready": "/ready",
        "metrics": "/metrics",
    }))
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
