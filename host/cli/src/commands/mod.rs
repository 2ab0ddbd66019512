//! One file per command.

/// Prints a line on standard output; a reader that has gone is an error like any other, not a panic.
macro_rules! say {
    ($($format:tt)*) => {
        std::io::Write::write_fmt(&mut std::io::stdout().lock(), format_args!("{}\n", format_args!($($format)*)))?
    };
}

pub mod bench;
pub mod chat;
pub mod doctor;
pub mod generate;
pub mod inspect;
pub mod logits;
pub mod perplexity;
pub mod plugins;
pub mod serve;
pub mod templates;
pub mod tokenize;
