//! Which models there are.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::catalog::{ModelState, Slot};
use crate::error::ApiError;
use crate::http::body::json_bytes;
use crate::params::Fields;
use crate::state::AppState;

#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    max_model_len: u64,
    state: ModelState,
}

#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct List {
    object: &'static str,
    data: Vec<Model>,
}

fn describe(slot: &Slot) -> Model {
    Model {
        id: slot.id.clone(),
        object: "model",
        created: slot.created,
        owned_by: "rocmforge",
        max_model_len: slot.context_length(),
        state: slot.state(),
    }
}

pub(super) async fn list(State(state): State<Arc<AppState>>) -> Json<List> {
    Json(List { object: "list", data: state.models.slots().iter().map(|s| describe(s)).collect() })
}

/// The name may contain slashes.
pub(super) async fn one(State(state): State<Arc<AppState>>, Path(id): Path<String>) -> Result<Json<Model>, ApiError> {
    let slot = state.models.slot(&id).ok_or_else(|| state.not_found(&id))?;
    Ok(Json(describe(&slot)))
}

/// Loads a model and answers when it is in memory.
pub(super) async fn load(State(state): State<Arc<AppState>>, request: Request) -> Result<Json<Value>, ApiError> {
    let id = named(&state, request).await?;
    state.prepare(move |state| state.model(Some(&id))).await?;
    Ok(Json(json!({"success": true})))
}

/// Unloads a model and answers when its memory is free; requests that use it end first.
pub(super) async fn unload(State(state): State<Arc<AppState>>, request: Request) -> Result<Json<Value>, ApiError> {
    let id = named(&state, request).await?;
    let unloaded = state.models.unload(&id).await?;
    Ok(Json(json!({"success": unloaded})))
}

/// The model of a body that says nothing else.
async fn named(state: &AppState, request: Request) -> Result<String, ApiError> {
    let mut fields = Fields::parse(&json_bytes(state, request).await?)?;
    let id = fields.string("model")?.ok_or_else(|| ApiError::Missing("model".into()))?;
    match fields.rest().find(|(_, _, value)| !value.is_null()) {
        Some((param, ..)) => Err(ApiError::Unknown(param)),
        None => Ok(id),
    }
}
