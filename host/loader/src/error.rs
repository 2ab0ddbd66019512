use std::path::PathBuf;

use rocmforge_abi::{AbiError, Status, status};

/// The kind of failure that a plugin reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PluginErrorKind {
    /// A model file, option or program is wrong.
    Invalid,
    /// Correct, but not supported there.
    Unsupported,
    /// Not enough memory.
    OutOfMemory,
    /// The device is missing, lost or hung.
    Device,
    /// The plugin panicked.
    Panic,
    /// Anything else.
    Other,
}

/// Everything that can go wrong between `plugins.toml` and a running model.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LoaderError {
    #[error("{file}{line}: {message}", line = .line.map(|l| format!(":{l}")).unwrap_or_default(), file = .file.display())]
    Config { file: PathBuf, line: Option<usize>, message: String },
    #[error("plugin {}: {source}", .file.display())]
    Abi { file: PathBuf, source: AbiError },
    #[error("plugin {}: {message}", .file.display())]
    Library { file: PathBuf, message: String },
    #[error("plugin '{name}': not found; looked for {}", .tried.join(", "))]
    NotFound { name: String, tried: Vec<String> },
    #[error("no backend plugin is loaded, so nothing can compute{}; hint: {hint}", why(.skipped))]
    NoBackend { skipped: Vec<String>, hint: String },
    #[error("{plugin}: {call}: {message}")]
    Plugin { plugin: String, call: &'static str, kind: PluginErrorKind, message: String },
    #[error("model {}: {message}", .file.display())]
    Model { file: PathBuf, message: String },
    #[error(transparent)]
    Gguf(#[from] rocmforge_gguf::GgufError),
    #[error("program from architecture '{architecture}': {source}")]
    Program { architecture: String, source: rocmforge_program::ProgramError },
    #[error("placement: {0}")]
    Placement(String),
}

fn why(skipped: &[String]) -> String {
    if skipped.is_empty() { String::new() } else { format!(" ({})", skipped.join("; ")) }
}

impl LoaderError {
    /// Turns a status into a result.
    pub(crate) fn check(plugin: &str, call: &'static str, result: Status) -> Result<(), LoaderError> {
        let kind = match result.code {
            status::OK => return Ok(()),
            status::INVALID => PluginErrorKind::Invalid,
            status::UNSUPPORTED => PluginErrorKind::Unsupported,
            status::OUT_OF_MEMORY => PluginErrorKind::OutOfMemory,
            status::DEVICE => PluginErrorKind::Device,
            status::PANIC => PluginErrorKind::Panic,
            _ => PluginErrorKind::Other,
        };
        // A panic message has several lines where an assertion failed; an error is one.
        let lines: Vec<&str> = result.message.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let message = if lines.is_empty() { "no reason given".into() } else { lines.join(" | ") };
        Err(LoaderError::Plugin { plugin: plugin.to_owned(), call, kind, message })
    }

    /// What the plugin said, if a plugin reported the error.
    pub(crate) fn plugin_message(&self) -> Option<&str> {
        match self {
            LoaderError::Plugin { message, .. } => Some(message),
            _ => None,
        }
    }

    /// The kind, if a plugin reported the error.
    pub fn plugin_kind(&self) -> Option<PluginErrorKind> {
        match self {
            LoaderError::Plugin { kind, .. } => Some(*kind),
            _ => None,
        }
    }
}
