use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::package_version_strings;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RSlice, RSliceMut, RStr, RString, RVec};

use crate::data::*;

/// What a plugin may call in the host. Valid for the life of the process, from any thread.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HostTableRef)))]
pub struct HostTable {
    /// Logs a message; `level` is one of [`level`], `target` the plugin's name.
    pub log: extern "C" fn(level: Code, target: RStr<'_>, message: RStr<'_>),
    /// Whether a level is logged at all.
    pub log_enabled: extern "C" fn(level: Code, target: RStr<'_>) -> bool,
    /// Threads that a backend should compute with: settings, then affinity and quota; at least 1.
    #[sabi(last_prefix_field)]
    pub compute_threads: extern "C" fn() -> u32,
}

/// The model file as an architecture sees it: metadata and tensor list, never tensor data.
///
/// `ctx` is the [`ModelView::ctx`] that came with the table; results borrow from the view.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ModelViewTableRef)))]
pub struct ModelViewTable {
    /// The value under a key; kind [`meta::NONE`] if there is none.
    pub metadata: extern "C" fn(ctx: Handle, key: RStr<'_>) -> MetaValue<'static>,
    /// An element of an array value; kind [`meta::NONE`] past its end.
    pub metadata_element: extern "C" fn(ctx: Handle, key: RStr<'_>, index: u64) -> MetaValue<'static>,
    /// Number of tensors.
    pub tensor_count: extern "C" fn(ctx: Handle) -> u64,
    /// A tensor by number, in file order; an empty name past the end.
    pub tensor_at: extern "C" fn(ctx: Handle, index: u64) -> TensorMeta<'static>,
    /// A tensor by name; an empty name if there is none.
    #[sabi(last_prefix_field)]
    pub tensor: extern "C" fn(ctx: Handle, name: RStr<'_>) -> TensorMeta<'static>,
}

/// A model file during one call. The `'static` of its results means: until that call returns.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct ModelView {
    /// Passed back in every call.
    pub ctx: Handle,
    /// The calls.
    pub table: ModelViewTableRef,
}

/// What the user has set for a model and an architecture must know.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct BuildOptions {
    /// Context length the model will be served with; 0: the model's own.
    pub context_length: u32,
}

/// An architecture: a pure function from a model file to a program. Calls may run at the same time.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ArchitectureTableRef)))]
pub struct ArchitectureTable {
    /// Its name in `plugins.toml`.
    pub name: RStr<'static>,
    /// Values of `general.architecture` that it may take.
    pub claims: extern "C" fn() -> RVec<RString>,
    /// How well it fits a file of one of these values: 0 not at all, 100 as the general case, more for a special one.
    pub fit: extern "C" fn(model: ModelView, out: &mut u32) -> Status,
    /// Writes the program's bytes. `options_json` is the plugin's table in `plugins.toml`, as JSON.
    #[sabi(last_prefix_field)]
    pub build:
        extern "C" fn(model: ModelView, options_json: RStr<'_>, build: BuildOptions, out: &mut RVec<u8>) -> Status,
}

/// A backend. An instance may be used from several threads at a time; an executable from one at a time.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = BackendTableRef)))]
pub struct BackendTable {
    /// Its name in `plugins.toml`.
    pub name: RStr<'static>,
    /// Makes an instance. `options_json` is the plugin's table in `plugins.toml`, as JSON; unknown keys are errors.
    pub create: extern "C" fn(options_json: RStr<'_>, out: &mut Handle) -> Status,
    /// Destroys an instance, after its executables.
    pub destroy: extern "C" fn(backend: Handle) -> Status,
    /// The devices of the instance, best first.
    pub devices: extern "C" fn(backend: Handle, out: &mut RVec<DeviceInfo>) -> Status,
    /// Step extensions that it understands.
    pub extensions: extern "C" fn(backend: Handle, out: &mut RVec<RString>) -> Status,
    /// Whether it runs an operation (JSON, as in a program) whose weights have these element types.
    /// `false` also for an operation that it cannot read.
    pub supports: extern "C" fn(backend: Handle, op_json: RStr<'_>, dtypes: RSlice<'_, u32>, out: &mut bool) -> Status,
    /// Compiles a program. Weights and cache come later.
    pub compile:
        extern "C" fn(backend: Handle, program: RSlice<'_, u8>, options: CompileOptions, out: &mut Handle) -> Status,
    /// The calls on what `compile` made.
    #[sabi(last_prefix_field)]
    pub executable: ExecutableTableRef,
    /// Compiles a program for the device with this id, one of [`devices`](BackendTable::devices); `compile` uses the
    /// first of them. Since 1.1.
    pub compile_on: extern "C" fn(
        backend: Handle,
        program: RSlice<'_, u8>,
        options: CompileOptions,
        device: RStr<'_>,
        out: &mut Handle,
    ) -> Status,
}

/// A compiled program. Order of calls: `memory`, then `bind` for every weight, `finalize`, `allocate_cache`, then
/// `submit` and `wait` in turn.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ExecutableTableRef)))]
pub struct ExecutableTable {
    /// What it will need, before a weight is read.
    pub memory: extern "C" fn(executable: Handle, out: &mut MemoryNeed) -> Status,
    /// Gives it a weight, in any order, each once. It may keep the bytes, copy, repack or upload them.
    pub bind: extern "C" fn(executable: Handle, weight: &Weight<'_>) -> Status,
    /// No more weights will come.
    pub finalize: extern "C" fn(executable: Handle) -> Status,
    /// Allocates the KV cache: blocks for each cache group. Again: the old contents are gone.
    pub allocate_cache: extern "C" fn(executable: Handle, blocks: RSlice<'_, u64>) -> Status,
    /// Starts a step; the batch may be reused once this returns.
    pub submit: extern "C" fn(executable: Handle, batch: &StepBatch<'_>) -> Status,
    /// Waits for the step and writes its outputs.
    pub wait: extern "C" fn(executable: Handle, outputs: RSliceMut<'_, StepOutput<'_>>) -> Status,
    /// Destroys it.
    #[sabi(last_prefix_field)]
    pub destroy: extern "C" fn(executable: Handle) -> Status,
    /// Switches the measuring of kernels on or off and writes what was measured since it was switched on, as JSON:
    /// `[{"kernel": "..", "calls": 1, "microseconds": 2.5}, ..]`. Since 1.1.
    pub profile: extern "C" fn(executable: Handle, on: bool, out: &mut RString) -> Status,
    /// Measures what its device can do at most and writes it as JSON:
    /// `{"bytes_per_second": 3e10, "products_per_second": 5e11}`, or null for a number that it does not know. Since 1.2.
    pub limits: extern "C" fn(executable: Handle, out: &mut RString) -> Status,
    /// Writes the tokens that were drawn in the step waited for last: one for each row that its extension
    /// [`SAMPLE_EXTENSION`] named, in that order. Since 1.3.
    pub sampled: extern "C" fn(executable: Handle, tokens: RSliceMut<'_, u32>) -> Status,
}

/// The root of a plugin: what it is and what it holds.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRef)))]
pub struct Plugin {
    /// Name of the plugin's package.
    pub name: RStr<'static>,
    /// Version of the plugin's package.
    pub version: RStr<'static>,
    /// Version of the Program that it writes or reads.
    pub ir_version: RStr<'static>,
    /// Called once, before anything else. Again: succeeds and changes nothing.
    pub init: extern "C" fn(host: HostTableRef) -> Status,
    /// Its architectures.
    pub architectures: extern "C" fn(out: &mut RVec<ArchitectureTableRef>) -> Status,
    /// Its backends.
    #[sabi(last_prefix_field)]
    pub backends: extern "C" fn(out: &mut RVec<BackendTableRef>) -> Status,
}

impl RootModule for PluginRef {
    abi_stable::declare_root_module_statics! {PluginRef}
    const BASE_NAME: &'static str = "rocmforge_plugin";
    const NAME: &'static str = "rocmforge_plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}
