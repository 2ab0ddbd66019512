//! `/api/embed`, and the older `/api/embeddings`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::request::{KeepAlive, check_options, is_empty, keep_alive, named};
use crate::error::ApiError;
use crate::http::body::json_bytes;
use crate::params::Fields;
use crate::params::prompt::{Prompt, prompts};
use crate::recorder::RequestContext;
use crate::routes::embeddings::{MAX_TEXTS, Wanted, embed, prepare};
use crate::state::AppState;

/// What is asked for.
struct Asked {
    model: String,
    keep_alive: KeepAlive,
    wanted: Wanted,
}

/// `param`: the member with the texts.
fn read(state: &AppState, mut fields: Fields, param: &'static str) -> Result<Asked, ApiError> {
    let name = fields.string("model")?.ok_or_else(|| ApiError::Missing("model".into()))?;
    let model = named(state, &name);
    let keep_alive = keep_alive(&mut fields);
    let many = param == "input";
    let texts = match fields.take(param) {
        None => vec![],
        Some(Value::Array(items)) if many && items.is_empty() => vec![],
        Some(value) if many || value.is_string() => prompts(value, param, MAX_TEXTS)?,
        Some(_) => return Err(ApiError::invalid(param, "a string", "another type")),
    };
    if let Some(at) = texts.iter().position(|t| matches!(t, Prompt::Tokens(_))) {
        return Err(ApiError::invalid(format!("{param}[{at}]"), "a string", "tokens"));
    }
    let wanted = Wanted {
        dimensions: if many { fields.count("dimensions", 1..=u32::MAX)? } else { None },
        // The older route gives them as the model does.
        normalize: many,
        truncate: many && fields.bool("truncate")?.unwrap_or(false),
        ..Wanted::of(Some(model.clone()), texts, param)
    };
    check_options(&mut fields)?;
    match fields.rest().find(|(_, _, value)| !is_empty(value)) {
        Some((param, ..)) => Err(ApiError::Unsupported { param, hint: String::new() }),
        None => Ok(Asked { model, keep_alive, wanted }),
    }
}

/// The embeddings, and what else is told of them.
async fn answer(
    state: &Arc<AppState>,
    context: RequestContext,
    request: Request,
    param: &'static str,
) -> Result<(Vec<Vec<f32>>, Value), ApiError> {
    let began = context.arrived;
    let body = json_bytes(state, request).await?;
    let Asked { model, keep_alive, wanted } = read(state, Fields::parse(&body)?, param)?;
    let job = state.prepare(move |state| prepare(state, &wanted)).await?;
    let id = job.model.id.clone();
    let loaded = began.elapsed();
    let (found, tokens) = embed(state, context, job).await?;
    if keep_alive == KeepAlive::None {
        state.models.unload(&model).await?;
    }
    let facts = json!({
        "model": id,
        "total_duration": began.elapsed().as_nanos() as u64,
        "load_duration": loaded.as_nanos() as u64,
        "prompt_eval_count": tokens,
    });
    Ok((found, facts))
}

pub(in crate::routes) async fn create(
    State(state): State<Arc<AppState>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let (found, mut facts) = answer(&state, context, request, "input").await?;
    facts["embeddings"] = json!(found);
    Ok(Json(facts))
}

/// One text, and its embedding as the model gives it.
pub(in crate::routes) async fn create_one(
    State(state): State<Arc<AppState>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let (found, _) = answer(&state, context, request, "prompt").await?;
    Ok(Json(json!({"embedding": found.into_iter().next().unwrap_or_default()})))
}

#[cfg(test)]
mod tests {
    use rocmforge_loader::config::ServerSettings;

    use super::*;

    fn of(body: &Value, param: &'static str) -> Result<Asked, ApiError> {
        let state = AppState::new(ServerSettings::default());
        read(&state, Fields::parse(body.to_string().as_bytes())?, param)
    }

    #[test]
    fn requests_are_read() {
        let text = |t: &str| Prompt::Text(t.into());
        let check = |param, body: Value, texts: Vec<Prompt>, normalize, truncate| {
            let asked = of(&body, param).unwrap_or_else(|e| panic!("{body}: {e}"));
            let wanted = Wanted { normalize, truncate, ..Wanted::of(Some("m".into()), texts, param) };
            assert_eq!(asked.wanted, wanted, "{body}");
        };
        check("input", json!({"model": "m:latest", "input": "a"}), vec![text("a")], true, false);
        let both =
            json!({"model": "m", "input": ["a", "b"], "truncate": true, "options": {"num_ctx": 9}, "keep_alive": "5m"});
        check("input", both, vec![text("a"), text("b")], true, true);
        check("input", json!({"model": "m", "input": []}), vec![], true, false);
        check("prompt", json!({"model": "m", "prompt": "a"}), vec![text("a")], false, false);
        check("prompt", json!({"model": "m"}), vec![], false, false);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |param, body: Value, code: &str, named: &str| {
            let error = of(&body, param).err().unwrap_or_else(|| panic!("{body} is taken"));
            assert_eq!((error.code(), error.body()["error"]["param"].clone()), (code, json!(named)), "{error}");
        };
        check("input", json!({"input": "a"}), "missing_required_parameter", "model");
        check("input", json!({"model": "m", "input": [1]}), "invalid_value", "input[0]");
        check("input", json!({"model": "m", "input": "a", "dimensions": 0}), "invalid_value", "dimensions");
        check("input", json!({"model": "m", "input": "a", "options": {"x": 1}}), "unsupported_parameter", "options.x");
        check("prompt", json!({"model": "m", "prompt": ["a"]}), "invalid_value", "prompt");
        check("prompt", json!({"model": "m", "prompt": "a", "input": "b"}), "unsupported_parameter", "input");
    }
}
