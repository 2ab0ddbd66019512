//! What the server does at this moment, for the page's status view.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use rocmforge_engine::EngineStats;
use serde::Serialize;
use serde_json::Value;

use crate::catalog::{ModelState, Slot};
use crate::state::{AppState, PluginFacts, Readiness, ServedModel};

#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    status: &'static str,
    uptime_seconds: f64,
    models: Vec<Model>,
    plugins: Vec<PluginFacts>,
}

#[derive(Debug, Serialize)]
struct Model {
    id: String,
    state: ModelState,
    max_model_len: u64,
    memory_bytes: u64,
    running: usize,
    waiting: usize,
    /// Of the fullest cache group: what requests hold, 0 to 1; `null` without a cache.
    kv_usage: Option<f64>,
    kv_blocks_used: usize,
    kv_blocks_cached: usize,
    kv_blocks_total: usize,
    prompt_tokens: u64,
    generated_tokens: u64,
    placement: Vec<Place>,
}

#[derive(Debug, Serialize)]
struct Place {
    backend: String,
    device: String,
    first_layer: u32,
    layers: usize,
    weight_bytes: u64,
}

pub(super) async fn server(State(state): State<Arc<AppState>>) -> Json<Value> {
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        status: match state.readiness() {
            Readiness::Loading => "loading",
            Readiness::Draining => "draining",
            Readiness::Ready => "ready",
        },
        uptime_seconds: state.started.elapsed().as_secs_f64(),
        models: state.models.slots().iter().map(|s| describe(s)).collect(),
        plugins: state.plugins().to_vec(),
    };
    Json(serde_json::to_value(status).unwrap_or_default())
}

fn describe(slot: &Slot) -> Model {
    let model = slot.loaded();
    let stats = model.as_ref().map(|m| m.engine.stats()).unwrap_or_default();
    let EngineStats { running, waiting, prefill_tokens, cached_tokens, generated_tokens, .. } = stats;
    let share = |used: usize, total: usize| used as f64 / total as f64;
    let groups = stats.blocks.iter().filter(|b| b.total > 0);
    let fullest = groups.max_by(|a, b| share(a.used, a.total).total_cmp(&share(b.used, b.total))).cloned();
    let blocks = fullest.unwrap_or_default();
    Model {
        id: slot.id.clone(),
        state: slot.state(),
        max_model_len: slot.context_length(),
        memory_bytes: model.as_ref().map_or(0, |_| slot.bytes()),
        running,
        waiting,
        kv_usage: fullest.map(|b| share(b.used, b.total)),
        kv_blocks_used: blocks.used,
        kv_blocks_cached: blocks.cached,
        kv_blocks_total: blocks.total,
        prompt_tokens: prefill_tokens + cached_tokens,
        generated_tokens,
        placement: model.iter().flat_map(|m| places(m)).collect(),
    }
}

fn places(model: &ServedModel) -> Vec<Place> {
    let place = |row: &rocmforge_loader::PlacementRow| Place {
        backend: row.backend.clone(),
        device: row.device.clone(),
        first_layer: row.layers.start,
        layers: row.layers.len(),
        weight_bytes: row.weight_bytes,
    };
    model.facts.placement.iter().map(place).collect()
}
