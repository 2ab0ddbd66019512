//! Tensor element types of GGUF files: names, numbers, block layouts, and scalar dequantisation.
//!
//! [`dequantize`] converts rows of any type; the functions of the family modules ([`plain`], [`legacy`], [`k_quants`],
//! [`iq`], [`low_bit`], [`fp4`]) convert one block each and are the specification that faster kernels are held to.
//! In their documentation d and m are a block's scale and minimum, q its codes, and byte layouts are little-endian.
//!
//! Everything that reads weights starts here; the crate depends on nothing of this workspace.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod dequantize;
mod dtype;
mod error;
pub mod fp4;
pub mod iq;
pub mod k_quants;
pub mod legacy;
pub mod low_bit;
pub mod plain;
mod quantize;
pub mod tables;

pub use dequantize::dequantize;
pub use dtype::{DType, Layout};
pub use error::QuantError;
pub use quantize::quantize;
