//! What the end-to-end tests need around the interpreter: Programs of real models, and a host with a paged cache.

pub mod models;
pub mod paged;
