//! WordPiece, as in BERT: words cut at white space, punctuation and CJK ideographs, then the longest pieces from the left.

use std::borrow::Cow;
use std::collections::HashMap;

use foldhash::fast::FixedState;
use regex_syntax::hir::{Class, HirKind};
use rocmforge_gguf::Metadata;
use unicode_normalization::UnicodeNormalization;

use crate::spm::SPACE;
use crate::vocab::{self, Vocab};
use crate::{TokenType, TokenizerError};

/// A longer word is unknown as a whole, as in transformers; this also bounds the work for one word.
const MAX_WORD_CHARS: usize = 100;

pub(crate) struct WordPiece {
    /// Tokens by text: the first piece of a word begins with [`SPACE`], the others do not.
    pieces: HashMap<Box<str>, u32, FixedState>,
    /// Length in bytes of the longest piece.
    longest: usize,
    unknown: Option<u32>,
    lowercase: bool,
    strip_accents: bool,
    classes: Classes,
}

/// The general categories that cutting a text needs.
struct Classes {
    punctuation: Ranges,
    accents: Ranges,
    dropped: Ranges,
}

/// Sorted ranges of characters, both ends included.
struct Ranges(Vec<(char, char)>);

impl WordPiece {
    pub fn new(meta: &Metadata, vocab: &Vocab) -> Result<WordPiece, TokenizerError> {
        let is_piece = |&id: &u32| vocab.token_type(id) == TokenType::Normal && !vocab.text(id).is_empty();
        let pieces = vocab.ids().filter(is_piece).map(|id| (vocab.text(id).into(), id));
        let pieces: HashMap<Box<str>, u32, FixedState> = pieces.collect();
        let lowercase = vocab::flag(meta, "tokenizer.ggml.normalizer.lowercase", true)?;
        Ok(WordPiece {
            longest: pieces.keys().map(|p| p.len()).max().unwrap_or(0),
            pieces,
            unknown: vocab.special.unknown,
            lowercase,
            strip_accents: vocab::flag(meta, "tokenizer.ggml.normalizer.strip_accents", lowercase)?,
            classes: Classes {
                punctuation: Ranges::new(r"[\p{P}!-/:-@\[-`{-~]")?,
                accents: Ranges::new(r"\p{Mn}")?,
                dropped: Ranges::new(r"[\p{C}\x{fffd}--\s]")?,
            },
        })
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let text: Cow<'_, str> = match self.strip_accents && !text.is_ascii() {
            true => text.nfd().filter(|&c| !self.classes.accents.contain(c)).collect(),
            false => text.into(),
        };
        let mut word = String::from(SPACE);
        for c in text.chars() {
            if c.is_whitespace() {
                self.finish(&mut word, out);
            } else if self.classes.dropped.contain(c) {
            } else if is_ideograph(c) || self.classes.punctuation.contain(c) {
                self.finish(&mut word, out);
                word.push(c);
                self.finish(&mut word, out);
            } else if self.lowercase {
                word.extend(c.to_lowercase());
            } else {
                word.push(c);
            }
        }
        self.finish(&mut word, out);
    }

    /// Appends the tokens of a word, which begins with [`SPACE`], and empties it. A word of which a part is not in the
    /// vocabulary is unknown as a whole.
    fn finish(&self, word: &mut String, out: &mut Vec<u32>) {
        let begin = SPACE.len_utf8();
        let before = out.len();
        let mut known = word.chars().count() <= MAX_WORD_CHARS + 1;
        let mut at = 0;
        while known && word.len() > begin && at < word.len() {
            // The stand-in for a space is a part of the first piece, never a piece of its own.
            let first = if at == 0 { begin + 1 } else { at + 1 };
            let last = word.len().min(at.saturating_add(self.longest));
            let ends = (first..=last).rev().filter(|&end| word.is_char_boundary(end));
            match ends.into_iter().find_map(|end| Some((end, *self.pieces.get(&word[at..end])?))) {
                Some((end, id)) => {
                    out.push(id);
                    at = end;
                }
                None => known = false,
            }
        }
        if !known {
            out.truncate(before);
            out.extend(self.unknown);
        }
        word.truncate(begin);
    }
}

