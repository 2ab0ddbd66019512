//! The models of a server: what is known of them before they are loaded, and how they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rocmforge_gguf::GgufFile;
use rocmforge_loader::config::{LoadTime, ModelEntry};
use rocmforge_loader::{Config, LibraryInfo, Model, Plugins};
use rocmforge_server::{LazyGrammars, ModelFacts, ModelLoader, ModelOffer, PluginFacts, ServedModel};

use crate::models::{self, load_options, served_options};

/// Loads the models that the server was started with.
pub struct Loader {
    config: Config,
    plugins: Arc<Plugins>,
    no_fallback: bool,
    models: BTreeMap<String, ModelEntry>,
}

impl Loader {
    pub fn new(
        config: &Config,
        plugins: Arc<Plugins>,
        no_fallback: bool,
        models: BTreeMap<String, ModelEntry>,
    ) -> Loader {
        Loader { config: config.clone(), plugins, no_fallback, models }
    }

    /// The plugins, for those who ask what there is.
    pub fn plugins(&self) -> Vec<PluginFacts> {
        let devices = |name: &str| {
            let backend = self.plugins.backends().iter().find(|b| b.name() == name);
            let devices = backend.and_then(|b| b.devices().ok()).unwrap_or_default();
            devices.into_iter().map(|d| format!("{} {}", d.id, d.description)).collect::<Vec<_>>().join("; ")
        };
        let facts = |info: &LibraryInfo| {
            let backends = info.backends.iter().map(|name| format!("backend {name} ({})", devices(name)));
            let architectures =
                info.architectures.iter().map(|a| format!("architecture {} for {}", a.name, a.claims.join(", ")));
            let provides = backends.chain(architectures).collect();
            PluginFacts { name: info.name.clone(), version: info.version.clone(), provides }
        };
        self.plugins.libraries().iter().map(facts).collect()
    }

    /// Names of the models that are to be loaded before the server is ready.
    pub fn at_start(&self) -> Vec<String> {
        let at_start = self.models.iter().filter(|(_, entry)| entry.load == LoadTime::Start);
        at_start.map(|(name, _)| name.clone()).collect()
    }

    /// What can be said of every model without loading it. Those that are to be loaded at the start say it then.
    ///
    /// # Errors
    /// A file that cannot be read, or that no architecture takes: better now than at the first request.
    pub fn offers(&self) -> Result<Vec<ModelOffer>> {
        self.models.iter().map(|(name, entry)| self.offer(name, entry)).collect()
    }

    fn offer(&self, name: &str, entry: &ModelEntry) -> Result<ModelOffer> {
        let offer = |context_length, bytes| ModelOffer { id: name.to_owned(), created: now(), context_length, bytes };
        if entry.load == LoadTime::Start {
            return Ok(offer(0, 0));
        }
        let file = GgufFile::open(&entry.path)?;
        let options = load_options(&self.config, entry, self.no_fallback, served_options(&self.config));
        let program = Model::program(&self.plugins, &file, &options).with_context(|| format!("model '{name}'"))?;
        let made_for = program.info.context_length;
        let context = options.context_length.unwrap_or(made_for).min(made_for);
        Ok(offer(context as usize, file.total_bytes()))
    }
}

impl ModelLoader for Loader {
    fn load(&self, id: &str, room: Option<u64>) -> Result<ServedModel, String> {
        let entry = self.models.get(id).ok_or("it is not in the configuration")?;
        let sequences = self.config.scheduler.max_sequences.get();
        let running = models::start(&self.config, &self.plugins, id, entry, self.no_fallback, sequences, room);
        // With every cause, as the program itself reports errors.
        let running = running.map_err(|e| format!("{e:#}"))?;
        Ok(ServedModel {
            id: running.name,
            created: now(),
            tokenizer: running.tokenizer,
            template: running.template,
            context_length: running.engine.context_length(),
            engine: running.engine,
            max_sequences: running.max_sequences,
            block_size: running.block_size,
            template_source: running.template_source,
            control_tokens_in_messages: running.control_tokens_in_messages,
            pooling: running.pooling,
            grammars: LazyGrammars::default(),
            facts: running.facts,
        })
    }
}

/// What people ask of a loaded model.
pub fn facts(model: &Model, memory: u64) -> ModelFacts {
    let mut bytes_of = BTreeMap::<String, u64>::new();
    for tensor in model.file.tensors() {
        *bytes_of.entry(tensor.dtype.to_string()).or_default() += tensor.len as u64;
    }
    let numbers = |dims: &[u64]| dims.iter().fold(1u64, |n, &d| n.saturating_mul(d));
    ModelFacts {
        architecture: model.architecture.clone(),
        parameters: model.file.tensors().iter().map(|t| numbers(&t.dims)).fold(0, u64::saturating_add),
        quantization: bytes_of.into_iter().max_by_key(|(_, bytes)| *bytes).map_or_else(String::new, |(name, _)| name),
        file_bytes: model.file.total_bytes(),
        memory,
        placement: model.placement.rows.clone(),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs())
}
