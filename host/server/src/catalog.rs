//! The models by name, and which of them are in memory: loaded at the start or when a request names them, and unloaded
//! again, the least recently used first, where another one needs the memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::ApiError;
use crate::state::ServedModel;

/// A model that could not be loaded is not tried again for so long, so that requests do not load it again and again.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// Between looks at whether a model that is to be unloaded is still used.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// No request runs longer: a drain without an end of its own.
const UNLIMITED: Duration = Duration::from_secs(u32::MAX as u64);

/// Loads models when they are needed.
pub trait ModelLoader: Send + Sync {
    /// Loads a model and starts its engine; blocks for that time. `room`: most bytes of memory that it may take.
    ///
    /// # Errors
    /// Why it cannot be loaded, for the log.
    fn load(&self, id: &str, room: Option<u64>) -> Result<ServedModel, String>;
}

/// What is known of a model before it is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelOffer {
    /// The name.
    pub id: String,
    /// When it was made available: seconds since 1970.
    pub created: u64,
    /// Longest prompt and answer together, in tokens.
    pub context_length: usize,
    /// Bytes of memory that it takes at least.
    pub bytes: u64,
}

/// Where a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelState {
    /// Not in memory; a request loads it.
    Unloaded,
    /// On its way into memory.
    Loading,
    /// In memory.
    Loaded,
    /// On its way out of memory, when the requests that use it are over.
    Unloading,
    /// It could not be loaded; the log says why.
    Failed,
}

#[derive(Clone)]
enum Place {
    Unloaded,
    Loading,
    Loaded(Arc<ServedModel>),
    Unloading,
    Failed { since: Instant, why: Arc<str> },
}

impl Place {
    fn state(&self) -> ModelState {
        match self {
            Place::Unloaded => ModelState::Unloaded,
            Place::Loading => ModelState::Loading,
            Place::Loaded(_) => ModelState::Loaded,
            Place::Unloading => ModelState::Unloading,
            Place::Failed { .. } => ModelState::Failed,
        }
    }
}

/// A name, and where its model is.
pub(crate) struct Slot {
    pub(crate) id: String,
    pub(crate) created: u64,
    context_length: AtomicU64,
    /// As offered, and as measured once it was loaded.
    bytes: AtomicU64,
    /// The tick of its latest use.
    used: AtomicU64,
    place: watch::Sender<Place>,
}

impl Slot {
    fn new(offer: ModelOffer, place: Place) -> Slot {
        Slot {
            id: offer.id,
            created: offer.created,
            context_length: AtomicU64::new(offer.context_length as u64),
            bytes: AtomicU64::new(offer.bytes),
            used: AtomicU64::new(0),
            place: watch::Sender::new(place),
        }
    }

    pub(crate) fn state(&self) -> ModelState {
        self.place.borrow().state()
    }

    pub(crate) fn context_length(&self) -> u64 {
        self.context_length.load(Ordering::Relaxed)
    }

    /// Bytes of memory that it takes, or would take.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn loaded(&self) -> Option<Arc<ServedModel>> {
        match &*self.place.borrow() {
            Place::Loaded(model) => Some(model.clone()),
            _ => None,
        }
    }

    /// Why it could not be loaded.
    pub(crate) fn failure(&self) -> Option<Arc<str>> {
        match &*self.place.borrow() {
            Place::Failed { why, .. } => Some(why.clone()),
            _ => None,
        }
    }

    /// Whether requests use it; whoever holds the model does.
    fn is_idle(&self) -> bool {
        matches!(&*self.place.borrow(), Place::Loaded(model) if Arc::strong_count(model) == 1)
    }

    fn put(&self, model: ServedModel) {
        self.context_length.store(model.context_length as u64, Ordering::Relaxed);
        self.bytes.fetch_max(model.facts.memory, Ordering::Relaxed);
        self.place.send_replace(Place::Loaded(Arc::new(model)));
    }

    /// Waits until no request uses it, and ends its engine. Requests that name it meanwhile wait for it to come back.
    async fn unload(&self) {
        let mut taken = None;
        self.place.send_if_modified(|place| match std::mem::replace(place, Place::Unloading) {
            Place::Loaded(model) => {
                taken = Some(model);
                true
            }
            other => {
                *place = other;
                false
            }
        });
        let Some(model) = taken else { return };
        tracing::info!(model = self.id, "unloading");
        while Arc::strong_count(&model) > 1 {
            sleep(DRAIN_LOOK).await;
        }
        let ended = tokio::task::spawn_blocking(move || model.engine.shutdown(UNLIMITED)).await;
        if let Err(error) = ended {
            tracing::error!(model = self.id, %error, "the engine did not end well");
        }
        self.place.send_replace(Place::Unloaded);
        tracing::info!(model = self.id, "unloaded");
    }
}

/// The models by name. Reading never waits for more than an insertion.
#[derive(Default)]
pub(crate) struct Models {
    slots: RwLock<BTreeMap<String, Arc<Slot>>>,
    loader: Option<Arc<dyn ModelLoader>>,
    /// Most bytes of memory for all of them.
    limit: Option<u64>,
    /// Held while one is loaded, so that two do not take the same memory.
    turn: Mutex<()>,
    tick: AtomicU64,
}

impl Models {
    pub(crate) fn new(loader: Option<Arc<dyn ModelLoader>>, limit: Option<u64>) -> Models {
        Models { loader, limit, ..Models::default() }
    }

