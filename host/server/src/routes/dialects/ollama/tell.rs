//! What Ollama tells of models.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::request::named;
use super::timestamp;
use crate::catalog::Slot;
use crate::error::ApiError;
use crate::http::body::json_bytes;
use crate::params::Fields;
use crate::state::{AppState, ModelFacts, ServedModel};

pub(in crate::routes) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// All models.
pub(in crate::routes) async fn list(State(state): State<Arc<AppState>>) -> Json<Value> {
    Json(json!({"models": state.models.slots().iter().map(|s| describe(s)).collect::<Vec<_>>()}))
}

/// Those in memory.
pub(in crate::routes) async fn running(State(state): State<Arc<AppState>>) -> Json<Value> {
    let loaded = |slot: &Arc<Slot>| {
        let model = slot.loaded()?;
        let mut entry = describe(slot);
        entry["size"] = model.facts.memory.into();
        // Whatever is not on a CPU.
        let elsewhere = model.facts.placement.iter().filter(|p| p.backend != "cpu");
        entry["size_vram"] = elsewhere.map(|p| p.weight_bytes).sum::<u64>().into();
        entry["context_length"] = model.context_length.into();
        // It stays until another one needs the memory.
        entry["expires_at"] = "9999-12-31T23:59:59Z".into();
        Some(entry)
    };
    Json(json!({"models": state.models.slots().iter().filter_map(loaded).collect::<Vec<_>>()}))
}

fn describe(slot: &Slot) -> Value {
    let facts = slot.loaded().map(|m| m.facts.clone()).unwrap_or_default();
    let size = if facts.file_bytes > 0 { facts.file_bytes } else { slot.bytes() };
    json!({
        "name": slot.id,
        "model": slot.id,
        "modified_at": timestamp(slot.created),
        "size": size,
        "digest": digest(&slot.id, size),
        "details": details(&facts),
    })
}

/// Tells models apart. Of name and size, not of the file's bytes, which would take minutes to read.
fn digest(id: &str, size: u64) -> String {
    Sha256::digest(format!("{id}\n{size}")).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn details(facts: &ModelFacts) -> Value {
    let families: Vec<&str> = Some(facts.architecture.as_str()).filter(|a| !a.is_empty()).into_iter().collect();
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": facts.architecture,
        "families": families,
        "parameter_size": parameters(facts.parameters),
        "quantization_level": facts.quantization,
    })
}

/// `7.6B`, `494.0M`.
fn parameters(n: u64) -> String {
    match n {
        0 => String::new(),
        n if n >= 1_000_000_000 => format!("{:.1}B", n as f64 / 1e9),
        n => format!("{:.1}M", n as f64 / 1e6),
    }
}

pub(in crate::routes) async fn show(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let body = json_bytes(&state, request).await?;
    let mut fields = Fields::parse(&body)?;
    let older = fields.string("name")?;
    let name = fields.string("model")?.or(older).ok_or_else(|| ApiError::Missing("model".into()))?;
    let name = named(&state, &name);
    let model: Arc<ServedModel> = state.prepare(move |state| state.model(Some(&name))).await?;
    let facts = &model.facts;
    let architecture = facts.architecture.as_str();
    let mut info = json!({
        "general.architecture": architecture,
        "general.parameter_count": facts.parameters,
        "tokenizer.ggml.model": model.tokenizer.model_name(),
    });
    info[format!("{architecture}.context_length")] = model.context_length.into();
    Ok(Json(json!({
        "modelfile": "",
        "parameters": "",
        "template": model.template_source.as_deref().unwrap_or_default(),
        "details": details(facts),
        "model_info": info,
        "capabilities": ["completion", "tools"],
        "modified_at": timestamp(model.created),
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_as_people_say_them() {
        for (n, expected) in [(0, ""), (494_032_768, "494.0M"), (7_615_616_512, "7.6B")] {
            assert_eq!(parameters(n), expected);
        }
    }
}
