//! What a tokenizer reads from a file, and what it says about files that it cannot use.

mod common;

use common::*;
use rocmforge_gguf::{ArrayValue, Metadata, Value};
use rocmforge_tokenizer::{Tokenizer, TokenizerError};

fn strings(items: &[&str]) -> Value {
    Value::Array(ArrayValue::String(items.iter().map(|s| s.to_string()).collect()))
}

/// A byte-level vocabulary of four tokens, with some keys replaced or, where the value is `None`, left out.
fn metadata(changes: &[(&str, Option<Value>)]) -> Metadata {
    let mut meta = Metadata::default();
    for (key, value) in changes {
        if let Some(value) = value {
            meta.insert(*key, value.clone());
        }
    }
    for (key, value) in [
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("gpt-2".into())),
        ("tokenizer.ggml.tokens", strings(&["a", "b", "ab", "<|im_end|>"])),
        ("tokenizer.ggml.token_type", Value::Array(ArrayValue::I32(vec![1, 1, 1, 3]))),
        ("tokenizer.ggml.merges", strings(&["a b"])),
    ] {
        if !changes.iter().any(|(k, _)| *k == key) {
            meta.insert(key, value);
        }
    }
    meta
}

fn check_error(changes: &[(&str, Option<Value>)], parts: &[&str]) {
    let Err(error) = Tokenizer::from_metadata(&metadata(changes)) else { panic!("accepted: {parts:?}") };
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not name {part:?}");
    }
}

#[test]
fn unusable_metadata_is_named() {
    let text = |s: &str| Some(Value::String(s.into()));
    check_error(&[("tokenizer.ggml.model", None)], &["tokenizer.ggml.model", "gpt2", "llama"]);
    check_error(&[("tokenizer.ggml.model", text("t5"))], &["`t5`", "gpt2", "llama"]);
    check_error(&[("tokenizer.ggml.model", Some(Value::U32(1)))], &["tokenizer.ggml.model", "string", "integer"]);
    check_error(&[("tokenizer.ggml.pre", None)], &["tokenizer.ggml.pre", "llama-bpe", "qwen2", "tekken"]);
    check_error(&[("tokenizer.ggml.pre", text("no-such"))], &["`no-such`", "llama-bpe", "qwen2"]);
    check_error(&[("tokenizer.ggml.tokens", None)], &["tokenizer.ggml.tokens"]);
    check_error(&[("tokenizer.ggml.tokens", text("a"))], &["tokenizer.ggml.tokens", "array of strings"]);
    let types = |v: &[i32]| Some(Value::Array(ArrayValue::I32(v.to_vec())));
    check_error(
        &[("tokenizer.ggml.token_type", types(&[1, 1]))],
        &["tokenizer.ggml.token_type", "2 entries", "4 tokens"],
    );
    check_error(&[("tokenizer.ggml.token_type", types(&[6, 1, 1, 1]))], &["entry 0", "<0x0A>", "\"a\""]);
    check_error(
        &[("tokenizer.ggml.token_type", Some(Value::Bool(true)))],
        &["tokenizer.ggml.token_type", "array of i32"],
    );
    check_error(&[("tokenizer.ggml.merges", None)], &["tokenizer.ggml.merges"]);
    check_error(
        &[("tokenizer.ggml.merges", Some(strings(&["a b", "ab"])))],
        &["tokenizer.ggml.merges", "entry 1", "\"ab\""],
    );
    check_error(&[("tokenizer.ggml.add_bos_token", text("yes"))], &["add_bos_token", "bool"]);
    check_error(&[("tokenizer.chat_template", Some(Value::U32(1)))], &["tokenizer.chat_template", "string"]);
    check_error(&[("tokenizer.ggml.model", text("llama"))], &["tokenizer.ggml.scores"]);
    let scores = Some(Value::Array(ArrayValue::F32(vec![0.0])));
    check_error(
        &[("tokenizer.ggml.model", text("llama")), ("tokenizer.ggml.scores", scores)],
        &["tokenizer.ggml.scores", "1 entries", "4 tokens"],
    );
}

