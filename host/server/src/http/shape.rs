//! Errors in the shape of the API whose route was asked.

use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use serde_json::Value;

use crate::error::ApiError;
use crate::routes::{anthropic_error, ollama_error};

/// Puts the error object of a response, if it has one, into the other API's form.
pub(crate) async fn errors(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let body: Option<fn(&ApiError) -> Value> = match path {
        _ if path == "/v1/messages" || path.starts_with("/v1/messages/") => Some(anthropic_error),
        _ if path.starts_with("/api/") => Some(ollama_error),
        _ => None,
    };
    let mut response = next.run(request).await;
    let error = response.extensions().get::<ApiError>().cloned();
    if let (Some(body), Some(error)) = (body, error) {
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = body(&error).to_string().into();
    }
    response
}
