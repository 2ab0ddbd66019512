//! Properties that hold for every text and every list of ids.

mod common;

use common::*;
use proptest::prelude::*;
use rocmforge_tokenizer::{EncodeOptions, TokenType, Tokenizer};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

const BYTE_LEVEL: [&str; 3] = ["llama-bpe", "tekken", "glm4"];
const ALL: [&str; 6] = ["llama-bpe", "tekken", "glm4", "qwen2", "llama-spm", "gemma-spm"];

fn tokenizers(names: &[&str]) -> Vec<(String, Tokenizer)> {
    names.iter().map(|n| (n.to_string(), load(&fixture(&format!("{n}.gguf"))))).collect()
}

/// Texts of all scripts, with special tokens and runs of white space among them.
fn any_text() -> impl Strategy<Value = String> {
    let special =
        prop::sample::select(vec!["<|eot_id|>", "<s>", "<|im_end|>", "[INST]", "<0x0A>", "<start_of_turn>", "<unk>"]);
    let space = prop::sample::select(vec![" ", "  ", "\n", "\r\n\n", "\t", "\u{a0}", "▁", "\u{3000} "]);
    let part = prop_oneof![
        "\\PC{0,12}",
        "[a-zA-Z']{1,9}",
        ".{0,8}",
        special.prop_map(String::from),
        space.prop_map(String::from)
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

#[test]
fn byte_level_encoding_round_trips() {
    let tokenizers = tokenizers(&BYTE_LEVEL);
    proptest!(ProptestConfig::with_cases(300), |(text in any_text())| {
        for (name, tokenizer) in &tokenizers {
            for options in [PLAIN, TEXT] {
                let ids = tokenizer.encode(&text, options);
                prop_assert_eq!(tokenizer.decode(&ids, false), text.as_str(), "{}", name);
            }
        }
    });
}

#[test]
fn sentencepiece_encoding_round_trips() {
    let tokenizers = tokenizers(&["llama-spm", "gemma-spm"]);
    proptest!(ProptestConfig::with_cases(300), |(text in any_text())| {
        // The stand-in for a space is a space to SentencePiece.
        let text = text.replace('▁', "_");
        for (name, tokenizer) in &tokenizers {
            let ids = tokenizer.encode(&text, PLAIN);
            prop_assert_eq!(tokenizer.decode(&ids, false), text.as_str(), "{}", name);
        }
    });
}

#[test]
fn untrusted_text_yields_no_control_tokens() {
    let tokenizers = tokenizers(&ALL);
    proptest!(ProptestConfig::with_cases(300), |(text in any_text())| {
        for (name, tokenizer) in &tokenizers {
            let ids = tokenizer.encode(&text, PLAIN);
            prop_assert!(ids.iter().all(|&id| tokenizer.token_type(id) != TokenType::Control), "{}: {:?}", name, ids);
        }
    });
}

#[test]
fn a_stream_of_any_tokens_decodes_like_the_whole() {
    let tokenizers = tokenizers(&ALL);
    proptest!(ProptestConfig::with_cases(500), |(ids in prop::collection::vec(0u32..700, 0..40), skip: bool)| {
        for (_, tokenizer) in &tokenizers {
            check_stream(tokenizer, &ids, skip);
        }
    });
}

#[test]
fn what_follows_does_not_change_the_beginning_of_a_long_word() {
    for (name, tokenizer) in tokenizers(&ALL) {
        for unit in ["a", "ab", "the", "é", "🦙", "in", "-", "=", "aaab"] {
            let long = tokenizer.encode(&unit.repeat(400), PLAIN);
            let longer = tokenizer.encode(&unit.repeat(800), PLAIN);
            let shared = long.len() * 3 / 4;
            assert_eq!(long[..shared], longer[..shared], "{name} {unit:?}");
            assert_eq!(tokenizer.decode(&long, false), unit.repeat(400), "{name} {unit:?}");
        }
    }
}

#[test]
fn adversarial_text_takes_no_quadratic_time() {
    // With a quadratic step each of these would take hours.
    let million = 1_000_000;
    let texts = [
        "a".repeat(million),
        " ".repeat(million),
        format!("{}x", " \t".repeat(million / 2)),
        "\n".repeat(million),
        format!("{}\n", " ".repeat(million)),
        "A".repeat(million),
        "e\u{301}\u{323}".repeat(million / 4),
        format!("a{}", "\u{301}\u{323}".repeat(million / 4)),
        "<|".repeat(million / 2),
        "<|im_start|".repeat(million / 10),
        "<|eot_id|>".repeat(million / 10),
        "<start_of_".repeat(million / 10),
        "'".repeat(million),
        "1".repeat(million),
        "🦙".repeat(million / 4),
        "▁".repeat(million / 3),
        "a▁".repeat(million / 4),
    ];
    for (name, tokenizer) in tokenizers(&ALL) {
        for text in &texts {
            let ids = tokenizer.encode(text, TEXT);
            let decoded = tokenizer.decode(&ids, false);
            assert!(!decoded.is_empty(), "{name}");
            if BYTE_LEVEL.contains(&name.as_str()) {
                assert!(decoded == *text, "{name} {:?}", &text.chars().take(9).collect::<String>());
            }
        }
    }
}
