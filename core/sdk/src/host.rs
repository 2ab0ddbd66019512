//! What a plugin can ask of the host: logging and the number of threads.

use std::sync::OnceLock;

use rocmforge_abi::{Code, HostTableRef, RStr, level};

static HOST: OnceLock<(HostTableRef, &'static str)> = OnceLock::new();

/// Remembers the host's table; the first call wins.
pub(crate) fn install(table: HostTableRef, plugin: &'static str) {
    let _ = HOST.set((table, plugin));
}

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// Worth knowing.
    Info,
    /// For whoever looks for a fault.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    fn code(self) -> Code {
        match self {
            Level::Error => level::ERROR,
            Level::Warn => level::WARN,
            Level::Info => level::INFO,
            Level::Debug => level::DEBUG,
            Level::Trace => level::TRACE,
        }
    }
}

/// Whether the host records this level for this plugin.
pub fn log_enabled(level: Level) -> bool {
    HOST.get().is_some_and(|(host, plugin)| (host.log_enabled())(level.code(), RStr::from_str(plugin)))
}

/// Writes a line to the host's log, under the plugin's name.
pub fn log(level: Level, message: &str) {
    if let Some((host, plugin)) = HOST.get() {
        (host.log())(level.code(), RStr::from_str(plugin), RStr::from_str(message));
    }
}

/// Threads to compute with; outside a host (in a unit test), the processor's.
pub fn compute_threads() -> usize {
    match HOST.get() {
        Some((host, _)) => (host.compute_threads())().max(1) as usize,
        None => std::thread::available_parallelism().map_or(1, |n| n.get()),
    }
}

/// Logs a formatted line at a [`Level`](crate::host::Level), e.g. `log!(Info, "{n} weights")`.
#[macro_export]
macro_rules! log {
    ($level:ident, $($format:tt)*) => {
        if $crate::host::log_enabled($crate::host::Level::$level) {
            $crate::host::log($crate::host::Level::$level, &format!($($format)*));
        }
    };
}
