//! One file per command.

pub mod bench;
pub mod chat;
pub mod generate;
pub mod inspect;
pub mod logits;
pub mod perplexity;
pub mod plugins;
pub mod serve;
pub mod tokenize;
