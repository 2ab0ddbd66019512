//! Answers of a model, through the engine and a listening server.

mod common;

use std::time::Duration;

use common::*;
use rocmforge_loader::config::ServerSettings;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const TEXT: &str = " the sequence, that ñ is";

/// A chat request with further members.
fn chat(members: Value) -> Value {
    let body = json!({"model": "org/parrot", "temperature": 0, "messages": [{"role": "user", "content": "Hi"}]});
    merged(body, members)
}

fn merged(mut body: Value, members: Value) -> Value {
    for (key, value) in members.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

fn completion(members: Value) -> Value {
    merged(json!({"temperature": 0}), members)
}

/// How many tokens a text has.
fn tokens(text: &str) -> usize {
    let options = rocmforge_tokenizer::EncodeOptions { add_special: false, parse_special: true };
    tokenizer().encode(text, options).len()
}

#[tokio::test]
async fn chat_answers_in_one_piece() {
    let server = Server::with_model(model(TEXT)).await;
    let answer = server.post(CHAT, chat(json!({}))).await;
    let body = answer.json();
    assert_eq!(answer.status, 200, "{body}");
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!((&body["object"], &body["model"]), (&json!("chat.completion"), &json!("org/parrot")));
    assert!(body["created"].is_u64());
    let message = json!({"role": "assistant", "content": TEXT, "refusal": null});
    let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"});
    assert_eq!(body["choices"], json!([choice]));
    // The template writes no beginning of sequence; the model wants one.
    let (prompt, completion) = (tokens("user: Hi\n") + 1, tokens(TEXT) + 1);
    let details = json!({"cached_tokens": 0});
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": completion,
        "total_tokens": prompt + completion, "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": 0}});
    assert_eq!(body["usage"], usage);
    let unnamed = server.post(CHAT, chat(json!({"model": null}))).await.json();
    assert_eq!(unnamed["choices"], json!([choice]));
}

#[tokio::test]
async fn chat_answers_as_a_stream() {
    let server = Server::with_model(model(TEXT)).await;
    let check = async |options: Value, last: bool, continuous: bool| {
        let answer = server.post(CHAT, chat(json!({"stream": true, "stream_options": options}))).await;
        let mut events = answer.events();
        assert!(events.iter().all(|e| e["object"] == "chat.completion.chunk" && e["id"] == events[0]["id"]));
        let usage = last.then(|| events.pop().unwrap());
        let delta = |e: &Value| e["choices"][0]["delta"].clone();
        assert_eq!(delta(&events[0]), json!({"role": "assistant", "content": ""}));
        let text: String = events.iter().filter_map(|e| delta(e)["content"].as_str().map(String::from)).collect();
        assert_eq!(text, TEXT);
        let reasons: Vec<&Value> = events.iter().map(|e| &e["choices"][0]["finish_reason"]).collect();
        let (end, before) = reasons.split_last().unwrap();
        assert_eq!(**end, json!("stop"));
        assert!(before.iter().all(|r| r.is_null()) && delta(&events[reasons.len() - 1]) == json!({}));
        for event in &events {
            assert_eq!(event.get("usage").is_some(), last || continuous, "{event}");
            assert_eq!(event["usage"].is_object(), continuous, "{event}");
        }
        if let Some(usage) = usage {
            assert_eq!(usage["choices"], json!([]));
            assert_eq!(usage["usage"]["completion_tokens"], tokens(TEXT) + 1);
        }
    };
    check(Value::Null, false, false).await;
    check(json!({"include_usage": false}), false, false).await;
    check(json!({"include_usage": true}), true, false).await;
    check(json!({"include_usage": true, "continuous_usage_stats": true}), true, true).await;
}

#[tokio::test]
async fn several_answers_share_a_prompt() {
    let server = Server::with_model(model(TEXT)).await;
    let body = server.post(CHAT, chat(json!({"n": 3, "seed": 1}))).await.json();
    let choices = body["choices"].as_array().unwrap();
    let brief: Vec<_> = choices.iter().map(|c| (c["index"].as_u64().unwrap(), &c["message"]["content"])).collect();
    let text = json!(TEXT);
    assert_eq!(brief, [(0, &text), (1, &text), (2, &text)]);
    assert_eq!(body["usage"]["prompt_tokens"], tokens("user: Hi\n") + 1);
    assert_eq!(body["usage"]["completion_tokens"], 3 * (tokens(TEXT) + 1));

    let events = server.post(CHAT, chat(json!({"n": 2, "stream": true}))).await.events();
    for index in 0..2 {
        let own = events.iter().map(|e| &e["choices"][0]).filter(|c| c["index"] == index);
        assert_eq!(own.filter_map(|c| c["delta"]["content"].as_str()).collect::<String>(), TEXT);
    }
}

