use std::path::PathBuf;

use serde::Deserialize;

/// The backend's table in `plugins.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HipOptions {
    /// Devices to use, best first: numbers as HIP counts them, PCI addresses or UUIDs; empty: all that there are kernels
    /// for.
    pub(crate) devices: Vec<Selector>,
    /// HIP's library, instead of the one that is found.
    pub(crate) library: Option<PathBuf>,
    /// Folder of kernel images, `DIR/<arch>/<source>.<co|cubin|so>`, beside those in the plugin.
    pub(crate) images: Option<PathBuf>,
    /// Element type of the KV cache.
    pub(crate) kv_type: KvOption,
    /// What products with weights of quantised types use.
    pub(crate) activations: ActivationOption,
    /// Whether decoding steps are recorded once and replayed.
    pub(crate) graphs: bool,
    /// Whether tokens are drawn on the device.
    pub(crate) sampling: bool,
    /// Seconds without an answer after which the device counts as hung.
    pub(crate) timeout_seconds: u64,
}

impl Default for HipOptions {
    fn default() -> HipOptions {
        HipOptions {
            devices: vec![],
            library: None,
            images: None,
            kv_type: KvOption::F16,
            activations: ActivationOption::Int8,
            graphs: true,
            sampling: true,
            timeout_seconds: 60,
        }
    }
}

/// How a device is named.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a device's number, PCI address or UUID")]
pub(crate) enum Selector {
    Index(u32),
    Text(String),
}

/// `f16` halves the memory and the reads of long contexts; `f32` reproduces the model's own results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KvOption {
    F16,
    F32,
}

/// `int8` rounds the activations that few rows of are multiplied with weights of quantised types to 8 bits, with a scale per
/// 32, and those of many rows to f16; `f32` never rounds, which is slow and exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ActivationOption {
    Int8,
    F32,
}
