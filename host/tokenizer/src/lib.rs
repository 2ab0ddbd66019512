//! Tokenizers and chat templates from GGUF metadata.
//!
//! [`Tokenizer`] turns text into token ids and back: byte-level BPE (`gpt2`) with the pre-tokenizers of the model families,
//! SentencePiece BPE (`llama`) with byte fallback, and WordPiece (`bert`). [`Detokenizer`] decodes a stream of tokens. [`ChatTemplate`] renders
//! a conversation with the model's own Jinja template, in a sandbox; [`Guard`] keeps what messages say from being control
//! tokens.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod bpe;
mod chat;
mod detokenizer;
mod error;
mod guard;
mod pre;
mod special;
mod spm;
mod token;
mod tokenizer;
mod vocab;
mod wordpiece;

pub use chat::{ChatTemplate, RenderContext, RenderProcess, render_templates};
pub use detokenizer::Detokenizer;
pub use error::{TemplateError, TokenizerError};
pub use guard::{Guard, Rendered};
pub use token::{SpecialTokens, TokenType};
pub use tokenizer::{EncodeOptions, Tokenizer};
