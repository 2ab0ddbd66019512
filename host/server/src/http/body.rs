use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use tokio::time::sleep;

use crate::error::ApiError;
use crate::state::AppState;

/// How long a client may take to send a body.
const TIMEOUT: Duration = Duration::from_secs(60);
/// So many times the limit are read and thrown away, because a client that still writes does not read an answer.
const DRAIN: usize = 2;

/// The bytes of a JSON body.
pub(crate) async fn json_bytes(state: &AppState, request: Request) -> Result<Vec<u8>, ApiError> {
    check_content_type(request.headers())?;
    let limit = state.settings.max_body_mib.get().saturating_mul(1 << 20);
    let (parts, body) = request.into_parts();
    let expects = parts.headers.contains_key(header::EXPECT);
    let length = body.size_hint().lower();
    // Of what would not be read to its end either, nothing is.
    let hopeless = length > limit.saturating_mul(DRAIN) as u64;
    if hopeless || (expects && length > limit as u64) {
        return Err(ApiError::BodyTooLarge { limit });
    }
    tokio::select! {
        biased;
        read = read(body, limit) => read,
        // What would be refused when it is complete is not worth waiting for.
        () = state.draining() => Err(ApiError::Draining),
        () = sleep(TIMEOUT) => Err(ApiError::Body(format!("not complete after {} s", TIMEOUT.as_secs()))),
    }
}

async fn read(mut body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let (mut bytes, mut seen) = (Vec::new(), 0usize);
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(data) = frame.map_err(|e| ApiError::Body(e.to_string()))?.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen <= limit {
            bytes.extend_from_slice(&data);
        } else {
            bytes = Vec::new();
        }
        if seen > limit.saturating_mul(DRAIN) {
            break;
        }
    }
    if seen > limit { Err(ApiError::BodyTooLarge { limit }) } else { Ok(bytes) }
}

/// JSON by its own account: a browser's page of another origin cannot send that without asking first.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Err(ApiError::ContentType("none".into()));
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    if json { Ok(()) } else { Err(ApiError::ContentType(essence)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_read() {
        let check = |value: &str, ok: bool| {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().expect("a header value"))]);
            assert_eq!(check_content_type(&headers).is_ok(), ok, "{value}");
        };
        check("application/json", true);
        check("Application/JSON; charset=utf-8", true);
        check("application/vnd.api+json", true);
        check("text/plain", false);
        check("text/json-ish; application/json", false);
        check("application/x-www-form-urlencoded", false);
        assert!(check_content_type(&HeaderMap::new()).is_err());
    }
}
