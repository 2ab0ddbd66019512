//! GGUF version 2 and 3 files: a memory-mapped, zero-copy reader that trusts no number in the file, and a writer.
//!
//! ```no_run
//! # fn main() -> Result<(), rocmforge_gguf::GgufError> {
//! let file = rocmforge_gguf::GgufFile::open("model.gguf".as_ref())?;
//! println!("{:?}", file.metadata().str("general.architecture"));
//! if let Some(tensor) = file.tensor("token_embd.weight") {
//!     println!("{} {:?}, {} bytes", tensor.info.dtype, tensor.info.dims, tensor.bytes().len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Specification: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
#![deny(missing_docs)]

mod cursor;
mod error;
mod file;
mod mapping;
mod metadata;
mod parse;
mod split;
mod strings;
mod writer;

pub use error::GgufError;
pub use file::{GgufFile, TensorInfo, TensorView};
pub use mapping::{Mapping, TensorData};
pub use metadata::{ArrayValue, Metadata, Value, ValueType};
pub use strings::Strings;
pub use writer::GgufWriter;
