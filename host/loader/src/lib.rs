//! Reads `plugins.toml`, loads and checks plugins, and wraps what they export in safe types.
//!
//! This crate and `rocmforge-abi` hold all of the host's `unsafe`: whoever uses [`Plugins`], [`Model`] and
//! [`Executable`] writes none. Libraries are never unloaded; instances are.
#![deny(missing_docs)]

mod backend;
pub mod config;
mod cut;
mod elf;
mod error;
mod executable;
mod host_table;
mod library;
mod model;
mod placement;
mod plugins;
pub mod probe;
mod processors;
mod segment;
mod view;

pub use backend::{Backend, Device};
pub use config::{Config, DeviceLoss, GpuLayers};
pub use error::{LoaderError, PluginErrorKind};
pub use executable::Executable;
pub use host_table::{compute_threads, set_compute_threads};
pub use library::{ArchitectureInfo, Library, LibraryInfo};
pub use model::{LoadOptions, LoadProgress, Model};
pub use placement::{Placement, PlacementRow};
pub use plugins::{Architecture, Plugins, SkippedPlugin};
pub use rocmforge_abi::{CompileOptions, MemoryNeed};
pub use segment::{KernelTime, Limits, Segment};
