//! From JSON to checked parameters. `null` counts as absent everywhere.

pub(crate) mod common;
pub(crate) mod fields;
pub(crate) mod messages;
pub(crate) mod prompt;
pub(crate) mod rules;
mod sampling;
pub(crate) mod structured;
pub(crate) mod template;
pub(crate) mod tools;

pub(crate) use common::Common;
pub(crate) use fields::Fields;
