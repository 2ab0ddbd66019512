use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rocmforge_engine::EngineError;
use rocmforge_tokenizer::TemplateError;
use serde_json::{Value, json};

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another `host` or `port` under [server]")]
    Bind {
        /// Host and port.
        address: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The listener has no address.
    #[error("the listening socket has no address: {0}")]
    Listener(std::io::Error),
    /// A setting cannot be used.
    #[error("server settings, {key}: expected {expected}, found `{found}`")]
    Setting {
        /// The key under `[server]`.
        key: &'static str,
        /// What is allowed.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// The API keys cannot be used.
    #[error("API keys, {origin}: {message}")]
    Keys {
        /// The file and line, or the environment variable.
        origin: String,
        /// What is wrong, and what to do.
        message: String,
    },
}

/// Why a request is not answered as asked. Each has a status and an error object as of the OpenAI API.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ApiError {
    /// The body is no JSON.
    #[error("the request body is not valid JSON: {0}")]
    Json(String),
    /// A parameter has a wrong type or is out of range.
    #[error("{param}: expected {expected}, found {found}")]
    Invalid {
        /// Path of the parameter, such as `messages[0].role`.
        param: String,
        /// What is allowed.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A parameter that is needed is absent.
    #[error("missing required parameter: {0}")]
    Missing(String),
    /// A parameter of the API that this server does not implement.
    #[error("{param} is not supported by this server{hint}")]
    Unsupported {
        /// Path of the parameter.
        param: String,
        /// What is, with a leading separator; or nothing.
        hint: String,
    },
    /// A parameter that the API does not have.
    #[error("unknown parameter: {0}")]
    Unknown(String),
    /// What an answer should look like cannot be enforced.
    #[error("{param} cannot be enforced: {message}")]
    Grammar {
        /// The parameter.
        param: String,
        /// Why.
        message: String,
    },
    /// The chat template refuses the conversation.
    #[error("{0}")]
    Template(String),
    /// Prompt and answer do not fit the context.
    #[error(
        "This model's maximum context length is {limit} tokens. However, you requested {} tokens ({prompt} in the {param}, {completion} in the completion). Please reduce the length of the {}.",
        prompt.saturating_add(*completion),
        reduce(.param, *completion)
    )]
    ContextLength {
        /// The parameter that the prompt comes from.
        param: &'static str,
        /// Tokens that fit.
        limit: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the answer, as asked for.
        completion: usize,
    },
    /// No model of this name.
    #[error("the model `{model}` does not exist; this server has: {known}")]
    ModelNotFound {
        /// The name asked for.
        model: String,
        /// Names that exist.
        known: String,
    },
    /// No request of this id.
    #[error("no request has the id `{0}`; ids of requests that ended long ago are forgotten")]
    RequestNotFound(String),
    /// Responses are not kept.
    #[error("the response `{0}` is not stored: this server stores none; send the whole conversation as `input`")]
    NotStored(String),
    /// Another request has asked to end this one.
    #[error("the request was cancelled")]
    Cancelled,
    /// No such route.
    #[error("unknown URL: {method} {path}")]
    NoRoute {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// The route exists, but not with this method.
    #[error("method {method} is not allowed for {path}")]
    Method {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// The body is no JSON by its own account.
    #[error("the Content-Type must be application/json, found {0}")]
    ContentType(String),
    /// The body is too large.
    #[error("the request body is larger than the limit of {limit} bytes")]
    BodyTooLarge {
        /// Most bytes.
        limit: usize,
    },
    /// The headers are too large.
    #[error("the request headers are larger than the limits of {limit} bytes and {lines} lines")]
    HeadersTooLarge {
        /// Most bytes.
        limit: usize,
        /// Most lines.
        lines: usize,
    },
    /// What was sent is no request.
    #[error("the request is not valid HTTP/1.1")]
    Http,
    /// The address is too long.
    #[error("the URL is too long")]
    UriTooLong,
    /// The body took too long, or did not arrive in full.
    #[error("the request body did not arrive: {0}")]
    Body(String),
    /// A `Host` that is not served, as a page that rebinds its name would send.
    #[error("the Host `{0}` is not allowed; add it to `allowed_hosts` under [server]")]
    Host(String),
    /// A browser's page of another origin.
    #[error("the Origin `{0}` is not allowed; add it to `cors_origins` under [server]")]
    Origin(String),
    /// The server has keys, and none was given.
    #[error("no API key was given; send one as `Authorization: Bearer KEY` or `x-api-key: KEY`")]
    NoKey,
    /// The given key is none of the server's.
    #[error("the API key is not valid")]
    WrongKey,
    /// Too much to do.
    #[error("{message}")]
    Overloaded {
        /// What there is too much of.
        message: String,
        /// After how long there is likely to be room; zero: not known.
        retry_after: Duration,
    },
    /// The time that the request may take is over.
    #[error("{0}")]
    OutOfTime(String),
    /// Models are being loaded.
    #[error("the server is loading; try again later")]
    Loading,
    /// A model is being loaded.
    #[error("the model `{0}` is loading; try again later")]
    ModelLoading(String),
    /// A model could not be loaded.
    #[error("the model `{0}` cannot be loaded; the server's log says why")]
    LoadFailed(String),
    /// The server stops.
    #[error("the server is shutting down; try again later")]
    Draining,
    /// A model's engine does not work.
    #[error("the engine of the model `{0}` fails; see the log")]
    Unhealthy(String),
    /// The server's fault.
    #[error("{0}")]
    Internal(String),
}

/// What to make shorter.
fn reduce(param: &str, completion: usize) -> String {
    if completion > 0 { format!("{param} or completion") } else { param.into() }
}

/// Seconds after which a client may try again where nothing better is known, and the most that it is told.
const RETRY_AFTER: u32 = 2;
const LONGEST_RETRY_AFTER: u32 = 120;

impl ApiError {
    pub(crate) fn invalid(param: impl Into<String>, expected: impl Display, found: impl Display) -> ApiError {
        ApiError::Invalid { param: param.into(), expected: expected.to_string(), found: found.to_string() }
    }

    /// The same about a parameter by its name in another API. `names`: here and there; the first that fits counts.
    pub(crate) fn renamed(mut self, names: &[(&str, &str)]) -> ApiError {
        if let ApiError::Invalid { param, .. }
        | ApiError::Unsupported { param, .. }
        | ApiError::Grammar { param, .. }
        | ApiError::Missing(param)
        | ApiError::Unknown(param) = &mut self
        {
            let rest = |name: &str| param.strip_prefix(name).filter(|r| r.is_empty() || r.starts_with(['.', '[']));
            if let Some(renamed) = names.iter().find_map(|(here, there)| Some(format!("{there}{}", rest(here)?))) {
                *param = renamed;
            }
        }
        self
    }

    /// HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            ApiError::ModelNotFound { .. }
            | ApiError::NoRoute { .. }
            | ApiError::RequestNotFound(_)
            | ApiError::NotStored(_) => StatusCode::NOT_FOUND,
            // Clients try again what ends with a registered status that would fit.
            ApiError::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            ApiError::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            ApiError::ContentType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ApiError::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::HeadersTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            ApiError::UriTooLong => StatusCode::URI_TOO_LONG,
            ApiError::Body(_) => StatusCode::REQUEST_TIMEOUT,
            ApiError::Host(_) | ApiError::Origin(_) => StatusCode::FORBIDDEN,
            ApiError::NoKey | ApiError::WrongKey => StatusCode::UNAUTHORIZED,
            ApiError::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            ApiError::OutOfTime(_) => StatusCode::GATEWAY_TIMEOUT,
            ApiError::Loading | ApiError::ModelLoading(_) | ApiError::Draining | ApiError::Unhealthy(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            ApiError::LoadFailed(_) | ApiError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The error's `code`.
    pub fn code(&self) -> &'static str {
        match self {
            ApiError::Json(_) => "invalid_json",
            ApiError::Invalid { .. } | ApiError::Grammar { .. } => "invalid_value",
            ApiError::Missing(_) => "missing_required_parameter",
            ApiError::Unsupported { .. } => "unsupported_parameter",
            ApiError::Unknown(_) => "unknown_parameter",
            ApiError::Template(_) => "chat_template_error",
            ApiError::ContextLength { .. } => "context_length_exceeded",
            ApiError::ModelNotFound { .. } => "model_not_found",
            ApiError::RequestNotFound(_) => "request_not_found",
            ApiError::NotStored(_) => "response_not_stored",
            ApiError::Cancelled => "request_cancelled",
            ApiError::NoRoute { .. } => "unknown_url",
            ApiError::Method { .. } => "method_not_allowed",
            ApiError::ContentType(_) => "unsupported_content_type",
            ApiError::BodyTooLarge { .. } => "request_too_large",
            ApiError::HeadersTooLarge { .. } => "headers_too_large",
            ApiError::Http => "invalid_http",
            ApiError::UriTooLong => "uri_too_long",
            ApiError::Body(_) => "request_timeout",
            ApiError::Host(_) => "host_not_allowed",
            ApiError::Origin(_) => "origin_not_allowed",
            ApiError::NoKey => "missing_api_key",
            ApiError::WrongKey => "invalid_api_key",
            ApiError::Overloaded { .. } => "queue_full",
            ApiError::OutOfTime(_) => "deadline_exceeded",
            ApiError::Loading | ApiError::ModelLoading(_) => "model_loading",
            ApiError::LoadFailed(_) => "model_load_failed",
            ApiError::Draining => "server_draining",
            ApiError::Unhealthy(_) => "engine_unhealthy",
            ApiError::Internal(_) => "internal_error",
        }
    }

    fn kind(&self) -> &'static str {
        match self.status() {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable",
            StatusCode::GATEWAY_TIMEOUT => "timeout_error",
            StatusCode::INTERNAL_SERVER_ERROR => "server_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::UNAUTHORIZED => "authentication_error",
            _ => "invalid_request_error",
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            ApiError::Invalid { param, .. } | ApiError::Unsupported { param, .. } | ApiError::Grammar { param, .. } => {
                Some(param)
            }
            ApiError::Missing(param) | ApiError::Unknown(param) => Some(param),
            ApiError::ContextLength { param, .. } => Some(param),
            ApiError::ModelNotFound { .. } => Some("model"),
            ApiError::Template(_) => Some("messages"),
            _ => None,
        }
    }

    /// Seconds after which it is worth trying again, with errors that pass.
    fn retry_after(&self) -> Option<u32> {
        match self {
            ApiError::Overloaded { retry_after, .. } if !retry_after.is_zero() => {
                let seconds = retry_after.as_secs_f64().ceil();
                Some((seconds as u32).clamp(1, LONGEST_RETRY_AFTER))
            }
            _ if matches!(self.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
                Some(RETRY_AFTER)
            }
            _ => None,
        }
    }

    /// `{"error": …}` as of the OpenAI API.
    pub fn body(&self) -> Value {
        json!({"error": {
            "message": self.to_string(),
            "type": self.kind(),
            "param": self.param(),
            "code": self.code(),
        }})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if matches!(self, ApiError::OutOfTime(_)) {
            // The client has set the limit or accepted the server's; the same again would take as long.
            response.headers_mut().insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if self.status() == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> ApiError {
        let message = error.to_string();
        match error {
            EngineError::Overloaded { retry_after, .. } | EngineError::WaitsTooLong { retry_after, .. } => {
                ApiError::Overloaded { message, retry_after }
            }
            EngineError::OutOfTime { .. } => ApiError::OutOfTime(message),
            EngineError::ContextExceeded { prompt, context: limit } => {
                ApiError::ContextLength { param: "prompt", limit, prompt, completion: 1 }
            }
            EngineError::CacheTooSmall { prompt, capacity: limit } => {
                ApiError::ContextLength { param: "prompt", limit, prompt, completion: 1 }
            }
            EngineError::Request { field, expected, found } => {
                ApiError::Invalid { param: field.into(), expected, found }
            }
            EngineError::Grammar { message } => ApiError::Grammar { param: "response_format".into(), message },
            EngineError::ShuttingDown => ApiError::Draining,
            EngineError::Config { .. }
            | EngineError::Logits { .. }
            | EngineError::NoToken { .. }
            | EngineError::Embedding { .. }
            | EngineError::Step { .. }
            | EngineError::Stalled { .. }
            | EngineError::Stopped => ApiError::Internal(message),
        }
    }
}

impl From<TemplateError> for ApiError {
    fn from(error: TemplateError) -> ApiError {
        match error {
            // What fails or exceeds a limit does so for this conversation, and again if it is tried again.
            TemplateError::Raised(_) | TemplateError::Render(_) | TemplateError::Limit { .. } => {
                ApiError::Template(error.to_string())
            }
            TemplateError::Syntax(_) | TemplateError::Process(_) => ApiError::Internal(error.to_string()),
        }
    }
}

impl ServerError {
    pub(crate) fn bind(address: impl Display, source: std::io::Error) -> ServerError {
        ServerError::Bind { address: address.to_string(), source }
    }
}

/// Where a listener is bound decides which hosts are served.
pub(crate) fn local_address(listener: &tokio::net::TcpListener) -> Result<SocketAddr, ServerError> {
    listener.local_addr().map_err(ServerError::Listener)
}

#[cfg(test)]
mod tests;
