//! Tensor element types of GGUF files: names, numbers, block layouts, and scalar dequantisation.
//!
//! Everything that reads weights starts here; the crate depends on nothing of this workspace.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod dtype;

pub use dtype::{DType, Layout};
