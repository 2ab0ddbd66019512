//! What single parameters do to an answer, through the engine and a listening server.

mod common;

use common::*;
use serde_json::{Value, json};

const COMPLETIONS: &str = "/v1/completions";
const TEXT: &str = " the sequence, that ñ is";

async fn ask(server: &Server, members: Value) -> Answer {
    let mut body = json!({"prompt": "Hi", "temperature": 0});
    for (key, value) in members.as_object().unwrap() {
        body[key] = value.clone();
    }
    server.post(COMPLETIONS, body).await
}

#[tokio::test]
async fn the_best_of_several_answers_is_sent() {
    let server = Server::with_model(model(TEXT)).await;
    let one = ask(&server, json!({})).await.json();
    let tokens = one["usage"]["completion_tokens"].as_u64().unwrap();
    let best = ask(&server, json!({"best_of": 3, "n": 2})).await.json();
    assert_eq!(best["choices"].as_array().unwrap().len(), 2, "{best}");
    assert_eq!((&best["choices"][1]["index"], &best["choices"][1]["logprobs"]), (&json!(1), &Value::Null));
    assert_eq!(best["choices"][0]["text"], TEXT);
    assert_eq!(best["usage"]["completion_tokens"], 3 * tokens);
    assert_eq!(best["usage"]["prompt_tokens"], one["usage"]["prompt_tokens"]);

    // Hot enough that answers differ; the one sent is no worse than each of them by itself.
    let hot = json!({"temperature": 2, "top_k": 50, "max_tokens": 6, "ignore_eos": true, "seed": 5, "logprobs": 0});
    let with = |members: Value| {
        let mut body = hot.clone();
        members.as_object().unwrap().iter().for_each(|(k, v)| body[k] = v.clone());
        body
    };
    let mean = |choice: &Value| {
        let all: Vec<f64> =
            choice["logprobs"]["token_logprobs"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
        all.iter().sum::<f64>() / all.len() as f64
    };
    let all = ask(&server, with(json!({"n": 4}))).await.json();
    let best = ask(&server, with(json!({"best_of": 4}))).await.json();
    let largest = all["choices"].as_array().unwrap().iter().map(mean).fold(f64::NEG_INFINITY, f64::max);
    assert_eq!(mean(&best["choices"][0]), largest, "{all} {best}");
}

#[tokio::test]
async fn an_answer_has_at_least_so_many_tokens() {
    let server = Server::with_model(model(TEXT)).await;
    let whole = ask(&server, json!({})).await.json()["usage"]["completion_tokens"].as_u64().unwrap();
    let longer = ask(&server, json!({"min_tokens": whole + 3, "max_tokens": whole + 3})).await.json();
    assert_eq!(longer["usage"]["completion_tokens"], whole + 3, "{longer}");
    assert_eq!(longer["choices"][0]["finish_reason"], "length");
    // A stop string counts only after them.
    let text = longer["choices"][0]["text"].as_str().unwrap();
    let stopped = ask(&server, json!({"min_tokens": whole + 3, "max_tokens": whole + 3, "stop": " the"})).await.json();
    assert_eq!(stopped["choices"][0]["text"], text, "{stopped}");
}

#[tokio::test]
async fn a_stop_string_is_part_of_the_text_if_asked_for() {
    let server = Server::with_model(model(TEXT)).await;
    let check = async |members: Value, expected: &str| {
        let choice = ask(&server, members).await.json()["choices"][0].clone();
        assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(expected), &json!("stop")), "{choice}");
    };
    check(json!({"stop": ", t"}), " the sequence").await;
    check(json!({"stop": ", t", "include_stop_str_in_output": true}), " the sequence, t").await;
}

#[tokio::test]
async fn a_text_is_filled_in_only_by_a_model_that_can() {
    let server = Server::with_model(model(TEXT)).await;
    ask(&server, json!({"suffix": "end"})).await.check_error(400, "unsupported_parameter", json!("suffix"));
    assert_eq!(ask(&server, json!({"suffix": ""})).await.status, 200);
}
