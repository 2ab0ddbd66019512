use serde_json::{Value, json};

use super::*;

fn parse(body: Value) -> Result<CompletionRequest, ApiError> {
    CompletionRequest::parse(body.to_string().as_bytes())
}

#[test]
fn prompts_have_four_forms() {
    let check = |prompt: Value, expected: &[Prompt]| {
        assert_eq!(parse(json!({"prompt": prompt})).map(|r| r.prompts), Ok(expected.to_vec()));
    };
    let text = |t: &str| Prompt::Text(t.into());
    check(json!("a"), &[text("a")]);
    check(json!(["a", "b"]), &[text("a"), text("b")]);
    check(json!([1, 2]), &[Prompt::Tokens(vec![1, 2])]);
    check(json!([[1, 2], [3]]), &[Prompt::Tokens(vec![1, 2]), Prompt::Tokens(vec![3])]);
}

#[test]
fn wrong_parameters_are_named() {
    let check = |body: Value, code: &str, param: &str| {
        let error = parse(body.clone()).expect_err(&body.to_string());
        assert_eq!((error.code(), error.body()["error"]["param"].clone()), (code, json!(param)), "{body}: {error}");
    };
    let invalid = |prompt: Value, param: &str| check(json!({"prompt": prompt}), "invalid_value", param);
    invalid(json!([]), "prompt");
    invalid(json!({}), "prompt");
    invalid(json!([true]), "prompt[0]");
    invalid(json!(["a", 1]), "prompt[1]");
    invalid(json!([[1], "a"]), "prompt[1]");
    invalid(json!([1, "a"]), "prompt[1]");
    invalid(json!([1, -1]), "prompt[1]");
    invalid(json!([[1, 1.5]]), "prompt[0][1]");
    invalid(json!([u64::MAX]), "prompt[0]");
    check(json!({}), "missing_required_parameter", "prompt");
    check(json!({"prompt": null}), "missing_required_parameter", "prompt");
    check(json!({"prompt": "x", "logprobs": true}), "invalid_value", "logprobs");
    check(json!({"prompt": "x", "logprobs": 21}), "invalid_value", "logprobs");
    check(json!({"prompt": "x", "max_tokens": -1}), "invalid_value", "max_tokens");
    check(json!({"prompt": vec!["x"; 9], "n": 128}), "invalid_value", "n");
    check(json!({"prompt": vec!["x"; 1025]}), "invalid_value", "prompt");
    check(json!({"prompt": "x", "suffix": 1}), "invalid_value", "suffix");
    check(json!({"prompt": "x", "suffix": "y", "echo": true}), "invalid_value", "echo");
    check(json!({"prompt": "x", "best_of": 0}), "invalid_value", "best_of");
    check(json!({"prompt": "x", "best_of": 1, "n": 2}), "invalid_value", "best_of");
    check(json!({"prompt": "x", "best_of": 2, "stream": true}), "invalid_value", "best_of");
    check(json!({"prompt": vec!["x"; 9], "best_of": 128}), "invalid_value", "n");
    check(json!({"prompt": "x", "messages": []}), "unknown_parameter", "messages");
}

#[test]
fn scoring_a_text_reports_the_token_after_it_whatever_it_is() {
    let check = |members: Value, ignore: bool| {
        let mut body = json!({"prompt": "x"});
        for (key, value) in members.as_object().expect("an object") {
            body[key] = value.clone();
        }
        assert_eq!(parse(body).map(|r| r.common.stop.ignore_eos), Ok(ignore), "{members}");
    };
    check(json!({"echo": true, "logprobs": 1, "max_tokens": 1}), true);
    check(json!({"echo": true, "logprobs": 1, "max_tokens": 2}), false);
    check(json!({"echo": true, "logprobs": 1}), false);
    check(json!({"echo": true, "max_tokens": 1}), false);
    check(json!({"logprobs": 1, "max_tokens": 1}), false);
}

#[test]
fn the_suffix_comes_before_the_place_to_write_at() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tokenizer/tests/fixtures/qwen2.gguf");
    let file = rocmforge_gguf::GgufFile::open(path.as_ref()).expect("the fixture");
    // The fixture's vocabulary is cut short: two of its other tokens stand for the suffix and the middle.
    let mut metadata = file.metadata().clone();
    for (key, id) in [("fim_suf", 300), ("fim_mid", 301)] {
        metadata.insert(format!("tokenizer.ggml.{key}_token_id"), rocmforge_gguf::Value::U32(id));
    }
    let tokenizer = Tokenizer::from_metadata(&metadata).expect("a tokenizer");
    let special = tokenizer.special_tokens();
    let text = |t: &str| tokenizer.encode(t, EncodeOptions { add_special: false, parse_special: false });
    let ids = fill_in(&Prompt::Text("def f".into()), " return", true, &tokenizer).expect("tokens to fill in");
    let parts = [
        special.fim_prefix.into_iter().collect(),
        text("def f"),
        special.fim_suffix.into_iter().collect(),
        text(" return"),
        special.fim_middle.into_iter().collect(),
    ];
    assert_eq!(ids, parts.concat());
    // What users write never becomes a token with a role.
    let tricky = fill_in(&Prompt::Text("<|fim_middle|>".into()), "x", true, &tokenizer).expect("tokens to fill in");
    assert_eq!(tricky.iter().filter(|&&id| Some(id) == special.fim_middle).count(), 1);
}
