//! Finds special and user-defined tokens in a text.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::vocab::Vocab;
use crate::{TokenType, TokenizerError};

/// A stretch of text, or a token that stands in it.
pub(crate) enum Fragment<'t> {
    Text(&'t str),
    Token(u32),
}

pub(crate) struct SpecialMatcher {
    /// User-defined tokens, which are matched in any text.
    user_defined: Automaton,
    /// These and the control tokens, which are matched only where asked for.
    all: Automaton,
    /// What is not matched in texts of users, wherever it stands, within others of its kind too.
    control: Option<AhoCorasick>,
    /// Tokens that swallow the white space after them, sorted.
    strips_right: Vec<u32>,
}

struct Automaton {
    matcher: Option<AhoCorasick>,
    ids: Vec<u32>,
}

impl SpecialMatcher {
    pub fn new(vocab: &Vocab, model_name: Option<&str>) -> Result<SpecialMatcher, TokenizerError> {
        let is_special = |t| matches!(t, TokenType::Control | TokenType::UserDefined | TokenType::Unknown);
        let all: Vec<u32> = vocab.ids().filter(|&id| is_special(vocab.token_type(id))).collect();
        let of_users = |id: &u32| vocab.token_type(*id) == TokenType::UserDefined;
        let (user_defined, control): (Vec<u32>, Vec<u32>) = all.iter().copied().partition(of_users);
        Ok(SpecialMatcher {
            user_defined: Automaton::new(vocab, user_defined, MatchKind::LeftmostLongest)?,
            control: Automaton::new(vocab, control, MatchKind::Standard)?.matcher,
            strips_right: tokens_that_strip(vocab, &all, model_name),
            all: Automaton::new(vocab, all, MatchKind::LeftmostLongest)?,
        })
    }

    /// Whether a control token is spelled out in `text`.
    pub fn spells_control(&self, text: &str) -> bool {
        self.control.as_ref().is_some_and(|matcher| matcher.is_match(text))
    }

    /// A place within each control token that is spelled out in `text`, behind its first character, in order.
    pub fn inside_control(&self, text: &str) -> Vec<usize> {
        let found = self.control.iter().flat_map(|matcher| matcher.find_overlapping_iter(text));
        let inside = |start: usize| start + text[start..].chars().next().map_or(0, char::len_utf8);
        let mut places: Vec<usize> = found.map(|found| inside(found.start())).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Cuts `text` at the special tokens in it, leftmost and then longest first, and calls `f` with each fragment.
    pub fn split<'t>(&self, text: &'t str, control: bool, mut f: impl FnMut(Fragment<'t>)) {
        let automaton = if control { &self.all } else { &self.user_defined };
        let mut at = 0;
        if let Some(matcher) = &automaton.matcher {
            for found in matcher.find_iter(text) {
                // White space that the token before has swallowed may have been part of this match.
                let start = found.start().max(at);
                if start > at {
                    f(Fragment::Text(&text[at..start]));
                }
                if start < found.end() {
                    let id = automaton.ids[found.pattern()];
                    f(Fragment::Token(id));
                    at = found.end();
                    if self.strips_right.binary_search(&id).is_ok() {
                        at = text.len() - text[at..].trim_start().len();
                    }
                }
            }
        }
        if at < text.len() {
            f(Fragment::Text(&text[at..]));
        }
    }
}

impl Automaton {
    fn new(vocab: &Vocab, mut ids: Vec<u32>, kind: MatchKind) -> Result<Automaton, TokenizerError> {
        ids.retain(|&id| !vocab.text(id).is_empty());
        if ids.is_empty() {
            return Ok(Automaton { matcher: None, ids });
        }
        let matcher =
            AhoCorasick::builder().match_kind(kind).build(ids.iter().map(|&id| vocab.text(id))).map_err(|e| {
                TokenizerError::Automaton { what: "matcher of the special tokens".into(), reason: e.to_string() }
            })?;
        Ok(Automaton { matcher: Some(matcher), ids })
    }
}

/// GGUF has no field for the `rstrip` flag of added tokens. Phi-3 is the family that needs it, and llama.cpp knows it by
/// the model's name too.
fn tokens_that_strip(vocab: &Vocab, special: &[u32], model_name: Option<&str>) -> Vec<u32> {
    let name = model_name.unwrap_or_default().to_lowercase();
    if !name.contains("phi-3") && !name.contains("phi3") {
        return Vec::new();
    }
    let keeps = |id: u32| matches!(vocab.text(id), "<unk>" | "<s>" | "<|endoftext|>");
    special.iter().copied().filter(|&id| !keeps(id)).collect()
}
