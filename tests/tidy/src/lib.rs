//! Invariants of the source tree: what `docs/ARCHITECTURE.md` says, as functions that return what breaks it.
#![forbid(unsafe_code)]

pub mod imports;
pub mod text;
pub mod tree;

/// What breaks a rule, one line each.
pub type Violations = Vec<String>;
