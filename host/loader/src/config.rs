//! `plugins.toml`: which plugins to load, where models run, how they are served.
//!
//! Unknown keys and wrong values are errors that name file, line and key.

mod tracing;

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::LoaderError;

pub use tracing::TracingSettings;

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folders to look for plugins in, relative to the file; the program's own folder is always looked at last.
    pub search_paths: Vec<PathBuf>,
    /// The plugins, in order of preference. None: every plugin in the search paths.
    pub plugins: Vec<PluginEntry>,
    /// Where models run.
    pub placement: PlacementSettings,
    /// Models by the name that clients use.
    pub models: BTreeMap<String, ModelEntry>,
    /// Batching and memory.
    pub scheduler: SchedulerSettings,
    /// HTTP.
    pub server: ServerSettings,
    /// Traces of requests.
    pub tracing: TracingSettings,
    /// Log.
    pub log: LogSettings,
    /// The file that this was read from.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

/// One plugin.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginEntry {
    /// Its name: `backend-cpu` is the file `librocmforge_backend_cpu.so` in the search paths.
    pub name: Option<String>,
    /// Its file, relative to `plugins.toml`, instead of a name.
    pub path: Option<PathBuf>,
    /// Whether the host starts without it, with a warning, if it cannot be loaded.
    #[serde(default)]
    pub optional: bool,
    /// Passed to the plugin, which checks it.
    #[serde(default)]
    pub options: toml::Table,
}

impl PluginEntry {
    /// For messages.
    pub fn label(&self) -> String {
        match (&self.name, &self.path) {
            (Some(name), _) => name.clone(),
            (None, Some(path)) => path.display().to_string(),
            (None, None) => "plugin without name".into(),
        }
    }
}

/// Where models run.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementSettings {
    /// Backends in order of preference; empty: in the order of the plugins.
    pub backends: Vec<String>,
    /// Whether a model runs on a later backend when an earlier one cannot take it. `false`: that is an error.
    pub fallback: bool,
    /// How many layers go to the devices of the preferred backend; the others go to the next backend.
    pub gpu_layers: GpuLayers,
    /// What happens to a model whose device is lost or hung.
    pub device_loss: DeviceLoss,
    /// Threads that the CPU computes with; absent: what affinity and cgroup quota leave.
    pub threads: Option<NonZeroU32>,
}

impl Default for PlacementSettings {
    fn default() -> Self {
        PlacementSettings {
            backends: vec![],
            fallback: true,
            gpu_layers: GpuLayers::Auto,
            device_loss: DeviceLoss::default(),
            threads: None,
        }
    }
}

/// What happens when a device is lost or hung, once the requests of its step have ended with an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceLoss {
    /// The model goes on with the backends that are left.
    #[default]
    Continue,
    /// A server takes no further request and ends with a failure, for whoever starts it again.
    Exit,
}

/// How many layers of a model go to the devices of the preferred backend, counted from the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GpuLayers {
    /// As many as there is room for.
    #[default]
    Auto,
    /// So many on each device, the first device of the backend first.
    Count(Vec<u32>),
}

impl std::str::FromStr for GpuLayers {
    type Err = String;

    /// `auto`, a number, or numbers with commas in between.
    fn from_str(text: &str) -> Result<GpuLayers, String> {
        if text == "auto" {
            return Ok(GpuLayers::Auto);
        }
        let counts: Result<Vec<u32>, _> = text.split(',').map(|n| n.trim().parse()).collect();
        counts.map(GpuLayers::Count).map_err(|_| {
            format!("expected `auto`, a number of layers, or one number per device as in `16,16`, found `{text}`")
        })
    }
}

impl<'de> Deserialize<'de> for GpuLayers {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<GpuLayers, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected `auto`, a number of layers, or a list of one number per device")]
        enum Form {
            Text(String),
            Number(u32),
            List(Vec<u32>),
        }
        match Form::deserialize(deserializer)? {
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
            Form::Number(count) => Ok(GpuLayers::Count(vec![count])),
            Form::List(counts) => Ok(GpuLayers::Count(counts)),
        }
    }
}