#[test]
fn what_files_get_wrong_without_harm_is_tolerated() {
    let tokenizer = Tokenizer::from_metadata(&metadata(&[
        ("tokenizer.ggml.merges", Some(strings(&["x y", "a b", "a b", "b a"]))),
        ("tokenizer.ggml.bos_token_id", Some(Value::U32(99))),
        ("tokenizer.ggml.add_bos_token", Some(Value::Bool(true))),
    ]));
    let tokenizer = tokenizer.unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.add_bos()), (None, false));
    assert_eq!(tokenizer.encode("abba", Default::default()), [2, 1, 0]);
    // Bytes without a token are left out.
    assert_eq!(tokenizer.encode("a?b", Default::default()), [0, 1]);
    assert_eq!(tokenizer.decode(&[0, 4, u32::MAX, 1], true), "ab");
    assert_eq!((tokenizer.token_text(4), tokenizer.token_bytes(9)), ("", &[][..]));
}

#[test]
fn an_empty_vocabulary_is_no_crash() {
    let tokenizer = Tokenizer::from_metadata(&metadata(&[
        ("tokenizer.ggml.tokens", Some(strings(&[]))),
        ("tokenizer.ggml.token_type", None),
    ]));
    let tokenizer = tokenizer.unwrap();
    assert_eq!(tokenizer.vocab_size(), 0);
    assert!(tokenizer.encode("text", Default::default()).is_empty());
}

#[test]
fn roles_come_from_keys_and_customary_texts() {
    let llama = load(&fixture("llama-bpe.gguf"));
    assert_eq!((llama.model_name(), llama.pre()), ("gpt2", Some("llama-bpe")));
    assert!(llama.add_bos() && !llama.add_eos());
    let text = |t: &Tokenizer, id: Option<u32>| t.token_text(id.unwrap()).to_string();
    assert_eq!(text(&llama, llama.bos()), "<|begin_of_text|>");
    assert_eq!(text(&llama, llama.eot()), "<|eot_id|>");
    assert!(llama.is_special(llama.bos().unwrap()) && llama.is_eog(llama.eot().unwrap()));
    assert!(!llama.is_eog(0) && !llama.is_special(0) && !llama.is_eog(u32::MAX));

    let qwen = load(&fixture("qwen2.gguf"));
    assert_eq!((qwen.bos(), qwen.add_bos()), (None, false));
    assert_eq!(text(&qwen, qwen.eos()), "<|im_end|>");
    let ends: Vec<_> = qwen.eog_tokens().map(|id| qwen.token_text(id)).collect();
    assert!(ends.contains(&"<|im_end|>") && ends.contains(&"<|endoftext|>"), "{ends:?}");
    assert!(qwen.chat_template().unwrap().contains("<|im_start|>"));
    assert_eq!(qwen.named_chat_template("tool_use"), None);

    let gemma = load(&fixture("gemma-spm.gguf"));
    assert_eq!(text(&gemma, gemma.eot()), "<end_of_turn>");
    assert_eq!(gemma.decode(&[gemma.bos().unwrap()], true), "");
    assert_eq!(gemma.decode(&[gemma.bos().unwrap()], false), "<bos>");
}

#[test]
fn templates_are_found_by_name() {
    let named = [
        ("tokenizer.chat_templates", Some(strings(&["default", "tool_use"]))),
        ("tokenizer.chat_template", Some(Value::String("main".into()))),
        ("tokenizer.chat_template.tool_use", Some(Value::String("tools".into()))),
    ];
    let tokenizer = Tokenizer::from_metadata(&metadata(&named)).unwrap();
    assert_eq!(tokenizer.chat_template(), Some("main"));
    assert_eq!(tokenizer.named_chat_template("tool_use"), Some("tools"));
    let without = Tokenizer::from_metadata(&metadata(&[])).unwrap();
    assert_eq!(without.chat_template(), None);
    let fallback = without.compile_chat_template().unwrap();
    let prompt = fallback.render(&serde_json::json!([{"role": "user", "content": "Hi"}]), &Default::default());
    assert!(prompt.unwrap().starts_with("<|im_start|>user\nHi<|im_end|>"));
}

