//! What those who run the server rely on: keys, tokenizer routes, cancellation by id.

use std::io::{Read, Write};

use rocmforge_e2e::python;
use rocmforge_e2e::server::{Server, host, repository, run};
use serde_json::{Value, json};

fn shipped(keys: &[&str]) -> Server {
    let config = repository().join("plugins.toml");
    Server::start_with_keys(&["--config", config.to_str().expect("a path in UTF-8")], &[], keys)
}

fn ok(answer: (u16, String)) -> Value {
    assert_eq!(answer.0, 200, "{}", answer.1);
    serde_json::from_str(&answer.1).expect("JSON")
}

#[test]
fn the_official_client_needs_one_of_the_keys() {
    let Some(program) = python::with_client() else {
        println!("skipped: no virtual environment with the openai package (needs python3-venv and a network)");
        return;
    };
    // The digest of "abc".
    let hashed = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let server = shipped(&["sk-first", hashed]);
    let script = repository().join("tests/e2e/python/api_keys.py");
    let url = format!("http://{}", server.address);
    let args = [script.to_str().expect("a path in UTF-8"), &url, "llama-demo", "sk-first", "abc"];
    let (passed, text) = python::run(&program, &args);
    println!("{text}");
    assert!(passed, "{text}");
    // Nothing that was refused has reached the engine.
    server.wait_for_metric("vllm:num_requests_running", |n| n == 0.0);
    server.wait_for_metric("rocmforge_requests_started_total", |n| n == 3.0);
    let refused =
        |route: &str| server.metric(&format!("rocmforge_http_responses_total{{route=\"{route}\",status=\"401\"}}"));
    let routes = ["/v1/models", "/v1/chat/completions", "/v1/completions"];
    assert_eq!(routes.map(refused), [Some(4.0); 3]);
}

#[test]
fn keys_that_cannot_be_used_keep_the_server_from_starting() {
    let check = |keys: &str, part: &str| {
        let config = repository().join("plugins.toml");
        let mut command = host();
        command.env("ROCMFORGE_API_KEYS", keys).arg("--config").arg(config).args(["serve", "--port", "0"]);
        let output = command.output().expect("the host ends");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        // Models begin to load at the same time, and may log their last line after it.
        let says = |line: &str| line.starts_with("error: API keys, ROCMFORGE_API_KEYS: ") && line.contains(part);
        assert!(text.lines().any(says), "{text}");
    };
    check("", "at least 1 key");
    check("abc,sha256:123", "64 hexadecimal digits");
}

#[test]
fn the_server_tokenizes_as_the_command_does() {
    let server = shipped(&[]);
    let model = repository().join("tests/models/llama-demo-Q4_K_M.gguf");
    let model = model.to_str().expect("a path in UTF-8");
    for text in ["What is 14 + 74?", "é ñ 日本", "  two  spaces\n", ""] {
        let output = run(&["tokenize", "--model", model, "--no-bos"], text);
        let expected: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let vllm = ok(server.post("/tokenize", &json!({"prompt": text, "add_special_tokens": false}).to_string()));
        let llama = ok(server.post("/tokenize", &json!({"content": text}).to_string()));
        assert_eq!((&vllm["tokens"], &llama["tokens"]), (&expected, &expected), "{text:?}");
        let back = ok(server.post("/detokenize", &json!({"tokens": expected}).to_string()));
        assert_eq!((&back["prompt"], &back["content"]), (&json!(text), &json!(text)));
    }
    let messages = json!({"messages": [{"role": "user", "content": "What is 14 + 74?"}]}).to_string();
    let prompt = ok(server.post("/apply-template", &messages))["prompt"].clone();
    let tokens = ok(server.post("/tokenize", &json!({"prompt": prompt}).to_string()));
    assert_eq!(ok(server.post("/tokenize", &messages)), tokens);
    let generated = ok(server.post("/generate", &json!({"prompt": prompt, "temperature": 0}).to_string()));
    assert_eq!(generated["text"].as_str().map(str::trim), Some("88"), "{generated}");
    assert_eq!(generated["usage"]["prompt_tokens"], tokens["count"], "{generated}");
}

#[test]
fn cancelling_by_id_frees_what_a_request_holds() {
    let server = shipped(&[]);
    let used = server.metric("rocmforge_kv_blocks_used").expect("a metric");
    let body = json!({"prompt": "The", "max_tokens": 900, "ignore_eos": true}).to_string();
    let start = |id: usize| {
        let mut stream = server.connect();
        let host = &server.address;
        let headers =
            format!("Host: {host}\r\nX-Request-Id: long-{id}\r\nConnection: close\r\nContent-Length: {}", body.len());
        let request =
            format!("POST /generate/stream HTTP/1.1\r\n{headers}\r\nContent-Type: application/json\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).expect("the request is sent");
        assert!(stream.read(&mut [0; 512]).expect("the answer starts") > 0);
        stream
    };
    let streams: Vec<_> = (0..4).map(start).collect();
    server.wait_for_metric("vllm:num_requests_running", |n| n == 4.0);
    for id in 0..4 {
        let report = ok(server.post(&format!("/cancel/long-{id}"), "{}"));
        assert_eq!(report["status"], "cancelled", "{report}");
    }
    for mut stream in streams {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).expect("the answer ends");
        assert!(rest.contains("request_cancelled") && rest.contains("data: [DONE]"), "{rest}");
    }
    server.wait_for_metric("vllm:num_requests_running", |n| n == 0.0);
    server.wait_for_metric("rocmforge_kv_blocks_used", |n| n == used);
    server.wait_for_metric("rocmforge_requests_cancelled_total", |n| n == 4.0);
    assert_eq!(ok(server.get("/status/long-0"))["status"], "cancelled");
}
