//! The routes beside the OpenAI API: tokenizer, generation by id, what the server tells of itself.

mod common;

use common::*;
use rocmforge_server::ServedModel;
use rocmforge_tokenizer::EncodeOptions;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const TEXT: &str = " the sequence, that ñ is";

async fn parrot() -> Server {
    Server::with_model(model(TEXT)).await
}

fn ids(text: &str) -> Vec<u32> {
    tokenizer().encode(text, EncodeOptions { add_special: false, parse_special: true })
}

fn with_bos(text: &str) -> Vec<u32> {
    [vec![tokenizer().bos().unwrap()], ids(text)].concat()
}

/// A chat request with further members.
fn chat(members: Value) -> Value {
    let mut body = json!({"temperature": 0, "messages": hello()});
    body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    body
}

fn hello() -> Value {
    json!([{"role": "user", "content": "Hi"}])
}

#[tokio::test]
async fn texts_are_tokenized_in_both_forms() {
    let server = parrot().await;
    let check = async |body: Value, expected: Value| {
        let answer = server.post("/tokenize", body.clone()).await;
        assert_eq!((answer.status, answer.json()), (200, expected), "{body}");
    };
    let counted =
        |tokens: Vec<u32>| json!({"count": tokens.len(), "max_model_len": 256, "tokens": tokens, "token_strs": null});
    check(json!({"prompt": " the is"}), counted(with_bos(" the is"))).await;
    check(json!({"prompt": " the is", "add_special_tokens": false}), counted(ids(" the is"))).await;
    check(json!({"prompt": "", "model": "org/parrot", "add_special_tokens": false}), counted(vec![])).await;
    check(json!({"messages": hello()}), counted(with_bos("user: Hi\n"))).await;
    check(json!({"messages": hello(), "add_special_tokens": false}), counted(ids("user: Hi\n"))).await;
    let strings = json!({"prompt": " the", "add_special_tokens": false, "return_token_strs": true});
    assert_eq!(server.post("/tokenize", strings).await.json()["token_strs"], json!(["Ġthe"]));
    check(json!({"content": " the is"}), json!({"tokens": ids(" the is")})).await;
    check(json!({"content": " the is", "add_special": true}), json!({"tokens": with_bos(" the is")})).await;
    let pieces: Vec<Value> =
        std::iter::zip(ids(" the is"), [" the", " is"]).map(|(id, piece)| json!({"id": id, "piece": piece})).collect();
    check(json!({"content": " the is", "with_pieces": true}), json!({"tokens": pieces})).await;
}

#[tokio::test]
async fn tokens_become_the_text_that_they_came_from() {
    let server = parrot().await;
    for text in ["", " the sequence", "ñ, ñ", "<|begin_of_text|>A"] {
        let answer = server.post("/detokenize", json!({"tokens": ids(text)})).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"prompt": text, "content": text})), "{text}");
    }
}

#[tokio::test]
async fn conversations_are_rendered_without_being_answered() {
    let server = parrot().await;
    let answer = server.post("/apply-template", json!({"messages": hello(), "model": "org/parrot"})).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"prompt": "user: Hi\n"})));
    assert!(server.get("/metrics").await.body.contains("rocmforge_requests_started_total{model=\"org/parrot\"} 0\n"));
}

#[tokio::test]
async fn the_model_is_described_in_the_forms_of_others() {
    let server = parrot().await;
    let info = server.get("/tokenizer_info?model=org/parrot").await.json();
    let tokenizer = tokenizer();
    let text = |id: Option<u32>| json!(id.map(|id| tokenizer.token_text(id).to_string()));
    assert_eq!(info["chat_template"], TEMPLATE);
    assert_eq!((&info["bos_token"], &info["bos_token_id"]), (&text(tokenizer.bos()), &json!(tokenizer.bos())));
    assert_eq!((&info["eos_token"], &info["eos_token_id"]), (&text(tokenizer.eos()), &json!(tokenizer.eos())));
    assert_eq!((&info["vocab_size"], &info["model_max_length"]), (&json!(tokenizer.vocab_size()), &json!(256)));
    let props = server.get("/props").await.json();
    assert_eq!((&props["total_slots"], &props["model_alias"]), (&json!(4), &json!("org/parrot")));
    assert_eq!(props["default_generation_settings"]["n_ctx"], 256);
    assert_eq!(props["chat_template"], TEMPLATE);
    assert_eq!(server.get("/version").await.json(), json!({"version": env!("CARGO_PKG_VERSION")}));
    assert_eq!(server.get("/models").await.json(), server.get("/v1/models").await.json());
}

