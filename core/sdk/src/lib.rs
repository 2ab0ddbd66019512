//! Everything a plugin is written with: safe traits, block helpers for models, and one macro.
//!
//! An architecture implements [`Architecture`], usually with the helpers of [`Graph`]; a backend implements
//! [`Backend`] and [`Executable`]. [`export_plugin!`] turns either into a shared library that the host loads:
//!
//! ```no_run,standalone_crate
//! use rocmforge_sdk::program::{Activation, RopeStyle};
//! use rocmforge_sdk::{
//!     Architecture, AttentionSpec, BuildOptions, Dims, Graph, Mlp, Model, Options, Program, Result, RopeSpec,
//! };
//!
//! struct Mine;
//!
//! impl Architecture for Mine {
//!     const CLAIMS: &'static [&'static str] = &["mine"];
//!
//!     fn build(model: &Model<'_>, options: &Options, build: &BuildOptions) -> Result<Program> {
//!         options.expect_none()?;
//!         let dims = Dims::read(model, build)?;
//!         let attention = AttentionSpec::new(&dims, RopeSpec::read(model, &dims, RopeStyle::Half)?);
//!         let mut g = Graph::new(model, dims.info(model));
//!         let mut x = g.embed(1.0)?;
//!         for layer in 0..dims.layers {
//!             g.layer(layer);
//!             let h = g.rms_norm(x, "attn_norm", dims.eps)?;
//!             let h = g.attention(h, &attention)?;
//!             x = g.add(x, h)?;
//!             let h = g.rms_norm(x, "ffn_norm", dims.eps)?;
//!             let h = g.gated_mlp(h, &Mlp::new(dims.ffn, Activation::Silu))?;
//!             x = g.add(x, h)?;
//!         }
//!         g.head(x, dims.eps, None)
//!     }
//! }
//!
//! rocmforge_sdk::export_plugin! { name: "mine", architecture: Mine }
//! # fn main() {}
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
mod step_shim;
mod traits;

pub use blocks::{AttentionSpec, Bias, LongFactors, Mlp, MoeSpec, Qkv, RopeSpec, SharedExpert};
pub use dims::Dims;
pub use error::{Error, ErrorKind, Result};
pub use graph::Graph;
pub use model::{Meta, Model, Tensor};
pub use options::Options;
pub use rocmforge_abi::SAMPLE_EXTENSION;
pub use rocmforge_program as program;
pub use rocmforge_program::{DType, Program};
pub use traits::{
    Architecture, Backend, BoundWeight, BuildOptions, CompileOptions, Device, Executable, Fit, KernelTime, Limits,
    MemoryNeed,
};

/// The examples of the guide compile too.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/writing-an-architecture.md")]
mod guide {}

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
