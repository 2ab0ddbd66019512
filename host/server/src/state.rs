use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rocmforge_engine::{EngineHandle, Pooling};
use rocmforge_loader::PlacementRow;
use rocmforge_loader::config::{ServerSettings, TracingSettings};
use rocmforge_tokenizer::{ChatTemplate, Tokenizer};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::catalog::{ModelLoader, ModelOffer, Models};
use crate::error::ApiError;
use crate::grammars::LazyGrammars;
use crate::metrics::Metrics;
use crate::requests::Requests;
use crate::traces::{Trace, Traces};
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
    /// Most sequences that run at once.
    pub max_sequences: usize,
    /// Tokens per block of its KV cache.
    pub block_size: usize,
    /// Source of `template`, for those who ask; `None` where the model has none of its own.
    pub template_source: Option<String>,
    /// Whether what messages spell as control tokens counts as such.
    pub control_tokens_in_messages: bool,
    /// What stands for a text in embeddings; `None`: the model gives none.
    pub pooling: Option<Pooling>,
    /// Compiles grammars of answers.
    pub grammars: LazyGrammars,
    /// What else is told of it.
    pub facts: ModelFacts,
}

/// What nothing depends on, but people ask for.
#[derive(Clone, Debug, Default)]
pub struct ModelFacts {
    /// `general.architecture` of its file.
    pub architecture: String,
    /// Numbers in all of its weights.
    pub parameters: u64,
    /// The type of most of its weights, such as `Q4_K`.
    pub quantization: String,
    /// Size of its file, in bytes.
    pub file_bytes: u64,
    /// Bytes of memory that it takes: weights, activations and KV cache.
    pub memory: u64,
    /// Where it runs.
    pub placement: Vec<PlacementRow>,
}

/// A plugin, for those who ask what there is.
#[derive(Clone, Debug, Serialize)]
pub struct PluginFacts {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Backends with their devices, and architectures.
    pub provides: Vec<String>,
}

/// Between looks at whether a device was lost.
const LOST_INTERVAL: Duration = Duration::from_millis(250);

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

/// What the server serves. Starts as [`Readiness::Loading`], without models.
#[derive(Debug)]
pub struct AppState {
    pub(crate) settings: ServerSettings,
    pub(crate) models: Arc<Models>,
    pub(crate) metrics: Metrics,
    pub(crate) workers: Workers,
    pub(crate) requests: Requests,
    pub(crate) traces: Traces,
    pub(crate) started: Instant,
    plugins: OnceLock<Vec<PluginFacts>>,
    readiness: watch::Sender<Readiness>,
    /// Requests between their headers and the end of their answers.
    pub(crate) in_flight: watch::Sender<usize>,
    /// Set when answers that still run are to end.
    pub(crate) cancelled: watch::Sender<bool>,
}

impl AppState {
    /// A state without models.
    pub fn new(settings: ServerSettings) -> AppState {
        AppState::with_loader(settings, None)
    }

    /// A state whose models `loader` loads when they are needed.
    pub fn with_loader(settings: ServerSettings, loader: Option<Arc<dyn ModelLoader>>) -> AppState {
        let limit = settings.models_memory_mib.map(|mib| (mib.get() as u64).saturating_mul(1 << 20));
        let models = Arc::new(Models::new(loader, limit));
        let metrics = Metrics::new(models.clone());
        AppState {
            settings,
            traces: Traces::new(TracingSettings::default(), metrics.spans.clone()),
            metrics,
            models,
            workers: Workers::new(),
            requests: Requests::default(),
            started: Instant::now(),
            plugins: OnceLock::new(),
            readiness: watch::Sender::new(Readiness::Loading),
            in_flight: watch::Sender::new(0),
            cancelled: watch::Sender::new(false),
        }
    }

    /// The same with settings for traces.
    #[must_use]
    pub fn with_tracing(self, settings: TracingSettings) -> AppState {
        AppState { traces: Traces::new(settings, self.metrics.spans.clone()), ..self }
    }

    /// Adds a model, in place of one of the same name.
    pub fn add_model(&self, model: ServedModel) {
        // Its series start at 0.
        drop(self.metrics.series(&model.id));
        self.models.add(model);
    }

