//! Everything a plugin is written with: safe traits, block helpers for models, and one macro.
//!
//! An architecture implements [`Architecture`], usually with the helpers of [`Graph`]; a backend implements
//! [`Backend`] and [`Executable`]. [`export_plugin!`] turns either into a shared library that the host loads:
//!
//! ```ignore
//! rocmforge_sdk::export_plugin! { name: "llama", architecture: Llama }
//! ```
//!
//! Authors write no `unsafe`. A panic becomes an error of that call in the host. `docs/writing-an-architecture.md` and
//! `docs/writing-a-backend.md` are the guides.
#![deny(missing_docs)]

mod architecture_shim;
mod backend_shim;
mod blocks;
mod dims;
mod error;
mod export;
mod graph;
mod guard;
pub mod host;
mod model;
mod options;
mod traits;

pub use blocks::{AttentionSpec, Bias, LongFactors, Mlp, MoeSpec, Qkv, RopeSpec, SharedExpert};
pub use dims::Dims;
pub use error::{Error, ErrorKind, Result};
pub use graph::Graph;
pub use model::{Meta, Model, Tensor};
pub use options::Options;
pub use rocmforge_program as program;
pub use rocmforge_program::{DType, Program};
pub use traits::{
    Architecture, Backend, BoundWeight, BuildOptions, CompileOptions, Device, Executable, Fit, KernelTime, MemoryNeed,
};

/// What the macros expand to; not for use by hand.
#[doc(hidden)]
pub mod private {
    pub use crate::architecture_shim::architecture_table;
    pub use crate::backend_shim::backend_table;
    pub use crate::export::{PluginFacts, Registration, plugin};
    pub use inventory;
    pub use rocmforge_abi::abi_stable::library::{
        __call_root_module_loader, CheckTypeLayout, LibHeader, RootModuleResult,
    };
    pub use rocmforge_abi::{ABI_VERSION, PluginRef};
}