#[test]
fn a_continuation_keeps_its_leading_space() {
    let llama = load(&fixture("llama-spm.gguf"));
    let ids = llama.encode("the", TEXT);
    assert_eq!(llama.decode(&ids, true), "the");
    let text = |mut d: rocmforge_tokenizer::Detokenizer| ids.iter().map(|&id| d.push(id)).collect::<String>();
    assert_eq!(text(llama.detokenizer(true)), "the");
    assert_eq!(text(llama.continuing_detokenizer(true)), " the");
}

#[test]
fn characters_are_never_split_and_bad_bytes_are_replaced() {
    let llama = load(&fixture("llama-bpe.gguf"));
    let bytes = |text: &str| llama.encode(text, TEXT);
    let llama_emoji = bytes("🦙");
    let mut stream = llama.detokenizer(false);
    let parts: Vec<String> = llama_emoji.iter().map(|&id| stream.push(id)).collect();
    assert_eq!(parts.iter().filter(|p| !p.is_empty()).count(), 1, "{parts:?}");
    assert_eq!(parts.concat(), "🦙");
    // Half a character at the end, and one cut short by a letter.
    let half = &llama_emoji[..llama_emoji.len() - 1];
    let mut stream = llama.detokenizer(false);
    assert!(half.iter().all(|&id| stream.push(id).is_empty()));
    assert_eq!(stream.push(bytes("a")[0]), "\u{fffd}a");
    assert_eq!(stream.flush(), "");
    assert_eq!(llama.decode(half, false), "\u{fffd}");
}

#[test]
fn control_tokens_of_phi_3_take_the_white_space_after_them() {
    let check = |name: &str, expected: &[u32]| {
        let name = ("general.name", Some(Value::String(name.into())));
        let tokens = strings(&["a", "\u{120}", "\u{120}a", "<|im_end|>", "<s>"]);
        let types = Value::Array(ArrayValue::I32(vec![1, 1, 1, 3, 3]));
        let meta = metadata(&[
            name,
            ("tokenizer.ggml.tokens", Some(tokens)),
            ("tokenizer.ggml.token_type", Some(types)),
            ("tokenizer.ggml.merges", Some(strings(&["\u{120} a"]))),
        ]);
        let tokenizer = Tokenizer::from_metadata(&meta).unwrap();
        assert_eq!(tokenizer.encode("a<|im_end|>  a<s> a", TEXT), expected);
    };
    check("Phi 3", &[0, 3, 1, 2, 4, 2]);
    check("Phi-3 mini", &[0, 3, 0, 4, 2]);
}

#[test]
fn errors_are_of_their_kind() {
    let pre = metadata(&[("tokenizer.ggml.pre", Some(Value::String("x".into())))]);
    assert!(matches!(Tokenizer::from_metadata(&pre), Err(TokenizerError::UnknownPre { .. })));
    let none = Metadata::default();
    assert!(matches!(Tokenizer::from_metadata(&none), Err(TokenizerError::Missing { .. })));
}

#[test]
fn threads_can_share_tokenizers_and_templates() {
    fn shareable<T: Send + Sync>(value: T) -> T {
        value
    }
    let tokenizer = shareable(load(&fixture("tekken.gguf")));
    let _template = shareable(tokenizer.compile_chat_template().unwrap());
    let expected = tokenizer.encode("Hello world", TEXT);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(tokenizer.encode("Hello world", TEXT), expected));
        }
    });
}

#[test]
fn the_pre_tokenizer_of_an_old_file_follows_from_its_architecture_where_there_was_but_one() {
    let check = |architecture: &str, tokens: usize, expected: Option<&str>| {
        let texts = (0..tokens).map(|i| format!("t{i}")).collect();
        let meta = metadata(&[
            ("tokenizer.ggml.pre", None),
            ("general.architecture", Some(Value::String(architecture.into()))),
            ("tokenizer.ggml.tokens", Some(Value::Array(ArrayValue::String(texts)))),
            ("tokenizer.ggml.token_type", None),
        ]);
        let found = Tokenizer::from_metadata(&meta).map(|t| t.pre().map(str::to_owned)).ok().flatten();
        assert_eq!(found.as_deref(), expected, "{architecture} with {tokens} tokens");
    };
    check("qwen2", 9, Some("qwen2"));
    check("qwen2moe", 9, Some("qwen2"));
    check("llama", 128_256, Some("llama-bpe"));
    check("llama", 9, None);
    check("glm4", 9, None);
}
