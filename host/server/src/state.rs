use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use rocmforge_engine::EngineHandle;
use rocmforge_loader::config::ServerSettings;
use rocmforge_tokenizer::{ChatTemplate, Tokenizer};
use tokio::sync::watch;

use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::workers::Workers;

/// A model that requests can name.
pub struct ServedModel {
    /// The name.
    pub id: String,
    /// When it was made available: seconds since 1970.
    pub created: u64,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// How it writes conversations.
    pub template: Arc<ChatTemplate>,
    /// Runs it.
    pub engine: EngineHandle,
    /// Longest prompt and answer together, in tokens.
    pub context_length: usize,
}

/// Whether requests are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet: models are being loaded.
    Loading,
    /// Yes.
    Ready,
    /// Not any more: the server stops.
    Draining,
}

/// The models by name. Reading never waits for more than an insertion.
#[derive(Default)]
pub(crate) struct Models(RwLock<BTreeMap<String, Arc<ServedModel>>>);

impl Models {
    pub(crate) fn all(&self) -> Vec<Arc<ServedModel>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<ServedModel>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.all().iter().map(|m| &m.id)).finish()
    }
}

/// What the server serves. Starts as [`Readiness::Loading`], without models.
#[derive(Debug)]
pub struct AppState {
    pub(crate) settings: ServerSettings,
    pub(crate) models: Arc<Models>,
    pub(crate) metrics: Metrics,
    pub(crate) workers: Workers,
    readiness: watch::Sender<Readiness>,
    /// Requests between their headers and the end of their answers.
    pub(crate) in_flight: watch::Sender<usize>,
    /// Set when answers that still run are to end.
    pub(crate) cancelled: watch::Sender<bool>,
}

impl AppState {
    /// A state without models.
    pub fn new(settings: ServerSettings) -> AppState {
        let models: Arc<Models> = Arc::default();
        AppState {
            settings,
            metrics: Metrics::new(models.clone()),
            models,
            workers: Workers::new(),
            readiness: watch::Sender::new(Readiness::Loading),
            in_flight: watch::Sender::new(0),
            cancelled: watch::Sender::new(false),
        }
    }

    /// Adds a model, in place of one of the same name.
    pub fn add_model(&self, model: ServedModel) {
        self.metrics.add_model(&model.id);
        let mut models = self.models.0.write().unwrap_or_else(PoisonError::into_inner);
        models.insert(model.id.clone(), Arc::new(model));
    }

    /// Serves requests from now on, unless the server stops already.
    pub fn set_ready(&self) {
        self.readiness.send_if_modified(|r| {
            let change = *r == Readiness::Loading;
            *r = if change { Readiness::Ready } else { *r };
            change
        });
    }

    /// Takes no more requests.
    pub fn start_draining(&self) {
        self.readiness.send_replace(Readiness::Draining);
    }

    /// Whether requests are served.
    pub fn readiness(&self) -> Readiness {
        *self.readiness.borrow()
    }

    /// Completes when the server takes no more requests.
    pub(crate) async fn draining(&self) {
        // The sender lives as long as the state.
        let _ = self.readiness.subscribe().wait_for(|r| *r == Readiness::Draining).await.map(drop);
    }

    /// The model for a request that asks for `name`.
    pub(crate) fn model(&self, name: Option<&str>) -> Result<Arc<ServedModel>, ApiError> {
        match self.readiness() {
            Readiness::Loading => return Err(ApiError::Loading),
            Readiness::Draining => return Err(ApiError::Draining),
            Readiness::Ready => {}
        }
        match name.filter(|n| !n.is_empty()) {
            Some(name) => self.models.get(name).ok_or_else(|| self.not_found(name)),
            None => match self.models.all().as_slice() {
                [only] => Ok(only.clone()),
                [] => Err(self.not_found("")),
                _ => Err(ApiError::Missing("model".into())),
            },
        }
    }

    pub(crate) fn not_found(&self, name: &str) -> ApiError {
        let ids: Vec<String> = self.models.all().iter().map(|m| m.id.clone()).collect();
        let known = if ids.is_empty() { "no models".into() } else { ids.join(", ") };
        ApiError::ModelNotFound { model: name.into(), known }
    }
}