#[tokio::test]
async fn chat_reports_log_probabilities() {
    let server = Server::with_model(model(TEXT)).await;
    let check = |content: Vec<Value>| {
        assert_eq!(content.len(), tokens(TEXT));
        let bytes: Vec<u8> =
            content.iter().flat_map(|e| e["bytes"].as_array().unwrap()).map(|b| b.as_u64().unwrap() as u8).collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), TEXT);
        for entry in content {
            let top = entry["top_logprobs"].as_array().unwrap();
            assert_eq!((top.len(), &top[0]["token"], &top[0]["logprob"]), (2, &entry["token"], &entry["logprob"]));
            assert!(entry["logprob"].as_f64().unwrap() > top[1]["logprob"].as_f64().unwrap());
        }
    };
    let wanted = json!({"logprobs": true, "top_logprobs": 2});
    let body = server.post(CHAT, chat(wanted.clone())).await.json();
    check(body["choices"][0]["logprobs"]["content"].as_array().unwrap().clone());
    let events = server.post(CHAT, chat(merged(wanted, json!({"stream": true})))).await.events();
    let entries = events.iter().filter_map(|e| e["choices"][0]["logprobs"]["content"].as_array());
    check(entries.flatten().cloned().collect());
}

#[tokio::test]
async fn answers_end_where_they_are_told_to() {
    let server = Server::with_model(model(TEXT)).await;
    let check = async |members: Value, text: &str, reason: &str| {
        let choice = server.post(CHAT, chat(members.clone())).await.json()["choices"][0].clone();
        assert_eq!(
            (&choice["message"]["content"], &choice["finish_reason"]),
            (&json!(text), &json!(reason)),
            "{members}"
        );
    };
    check(json!({"max_tokens": 1}), " the", "length").await;
    check(json!({"stop": "sequence"}), " the ", "stop").await;
    check(json!({"stop": ["never", ", tha"]}), " the sequence", "stop").await;
    check(json!({"stop": [" i"], "max_tokens": 200}), " the sequence, that ñ", "stop").await;
    check(json!({"max_tokens": 9, "ignore_eos": true, "stop": "is"}), " the sequence, that ñ ", "stop").await;
}

#[tokio::test]
async fn completions_take_batches_and_echo() {
    let server = Server::with_model(model(TEXT)).await;
    let check = async |members: Value, texts: &[&str]| {
        let body = server.post(COMPLETIONS, completion(members.clone())).await.json();
        assert_eq!(body["object"], "text_completion", "{body}");
        let choices = body["choices"].as_array().unwrap();
        assert!(choices.iter().enumerate().all(|(i, c)| c["index"] == i && c["logprobs"].is_null()));
        assert_eq!(choices.iter().map(|c| c["text"].as_str().unwrap()).collect::<Vec<_>>(), texts, "{members}");

        let streamed = merged(completion(members.clone()), json!({"stream": true}));
        let events = server.post(COMPLETIONS, streamed).await.events();
        let text = |i: usize| {
            let own = events.iter().map(|e| &e["choices"][0]).filter(|c| c["index"] == i);
            own.map(|c| c["text"].as_str().unwrap()).collect::<String>()
        };
        assert_eq!((0..texts.len()).map(text).collect::<Vec<_>>(), texts, "{members}");
    };
    let ids = tokenizer().encode("AB", Default::default());
    check(json!({"prompt": "A"}), &[TEXT]).await;
    check(json!({"prompt": ["A", " the"]}), &[TEXT, " sequence, that ñ is"]).await;
    check(json!({"prompt": [ids, ids]}), &[TEXT, TEXT]).await;
    check(json!({"prompt": ids, "max_tokens": 1}), &[" the"]).await;
    check(json!({"prompt": ["A", "B"], "n": 2, "max_tokens": 1}), &[" the"; 4]).await;
    check(json!({"prompt": "A", "echo": true, "max_tokens": 1}), &["A the"]).await;
    check(json!({"prompt": ids, "echo": true, "max_tokens": 0}), &["AB"]).await;
}

