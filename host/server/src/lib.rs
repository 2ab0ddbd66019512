//! OpenAI-compatible HTTP API.
//!
//! [`serve`] answers on a listener until it is told to stop; [`AppState`] holds what it serves. One file per family of
//! routes in `routes`; `params` turns JSON into checked parameters, `wire` has the shapes of the answers.
#![forbid(unsafe_code)]

mod answer;
mod error;
mod generation;
mod http;
mod metrics;
mod params;
mod recorder;
mod requests;
mod routes;
mod serve;
mod sse;
mod state;
mod tokens;
mod wire;
mod workers;

pub use error::{ApiError, ServerError};
pub use serve::{bind, serve};
pub use state::{AppState, Readiness, ServedModel};
