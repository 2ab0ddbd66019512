//! From the command line to a loaded model.

use std::io::IsTerminal;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rocmforge_engine::{EngineConfig, EngineHandle, Pooling, Runner};
use rocmforge_loader::config::{Embeddings, LoadTime, ModelEntry};
use rocmforge_loader::{CompileOptions, Config, LoadOptions, Model, Plugins};
use rocmforge_server::ModelFacts;
use rocmforge_tokenizer::{ChatTemplate, RenderProcess, Tokenizer};

use crate::args::ModelArgs;
use crate::{draft, memory, served};

/// The model that the arguments mean, with the name that clients use for it.
pub fn select(config: &Config, args: &ModelArgs) -> Result<(String, ModelEntry)> {
    let (name, mut entry) = match &args.model {
        Some(wanted) => match config.models.get(wanted) {
            Some(entry) => (wanted.clone(), entry.clone()),
            None => named_by_file(config, wanted)?,
        },
        None => only_model(config)?,
    };
    entry.architecture = args.architecture.clone().or(entry.architecture);
    entry.context_length = args.context_length.or(entry.context_length);
    entry.load = LoadTime::Start;
    Ok((name, entry))
}

fn named_by_file(config: &Config, wanted: &str) -> Result<(String, ModelEntry)> {
    let path = PathBuf::from(wanted);
    if !path.exists() {
        bail!("model '{wanted}': no such file, and no model of that name in the configuration ({})", known(config));
    }
    let name = path.file_stem().map_or_else(|| wanted.to_owned(), |s| s.to_string_lossy().into_owned());
    Ok((name, ModelEntry { path, ..ModelEntry::default() }))
}

fn only_model(config: &Config) -> Result<(String, ModelEntry)> {
    match config.models.iter().collect::<Vec<_>>()[..] {
        [(name, entry)] => Ok((name.clone(), entry.clone())),
        _ => bail!("which model? Give --model FILE, or --model NAME of one in the configuration ({})", known(config)),
    }
}

fn known(config: &Config) -> String {
    if config.models.is_empty() {
        return "it has none".into();
    }
    config.models.keys().cloned().collect::<Vec<_>>().join(", ")
}

/// Loads a model, with a progress bar on a terminal and lines in the log otherwise.
pub fn load(
    config: &Config,
    plugins: &Arc<Plugins>,
    name: &str,
    entry: &ModelEntry,
    no_fallback: bool,
    compile: CompileOptions,
) -> Result<Model> {
    load_with(plugins, name, entry, &load_options(config, entry, no_fallback, compile))
}

fn load_with(plugins: &Arc<Plugins>, name: &str, entry: &ModelEntry, options: &LoadOptions) -> Result<Model> {
    let start = Instant::now();
    tracing::info!("loading model '{name}' from {}", entry.path.display());
    let bar = ProgressBar::no_length();
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {bytes}/{total_bytes} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(name.to_owned());
    let mut logged = 0;
    let loaded = Model::load(plugins, &entry.path, options, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        let quarter = (4 * progress.done).checked_div(progress.total).unwrap_or(4);
        if quarter > logged && bar.is_hidden() {
            logged = quarter;
            tracing::info!("loading model '{name}': {} of {} MiB", progress.done >> 20, progress.total >> 20);
        }
    });
    bar.finish_and_clear();
    let model = loaded?;
    tracing::info!("model '{name}' loaded in {:.2} s", start.elapsed().as_secs_f64());
    Ok(model)
}

/// What the configuration says about loading a model.
pub fn load_options(config: &Config, entry: &ModelEntry, no_fallback: bool, compile: CompileOptions) -> LoadOptions {
    LoadOptions {
        architecture: entry.architecture.clone(),
        context_length: entry.context_length.map(Into::into),
        fallback: config.placement.fallback && !no_fallback,
        gpu_layers: config.placement.gpu_layers.clone(),
        device_loss: config.placement.device_loss,
        embeddings: false,
        cache_bytes: config.scheduler.kv_cache_mib.map(|mib| mib.get() as u64 * (1 << 20)),
        compile,
    }
}

/// Sizes to compile for, with the configuration's block size.
pub fn compile_options(config: &Config, max_tokens: usize, max_sequences: usize) -> CompileOptions {
    CompileOptions {
        max_tokens: max_tokens as u32,
        max_sequences: max_sequences as u32,
        block_size: config.scheduler.block_size.get() as u32,
    }
}

/// Sizes that the configuration asks for in serving.
pub fn served_options(config: &Config) -> CompileOptions {
    let scheduler = &config.scheduler;
    compile_options(config, scheduler.max_step_tokens.get(), scheduler.max_sequences.get())
}

/// A model with its engine running.
pub struct Running {
    /// The name that clients use.
    pub name: String,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template, or ChatML where it has none.
    pub template: Arc<ChatTemplate>,
    /// Its engine.
    pub engine: EngineHandle,
    /// Most sequences that run at once.
    pub max_sequences: usize,
    /// Tokens per block of its KV cache.
    pub block_size: usize,
    /// Source of the chat template, where it has one.
    pub template_source: Option<String>,
    /// Whether what messages spell as control tokens counts as such.
    pub control_tokens_in_messages: bool,
    /// What stands for a text in embeddings; `None`: it gives none.
    pub pooling: Option<Pooling>,
    /// What people ask of it.
    pub facts: ModelFacts,
}

