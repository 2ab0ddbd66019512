//! GGUF version 2 and 3 files: a memory-mapped, zero-copy reader that trusts no number in the file, and a writer.
//!
//! Specification: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
#![deny(missing_docs)]

mod metadata;

pub use metadata::{ArrayValue, Metadata, Value, ValueType};
