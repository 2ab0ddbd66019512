//! What models write apart from plain text: reasoning, and calls of tools.

pub(crate) mod forced;
pub(crate) mod format;
pub(crate) mod history;
mod parse;
mod partial;
mod python;
mod reasoning;
mod splitter;

pub(crate) use format::{Call, Format};
pub(crate) use reasoning::is_open;
pub(crate) use splitter::{Piece, Splitter};