#[tokio::test]
async fn completions_score_a_text() {
    let server = Server::with_model(model(TEXT)).await;
    let wanted = json!({"prompt": " the is", "echo": true, "logprobs": 1, "max_tokens": 1});
    let body = server.post(COMPLETIONS, completion(wanted.clone())).await.json();
    let logprobs = &body["choices"][0]["logprobs"];
    let end = tokenizer().eog_tokens().next().map(|t| tokenizer().token_text(t).to_string()).unwrap();
    // The parrot ends after " is", and that must be visible.
    assert_eq!(logprobs["tokens"], json!(["<|begin_of_text|>", " the", " is", end]));
    assert_eq!(logprobs["text_offset"], json!([0, 0, 4, 7]));
    assert_eq!(body["choices"][0]["text"], " the is");
    let chosen: Vec<Option<f64>> = logprobs["token_logprobs"].as_array().unwrap().iter().map(Value::as_f64).collect();
    assert!(
        chosen[0].is_none() && chosen[1].unwrap() > -0.1 && chosen[2].unwrap() < -10.0 && chosen[3].unwrap() > -0.1
    );
    assert!(logprobs["top_logprobs"][0].is_null());
    let top = logprobs["top_logprobs"][2].as_object().unwrap();
    assert!(top.len() == 2 && top.contains_key(" sequence") && top.contains_key(" is"), "{top:?}");

    let events = server.post(COMPLETIONS, completion(merged(wanted, json!({"stream": true})))).await.events();
    let pieces = events.iter().filter_map(|e| e["choices"][0]["logprobs"]["text_offset"].as_array());
    assert_eq!(pieces.flatten().cloned().collect::<Vec<_>>(), [0, 0, 4, 7].map(|n| json!(n)));
}

#[tokio::test]
async fn prompts_begin_once() {
    let server = Server::with_model(model(TEXT)).await;
    let check = async |prompt: Value, expected: &[&str]| {
        let wanted = json!({"prompt": prompt, "echo": true, "logprobs": 0, "max_tokens": 0});
        let body = server.post(COMPLETIONS, completion(wanted)).await.json();
        assert_eq!(body["choices"][0]["logprobs"]["tokens"], json!(expected));
    };
    check(json!("A"), &["<|begin_of_text|>", "A"]).await;
    check(json!("<|begin_of_text|>A"), &["<|begin_of_text|>", "A"]).await;
    check(
        json!(tokenizer().encode("A", rocmforge_tokenizer::EncodeOptions { add_special: false, parse_special: true })),
        &["A"],
    )
    .await;
}

#[tokio::test]
async fn refusals_that_need_a_model() {
    let server = Server::with_model(model(TEXT)).await;
    let check = async |members: Value, status: u16, code: &str, param: &str| {
        server.post(CHAT, chat(members)).await.check_error(status, code, json!(param));
    };
    check(json!({"model": "no-such"}), 404, "model_not_found", "model").await;
    check(json!({"max_tokens": 250}), 400, "context_length_exceeded", "messages").await;
    let long = json!([{"role": "user", "content": "word ".repeat(300)}]);
    check(json!({"messages": long}), 400, "context_length_exceeded", "messages").await;
    check(json!({"messages": [{"role": "tool", "content": "4"}]}), 400, "chat_template_error", "messages").await;
    check(json!({"logit_bias": {"4000000": 1}}), 400, "invalid_value", "logit_bias").await;
    check(json!({"stop_token_ids": [4_000_000]}), 400, "invalid_value", "stop_token_ids").await;
    check(json!({"n": 100}), 400, "invalid_value", "n").await;
    let beyond = server.post(COMPLETIONS, json!({"prompt": [4_000_000]})).await;
    beyond.check_error(400, "invalid_value", json!("prompt"));
    server.post(COMPLETIONS, json!({"prompt": []})).await.check_error(400, "invalid_value", json!("prompt"));
}

#[tokio::test]
async fn models_are_described() {
    let server = Server::with_model(model(TEXT)).await;
    let expected = json!({"id": "org/parrot", "object": "model", "created": 1_700_000_000u64,
        "owned_by": "rocmforge", "max_model_len": 256, "state": "loaded"});
    assert_eq!(server.get("/v1/models").await.json(), json!({"object": "list", "data": [expected]}));
    assert_eq!(server.get("/v1/models/org/parrot").await.json(), expected);
    assert_eq!(server.get("/v1/models/org%2Fparrot").await.json(), expected);
}

