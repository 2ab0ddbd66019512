//! The token list of a file and the roles of its tokens.

use std::collections::{BTreeSet, HashMap};

use foldhash::fast::FixedState;
use rocmforge_gguf::{ArrayValue, Metadata, Strings, Value};

use crate::bpe::char_to_byte;
use crate::spm::SPACE;
use crate::{SpecialTokens, TokenType, TokenizerError};

pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";

/// How the text of a token stands for bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// One printable character for each byte.
    ByteLevel,
    /// Plain text, with [`SPACE`] for a space.
    SentencePiece,
}

pub(crate) struct Vocab {
    texts: Strings,
    types: Vec<TokenType>,
    /// The bytes of all tokens, one after another.
    bytes: Vec<u8>,
    /// Where the bytes of each token end.
    ends: Vec<usize>,
    pub special: SpecialTokens,
    pub end_of_generation: BTreeSet<u32>,
}

impl Vocab {
    pub fn new(meta: &Metadata, encoding: Encoding) -> Result<Vocab, TokenizerError> {
        let texts = strings(meta, TOKENS, "the file holds no vocabulary")?.clone();
        let types = token_types(meta, texts.len())?;
        let mut vocab = Vocab {
            special: SpecialTokens::default(),
            end_of_generation: BTreeSet::new(),
            bytes: Vec::with_capacity(texts.len() * 7),
            ends: Vec::with_capacity(texts.len()),
            texts,
            types,
        };
        vocab.find_roles(meta);
        for (index, text) in vocab.texts.iter().enumerate() {
            push_bytes(text, vocab.types[index], encoding, &mut vocab.bytes).map_err(|what| TokenizerError::Entry {
                key: TOKENS,
                index,
                what,
            })?;
            vocab.ends.push(vocab.bytes.len());
        }
        Ok(vocab)
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }

    pub fn ids(&self) -> impl Iterator<Item = u32> + use<> {
        0..self.texts.len() as u32
    }

    /// The text of a token as the file has it; empty where there is no such token.
    pub fn text(&self, id: u32) -> &str {
        self.texts.get(id as usize).unwrap_or_default()
    }

    /// The bytes that a token decodes to; empty where there is no such token.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else {
            return &[];
        };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }

    pub fn token_type(&self, id: u32) -> TokenType {
        self.types.get(id as usize).copied().unwrap_or(TokenType::Unused)
    }

    /// Finds the special tokens by key, then those that old files do not name by their customary texts.
    fn find_roles(&mut self, meta: &Metadata) {
        let mut special = special_by_key(meta, self.texts.len());
        self.mark_control_lookalikes();
        let by_text: HashMap<&str, u32, FixedState> = (0u32..)
            .zip(self.texts.iter())
            .filter(|&(id, _)| self.is_marked(id))
            .map(|(id, text)| (text, id))
            .collect();
        for (slot, names) in [
            (&mut special.eot, EOT),
            (&mut special.eom, &["<|eom_id|>"]),
            (&mut special.fim_prefix, FIM_PREFIX),
            (&mut special.fim_suffix, FIM_SUFFIX),
            (&mut special.fim_middle, FIM_MIDDLE),
            (&mut special.fim_padding, &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>"]),
            (&mut special.fim_repository, FIM_REPOSITORY),
            (&mut special.fim_separator, &["<|file_sep|>"]),
        ] {
            *slot = slot.or_else(|| names.iter().find_map(|n| by_text.get(n).copied()));
        }
        let has = |text: &str| by_text.contains_key(text);
        // Where a call or a return ends the turn, `<|end|>` only ends one of several messages of the turn.
        let inner_end = (has("<|return|>") && has("<|call|>")) || (has("<|flush|>") && has("<|calls|>"));
        let named = END_OF_GENERATION.iter().filter(|&&n| !(n == "<|end|>" && inner_end));
        let mut end: BTreeSet<u32> = named.filter_map(|n| by_text.get(n).copied()).collect();
        end.extend([special.eos, special.eot, special.eom].into_iter().flatten());
        end.extend([special.fim_padding, special.fim_repository, special.fim_separator].into_iter().flatten());
        self.special = special;
        self.end_of_generation = end;
    }

    /// Some files list control tokens as normal ones; a text of the form `<|name|>` that ends a turn is no word.
    fn mark_control_lookalikes(&mut self) {
        for (text, kind) in self.texts.iter().zip(&mut self.types) {
            if *kind == TokenType::Normal && text.starts_with("<|") && END_OF_GENERATION.contains(&text) {
                *kind = TokenType::Control;
            }
        }
    }

    fn is_marked(&self, id: u32) -> bool {
        matches!(self.token_type(id), TokenType::Control | TokenType::UserDefined)
    }
}