#[tokio::test]
async fn refusals_name_what_is_wrong() {
    let server = parrot().await;
    let check = async |path: &str, body: Value, status: u16, code: &str, param: &str| {
        server.post(path, body).await.check_error(status, code, json!(param));
    };
    for path in ["/tokenize", "/generate", "/generate/stream"] {
        check(path, json!({"prompt": "x", "model": "none"}), 404, "model_not_found", "model").await;
    }
    let body = json!({"messages": hello(), "model": "none"});
    check("/apply-template", body, 404, "model_not_found", "model").await;
    check("/detokenize", json!({"tokens": [], "model": "none"}), 404, "model_not_found", "model").await;
    check("/detokenize", json!({"tokens": [1, 4_000_000]}), 400, "invalid_value", "tokens[1]").await;
    check("/apply-template", json!({}), 400, "missing_required_parameter", "messages").await;
    check("/apply-template", json!({"messages": [{"role": "tool"}]}), 400, "chat_template_error", "messages").await;
    check("/generate", json!({"prompt": "x", "max_tokens": 300}), 400, "context_length_exceeded", "prompt").await;
    check("/generate/stream", json!({"prompt": ["x", "y"]}), 400, "invalid_value", "prompt").await;
    server.get("/tokenizer_info?model=none").await.check_error(404, "model_not_found", json!("model"));
    server.get("/props?model=none").await.check_error(404, "model_not_found", json!("model"));
    server.get("/props?model=a&model=b").await.check_error(400, "invalid_value", json!("model"));
    server.get("/status/none").await.check_error(404, "request_not_found", Value::Null);
    server.post("/cancel/none", json!({})).await.check_error(404, "request_not_found", Value::Null);
    server.get("/tokenize").await.check_error(405, "method_not_allowed", Value::Null);
    server.raw(&post("/detokenize", "{")).await.check_error(400, "invalid_json", Value::Null);
    let text = String::from_utf8(post("/tokenize", "{}")).unwrap().replace("application/json", "text/plain");
    server.raw(text.as_bytes()).await.check_error(415, "unsupported_content_type", Value::Null);
}

#[tokio::test]
async fn several_models_have_to_be_named() {
    let server = parrot().await;
    server.state.add_model(ServedModel { id: "second".into(), ..model(TEXT) });
    for path in ["/tokenizer_info", "/props"] {
        server.get(path).await.check_error(400, "missing_required_parameter", json!("model"));
        assert_eq!(server.get(&format!("{path}?model=second")).await.status, 200);
    }
    let answer = server.post("/tokenize", json!({"prompt": "x"})).await;
    answer.check_error(400, "missing_required_parameter", json!("model"));
}

#[tokio::test]
async fn answers_are_generated_and_remembered_by_id() {
    let server = parrot().await;
    let answer = server.post("/generate", json!({"prompt": "x", "temperature": 0})).await;
    let body = answer.json();
    assert_eq!((&body["text"], &body["finish_reason"]), (&json!(TEXT), &json!("stop")), "{body}");
    assert_eq!((&body["status"], &body["id"]), (&json!("completed"), &json!(answer.headers["x-request-id"])));
    assert_eq!(body["usage"]["completion_tokens"], ids(TEXT).len() + 1);
    assert_eq!(body["timings"]["predicted_n"], ids(TEXT).len() + 1);
    let status = server.get(&format!("/status/{}", body["id"].as_str().unwrap())).await.json();
    for (name, value) in [
        ("id", body["id"].clone()),
        ("status", json!("completed")),
        ("model", json!("org/parrot")),
        ("prompt_tokens", json!(2)),
        ("completion_tokens", json!(ids(TEXT).len() + 1)),
        ("finish_reason", json!("stop")),
    ] {
        assert_eq!(status[name], value, "{name}: {status}");
    }
    // What is over stays as it is.
    let cancelled = server.post(&format!("/cancel/{}", body["id"].as_str().unwrap()), json!({})).await;
    assert_eq!(cancelled.json(), status);
}