/// Loads a model and starts its engine for so many sequences at once, in `room` bytes of memory.
pub fn start(
    config: &Config,
    plugins: &Arc<Plugins>,
    name: &str,
    entry: &ModelEntry,
    no_fallback: bool,
    sequences: usize,
    room: Option<u64>,
) -> Result<Running> {
    let compile = compile_options(config, config.scheduler.max_step_tokens.get(), sequences);
    let options = LoadOptions {
        embeddings: entry.embeddings != Embeddings::Off,
        ..load_options(config, entry, no_fallback, compile)
    };
    let model = load_with(plugins, name, entry, &options)?;
    let tokenizer = Tokenizer::from_metadata(model.file.metadata())?;
    let vocab = model.executable.program().info.vocab_size;
    if tokenizer.vocab_size() > vocab {
        bail!("model '{name}': the vocabulary has {} tokens, the output {vocab}", tokenizer.vocab_size());
    }
    let (template, template_source) = template(&tokenizer, entry)?;
    let made_for = model.executable.program().info.context_length;
    let context = model.context_length.min(made_for);
    if context < model.context_length {
        tracing::warn!(
            "model '{name}': context_length {} is beyond the model's {made_for}, which is used",
            model.context_length
        );
    }
    let weights = model.placement.rows.iter().map(|r| r.weight_bytes).sum();
    let need = memory::plan(&model.executable, weights, context as usize, &config.scheduler, room)?;
    let facts = served::facts(&model, need.bytes);
    let engine_config = engine_config(config, entry, need.blocks, context as usize);
    let drafter = draft::drafter(config, plugins, name, entry, &tokenizer, compile)?;
    let (name, tokenizer, template) = (name.to_owned(), Arc::new(tokenizer), Arc::new(template));
    let limits = model.executable.limits();
    let (max_sequences, block_size) = (limits.max_sequences.min(limits.max_tokens), limits.block_size);
    let pooling = pooling(entry, &model);
    let engine = EngineHandle::start_with_drafter(model.executable, drafter, tokenizer.clone(), &engine_config)?;
    let pooling = pooling.filter(|_| engine.embedding_width().is_some());
    let control_tokens_in_messages = entry.control_tokens_in_messages;
    Ok(Running {
        name,
        tokenizer,
        template,
        engine,
        max_sequences,
        block_size,
        template_source,
        control_tokens_in_messages,
        pooling,
        facts,
    })
}

fn engine_config(config: &Config, entry: &ModelEntry, cache_blocks: Vec<u64>, context: usize) -> EngineConfig {
    let defaults = EngineConfig::default();
    EngineConfig {
        cache_blocks,
        max_queue: config.scheduler.max_queue,
        max_wait: seconds(config.scheduler.max_queue_seconds),
        max_time: seconds(config.scheduler.max_request_seconds),
        max_slowdown: Some(config.scheduler.max_slowdown).filter(|&ratio| ratio != 0.0),
        max_context: Some(context),
        prefix_caching: config.scheduler.prefix_cache,
        max_guess: entry.draft_tokens.map_or(defaults.max_guess, Into::into),
        ..defaults
    }
}

/// What stands for a text: as the configuration says, else the file.
fn pooling(entry: &ModelEntry, model: &Model) -> Option<Pooling> {
    let metadata = model.file.metadata();
    let architecture = metadata.str("general.architecture").unwrap_or_default();
    match (entry.embeddings, metadata.u64(&format!("{architecture}.pooling_type"))) {
        (Embeddings::Off, _) => None,
        (Embeddings::Last, _) | (Embeddings::Auto, Some(3)) => Some(Pooling::Last),
        (Embeddings::Mean | Embeddings::Auto, _) => Some(Pooling::Mean),
    }
}

fn seconds(number: Option<NonZeroU32>) -> Option<Duration> {
    number.map(|n| Duration::from_secs(n.get().into()))
}

/// The template, and its source where it is not the built-in one.
fn template(tokenizer: &Tokenizer, entry: &ModelEntry) -> Result<(ChatTemplate, Option<String>)> {
    let source = match &entry.chat_template {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?,
        None => match tokenizer.chat_template() {
            Some(source) => source.to_owned(),
            None => return Ok((ChatTemplate::fallback(), None)),
        },
    };
    let text = |token: Option<u32>| token.map(|id| tokenizer.token_text(id).to_owned());
    let (bos, eos) = (text(tokenizer.bos()), text(tokenizer.eos()));
    // This very program, even if its file has been replaced meanwhile.
    let process = RenderProcess { program: "/proc/self/exe".into(), args: vec!["render-templates".into()] };
    Ok((ChatTemplate::apart(process, &source, bos, eos)?, Some(source)))
}
