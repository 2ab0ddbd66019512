//! OpenAI-compatible HTTP API.
//!
//! [`serve`] answers on a listener until it is told to stop; [`AppState`] holds what it serves. One file per family of
//! routes in `routes`; `params` turns JSON into checked parameters, `wire` has the shapes of the answers.
#![forbid(unsafe_code)]

mod answer;
mod base64;
mod catalog;
mod error;
mod generation;
mod grammars;
mod http;
mod metrics;
mod openapi;
mod output;
mod page;
mod params;
mod recorder;
mod requests;
mod routes;
mod serve;
mod sse;
mod state;
mod tokens;
mod traces;
mod wire;
mod workers;

pub use catalog::{ModelLoader, ModelOffer, ModelState};
pub use error::{ApiError, ServerError};
pub use grammars::LazyGrammars;
pub use serve::{bind, serve};
pub use state::{AppState, ModelFacts, PluginFacts, Readiness, ServedModel};
