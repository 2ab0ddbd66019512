use std::collections::BTreeMap;

use rocmforge_gguf::Metadata;

use crate::bpe::Bpe;
use crate::detokenizer::Detokenizer;
use crate::pre::{PreType, known_pre_types};
use crate::special::{Fragment, SpecialMatcher};
use crate::spm::Spm;
use crate::vocab::{self, Encoding, Vocab};
use crate::wordpiece::WordPiece;
use crate::{ChatTemplate, SpecialTokens, TemplateError, TokenType, TokenizerError, guard};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TEMPLATE: &str = "tokenizer.chat_template";
const KNOWN_MODELS: &str =
    "gpt2 (byte-level BPE), llama (SentencePiece BPE), gemma4 (BPE over plain text), bert (WordPiece)";

/// How to encode a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add the beginning and end of sequence where the file says so.
    pub add_special: bool,
    /// Recognise control tokens such as `<|im_start|>` in the text. Switch this off for text of users. User-defined
    /// tokens are text and are recognised always.
    pub parse_special: bool,
}

impl Default for EncodeOptions {
    /// Adds and recognises special tokens, as for a prompt that a template has rendered without its own beginning.
    fn default() -> Self {
        EncodeOptions { add_special: true, parse_special: true }
    }
}

enum Model {
    Bpe(Bpe),
    Spm(Spm),
    WordPiece(WordPiece),
}

/// A tokenizer built from the metadata of a GGUF file.
pub struct Tokenizer {
    vocab: Vocab,
    model: Model,
    special: SpecialMatcher,
    model_name: String,
    pre: Option<String>,
    add_bos: bool,
    add_eos: bool,
    templates: BTreeMap<String, String>,
}

impl Tokenizer {
    /// Reads the `tokenizer.*` keys of `meta`.
    ///
    /// # Errors
    /// A key is missing or of a wrong type, the model or its pre-tokenizer is not known, or the arrays do not fit each
    /// other. As in llama.cpp, a special token id outside the vocabulary counts as absent, and a merge of tokens that are
    /// not in the vocabulary is skipped.
    pub fn from_metadata(meta: &Metadata) -> Result<Tokenizer, TokenizerError> {
        let model_name = vocab::string(meta, MODEL)?.ok_or_else(|| TokenizerError::Missing {
            key: MODEL,
            hint: format!("the file has no tokenizer; known models: {KNOWN_MODELS}"),
        })?;
        let pre = vocab::string(meta, PRE)?.or_else(|| implied_pre(meta));
        let wordpiece = model_name == "bert";
        let (vocab, model, add_bos) = match model_name {
            "gpt2" => build_bpe(meta, pre)?,
            "llama" => build_spm(meta)?,
            "gemma4" => build_bpe(meta, Some("gemma4"))?,
            "bert" => build_wordpiece(meta)?,
            other => {
                return Err(TokenizerError::UnknownModel { found: other.into(), known: KNOWN_MODELS.into() });
            }
        };
        Ok(Tokenizer {
            special: SpecialMatcher::new(&vocab, meta.str("general.name"))?,
            vocab,
            model,
            model_name: model_name.into(),
            pre: pre.map(Into::into),
            add_bos: vocab::flag(meta, "tokenizer.ggml.add_bos_token", add_bos)?,
            add_eos: vocab::flag(meta, "tokenizer.ggml.add_eos_token", wordpiece)?,
            templates: read_templates(meta)?,
        })
    }

