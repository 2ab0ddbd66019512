use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rocmforge_abi::abi_stable::prefix_type::PrefixTypeTrait;
use rocmforge_abi::{Code, HostTable, HostTableRef, RStr, level};

use crate::processors::default_threads;

static THREADS: AtomicU32 = AtomicU32::new(0);

/// Sets the number of threads that backends compute with; 0: as many as affinity and cgroup quota leave, one per
/// physical core of one NUMA node.
pub fn set_compute_threads(threads: u32) {
    THREADS.store(threads, Ordering::Relaxed);
}

/// Threads that backends compute with.
pub fn compute_threads() -> u32 {
    match THREADS.load(Ordering::Relaxed) {
        0 => {
            static DEFAULT: OnceLock<u32> = OnceLock::new();
            *DEFAULT.get_or_init(default_threads)
        }
        n => n,
    }
}

/// The host's side of the plugin ABI; one for the process.
pub(crate) fn host_table() -> HostTableRef {
    static TABLE: OnceLock<HostTableRef> = OnceLock::new();
    *TABLE.get_or_init(|| HostTable { log, log_enabled, compute_threads: compute_threads_callback }.leak_into_prefix())
}

extern "C" fn compute_threads_callback() -> u32 {
    compute_threads()
}

extern "C" fn log(code: Code, target: RStr<'_>, message: RStr<'_>) {
    let (plugin, message) = (target.as_str(), message.as_str());
    match code {
        level::ERROR => tracing::error!(target: "rocmforge::plugin", plugin, "{message}"),
        level::WARN => tracing::warn!(target: "rocmforge::plugin", plugin, "{message}"),
        level::INFO => tracing::info!(target: "rocmforge::plugin", plugin, "{message}"),
        level::DEBUG => tracing::debug!(target: "rocmforge::plugin", plugin, "{message}"),
        _ => tracing::trace!(target: "rocmforge::plugin", plugin, "{message}"),
    }
}

extern "C" fn log_enabled(code: Code, _target: RStr<'_>) -> bool {
    match code {
        level::ERROR => tracing::enabled!(target: "rocmforge::plugin", tracing::Level::ERROR),
        level::WARN => tracing::enabled!(target: "rocmforge::plugin", tracing::Level::WARN),
        level::INFO => tracing::enabled!(target: "rocmforge::plugin", tracing::Level::INFO),
        level::DEBUG => tracing::enabled!(target: "rocmforge::plugin", tracing::Level::DEBUG),
        _ => tracing::enabled!(target: "rocmforge::plugin", tracing::Level::TRACE),
    }
}
