/// Why a tokenizer cannot be built from a file's metadata.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A key that the tokenizer needs is not in the file.
    #[error("metadata key `{key}` is missing: {hint}")]
    Missing {
        /// The absent key.
        key: &'static str,
        /// What the key is for, or what to do.
        hint: String,
    },
    /// A key holds a value of another type.
    #[error("metadata key `{key}`: expected {expected}, found {found}")]
    WrongType {
        /// The key.
        key: String,
        /// The type that the GGUF specification gives.
        expected: &'static str,
        /// The type in the file.
        found: String,
    },
    /// `tokenizer.ggml.model` names a kind of tokenizer that is not implemented.
    #[error("tokenizer model `{found}` is not supported; known models: {known}")]
    UnknownModel {
        /// The name in the file.
        found: String,
        /// The names that are known.
        known: String,
    },
    /// `tokenizer.ggml.pre` names an unknown pre-tokenizer. Guessing one would give wrong token ids without any sign of it.
    #[error("pre-tokenizer `{found}` is not known; known pre-tokenizers: {known}")]
    UnknownPre {
        /// The name in the file.
        found: String,
        /// The names that are known.
        known: String,
    },
    /// An array parallel to the token list has another length.
    #[error("metadata key `{key}` has {found} entries, but the vocabulary has {expected} tokens")]
    Length {
        /// The key.
        key: &'static str,
        /// Tokens in the vocabulary.
        expected: usize,
        /// Entries in the array.
        found: usize,
    },
    /// An entry of an array cannot be used.
    #[error("metadata key `{key}`, entry {index}: {what}")]
    Entry {
        /// The key.
        key: &'static str,
        /// Index of the entry, from 0.
        index: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A text-matching automaton could not be built.
    #[error("cannot build the {what}: {reason}")]
    Automaton {
        /// Which automaton.
        what: String,
        /// The builder's message.
        reason: String,
    },
}

/// Why a chat template could not be compiled or rendered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template refused the conversation with `raise_exception(message)`: the request is at fault, not the template.
    #[error("{0}")]
    Raised(String),
    /// The template is not valid Jinja.
    #[error("the chat template does not compile: {0}")]
    Syntax(String),
    /// The template failed while rendering.
    #[error("the chat template failed: {0}")]
    Render(String),
    /// The process that renders the template cannot be started, or has ended.
    #[error("the process that renders the chat template: {0}")]
    Process(String),
    /// A limit of the sandbox was reached.
    #[error("the chat template exceeded its limit on {what} ({limit})")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// The limit, with its unit.
        limit: String,
    },
}
