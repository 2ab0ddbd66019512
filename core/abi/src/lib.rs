//! The stable ABI between the host and its plugins.
//!
//! Everything that crosses a library boundary is declared here and nowhere else: prefix-type tables of `extern "C"`
//! functions, plain `repr(C)` structs, no Rust enum, no trait object, no panic. `docs/PLUGIN-ABI.md` states the rules;
//! plugin authors use `rocmforge-sdk`, which wraps all of this in safe traits.
//!
//! # How the ABI grows
//! Fields are only ever added at the end of a table, after the field marked `last_prefix_field`; they read as `None`
//! on a side that lacks them. Every other struct is frozen within a major version; new per-step data travels in
//! [`StepBatch::ext`] under a name.
#![deny(missing_docs)]

mod check;
mod data;
mod tables;

pub use abi_stable;
pub use abi_stable::std_types::{RSlice, RSliceMut, RStr, RString, RVec};
pub use check::{AbiError, CheckedPlugin, check_plugin};
pub use data::*;
pub use tables::*;

/// The version of this ABI. A plugin of the same major version is accepted, whatever its minor version.
pub const ABI_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The step extension by which a backend draws tokens itself; see `docs/PLUGIN-ABI.md`.
pub const SAMPLE_EXTENSION: &str = "sample/1";

/// The exported symbol that makes a shared library a ROCmForge plugin: a static [`abi_stable::library::LibHeader`].
pub const PLUGIN_SYMBOL: &str = "rocmforge_plugin";
