//! The shipped configuration, served by the built host to real clients.

use std::io::{Read, Write};
use std::process::Command;

use rocmforge_e2e::server::{Server, repository};
use rocmforge_e2e::{build_folder, python};

fn shipped() -> Server {
    let config = repository().join("plugins.toml");
    Server::start(&["--config", config.to_str().expect("a path in UTF-8")], &[])
}

/// Runs a script of ours on a server, with its address and a model as arguments, and more. Nothing may be left behind.
fn check(server: &Server, program: &str, script: &str, more: &[&str]) {
    let script = repository().join("tests/e2e/python").join(script);
    let url = format!("http://{}", server.address);
    let (ok, text) = python::run(program, &[&[script.to_str().expect("a path in UTF-8"), &url], more].concat());
    println!("{text}");
    assert!(ok, "{text}");
    server.wait_for_metric("rocmforge_active_requests", |n| n == 0.0);
}

const NO_CLIENT: &str = "skipped: no virtual environment with its packages (needs python3-venv and a network)";

#[test]
fn the_official_client_is_answered() {
    let Some(program) = python::with_client() else { return println!("{NO_CLIENT}") };
    check(&shipped(), &program, "openai_client.py", &["llama-demo"]);
}

#[test]
fn what_clients_rely_on_is_there_to_the_byte() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: no python3");
        return;
    }
    check(&shipped(), "python3", "wire.py", &["llama-demo"]);
}

#[test]
fn answers_to_strict_schemas_validate() {
    let Some(program) = python::with_client() else { return println!("{NO_CLIENT}") };
    check(&shipped(), &program, "strict_schemas.py", &["llama-demo", "24"]);
    // A vocabulary of SentencePiece, with bytes as tokens.
    let model = repository().join("tests/models/mistral-demo-Q4_K_M.gguf");
    let server = Server::start(&[], &["--model", model.to_str().expect("a path in UTF-8")]);
    check(&server, &program, "strict_schemas.py", &["", "24"]);
}

#[test]
fn adapters_of_other_libraries_are_answered() {
    let Some(program) = python::with_adapters() else { return println!("{NO_CLIENT}") };
    check(&shipped(), &program, "adapters.py", &["llama-demo"]);
}

#[test]
#[ignore = "installs 600 MB of packages: run with -- --ignored"]
fn lm_eval_scores_texts() {
    let Some(program) = python::with_lm_eval() else { return println!("{NO_CLIENT}") };
    let (host, config) = (build_folder().join("rocmforge-host"), repository().join("plugins.toml"));
    let [host, config] = [&host, &config].map(|path| path.to_str().expect("a path in UTF-8"));
    check(&shipped(), &program, "lm_eval_scores.py", &["llama-demo", host, config]);
}

#[test]
fn held_out_prompts_are_answered_as_recorded() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: no python3");
        return;
    }
    let server = shipped();
    let script = repository().join("tests/models/evaluate.py");
    let url = format!("http://{}", server.address);
    let (ok, text) = python::run("python3", &[script.to_str().expect("a path in UTF-8"), "--url", &url]);
    println!("{text}");
    assert!(ok, "{text}");
}

const LONG: &str = r#"{"prompt": "The", "max_tokens": 900, "ignore_eos": true, "stream": true}"#;

fn start_long_answer(server: &Server) -> std::net::TcpStream {
    let mut stream = server.connect();
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{LONG}",
        server.address,
        LONG.len()
    );
    stream.write_all(request.as_bytes()).expect("the request is sent");
    let mut start = [0; 512];
    assert!(stream.read(&mut start).expect("the answer starts") > 0);
    stream
}

#[test]
fn a_client_that_leaves_cancels_its_request() {
    let server = shipped();
    let free = server.metric("rocmforge_kv_blocks_used").expect("a metric");
    let streams: Vec<_> = (0..4).map(|_| start_long_answer(&server)).collect();
    server.wait_for_metric("rocmforge_active_requests", |n| n == 4.0);
    drop(streams);
    server.wait_for_metric("rocmforge_active_requests", |n| n == 0.0);
    server.wait_for_metric("rocmforge_kv_blocks_used", |n| n == free);
    server.wait_for_metric("rocmforge_requests_cancelled_total", |n| n == 4.0);
}

#[test]
fn sigterm_lets_answers_finish_and_ends_with_success() {
    let mut server = shipped();
    let mut stream = start_long_answer(&server);
    server.terminate();
    server.wait_for("shutting down");
    assert_eq!(server.get("/ready").0, 503);
    assert_eq!(server.post("/v1/completions", r#"{"prompt": "x"}"#).0, 503);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("the answer is read");
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn malformed_requests_are_refused_and_the_server_goes_on() {
    let server = shipped();
    let check = |path: &str, body: &str, status: u16, part: &str| {
        let (found, text) = server.post(path, body);
        assert_eq!(found, status, "{path} {body}: {text}");
        assert!(text.contains(part) && text.contains("\"error\""), "{path} {body}: {text}");
    };
    check("/v1/chat/completions", "{", 400, "JSON");
    check("/v1/chat/completions", "{}", 400, "messages");
    check("/v1/chat/completions", r#"{"messages": []}"#, 400, "messages");
    check("/v1/chat/completions", r#"{"messages": [{"role": "user", "content": "x"}], "top_p": 2}"#, 400, "top_p");
    check("/v1/completions", r#"{"prompt": [99999]}"#, 400, "prompt");
    check("/v1/completions", r#"{"prompt": "x", "model": "nope"}"#, 404, "model_not_found");
    check("/v1/nothing", "{}", 404, "/v1/nothing");
    let (status, text) = server.post("/v1/completions", r#"{"prompt": "What", "max_tokens": 2}"#);
    assert_eq!(status, 200, "{text}");
    assert_eq!(server.get("/health").0, 200);
}