#[tokio::test]
async fn answers_are_streamed_token_by_token() {
    let server = parrot().await;
    let body = json!({"prompt": "x", "temperature": 0});
    let streams = [server.post("/generate/stream", body.clone()).await, {
        let mut body = body;
        body["stream"] = json!(true);
        server.post("/generate", body).await
    }];
    for answer in streams {
        let events = answer.events();
        let id = json!(answer.headers["x-request-id"]);
        assert!(events.iter().all(|e| e["id"] == id), "{events:?}");
        assert_eq!(events[0], json!({"id": id, "status": "waiting", "model": "org/parrot"}));
        let last = events.last().unwrap();
        assert_eq!((&last["status"], &last["finish_reason"]), (&json!("completed"), &json!("stop")));
        let tokens: Vec<u64> = events.iter().filter_map(|e| e["token"].as_u64()).collect();
        assert_eq!(tokens, ids(TEXT).iter().map(|&id| u64::from(id)).collect::<Vec<_>>());
        assert_eq!(events.iter().filter_map(|e| e["text"].as_str()).collect::<String>(), TEXT);
    }
}

#[tokio::test]
async fn any_request_can_be_cancelled_by_its_id() {
    let check = async |path: &str, body: Value, stream: bool| {
        let (model, gate) = gated_model(TEXT);
        let engine = model.engine.clone();
        let server = Server::with_model(model).await;
        let text = String::from_utf8(post(path, &body.to_string())).unwrap();
        let request = text.replacen("Host:", "X-Request-Id: mine/1\r\nHost:", 1).into_bytes();
        let client = async { server.raw(&request).await };
        let others = async {
            while server.get("/status/mine/1").await.status == 404 {
                tokio::task::yield_now().await;
            }
            assert_eq!(server.get("/status/mine/1").await.json()["status"], "waiting");
            gate.send(()).unwrap();
            eventually("a step was run", || engine.stats().steps >= 1).await;
            let report = server.post("/cancel/mine%2F1", json!({})).await;
            assert_eq!((report.status, &report.json()["status"]), (200, &json!("cancelled")));
            drop(gate);
        };
        let (answer, ()) = tokio::join!(client, others);
        if stream {
            let last = answer.events().pop().unwrap();
            assert_eq!((answer.status, &last["error"]["code"]), (200, &json!("request_cancelled")), "{answer:?}");
        } else {
            answer.check_error(499, "request_cancelled", Value::Null);
        }
        eventually("the engine is free", || engine.stats().blocks[0].used == 0 && engine.stats().cancelled == 1).await;
        let report = server.get("/status/mine/1").await.json();
        assert_eq!((&report["status"], &report["finish_reason"]), (&json!("cancelled"), &Value::Null));
        let text = server.get("/metrics").await.body;
        assert!(text.contains("vllm:request_success_total{model_name=\"org/parrot\",finished_reason=\"abort\"} 1"));
        assert!(text.contains("rocmforge_requests_cancelled_total{model=\"org/parrot\"} 1"), "{text}");
    };
    let prompt = json!({"prompt": "x", "temperature": 0, "ignore_eos": true});
    check("/generate", prompt.clone(), false).await;
    check("/generate/stream", prompt.clone(), true).await;
    check(COMPLETIONS, prompt, false).await;
    check(CHAT, chat(json!({"stream": true, "ignore_eos": true})), true).await;
}