    /// The token ids of `text`.
    ///
    /// Takes time proportional to the length of the text, within a logarithmic factor for very long words.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        self.encode_marked(text, options, None)
    }

    /// The same, where `mark` is no part of the text but keeps what it stands in from being a special token.
    pub(crate) fn encode_marked(&self, text: &str, options: EncodeOptions, mark: Option<char>) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        if options.add_special && self.add_bos {
            out.extend(self.vocab.special.bos);
        }
        self.special.split(text, options.parse_special, |fragment| match fragment {
            Fragment::Token(id) => out.push(id),
            Fragment::Text(text) => {
                let text = guard::without(text, mark);
                match &self.model {
                    Model::Bpe(bpe) => bpe.encode(&text, &mut out),
                    Model::Spm(spm) => spm.encode(&text, &mut out),
                    Model::WordPiece(wordpiece) => wordpiece.encode(&text, &mut out),
                }
            }
        });
        if options.add_special && self.add_eos {
            out.extend(self.vocab.special.eos);
        }
        out
    }

    /// The token ids of a prompt that is to be continued: a text, or a conversation that a [`ChatTemplate`] has rendered
    /// ([`Rendered`](crate::Rendered) tells what is a message from what is not).
    ///
    /// Special tokens in it count as such. The BOS token that the model expects is put in front unless the text begins
    /// with it, as most templates write it themselves; EOS is not added, because it would end what is to be continued.
    pub fn encode_prompt(&self, text: &str) -> Vec<u32> {
        self.encode_prompt_marked(text, None)
    }

    pub(crate) fn encode_prompt_marked(&self, text: &str, mark: Option<char>) -> Vec<u32> {
        let mut ids = self.encode_marked(text, EncodeOptions { add_special: false, parse_special: true }, mark);
        if let Some(bos) = self.bos().filter(|_| self.add_bos)
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        ids
    }

    /// The text of `ids`. What is not UTF-8 becomes U+FFFD, and ids outside the vocabulary are left out.
    ///
    /// `skip_special` leaves out control and unknown tokens. Where encoding puts a space in front of the text, one space
    /// is removed from its beginning.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let shown = ids.iter().filter(|&&id| !(skip_special && self.is_special(id)));
        let bytes: Vec<u8> = shown.flat_map(|&id| self.token_bytes(id)).copied().collect();
        let stripped = if self.strips_prefix() { bytes.strip_prefix(b" ") } else { None };
        String::from_utf8_lossy(stripped.unwrap_or(&bytes)).into_owned()
    }

    /// A decoder for tokens that arrive one at a time, from the beginning of a text.
    pub fn detokenizer(&self, skip_special: bool) -> Detokenizer<'_> {
        Detokenizer::new(self, skip_special, self.strips_prefix())
    }

    /// The same for tokens that continue a text, whose leading space is therefore kept.
    pub fn continuing_detokenizer(&self, skip_special: bool) -> Detokenizer<'_> {
        Detokenizer::new(self, skip_special, false)
    }

    pub(crate) fn special(&self) -> &SpecialMatcher {
        &self.special
    }

    fn strips_prefix(&self) -> bool {
        match &self.model {
            Model::Bpe(_) => false,
            Model::Spm(spm) => spm.strips_prefix(),
            Model::WordPiece(_) => true,
        }
    }

    /// The bytes that a token decodes to, which need not be UTF-8; empty for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocab.bytes(id)
    }

    /// The token as the file writes it, such as `Ġthe`; empty for an id outside the vocabulary.
    pub fn token_text(&self, id: u32) -> &str {
        self.vocab.text(id)
    }

    /// Number of tokens; ids are `0..vocab_size()`.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// What a token is; an id outside the vocabulary is [`TokenType::Unused`].
    pub fn token_type(&self, id: u32) -> TokenType {
        self.vocab.token_type(id)
    }

    /// Whether this is a control token or the unknown token.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.token_type(id), TokenType::Control | TokenType::Unknown)
    }

    /// Whether generation ends with this token: an end of sequence, of turn or of message.
    pub fn is_eog(&self, id: u32) -> bool {
        self.vocab.end_of_generation.contains(&id)
    }

    /// All tokens that end generation, in order.
    pub fn eog_tokens(&self) -> impl Iterator<Item = u32> + '_ {
        self.vocab.end_of_generation.iter().copied()
    }

    /// The beginning of sequence.
    pub fn bos(&self) -> Option<u32> {
        self.vocab.special.bos
    }

    /// The end of sequence.
    pub fn eos(&self) -> Option<u32> {
        self.vocab.special.eos
    }

    /// The end of turn.
    pub fn eot(&self) -> Option<u32> {
        self.vocab.special.eot
    }

    /// All tokens with a role, those for filling in the middle among them.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.vocab.special
    }

    /// Whether encoding with special tokens puts [`Self::bos`] first.
    pub fn add_bos(&self) -> bool {
        self.add_bos && self.bos().is_some()
    }

    /// Whether encoding with special tokens puts [`Self::eos`] last.
    pub fn add_eos(&self) -> bool {
        self.add_eos && self.eos().is_some()
    }

    /// The kind of tokenizer, `tokenizer.ggml.model`.
    pub fn model_name(&self) -> &str {
        &self.model_name
    }

    /// The pre-tokenizer, `tokenizer.ggml.pre`; without effect for the model `llama`.
    pub fn pre(&self) -> Option<&str> {
        self.pre.as_deref()
    }

    /// The source of the file's chat template.
    pub fn chat_template(&self) -> Option<&str> {
        self.named_chat_template("")
    }

    /// The source of a further template, from `tokenizer.chat_template.<name>`, such as `tool_use`.
    pub fn named_chat_template(&self, name: &str) -> Option<&str> {
        self.templates.get(name).map(String::as_str)
    }

    /// The file's chat template, ready to render, or [`ChatTemplate::fallback`] where it has none.
    ///
    /// # Errors
    /// The template does not compile.
    pub fn compile_chat_template(&self) -> Result<ChatTemplate, TemplateError> {
        let text = |id: Option<u32>| id.map(|id| self.token_text(id).to_string());
        match self.chat_template() {
            Some(source) => ChatTemplate::new(source, text(self.bos()), text(self.eos())),
            None => Ok(ChatTemplate::fallback()),
        }
    }
}

