//! CPU kernels: scalar, AVX2 and AVX-512, chosen at run time.

mod error;
mod isa;
mod simd;

pub use error::KernelError;
pub use isa::{Extensions, Isa};
