//! The latest requests and what their time went to.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::state::AppState;

const DEFAULT_LIMIT: usize = 20;

/// Which traces.
#[derive(Debug, Deserialize)]
pub(super) struct TraceQuery {
    limit: Option<usize>,
    request_id: Option<String>,
    trace_id: Option<String>,
}

pub(super) async fn list(
    State(state): State<Arc<AppState>>,
    query: Result<Query<TraceQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let expected = "a query with limit, request_id or trace_id";
    let Query(query) = query.map_err(|e| ApiError::invalid("query", expected, e.body_text()))?;
    let reports = state.traces.reports(query.limit.unwrap_or(DEFAULT_LIMIT), |trace| {
        let request = query.request_id.as_ref().is_none_or(|id| *id == trace.request_id);
        request && query.trace_id.as_ref().is_none_or(|id| *id == trace.id.to_string())
    });
    Ok(Json(json!({"object": "list", "data": reports})))
}