/// The pre-tokenizer of a file from before there was the key, where its architecture had only one.
fn implied_pre(meta: &Metadata) -> Option<&'static str> {
    const LLAMA3_TOKENS: usize = 128_256;
    let pre = match meta.str("general.architecture")? {
        "qwen2" | "qwen2moe" => "qwen2",
        "llama" if meta.array(vocab::TOKENS)?.len() == LLAMA3_TOKENS => "llama-bpe",
        _ => return None,
    };
    (meta.str(MODEL)? == "gpt2").then(|| {
        tracing::warn!(
            "metadata '{PRE}' is missing from the file; '{pre}' is used, which the architecture's models have"
        );
        pre
    })
}

fn build_bpe(meta: &Metadata, pre: Option<&str>) -> Result<(Vocab, Model, bool), TokenizerError> {
    let pre = pre.ok_or_else(|| TokenizerError::Missing {
        key: PRE,
        hint: format!(
            "without it texts would be tokenized wrongly; convert the model again, or add one of: {}",
            known_pre_types()
        ),
    })?;
    let pre = PreType::find(pre)?;
    let encoding = match pre.plain_text {
        true => Encoding::SentencePiece,
        false => Encoding::ByteLevel,
    };
    let vocab = Vocab::new(meta, encoding)?;
    let bpe = Bpe::new(meta, pre, &vocab)?;
    Ok((vocab, Model::Bpe(bpe), pre.add_bos))
}

fn build_spm(meta: &Metadata) -> Result<(Vocab, Model, bool), TokenizerError> {
    let mut vocab = Vocab::new(meta, Encoding::SentencePiece)?;
    // Old files leave out the ids that SentencePiece gives these tokens by default.
    let default = |id: u32| ((id as usize) < vocab.len()).then_some(id);
    let (unknown, bos, eos) = (default(0), default(1), default(2));
    let special = &mut vocab.special;
    special.unknown = special.unknown.or(unknown);
    special.bos = special.bos.or(bos);
    special.eos = special.eos.or(eos);
    vocab.end_of_generation.extend(vocab.special.eos);
    let scores = vocab::scores(meta, vocab.len())?;
    let space_prefix = vocab::flag(meta, "tokenizer.ggml.add_space_prefix", true)?;
    let spm = Spm::new(&vocab, scores, space_prefix);
    Ok((vocab, Model::Spm(spm), true))
}

/// BERT puts its classification token first and its separator last; they take the places of beginning and end here.
fn build_wordpiece(meta: &Metadata) -> Result<(Vocab, Model, bool), TokenizerError> {
    let mut vocab = Vocab::new(meta, Encoding::SentencePiece)?;
    let key = |name: &str, default: u32| {
        let id = meta.u64(&format!("tokenizer.ggml.{name}_token_id")).unwrap_or(default.into());
        u32::try_from(id).ok().filter(|&id| (id as usize) < vocab.len())
    };
    // The ids that old files leave out are those of the first BERT. The key is spelled like that in the files.
    let (unknown, first, last) = (key("unknown", 100), key("cls", 101), key("seperator", 102));
    vocab.special.unknown = unknown;
    vocab.special.bos = vocab.special.bos.or(first);
    vocab.special.eos = vocab.special.eos.or(last);
    vocab.end_of_generation.extend(vocab.special.eos);
    let wordpiece = WordPiece::new(meta, &vocab)?;
    Ok((vocab, Model::WordPiece(wordpiece), true))
}

/// The chat templates by name, the main one under the empty name.
fn read_templates(meta: &Metadata) -> Result<BTreeMap<String, String>, TokenizerError> {
    let mut templates = BTreeMap::new();
    for (key, _) in meta.iter() {
        // The list of the names is a key that begins in the same way.
        let name = match key.strip_prefix(TEMPLATE) {
            Some("") => Some(""),
            Some(rest) => rest.strip_prefix('.'),
            None => None,
        };
        let Some(name) = name else { continue };
        if let Some(source) = vocab::string(meta, key)? {
            templates.insert(name.to_string(), source.to_string());
        }
    }
    Ok(templates)
}
