//! The part of HIP that ROCmForge uses, resolved from `libamdhip64` at run time.
//!
//! Names and types are HIP's own, so that AMD's documentation is the reference for them. [`Hip::load`] finds the library
//! and resolves every function of one table ([`FUNCTIONS`], also in `docs/hip-functions.md`); nothing else of HIP is ever
//! called. The methods of [`Hip`] turn statuses into errors and check nothing more: who owns which memory, stream and
//! event is the business of the crate above.
//!
//! # Why not an existing crate
//!
//! * `hip-sys` 0.1.2 links to HIP when it is built, so its build script panics on a machine without ROCm, and it carries the
//!   layouts of HIP 5.4: from ROCm 6 on, the device properties have another layout behind another symbol.
//! * `cubecl-hip-sys` builds without ROCm, but panics on a missing symbol and looks for one name of the library only, not
//!   for `libamdhip64.so.5`, `.6` and `.7`, which is what a machine without development packages has.
//!
//! A machine without a GPU must build everything and say in one line that there is no ROCm, and a machine with any ROCm
//! from 5.5 on must run the same binary. Both ask for a table that is filled at run time.
//!
//! # What is left out on purpose
//!
//! `hipDeviceSynchronize` waits for every stream of the device, those of other programs' desktops included; the synchronous
//! copies and the default stream do so too; managed memory moves pages behind one's back. None of them is in the table.
#![deny(missing_docs)]
#![allow(non_camel_case_types, non_upper_case_globals, non_snake_case)]

mod api;
mod error;
mod functions;
mod library;
mod properties;
mod types;

pub use api::{LaunchShape, MemoryInfo};
pub use error::{Attempt, HipError};
pub use functions::{FUNCTIONS, Function, HipFunctions, function_table};
pub use library::{Hip, LIBRARY_VARIABLE, RuntimeVersion, candidates};
pub use properties::{DEVICE_PROPERTIES_BYTES, PROPERTIES_R0000_ARCH_OFFSET, PROPERTIES_R0600_ARCH_OFFSET, arch_name};
pub use types::*;
