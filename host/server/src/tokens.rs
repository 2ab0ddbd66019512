//! From text to tokens and from tokens to what answers say about them.

use rocmforge_engine::Utf8Stream;
use rocmforge_tokenizer::Tokenizer;

/// The text of a single token; that of control tokens is what the vocabulary calls them.
pub(crate) fn token_text(tokenizer: &Tokenizer, id: u32) -> String {
    match tokenizer.is_special(id) {
        true => tokenizer.token_text(id).to_string(),
        false => String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned(),
    }
}

/// Where tokens begin in a text, in characters.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    bytes: Utf8Stream,
    characters: usize,
}

impl Offsets {
    /// Where the next token begins. Control tokens are no part of the text.
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> usize {
        let at = self.characters;
        if !tokenizer.is_special(id) {
            self.bytes.bytes().extend_from_slice(tokenizer.token_bytes(id));
            self.characters += self.bytes.take().chars().count();
        }
        at
    }
}
