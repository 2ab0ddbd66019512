//! What several tests need around the interpreter; each uses a part of it.
#![allow(dead_code)]

pub mod models;
pub mod op;
pub mod paged;