#[tokio::test]
async fn metrics_count_what_has_happened() {
    let server = Server::with_model(model(TEXT)).await;
    server.post(CHAT, chat(json!({}))).await;
    server.post(CHAT, chat(json!({"stream": true, "n": 2}))).await;
    let text = server.get("/metrics").await.body;
    let check = |line: &str| assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    let model = "model=\"org/parrot\"";
    check(&format!("rocmforge_requests_started_total{{{model}}} 2"));
    check(&format!("rocmforge_requests_completed_total{{{model}}} 2"));
    check(&format!("rocmforge_requests_cancelled_total{{{model}}} 0"));
    check(&format!("rocmforge_generated_tokens_total{{{model}}} {}", 3 * (ids(TEXT).len() + 1)));
    check(&format!("rocmforge_time_to_first_token_seconds_count{{{model}}} 2"));
    check(&format!("rocmforge_inter_token_latency_seconds_count{{{model}}} {}", 3 * (ids(TEXT).len() - 1)));
    check(&format!("rocmforge_request_decode_time_seconds_count{{{model}}} 3"));
    check(&format!("rocmforge_queue_length{{{model}}} 0"));
    check(&format!("rocmforge_active_requests{{{model}}} 0"));
    check(&format!("rocmforge_kv_blocks_used{{{model},group=\"0\"}} 0"));
    check(&format!("rocmforge_kv_blocks_total{{{model},group=\"0\"}} 256"));

    let answers = 3 * (ids(TEXT).len() + 1);
    let prompts = 2 * (ids("user: Hi\n").len() + 1);
    let series =
        |name: &str, more: &str, value: &str| check(&format!("vllm:{name}{{model_name=\"org/parrot\"{more}}} {value}"));
    for gauge in ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"] {
        series(gauge, "", "0.0");
    }
    series("prompt_tokens_total", "", &prompts.to_string());
    series("generation_tokens_total", "", &answers.to_string());
    series("num_preemptions_total", "", "0");
    series("request_success_total", ",finished_reason=\"stop\"", "3");
    for reason in ["length", "abort", "error"] {
        series("request_success_total", &format!(",finished_reason=\"{reason}\""), "0");
    }
    series("cache_config_info", ",block_size=\"4\",num_gpu_blocks=\"256\"", "1");
    // Every answer looks for its prompt.
    series("prefix_cache_queries_total", "", &(3 * prompts / 2).to_string());
    assert!(text.contains("\nvllm:prefix_cache_hits_total{model_name=\"org/parrot\"} "), "{text}");
    let lora = "max_lora=\"0\",running_lora_adapters=\"\",waiting_lora_adapters=\"\"} 1";
    assert!(text.contains(&format!("\nvllm:lora_requests_info{{model_name=\"org/parrot\",{lora}")), "{text}");
    for (histogram, count) in [
        ("time_to_first_token_seconds", 2),
        ("inter_token_latency_seconds", 3 * (ids(TEXT).len() - 1)),
        ("e2e_request_latency_seconds", 2),
        ("request_queue_time_seconds", 3),
        ("request_prefill_time_seconds", 3),
        ("request_decode_time_seconds", 3),
        ("request_prompt_tokens", 3),
        ("request_generation_tokens", 3),
    ] {
        series(&format!("{histogram}_count"), "", &count.to_string());
        check(&format!("# TYPE vllm:{histogram} histogram"));
    }
    series("request_generation_tokens_sum", "", &format!("{answers}.0"));
}

#[tokio::test]
async fn answers_say_how_long_they_took() {
    let server = Server::with_model(model(TEXT)).await;
    let check = |body: &Value| {
        let (timings, usage) = (&body["timings"], &body["usage"]);
        assert_eq!(timings["predicted_n"], ids(TEXT).len() + 1, "{body}");
        let seen = timings["prompt_n"].as_u64().unwrap() + timings["cache_n"].as_u64().unwrap();
        assert_eq!(seen as usize, ids("user: Hi\n").len() + 1, "{body}");
        assert!(usage.is_null() || usage["prompt_tokens_details"]["cached_tokens"] == timings["cache_n"], "{body}");
        for name in ["prompt_ms", "prompt_per_second", "predicted_ms", "predicted_per_second", "predicted_per_token_ms"]
        {
            assert!(timings[name].as_f64().unwrap() > 0.0, "{name}: {body}");
        }
    };
    check(&server.post(CHAT, chat(json!({}))).await.json());
    for options in [json!({"include_usage": true}), json!({})] {
        let events = server.post(CHAT, chat(json!({"stream": true, "stream_options": options}))).await.events();
        let (last, before) = events.split_last().unwrap();
        check(last);
        assert!(before.iter().all(|e| e.get("timings").is_none()));
    }
    let members = json!({"prompt": "user: Hi\n", "stream": true, "temperature": 0});
    check(server.post(COMPLETIONS, members).await.events().last().unwrap());
}