/// The blocks that BERT sets apart, one word a character; its list as it is in transformers' Rust tokenizer.
fn is_ideograph(c: char) -> bool {
    matches!(u32::from(c),
        0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x20000..=0x2a6df | 0x2a700..=0x2b73f | 0x2b740..=0x2b81f
        | 0x2b920..=0x2ceaf | 0xf900..=0xfaff | 0x2f800..=0x2fa1f)
}

impl Ranges {
    /// The characters that an expression of one class matches.
    fn new(expression: &str) -> Result<Ranges, TokenizerError> {
        let error =
            |reason: String| TokenizerError::Automaton { what: format!("character class `{expression}`"), reason };
        let parsed = regex_syntax::parse(expression).map_err(|e| error(e.to_string()))?;
        match parsed.kind() {
            HirKind::Class(Class::Unicode(class)) => {
                Ok(Ranges(class.iter().map(|range| (range.start(), range.end())).collect()))
            }
            _ => Err(error("it is not a class".into())),
        }
    }

    fn contain(&self, c: char) -> bool {
        let after = self.0.partition_point(|&(start, _)| start <= c);
        after > 0 && c <= self.0[after - 1].1
    }
}

#[cfg(test)]
mod tests {
    use rocmforge_gguf::{ArrayValue, Value};

    use super::*;
    use crate::vocab::Encoding;

    const TOKENS: [&str; 14] =
        ["[UNK]", "▁un", "aff", "able", "▁affable", "▁.", "▁-", "▁a", "▁中", "b", "▁É", "▁straße", "▁e", "▁▁"];

    fn meta() -> Metadata {
        let mut meta = Metadata::default();
        let tokens = TOKENS.iter().map(|t| t.to_string()).collect();
        assert!(meta.insert("tokenizer.ggml.tokens", Value::Array(ArrayValue::String(tokens))));
        let mut types = vec![1; TOKENS.len()];
        types[0] = 2;
        assert!(meta.insert("tokenizer.ggml.token_type", Value::Array(ArrayValue::I32(types))));
        assert!(meta.insert("tokenizer.ggml.unknown_token_id", Value::U32(0)));
        meta
    }

    fn check(meta: &Metadata, text: &str, expected: &[u32]) {
        let vocab = Vocab::new(meta, Encoding::SentencePiece).unwrap();
        let mut found = vec![];
        WordPiece::new(meta, &vocab).unwrap().encode(text, &mut found);
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn words_become_their_longest_pieces_or_are_unknown_as_a_whole() {
        let meta = meta();
        check(&meta, "", &[]);
        check(&meta, " \n\t", &[]);
        check(&meta, "unaffable affable", &[1, 2, 3, 4]);
        check(&meta, "UNAFFABLE.", &[1, 2, 3, 5]);
        check(&meta, "a--a", &[7, 6, 6, 7]);
        check(&meta, "unaffablex a", &[0, 7]);
        check(&meta, "a中ab", &[7, 8, 7, 9]);
        check(&meta, "é e\u{301} É", &[12, 12, 12]);
        check(&meta, "a\u{200b}b\0b \u{fffd}", &[7, 9, 9]);
        check(&meta, "Straße", &[11]);
        check(&meta, "▁", &[13]);
        check(&meta, "\u{2028}a\u{3000}a", &[7, 7]);
        check(&meta, &format!("a{}", "b".repeat(99)), &[&[7][..], &[9; 99]].concat());
        check(&meta, &format!("a{}", "b".repeat(100)), &[0]);
        check(&meta, &"a".repeat(1_000_000), &[0]);
    }

    #[test]
    fn the_file_may_keep_case_and_accents() {
        let mut cased = meta();
        assert!(cased.insert("tokenizer.ggml.normalizer.lowercase", Value::Bool(false)));
        check(&cased, "É a A", &[10, 7, 0]);
    }
}
