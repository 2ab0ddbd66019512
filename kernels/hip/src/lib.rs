//! GPU kernels and everything a backend needs to launch them: images, argument structs, planes of quantised weights, and the
//! geometry of each launch.
//!
//! The sources are in `kernels/`, against `include/device.h`; `hip-kernels build` compiles them for any target.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod args;
mod cache;
pub mod compile;
mod images;
pub mod launch;
mod planes;
pub mod report;
mod table;

pub use args::*;
pub use cache::{CacheKind, cache};
pub use images::{Image, ImageError, embedded, embedded_archs, from_folder};
pub use launch::{KERNELS, Kernel, Launch, Threads};
pub use planes::{Field, Planes, fields, grid, plane_offsets, stored_as};
