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
    /// The text is brought to Unicode normalisation form C first.
    pub nfc: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

const PLAIN: PreType = PreType {
    names: &[],
    stages: &[GPT2],
    ignore_merges: false,
    add_bos: false,
    nfc: false,
};

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
    PreType { names: &["qwen35"], stages: &[QWEN35], nfc: true, ..PLAIN },
    PreType { names: &["tekken"], stages: &[TEKKEN], ignore_merges: true, add_bos: true, ..PLAIN },
    PreType { names: &["gpt-4o", "llama4", "kanana2", "minimax-m2"], stages: &[GPT4O], ..PLAIN },
    PreType { names: &["glm4", "glm5"], stages: &[LLAMA3], ignore_merges: true, ..PLAIN },
    PreType { names: &["chatglm-bpe"], stages: &[LLAMA3], ..PLAIN },
    PreType { names: &["starcoder", "refact", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        stages: &[r"\p{N}", GPT2], ..PLAIN },
    PreType { names: &["command-r"], stages: &[r"\p{N}", GPT2], nfc: true, ..PLAIN },
    PreType { names: &["falcon"], stages: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"], ..PLAIN },
    PreType { names: &["deepseek-llm"], stages: &["[\r\n]", DEEPSEEK_LETTERS, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$",
        "[一-龥ࠀ-一가-퟿]+", r"\p{N}+"], ..PLAIN },
    PreType { names: &["deepseek-coder"], stages: &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"], ..PLAIN },
    PreType { names: &["deepseek-v3", "hunyuan-dense", "joyai-llm"], stages: &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3], ..PLAIN },
];

const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";

impl PreType {
    /// The row for a name or alias.
    pub fn find(name: &str) -> Result<&'static PreType, TokenizerError> {
        PRE_TYPES
            .iter()
            .find(|p| p.names.contains(&name))
            .ok_or_else(|| TokenizerError::UnknownPre {
                found: name.into(),
                known: known_pre_types(),
            })
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
        Ok(Splitter {
            stages: stages.collect::<Result<_, _>>()?,
        })
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
        let found = self
            .regex
            .search(&input.clone().anchored(Anchored::Yes))
            .or_else(|| self.regex.search(&input))?;
        let (start, mut end) = (found.start(), found.end());
        if found.pattern() == WHITE_SPACE && end < text.len() {
            let last = text[start..end]
                .chars()
                .next_back()
                .map_or(0, char::len_utf8);
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
        check(
            "llama-bpe",
            "a\u{3000}\u{3000}(",
            &["a", "\u{3000}", "\u{3000}", "("],
        );
        check("llama-bpe", "x  1", &["x", " ", " ", "1"]);
    }

    #[test]
    fn digits_and_contractions_follow_the_model() {
        check("llama-bpe", "12345", &["123", "45"]);
        check("qwen2", "123", &["1", "2", "3"]);
        check("default", "1234", &["123", "4"]);
        check("qwen2", "I'LL go", &["I", "'LL", " go"]);
        check("gpt-2", "I'LL go", &["I", "'", "LL", " go"]);
        check(
            "tekken",
            "camelCase HTTPServer",
            &["camel", "Case", " HTTPServer"],
        );
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
