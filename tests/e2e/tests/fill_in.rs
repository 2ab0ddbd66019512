//! Filling in the middle, by a model whose vocabulary has tokens for it.

use std::path::PathBuf;

use rocmforge_e2e::Variant;
use rocmforge_e2e::server::Server;
use rocmforge_gguf::{ArrayValue, GgufFile, Value};
use rocmforge_test_support::committed_models;
use serde_json::json;

/// The reference model's `<|fim_prefix|>`, and tokens that are made the others of its family.
const PREFIX: usize = 447;
const OTHERS: [(usize, &str); 3] = [(444, "<|fim_suffix|>"), (445, "<|fim_middle|>"), (446, "<|fim_pad|>")];
const CONTROL: i32 = 3;

/// A file of the Qwen2 reference model with every token for filling in. Its weights are random: what it answers to a
/// prompt means nothing, but is the same for the same tokens.
fn model(folder: &std::path::Path) -> PathBuf {
    let file = GgufFile::open(&committed_models().join("qwen2-yarn/model.gguf")).expect("a committed model");
    let texts = file.metadata().strings("tokenizer.ggml.tokens").expect("a vocabulary");
    let mut texts: Vec<String> = texts.iter().map(str::to_owned).collect();
    let types = file.metadata().array("tokenizer.ggml.token_type").and_then(ArrayValue::to_u64s).expect("types");
    let mut types: Vec<i32> = types.into_iter().map(|t| t as i32).collect();
    assert_eq!(texts[PREFIX], "<|fim_prefix|>");
    for (id, text) in OTHERS {
        texts[id] = text.into();
        types[id] = CONTROL;
    }
    let path = folder.join("fim.gguf");
    let variant = Variant::of("qwen2-yarn")
        .put("tokenizer.ggml.tokens", Value::Array(ArrayValue::String(texts.into_iter().collect())))
        .put("tokenizer.ggml.token_type", Value::Array(ArrayValue::I32(types)));
    std::fs::write(&path, variant.bytes()).expect("the file is written");
    path
}

#[test]
fn a_suffix_is_what_the_answer_leads_up_to() {
    let folder = tempfile::tempdir().expect("a folder for files");
    let path = model(folder.path());
    let server = Server::start(&[], &["--model", path.to_str().expect("a path in UTF-8")]);
    let post = |path: &str, body: serde_json::Value| -> serde_json::Value {
        let (status, text) = server.post(path, &body.to_string());
        assert_eq!(status, 200, "{path} {body}: {text}");
        serde_json::from_str(&text).expect("JSON")
    };
    // What users write is text, whatever it spells.
    let ids = |text: &str| {
        let body = post("/tokenize", json!({"content": text, "parse_special": false}));
        body["tokens"].as_array().expect("a list").clone()
    };
    let complete = |members: &[(&str, serde_json::Value)]| {
        let mut body = json!({"temperature": 0, "max_tokens": 12, "ignore_eos": true});
        members.iter().for_each(|(key, value)| body[*key] = value.clone());
        post("/v1/completions", body)
    };
    let mut answers = vec![];
    for (before, after) in
        [("def add(a, b):\n", "\n    return c"), ("def add(a, b):\n", "\n"), ("<|fim_middle|>x", "<|fim_suffix|>")]
    {
        let role = |id: usize| vec![json!(id)];
        let parts = [role(PREFIX), ids(before), role(OTHERS[0].0), ids(after), role(OTHERS[1].0)];
        let tokens = parts.concat();
        let expected = complete(&[("prompt", json!(tokens))]);
        let filled = complete(&[("prompt", json!(before)), ("suffix", json!(after))]);
        assert_eq!(filled["choices"], expected["choices"], "{before:?} {after:?}");
        assert_eq!(filled["usage"]["prompt_tokens"], tokens.len(), "{before:?} {after:?}");
        let of_ids = complete(&[("prompt", json!(ids(before))), ("suffix", json!(after))]);
        assert_eq!(of_ids["choices"], expected["choices"], "{before:?} {after:?}");
        let generated = post(
            "/api/generate",
            json!({"model": "fim", "prompt": before, "suffix": after, "stream": false, "options": {"temperature": 0, "num_predict": 12}}),
        );
        assert_eq!(generated["prompt_eval_count"], tokens.len(), "{generated}");
        answers.push(filled["choices"][0]["text"].clone());
    }
    assert_ne!(answers[0], answers[1], "the answer depends on what follows");

    // Several prompts with one suffix, and a stream.
    let several = complete(&[("prompt", json!(["a", "b"])), ("suffix", json!("z")), ("n", json!(2))]);
    assert_eq!(several["choices"].as_array().map(Vec::len), Some(4));
    let body = json!({"prompt": "def add(a, b):\n", "suffix": "\n    return c", "temperature": 0, "max_tokens": 12,
        "ignore_eos": true, "stream": true});
    let (_, events) = server.post("/v1/completions", &body.to_string());
    let events =
        events.lines().filter_map(|l| l.split_once("data: ")).filter_map(|(_, e)| serde_json::from_str(e).ok());
    let streamed: String =
        events.filter_map(|e: serde_json::Value| e["choices"][0]["text"].as_str().map(str::to_owned)).collect();
    assert_eq!(answers[0], streamed);
    // The padding token ends an answer by itself.
    let padding = json!({"prompt": "a", "suffix": "z", "logit_bias": {"446": 100}, "max_tokens": 12});
    let ended = post("/v1/completions", padding);
    assert_eq!((&ended["choices"][0]["text"], &ended["choices"][0]["finish_reason"]), (&json!(""), &json!("stop")));
}
