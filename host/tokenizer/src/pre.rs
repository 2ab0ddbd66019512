//! Pre-tokenizers: how a text is cut into pieces before byte-pair merging.
//!
//! The expressions are those of the models' `tokenizer.json`. They are matched in linear time, which rules out
//! look-around; the one look-ahead that they all use, `\s+(?!\S)`, is a run of white space that leaves its last
//! character to the following word. [`Stage`] matches plain `\s+` in its place, as a pattern of its own so that a match
//! can be told apart, and then gives the last character back if anything follows the run and the run is longer than one
//! character. Since `\s+` is greedy, what follows is never white space, so this is the same language.

use regex_automata::meta::Regex;
use regex_automata::{Anchored, Input, PatternID};

use crate::TokenizerError;

/// A pre-tokenizer as named by `tokenizer.ggml.pre`.
pub(crate) struct PreType {
    /// The name, then its aliases.
    pub names: &'static [&'static str],
    /// Expressions applied one after another, each to the pieces that the one before left ("isolated" splits).
    pub stages: &'static [&'static str],
    /// A piece that is itself a token is that token, whatever the merges say.
    pub ignore_merges: bool,
    /// Whether a beginning-of-sequence token is added when the file does not say.
    pub add_bos: bool,
    /// The vocabulary is plain text with U+2581 for a space and byte tokens for what it lacks, not byte-level.
    pub plain_text: bool,
    /// The text is brought to Unicode normalisation form C first.
    pub nfc: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

const PLAIN: PreType =
    PreType { names: &[], stages: &[GPT2], ignore_merges: false, add_bos: false, plain_text: false, nfc: false };

/// Every known pre-tokenizer, one row each.
#[rustfmt::skip]
pub(crate) const PRE_TYPES: &[PreType] = &[
    PreType { names: &["default"], stages: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"], ..PLAIN },
    PreType { names: &["gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "gigachat",
        "a.x-4.0", "mellum", "modern-bert", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de"], ..PLAIN },
    PreType { names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
        "jina-v5-nano"], stages: &[LLAMA3], ignore_merges: true, add_bos: true, ..PLAIN },
    PreType { names: &["dbrx", "smaug-bpe"], stages: &[LLAMA3], ..PLAIN },
    PreType { names: &["qwen2", "f2llmv2"], stages: &[QWEN2], nfc: true, ..PLAIN },
    PreType { names: &["deepseek-r1-qwen", "megrez", "kormo", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        stages: &[QWEN2], ..PLAIN },
    PreType { names: &["qwen35"], stages: &[QWEN35], ..PLAIN },
    PreType { names: &["tekken"], stages: &[TEKKEN], ignore_merges: true, add_bos: true, ..PLAIN },
    PreType { names: &["gpt-4o", "llama4", "kanana2", "minimax-m2"], stages: &[GPT4O], ..PLAIN },
    PreType { names: &["glm4", "glm5"], stages: &[LLAMA3], ignore_merges: true, ..PLAIN },
    PreType { names: &["chatglm-bpe"], stages: &[LLAMA3], ..PLAIN },
    PreType { names: &["starcoder", "refact", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        stages: &[r"\p{N}", GPT2], ..PLAIN },
    PreType { names: &["command-r"], stages: &[r"\p{N}", GPT2], nfc: true, ..PLAIN },
    PreType { names: &["gemma4"], stages: &[r"[^\n]+|\n+"], add_bos: true, plain_text: true, ..PLAIN },
    PreType { names: &["falcon"], stages: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"], ..PLAIN },
    PreType { names: &["deepseek-llm"], stages: &["[\r\n]", DEEPSEEK_LETTERS, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$",
        "[一-龥ࠀ-一가-퟿]+", r"\p{N}+"], ..PLAIN },
    PreType { names: &["deepseek-coder"], stages: &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"], ..PLAIN },
    PreType { names: &["deepseek-v3", "hunyuan-dense", "joyai-llm"], stages: &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3], ..PLAIN },
];

/// `\s?` and the cased letters of an older Unicode version, as listed in the model; verbose mode, so that it can be wrapped.
const DEEPSEEK_LETTERS: &str = r"(?x)\s?[
    A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}
    \u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}
    \u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}
    \u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}
    \u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}
    \u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}
    \u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}
    \u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}
    \u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}
    \u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}
    \u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}
    \u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}
]+";

impl PreType {
    /// The row for a name or alias.
    pub fn find(name: &str) -> Result<&'static PreType, TokenizerError> {
        PRE_TYPES
            .iter()
            .find(|p| p.names.contains(&name))
            .ok_or_else(|| TokenizerError::UnknownPre { found: name.into(), known: known_pre_types() })
    }
}

/// The known names and aliases, for error messages.
pub(crate) fn known_pre_types() -> String {
    let names: Vec<_> = PRE_TYPES.iter().flat_map(|p| p.names).copied().collect();
    names.join(", ")
}

/// The compiled expressions of one pre-tokenizer.
pub(crate) struct Splitter {
    stages: Vec<Stage>,
}

struct Stage {
    regex: Regex,
}