/// The special tokens that the file names, of a vocabulary of `n` tokens.
fn special_by_key(meta: &Metadata, n: usize) -> SpecialTokens {
    // An id outside the vocabulary names no token; such ids occur in files that never use them.
    let key = |name: &str| {
        let id = meta.u64(&format!("tokenizer.ggml.{name}_token_id"))?;
        (id < n as u64).then_some(id as u32)
    };
    let either = |name: &str, old: &str| key(name).or_else(|| key(old));
    SpecialTokens {
        bos: key("bos"),
        eos: key("eos"),
        eot: key("eot"),
        eom: key("eom"),
        unknown: key("unknown"),
        padding: key("padding"),
        fim_prefix: either("fim_pre", "prefix"),
        fim_suffix: either("fim_suf", "suffix"),
        fim_middle: either("fim_mid", "middle"),
        fim_padding: key("fim_pad"),
        fim_repository: key("fim_rep"),
        fim_separator: key("fim_sep"),
    }
}

// The customary texts, as collected in llama.cpp (llama-vocab.cpp).
const EOT: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];
const END_OF_GENERATION: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<turn|>",
    "<｜end▁of▁sentence｜>",
];
const FIM_PREFIX: &[&str] =
    &["<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>"];
const FIM_SUFFIX: &[&str] =
    &["<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>"];
const FIM_MIDDLE: &[&str] =
    &["<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>"];
const FIM_REPOSITORY: &[&str] = &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];

fn push_bytes(text: &str, kind: TokenType, encoding: Encoding, out: &mut Vec<u8>) -> Result<(), String> {
    match (kind, encoding) {
        (TokenType::Unused, _) => {}
        (TokenType::Byte, _) => {
            let hex = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
            let byte = hex.and_then(|h| u8::from_str_radix(h, 16).ok());
            out.push(byte.ok_or_else(|| format!("expected a byte token such as <0x0A>, found {text:?}"))?);
        }
        (TokenType::Normal, Encoding::ByteLevel) => {
            for c in text.chars() {
                match char_to_byte(c) {
                    Some(byte) => out.push(byte),
                    None => out.extend(c.encode_utf8(&mut [0; 4]).bytes()),
                }
            }
        }
        (TokenType::Normal, Encoding::SentencePiece) => out.extend(text.replace(SPACE, " ").bytes()),
        _ => out.extend(text.bytes()),
    }
    Ok(())
}

fn token_types(meta: &Metadata, n: usize) -> Result<Vec<TokenType>, TokenizerError> {
    let types: Vec<i64> = match meta.get(TYPES) {
        None => return Ok(vec![TokenType::Normal; n]),
        Some(Value::Array(ArrayValue::I32(v))) => v.iter().map(|&t| t.into()).collect(),
        Some(Value::Array(ArrayValue::U32(v))) => v.iter().map(|&t| t.into()).collect(),
        Some(other) => return Err(wrong_type(TYPES, "array of i32", other)),
    };
    check_len(TYPES, n, types.len())?;
    Ok(types.into_iter().map(TokenType::from_code).collect())
}

/// The score of each token, which ranks SentencePiece merges.
pub(crate) fn scores(meta: &Metadata, n: usize) -> Result<Vec<f32>, TokenizerError> {
    let scores = match meta.get(SCORES) {
        Some(Value::Array(ArrayValue::F32(v))) => v.clone(),
        Some(other) => return Err(wrong_type(SCORES, "array of f32", other)),
        None => {
            return Err(TokenizerError::Missing {
                key: SCORES,
                hint: "a SentencePiece tokenizer needs the score of each token".into(),
            });
        }
    };
    check_len(SCORES, n, scores.len())?;
    Ok(scores)
}

fn check_len(key: &'static str, expected: usize, found: usize) -> Result<(), TokenizerError> {
    if expected == found {
        return Ok(());
    }
    Err(TokenizerError::Length { key, expected, found })
}

/// An array of strings that must be there.
pub(crate) fn strings<'m>(meta: &'m Metadata, key: &'static str, hint: &str) -> Result<&'m Strings, TokenizerError> {
    match meta.get(key) {
        Some(Value::Array(ArrayValue::String(v))) => Ok(v),
        Some(other) => Err(wrong_type(key, "array of strings", other)),
        None => Err(TokenizerError::Missing { key, hint: hint.into() }),
    }
}

/// A string that may be absent but must not be anything else.
pub(crate) fn string<'m>(meta: &'m Metadata, key: &str) -> Result<Option<&'m str>, TokenizerError> {
    match meta.get(key) {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some(s)),
        Some(other) => Err(wrong_type(key, "string", other)),
    }
}

/// A truth value that may be absent but must not be anything else.
pub(crate) fn flag(meta: &Metadata, key: &str, default: bool) -> Result<bool, TokenizerError> {
    match meta.get(key) {
        None => Ok(default),
        Some(Value::Bool(b)) => Ok(*b),
        Some(other) => Err(wrong_type(key, "bool", other)),
    }
}

fn wrong_type(key: &str, expected: &'static str, found: &Value) -> TokenizerError {
    let found = match found {
        Value::Array(ArrayValue::String(_)) => "array of strings",
        Value::Array(_) => "array of another type",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::F32(_) | Value::F64(_) => "floating-point number",
        _ => "integer",
    };
    TokenizerError::WrongType { key: key.into(), expected, found: found.into() }
}
