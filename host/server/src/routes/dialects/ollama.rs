//! Ollama's `/api/*`.

mod embed;
mod request;
mod stream;
mod tell;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::{End, Part, start, start_plainly};
use crate::error::ApiError;
use crate::http::body::json_bytes;
use crate::params::Fields;
use crate::recorder::RequestContext;
use crate::state::AppState;
use crate::wire::now;
pub(in crate::routes) use embed::{create as embed, create_one as embed_one};
use request::{Asked, KeepAlive, Kind, NAMES, read};
use stream::Lines;
pub(in crate::routes) use tell::{list, running, show, version};

/// `{"error": "…"}`, as this API has it.
pub(crate) fn error_body(error: &ApiError) -> Value {
    json!({"error": error.to_string()})
}

pub(in crate::routes) async fn chat(
    State(state): State<Arc<AppState>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(state, context, request, Kind::Chat).await
}

pub(in crate::routes) async fn generate(
    State(state): State<Arc<AppState>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(state, context, request, Kind::Generate).await
}

/// What these servers do not do with model files.
pub(in crate::routes) async fn refused() -> ApiError {
    let hint = "; models are files, listed in plugins.toml".into();
    ApiError::Unsupported { param: "managing models".into(), hint }
}

async fn answer(
    state: Arc<AppState>,
    context: RequestContext,
    request: Request,
    kind: Kind,
) -> Result<Response, ApiError> {
    let began = context.arrived;
    let body = json_bytes(&state, request).await?;
    let Asked { model, keep_alive, stream, chat, raw } = read(&state, Fields::parse(&body)?, kind)?;
    let Some(members) = chat else { return loaded(&state, &model, keep_alive, kind).await };
    let talk = match raw {
        true => start_plainly(&state, context, NAMES, members).await?,
        false => start(&state, context, NAMES, move || Ok((members.clone(), ()))).await?.0,
    };
    let lines = Lines { model: talk.model().id.clone(), kind, began };
    let response = match stream {
        true => talk.stream(lines),
        false => {
            let (parts, end) = talk.whole().await?;
            Json(lines.whole(parts, &end)).into_response()
        }
    };
    if keep_alive == KeepAlive::None {
        // It waits for this answer and others, so it runs by itself.
        tokio::spawn(async move { state.models.unload(&model).await.map(drop) });
    }
    Ok(response)
}

/// A request without a prompt is about the model only.
async fn loaded(state: &Arc<AppState>, model: &str, keep_alive: KeepAlive, kind: Kind) -> Result<Response, ApiError> {
    let reason = match keep_alive {
        KeepAlive::None => {
            state.models.unload(model).await?;
            "unload"
        }
        KeepAlive::Some => {
            let id = model.to_string();
            state.prepare(move |state| state.model(Some(&id))).await?;
            "load"
        }
    };
    let mut answer = json!({"model": model, "created_at": timestamp(now()), "done": true, "done_reason": reason});
    match kind {
        Kind::Chat => answer["message"] = json!({"role": "assistant", "content": ""}),
        Kind::Generate => answer["response"] = "".into(),
    }
    Ok(Json(answer).into_response())
}

/// Times in nanoseconds, and numbers of tokens.
fn totals(began: Instant, end: &End) -> Value {
    let milliseconds = |ms: f64| Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default().as_nanos() as u64;
    let (prompt, answer) = (milliseconds(end.timings.prompt_ms), milliseconds(end.timings.predicted_ms));
    let total = began.elapsed().as_nanos() as u64;
    json!({
        "total_duration": total,
        // Waiting for the model, and for a place in the engine.
        "load_duration": total.saturating_sub(prompt).saturating_sub(answer),
        "prompt_eval_count": end.usage.prompt_tokens,
        "prompt_eval_duration": prompt,
        "eval_count": end.usage.completion_tokens,
        "eval_duration": answer,
    })
}

/// Seconds since 1970 as of RFC 3339, by the civil calendar algorithm of Howard Hinnant.
fn timestamp(seconds: u64) -> String {
    let (days, second) = ((seconds / 86_400) as i64, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Calls as this API has them: arguments as what they say.
fn calls(parts: &[Part]) -> Vec<Value> {
    let call = |part: &Part| match part {
        Part::Call { name, arguments, .. } => {
            let arguments: Value = serde_json::from_str(arguments).unwrap_or_else(|_| arguments.as_str().into());
            Some(json!({"function": {"name": name, "arguments": arguments}}))
        }
        _ => None,
    };
    parts.iter().filter_map(call).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(seconds), expected);
        }
    }
}