/// The pattern that stands for `\s+(?!\S)`.
const WHITE_SPACE: PatternID = PatternID::new_unchecked(1);

impl Splitter {
    pub fn new(pre: &PreType) -> Result<Splitter, TokenizerError> {
        let stages = pre.stages.iter().map(|s| Stage::new(s));
        Ok(Splitter { stages: stages.collect::<Result<_, _>>()? })
    }

    /// Calls `f` with each piece of `text`, in order; the pieces together are `text`.
    pub fn split<'t>(&self, text: &'t str, f: &mut impl FnMut(&'t str)) {
        split_stages(&self.stages, text, f);
    }
}

fn split_stages<'t>(stages: &[Stage], text: &'t str, f: &mut impl FnMut(&'t str)) {
    let Some((stage, rest)) = stages.split_first() else {
        return f(text);
    };
    let mut at = 0;
    while at < text.len() {
        let (start, end) = stage.next(text, at).unwrap_or((text.len(), text.len()));
        for piece in [&text[at..start], &text[start..end]] {
            if !piece.is_empty() {
                split_stages(rest, piece, f);
            }
        }
        at = end;
    }
}

impl Stage {
    fn new(expression: &str) -> Result<Stage, TokenizerError> {
        // Where no alternative takes a single white-space character before a word, it is left over between two
        // matches and so becomes a piece all the same: both forms of the tail mean the same.
        let tail = [r"|\s+(?!\S)|\s+", r"|\s+(?!\S)"];
        let main = tail.iter().find_map(|t| expression.strip_suffix(t));
        let regex = match main {
            Some(main) => Regex::new_many(&[main, r"\s+"]),
            None => Regex::new(expression),
        };
        let regex = regex.map_err(|e| TokenizerError::Automaton {
            what: format!("pre-tokenizer `{expression}`"),
            reason: e.to_string(),
        })?;
        Ok(Stage { regex })
    }

    /// The next non-empty match at or after `at`.
    fn next(&self, text: &str, at: usize) -> Option<(usize, usize)> {
        let input = Input::new(text).range(at..);
        // Nearly every match begins where the last one ended, and an anchored search need not look for its start.
        let found = self.regex.search(&input.clone().anchored(Anchored::Yes)).or_else(|| self.regex.search(&input))?;
        let (start, mut end) = (found.start(), found.end());
        if found.pattern() == WHITE_SPACE && end < text.len() {
            let last = text[start..end].chars().next_back().map_or(0, char::len_utf8);
            if end - last > start {
                end -= last;
            }
        }
        (end > start).then_some((start, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pre: &str, text: &str, expected: &[&str]) {
        let splitter = Splitter::new(PreType::find(pre).unwrap()).unwrap();
        let mut pieces = Vec::new();
        splitter.split(text, &mut |p| pieces.push(p));
        assert_eq!(pieces, expected, "{pre} {text:?}");
        assert_eq!(pieces.concat(), text);
    }

    #[test]
    fn a_white_space_run_leaves_its_last_character_to_the_word() {
        check("gpt-2", "a   b", &["a", "  ", " b"]);
        check("gpt-2", "a \t\nb", &["a", " \t", "\n", "b"]);
        check("gpt-2", "a   ", &["a", "   "]);
        check("gpt-2", "\tb", &["\t", "b"]);
        check("llama-bpe", "a   b", &["a", "  ", " b"]);
        check("llama-bpe", "a \n  b", &["a", " \n", " ", " b"]);
        check("llama-bpe", "a\u{3000}\u{3000}(", &["a", "\u{3000}", "\u{3000}", "("]);
        check("llama-bpe", "x  1", &["x", " ", " ", "1"]);
    }

    #[test]
    fn digits_and_contractions_follow_the_model() {
        check("llama-bpe", "12345", &["123", "45"]);
        check("qwen2", "123", &["1", "2", "3"]);
        check("default", "1234", &["123", "4"]);
        check("qwen2", "I'LL go", &["I", "'LL", " go"]);
        check("gpt-2", "I'LL go", &["I", "'", "LL", " go"]);
        check("tekken", "camelCase HTTPServer", &["camel", "Case", " HTTPServer"]);
    }

    #[test]
    fn long_runs_take_no_quadratic_time() {
        let runs = ["a", " ", "\n", "1", "A", "a ", "1 ", " 1", "'", "'a", "\u{301}", "\r\n ", ".", "-a", "漢", "漢1 "];
        for pre in PRE_TYPES {
            let splitter = Splitter::new(pre).unwrap();
            for run in runs {
                let text = run.repeat(200_000);
                let mut length = 0;
                splitter.split(&text, &mut |piece| length += piece.len());
                assert_eq!(length, text.len(), "{:?} {run:?}", pre.names);
            }
        }
    }

    #[test]
    fn every_row_compiles_and_no_name_appears_twice() {
        let mut seen = std::collections::HashSet::new();
        for pre in PRE_TYPES {
            Splitter::new(pre).unwrap();
            assert!(!pre.names.is_empty());
            for name in pre.names {
                assert!(seen.insert(name), "{name}");
            }
        }
    }
}
