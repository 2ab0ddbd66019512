//! What tokens are.

/// What a token is, numbered as in `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// A piece of text.
    Normal,
    /// Stands for what the vocabulary cannot express.
    Unknown,
    /// Steers the model and is no text, such as a beginning of sequence.
    Control,
    /// Added text that is matched before all else.
    UserDefined,
    /// Padding of the vocabulary.
    Unused,
    /// A single byte, for characters that the vocabulary lacks.
    Byte,
}

impl TokenType {
    /// The type with the number `code`; an undefined one is a normal token, as in llama.cpp.
    pub(crate) fn from_code(code: i64) -> TokenType {
        match code {
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            _ => TokenType::Normal,
        }
    }
}

/// Tokens with a role. From the file's keys; the end of turn, end of message and fill-in-the-middle tokens also by their
/// customary texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// End of message.
    pub eom: Option<u32>,
    /// Unknown text.
    pub unknown: Option<u32>,
    /// Padding of a batch.
    pub padding: Option<u32>,
    /// Fill in the middle: before the prefix.
    pub fim_prefix: Option<u32>,
    /// Fill in the middle: before the suffix.
    pub fim_suffix: Option<u32>,
    /// Fill in the middle: before the text to be written.
    pub fim_middle: Option<u32>,
    /// Fill in the middle: padding.
    pub fim_padding: Option<u32>,
    /// Fill in the middle: before the name of a repository.
    pub fim_repository: Option<u32>,
    /// Fill in the middle: between files.
    pub fim_separator: Option<u32>,
}