    /// Adds a model that is loaded when a request names it.
    pub fn offer_model(&self, offer: ModelOffer) {
        drop(self.metrics.series(&offer.id));
        self.models.offer(offer);
    }

    /// Tells which plugins there are; once.
    pub fn set_plugins(&self, plugins: Vec<PluginFacts>) {
        // A second list changes nothing: plugins are never unloaded.
        let _ = self.plugins.set(plugins);
    }

    pub(crate) fn plugins(&self) -> &[PluginFacts] {
        self.plugins.get().map_or(&[], Vec::as_slice)
    }

    /// Loads a model that was offered, however long it takes.
    ///
    /// # Errors
    /// It was not offered, or why it cannot be loaded.
    pub async fn load_model(&self, id: &str) -> Result<(), String> {
        let loaded = self.models.load(id, Duration::MAX).await;
        let why = || self.models.slot(id).and_then(|s| s.failure());
        loaded.map(drop).map_err(|e| why().map_or_else(|| e.to_string(), |why| why.to_string()))
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

    /// Completes with the name of a model whose device is lost, when nothing takes its place.
    pub async fn device_lost(&self) -> String {
        loop {
            if let Some(model) = self.models.all().iter().find(|m| m.engine.stats().lost) {
                return model.id.clone();
            }
            tokio::time::sleep(LOST_INTERVAL).await;
        }
    }

    /// Ends every engine, whatever it runs, and returns when their devices have got back what they held.
    pub async fn end_engines(&self) {
        for model in self.models.all() {
            let ended = tokio::task::spawn_blocking(move || model.engine.shutdown(Duration::ZERO)).await;
            if let Err(error) = ended {
                tracing::error!(%error, "an engine could not be ended");
            }
        }
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
    ///
    /// # Errors
    /// It does not exist, or is not in memory: see [`prepare`](Self::prepare).
    pub(crate) fn model(&self, name: Option<&str>) -> Result<Arc<ServedModel>, ApiError> {
        match self.readiness() {
            Readiness::Loading => return Err(ApiError::Loading),
            Readiness::Draining => return Err(ApiError::Draining),
            Readiness::Ready => {}
        }
        let id = match name.filter(|n| !n.is_empty()) {
            Some(name) => name.to_string(),
            None => match self.models.slots().as_slice() {
                [only] => only.id.clone(),
                [] => return Err(self.not_found("")),
                _ => return Err(ApiError::Missing("model".into())),
            },
        };
        let slot = self.models.slot(&id).ok_or_else(|| self.not_found(&id))?;
        self.models.get(&slot.id).ok_or(ApiError::ModelLoading(id))
    }

    /// Runs work that takes long and needs a model, and loads the model first if it is not in memory.
    pub(crate) async fn prepare<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl Fn(&AppState) -> Result<T, ApiError> + Send + Sync + 'static,
    ) -> Result<T, ApiError> {
        let (job, trace) = (Arc::new(job), Trace::current());
        let run = || {
            let (state, job, trace) = (self.clone(), job.clone(), trace.clone());
            self.workers.run(move || {
                let begin = std::time::Instant::now();
                let result = job(&state);
                // One that found no model has done nothing yet.
                if let Some(trace) = trace.filter(|_| !matches!(result, Err(ApiError::ModelLoading(_)))) {
                    trace.span(None, "tokenize", (begin, std::time::Instant::now()), vec![]);
                }
                result
            })
        };
        match run().await {
            Err(ApiError::ModelLoading(id)) => {
                let patience = Duration::from_secs(self.settings.model_wait_seconds);
                let begin = std::time::Instant::now();
                // Held so that it is not unloaded before the work is done.
                let _model = tokio::select! {
                    model = self.models.load(&id, patience) => model?,
                    () = self.draining() => return Err(ApiError::Draining),
                };
                if let Some(trace) = &trace {
                    trace.span(None, "load model", (begin, std::time::Instant::now()), vec![]);
                }
                run().await
            }
            result => result,
        }
    }

    pub(crate) fn not_found(&self, name: &str) -> ApiError {
        self.models.not_found(name)
    }
}