/// One model.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// The GGUF file, relative to `plugins.toml`; the first part of a split one.
    pub path: PathBuf,
    /// The architecture plugin to use, where several would take the file.
    pub architecture: Option<String>,
    /// Longest context in tokens; absent: the model's own.
    pub context_length: Option<NonZeroU32>,
    /// File with a chat template to use instead of the model's, relative to `plugins.toml`.
    pub chat_template: Option<PathBuf>,
    /// Whether what messages spell as control tokens, such as an end of turn, counts as such.
    #[serde(default)]
    pub control_tokens_in_messages: bool,
    /// A smaller model of the same vocabulary that guesses what comes next, relative to `plugins.toml`.
    pub draft_model: Option<PathBuf>,
    /// Guess instead that what followed the latest few tokens before follows them again.
    #[serde(default)]
    pub prompt_lookup: bool,
    /// Most tokens to guess in a row; absent: 8.
    pub draft_tokens: Option<NonZeroUsize>,
    /// What stands for a text in embeddings.
    #[serde(default)]
    pub embeddings: Embeddings,
    /// When the server loads it.
    #[serde(default)]
    pub load: LoadTime,
}

/// What stands for a text in embeddings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Embeddings {
    /// As the file says; the mean where it says nothing.
    #[default]
    Auto,
    /// The mean of the states of all tokens.
    Mean,
    /// The states of the last token.
    Last,
    /// The model gives none.
    Off,
}

/// When the server loads a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadTime {
    /// Before it is ready.
    #[default]
    Start,
    /// When a request names it.
    Use,
}

/// Batching and memory.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerSettings {
    /// Most sequences that are decoded together.
    pub max_sequences: NonZeroUsize,
    /// Most tokens, of prompts and answers together, in one step.
    pub max_step_tokens: NonZeroUsize,
    /// Tokens per block of KV cache.
    pub block_size: NonZeroUsize,
    /// Memory for the KV cache, MiB; absent: enough for `max_sequences` full contexts, up to a quarter of free memory.
    pub kv_cache_mib: Option<NonZeroUsize>,
    /// Most requests that wait; more are refused as overload.
    pub max_queue: usize,
    /// Seconds that a request may wait before it runs; longer ones are refused as overload. Absent: no limit.
    pub max_queue_seconds: Option<NonZeroU32>,
    /// Seconds that a request may take, waiting included; requests can set shorter ones. Absent: no limit.
    pub max_request_seconds: Option<NonZeroU32>,
    /// How many times longer than usual running streams wait for a token while prompts are computed, at most; a number
    /// above 1, or 0 for no limit.
    pub max_slowdown: f64,
    /// Whether blocks of finished requests are kept for prompts that begin alike.
    pub prefix_cache: bool,
}

impl Default for SchedulerSettings {
    fn default() -> Self {
        let size = |n| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        SchedulerSettings {
            max_sequences: size(16),
            max_step_tokens: size(512),
            block_size: size(16),
            kv_cache_mib: None,
            max_queue: 256,
            max_queue_seconds: None,
            max_request_seconds: None,
            max_slowdown: 2.0,
            prefix_cache: true,
        }
    }
}

/// HTTP.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Address to listen on.
    pub host: String,
    /// Port to listen on; 0: any free one.
    pub port: u16,
    /// `Host` header values that are accepted besides loopback names; empty while listening beyond loopback: any.
    pub allowed_hosts: Vec<String>,
    /// Origins that browsers may call from; empty: none but the server's own.
    pub cors_origins: Vec<String>,
    /// File of the API keys that requests must have one of, relative to `plugins.toml`; absent: only those of the
    /// environment variable `ROCMFORGE_API_KEYS`, and without that none is needed.
    pub api_keys_file: Option<PathBuf>,
    /// File of the certificate chain in PEM, relative to `plugins.toml`; absent: no TLS.
    pub tls_certificate: Option<PathBuf>,
    /// File of its private key in PEM, relative to `plugins.toml`.
    pub tls_key: Option<PathBuf>,
    /// Most connections at a time; more wait to be accepted.
    pub max_connections: NonZeroUsize,
    /// Most connections of one address at a time; more are closed. Absent: half of `max_connections`.
    pub max_connections_per_address: Option<NonZeroUsize>,
    /// Largest request body, MiB.
    pub max_body_mib: NonZeroUsize,
    /// Seconds that running requests get to finish after a signal to stop.
    pub shutdown_seconds: u64,
    /// Most tokens that a request without a limit of its own gets; absent: the rest of the context.
    pub default_max_tokens: Option<NonZeroU32>,
    /// Memory for all models together, MiB: where the next one would not fit, the least recently used are unloaded.
    /// Absent: models stay loaded.
    pub models_memory_mib: Option<NonZeroUsize>,
    /// Seconds that a request waits for a model that is being loaded.
    pub model_wait_seconds: u64,
}

