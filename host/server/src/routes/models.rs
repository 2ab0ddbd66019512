//! Which models there are.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use crate::error::ApiError;
use crate::state::{AppState, ServedModel};

#[derive(Debug, Serialize)]
pub(super) struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    max_model_len: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct List {
    object: &'static str,
    data: Vec<Model>,
}

fn describe(model: &ServedModel) -> Model {
    Model {
        id: model.id.clone(),
        object: "model",
        created: model.created,
        owned_by: "rocmforge",
        max_model_len: model.context_length,
    }
}

pub(super) async fn list(State(state): State<Arc<AppState>>) -> Json<List> {
    Json(List { object: "list", data: state.models.all().iter().map(|m| describe(m)).collect() })
}

/// The name may contain slashes.
pub(super) async fn one(State(state): State<Arc<AppState>>, Path(id): Path<String>) -> Result<Json<Model>, ApiError> {
    let model = state.models.get(&id).ok_or_else(|| state.not_found(&id))?;
    Ok(Json(describe(&model)))
}