/// Reads until a text has come.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 1024];
        let n = stream.read(&mut piece).await.unwrap();
        assert!(n > 0, "the stream ended before {text:?}: {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&piece[..n]);
        let all = String::from_utf8_lossy(&bytes);
        if all.contains(text) {
            return all.into_owned();
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_what_it_held() {
    let check = async |stream: bool| {
        let (model, gate) = gated_model(TEXT);
        let engine = model.engine.clone();
        let server = Server::with_model(model).await;
        let mut client =
            server.open(&post(CHAT, &chat(json!({"stream": stream, "ignore_eos": true})).to_string())).await;
        gate.send(()).unwrap();
        if stream {
            read_until(&mut client, " the").await;
        } else {
            eventually("a step was run", || engine.stats().steps == 1).await;
        }
        drop(client);
        // The engine sits in a step that waits for the gate until it is told of the client.
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let _ = gate.send(());
        }
        drop(gate);
        eventually("the request was cancelled", || engine.stats().cancelled == 1).await;
        assert_eq!(engine.stats().blocks[0].used, 0);
        let text = server.get("/metrics").await.body;
        assert!(text.contains("rocmforge_requests_cancelled_total{model=\"org/parrot\"} 1"), "{text}");
        assert!(text.contains("status=\"499\"} 1"), "{text}");
    };
    check(true).await;
    check(false).await;
}

#[tokio::test]
async fn a_full_queue_is_refused_with_a_time_to_come_back() {
    let (model, gate) = gated_model(TEXT);
    let engine = model.engine.clone();
    let server = Server::with_model(model).await;
    let body = post(CHAT, &chat(json!({"n": 8, "stream": true})).to_string());
    let mut first = server.open(&body).await;
    read_until(&mut first, "assistant").await;
    let answer = server.post(CHAT, chat(json!({}))).await;
    answer.check_error(429, "queue_full", Value::Null);
    assert!(answer.headers.contains_key("retry-after"));
    drop(gate);
    read_until(&mut first, "[DONE]").await;
    assert_eq!(server.post(CHAT, chat(json!({}))).await.status, 200);
    assert_eq!(engine.stats().blocks[0].used, 0);
}

#[tokio::test]
async fn shutting_down_lets_requests_finish() {
    let (model, gate) = gated_model(TEXT);
    let mut server = Server::with_model(model).await;
    let mut running = server.open(&post(CHAT, &chat(json!({"stream": true})).to_string())).await;
    read_until(&mut running, "assistant").await;
    server.signal();
    let state = server.state.clone();
    eventually("draining", || state.readiness() == rocmforge_server::Readiness::Draining).await;
    server.get("/ready").await.check_error(503, "server_draining", Value::Null);
    server.post(CHAT, chat(json!({}))).await.check_error(503, "server_draining", Value::Null);
    drop(gate);
    let rest = read_until(&mut running, "[DONE]").await;
    assert!(rest.contains("\"finish_reason\":\"stop\""), "{rest}");
    let port = server.port;
    server.stopped().await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}

#[tokio::test]
async fn shutting_down_cancels_what_takes_too_long() {
    let (model, _gate) = gated_model(TEXT);
    let server = Server::start(ServerSettings::default(), Duration::from_millis(50)).await;
    server.state.add_model(model);
    server.state.set_ready();
    let mut stream = server.open(&post(CHAT, &chat(json!({"stream": true})).to_string())).await;
    read_until(&mut stream, "assistant").await;
    let mut whole = server.open(&post(CHAT, &chat(json!({})).to_string())).await;
    let mut idle = server.open(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    read_until(&mut idle, "ok").await;
    let started = "rocmforge_requests_started_total{model=\"org/parrot\"} 2";
    while !server.get("/metrics").await.body.contains(started) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.stopped().await.unwrap();
    let end = read_until(&mut stream, "[DONE]").await;
    assert!(end.contains("data: {\"error\":{") && end.contains("server_draining"), "{end}");
    let end = read_until(&mut whole, "server_draining").await;
    assert!(end.starts_with("HTTP/1.1 503"), "{end}");
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap(), 0);
}