impl Default for ServerSettings {
    fn default() -> Self {
        ServerSettings {
            host: "127.0.0.1".into(),
            port: 8080,
            allowed_hosts: vec![],
            cors_origins: vec![],
            api_keys_file: None,
            tls_certificate: None,
            tls_key: None,
            max_connections: NonZeroUsize::new(4096).unwrap_or(NonZeroUsize::MIN),
            max_connections_per_address: None,
            max_body_mib: NonZeroUsize::new(32).unwrap_or(NonZeroUsize::MIN),
            shutdown_seconds: 30,
            default_max_tokens: None,
            models_memory_mib: None,
            model_wait_seconds: 60,
        }
    }
}

/// Log.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// A filter as of tracing's `EnvFilter`, e.g. `info` or `rocmforge=debug`; absent: `info`.
    pub filter: Option<String>,
    /// Lines for people or for machines.
    pub format: LogFormat,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

impl Config {
    /// Reads a file. Relative paths in it are made relative to its folder.
    ///
    /// # Errors
    /// Unreadable, malformed, an unknown key or a wrong value: with file, line and key.
    pub fn read(file: &Path) -> Result<Config, LoaderError> {
        let text = std::fs::read_to_string(file).map_err(|e| LoaderError::Config {
            file: file.to_owned(),
            line: None,
            message: format!("cannot be read: {e}"),
        })?;
        Config::parse(&text, file)
    }

    /// As [`read`](Config::read), from text.
    ///
    /// # Errors
    /// As [`read`](Config::read).
    pub fn parse(text: &str, file: &Path) -> Result<Config, LoaderError> {
        let mut config: Config = toml::from_str(text).map_err(|e| located(text, file, &e))?;
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        let resolve = |p: &mut PathBuf| *p = folder.join(&*p);
        config.search_paths.iter_mut().for_each(resolve);
        for (i, plugin) in config.plugins.iter_mut().enumerate() {
            if plugin.name.is_some() == plugin.path.is_some() {
                return Err(LoaderError::Config {
                    file: file.to_owned(),
                    line: nth_table_line(text, "[[plugins]]", i),
                    message: "plugins: expected either `name` or `path`".into(),
                });
            }
            plugin.path.iter_mut().for_each(resolve);
        }
        for model in config.models.values_mut() {
            resolve(&mut model.path);
            model.chat_template.iter_mut().for_each(resolve);
            model.draft_model.iter_mut().for_each(resolve);
        }
        let ServerSettings { api_keys_file, tls_certificate, tls_key, .. } = &mut config.server;
        [api_keys_file, tls_certificate, tls_key, &mut config.tracing.otlp_certificate]
            .into_iter()
            .flatten()
            .for_each(resolve);
        config.file = Some(file.to_owned());
        Ok(config)
    }
}

/// The line, and the key if the message does not name it already.
fn located(text: &str, file: &Path, error: &toml::de::Error) -> LoaderError {
    let span = error.span();
    let line = span.as_ref().map(|s| text[..s.start.min(text.len())].matches('\n').count() + 1);
    let source = line.and_then(|n| text.lines().nth(n - 1)).unwrap_or_default();
    let key = source.split_once('=').map(|(key, _)| key.trim()).filter(|k| !k.is_empty());
    let message = error.message();
    let message = match key {
        Some(key) if !message.contains(&format!("`{key}`")) => format!("key `{key}`: {message}"),
        _ => message.to_owned(),
    };
    LoaderError::Config { file: file.to_owned(), line, message }
}

fn nth_table_line(text: &str, header: &str, n: usize) -> Option<usize> {
    let plain = |line: &str| line.split('#').next().unwrap_or_default().split_whitespace().collect::<String>();
    text.lines().enumerate().filter(|(_, l)| plain(l) == header).nth(n).map(|(i, _)| i + 1)
}
