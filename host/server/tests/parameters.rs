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

#[tokio::test]
async fn the_prompts_own_tokens_are_scored_if_asked_for() {
    let server = Server::with_model(model(TEXT)).await;
    let answer = ask(&server, json!({"prompt": " the sequence", "prompt_logprobs": 2, "max_tokens": 2})).await.json();
    let choice = &answer["choices"][0];
    let places = choice["prompt_logprobs"].as_array().unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(places.len() as u64, answer["usage"]["prompt_tokens"].as_u64().unwrap());
    assert_eq!((&places[0], &choice["logprobs"], &choice["text"]), (&Value::Null, &Value::Null, &json!(", that")));
    for place in &places[1..] {
        let entries: Vec<&Value> = place.as_object().unwrap().values().collect();
        assert!((2..=3).contains(&entries.len()), "{place}");
        assert!(entries.iter().any(|e| e["rank"] == 1 && e["logprob"].as_f64().unwrap() <= 0.0), "{place}");
        assert!(entries.iter().all(|e| e["decoded_token"].is_string()), "{place}");
    }
    // Its last token is what the model says after the one before.
    let last = places.last().unwrap().as_object().unwrap();
    assert!(last.values().any(|e| e["decoded_token"] == " sequence" && e["rank"] == 1), "{last:?}");
    // With the scores of an echo in the other form, each as long as it was asked to be.
    let both = json!({"prompt": " the sequence", "prompt_logprobs": 3, "echo": true, "logprobs": 1, "max_tokens": 1});
    let both = ask(&server, both).await.json()["choices"][0].clone();
    assert_eq!(both["prompt_logprobs"].as_array().unwrap().len(), places.len());
    let top = both["logprobs"]["top_logprobs"][1].as_object().unwrap();
    assert!(top.len() <= 2, "{top:?}");
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let chat = server.post("/v1/chat/completions", json!({"messages": messages, "prompt_logprobs": 0})).await.json();
    let places = chat["prompt_logprobs"].as_array().unwrap_or_else(|| panic!("{chat}"));
    assert_eq!(places.len() as u64, chat["usage"]["prompt_tokens"].as_u64().unwrap());
    assert!(places[1..].iter().all(|p| p.as_object().unwrap().len() == 1), "{chat}");
}

#[tokio::test]
async fn bad_words_are_not_said() {
    let server = Server::with_model(model(TEXT)).await;
    let said = |answer: Answer| answer.json()["choices"][0]["text"].as_str().unwrap().to_string();
    assert!(said(ask(&server, json!({"max_tokens": 8})).await).starts_with(" the sequence"));
    for word in ["sequence", " sequence", "the sequence"] {
        let text = said(ask(&server, json!({"bad_words": [word], "max_tokens": 8})).await);
        assert!(!text.contains(word.trim()), "{word}: {text}");
    }
    let unsaid = ask(&server, json!({"bad_words": ["zebra"], "max_tokens": 8})).await;
    assert!(said(unsaid).starts_with(" the sequence"));
}

#[tokio::test]
async fn an_answer_goes_on_with_the_last_message() {
    let server = Server::with_model(model(TEXT)).await;
    let ask = async |members: Value| {
        let mut body = json!({"temperature": 0, "messages": [
            {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes, the"}]});
        members.as_object().unwrap().iter().for_each(|(k, v)| body[k] = v.clone());
        (
            server.post("/apply-template", body.clone()).await.json(),
            server.post("/v1/chat/completions", body).await.json(),
        )
    };
    let (prompt, answer) = ask(json!({"continue_final_message": true})).await;
    assert_eq!(prompt["prompt"], "user: Hi\nassistant: Yes, the");
    assert_eq!(answer["choices"][0]["message"]["content"], " sequence, that ñ is", "{answer}");
    let (prompt, _) = ask(json!({"continue_final_message": false})).await;
    assert_eq!(prompt["prompt"], "user: Hi\nassistant: Yes, the\n");
}
