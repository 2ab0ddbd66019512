use rocmforge_kernels_cpu::KvType;
use serde::Deserialize;

/// The backend's table in `plugins.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CpuOptions {
    /// Threads to compute with; absent: what the host says.
    pub(crate) threads: Option<usize>,
    /// Whether each thread stays on a processor of its own.
    pub(crate) pin: bool,
    /// `auto`, `scalar`, `avx2`, `avxvnni`, `avx512` or `amx`.
    pub(crate) isa: String,
    /// Element type of the KV cache.
    pub(crate) kv_type: KvOption,
    /// What products with weights of quantised types use.
    pub(crate) activations: ActivationOption,
}

impl Default for CpuOptions {
    fn default() -> CpuOptions {
        CpuOptions {
            threads: None,
            pin: false,
            isa: "auto".to_owned(),
            kv_type: KvOption::F32,
            activations: ActivationOption::Int8,
        }
    }
}

/// `f32` reproduces the model's own results; `f16` halves the memory and the reads of long contexts, `q8_0` nearly
/// halves them once more.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KvOption {
    F32,
    F16,
    #[serde(rename = "q8_0")]
    Q8,
}

impl From<KvOption> for KvType {
    fn from(option: KvOption) -> KvType {
        match option {
            KvOption::F32 => KvType::F32,
            KvOption::F16 => KvType::F16,
            KvOption::Q8 => KvType::Q8,
        }
    }
}

/// `int8` rounds the activations that are multiplied with weights of quantised types to 8 bits, with a scale per 32,
/// where the processor has fast instructions for it; `f32` never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ActivationOption {
    Int8,
    F32,
}