    pub(crate) fn slots(&self) -> Vec<Arc<Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn slot(&self, id: &str) -> Option<Arc<Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Those in memory.
    pub(crate) fn all(&self) -> Vec<Arc<ServedModel>> {
        self.slots().iter().filter_map(|s| s.loaded()).collect()
    }

    /// The model, if it is in memory.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<ServedModel>> {
        let slot = self.slot(id)?;
        slot.used.store(self.tick.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        slot.loaded()
    }

    /// Adds a model that is loaded when it is needed.
    pub(crate) fn offer(&self, offer: ModelOffer) {
        self.insert(Slot::new(offer, Place::Unloaded));
    }

    /// Adds a model that is loaded.
    pub(crate) fn add(&self, model: ServedModel) {
        let (id, created, context_length) = (model.id.clone(), model.created, model.context_length);
        let slot = Slot::new(ModelOffer { id, created, context_length, bytes: 0 }, Place::Unloaded);
        slot.put(model);
        self.insert(slot);
    }

    fn insert(&self, slot: Slot) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.insert(slot.id.clone(), Arc::new(slot));
    }

    /// The model, loaded if need be.
    ///
    /// # Errors
    /// It does not exist, cannot be loaded, or is still not there after `patience`.
    pub(crate) async fn load(self: &Arc<Self>, id: &str, patience: Duration) -> Result<Arc<ServedModel>, ApiError> {
        let slot = self.slot(id).ok_or_else(|| self.not_found(id))?;
        let mut places = slot.place.subscribe();
        let now = Instant::now();
        let deadline = now.checked_add(patience).unwrap_or(now + UNLIMITED);
        loop {
            if let Some(model) = self.get(id) {
                return Ok(model);
            }
            let start = |place: &mut Place| {
                let start = match place {
                    Place::Unloaded => true,
                    Place::Failed { since, .. } => since.elapsed() >= RETRY_PAUSE,
                    _ => false,
                };
                if start {
                    *place = Place::Loading;
                }
                start
            };
            if slot.place.send_if_modified(start) {
                // A task of its own: a client that goes away does not stop what others wait for.
                tokio::spawn(self.clone().bring(slot.clone()));
            }
            let state = places.borrow_and_update().state();
            match state {
                ModelState::Failed => return Err(ApiError::LoadFailed(id.into())),
                ModelState::Loaded | ModelState::Unloaded => {}
                ModelState::Loading | ModelState::Unloading => match timeout_at(deadline, places.changed()).await {
                    Ok(_) => {}
                    Err(_) => return Err(ApiError::ModelLoading(id.into())),
                },
            }
        }
    }

    /// Loads the model of a slot whose place is `Loading`.
    async fn bring(self: Arc<Self>, slot: Arc<Slot>) {
        let turn = self.turn.lock().await;
        let place = match self.try_bring(&slot).await {
            Ok(model) => {
                slot.put(model);
                self.make_room(&slot).await;
                return drop(turn);
            }
            Err(error) => {
                tracing::error!(model = slot.id, error, "cannot load a model");
                Place::Failed { since: Instant::now(), why: error.into() }
            }
        };
        slot.place.send_replace(place);
    }

    async fn try_bring(&self, slot: &Arc<Slot>) -> Result<ServedModel, String> {
        let loader = self.loader.clone().ok_or("there is nothing to load it with")?;
        let bytes = slot.bytes();
        if let Some(limit) = self.limit.filter(|limit| bytes > *limit) {
            let (needed, limit) = (bytes.div_ceil(1 << 20), limit >> 20);
            return Err(format!(
                "it needs {needed} MiB of memory, the limit for all models is {limit} MiB; raise models_memory_mib under [server]"
            ));
        }
        let room = self.make_room(slot).await;
        let id = slot.id.clone();
        let loaded = tokio::task::spawn_blocking(move || loader.load(&id, room)).await;
        loaded.map_err(|e| format!("loading has panicked: {e}"))?
    }

    /// Unloads models until `slot` fits, and returns the bytes that are left for it.
    async fn make_room(&self, slot: &Arc<Slot>) -> Option<u64> {
        let limit = self.limit?;
        loop {
            let others: Vec<Arc<Slot>> =
                self.slots().into_iter().filter(|s| !Arc::ptr_eq(s, slot) && s.state() == ModelState::Loaded).collect();
            let taken = others.iter().map(|s| s.bytes()).fold(0, u64::saturating_add);
            let room = limit.saturating_sub(taken);
            // An idle one first, since a busy one has to be waited for.
            let victim = others.iter().min_by_key(|s| (!s.is_idle(), s.used.load(Ordering::Relaxed)));
            match victim {
                Some(victim) if slot.bytes() > room => victim.unload().await,
                _ => return Some(room),
            }
        }
    }

    /// Unloads a model, when no request uses it any more. False if it was not loaded, or could not be loaded again.
    ///
    /// # Errors
    /// It does not exist.
    pub(crate) async fn unload(&self, id: &str) -> Result<bool, ApiError> {
        let slot = self.slot(id).ok_or_else(|| self.not_found(id))?;
        let loaded = slot.state() == ModelState::Loaded && self.loader.is_some();
        if loaded {
            slot.unload().await;
        }
        Ok(loaded)
    }

    pub(crate) fn not_found(&self, name: &str) -> ApiError {
        let ids: Vec<String> = self.slots().iter().map(|s| s.id.clone()).collect();
        let known = if ids.is_empty() { "no models".into() } else { ids.join(", ") };
        ApiError::ModelNotFound { model: name.into(), known }
    }
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.slots().iter().map(|s| (s.id.clone(), s.state()))).finish()
    }
}
