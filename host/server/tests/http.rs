//! HTTP as such, against a listening server that has no model yet.

mod common;

use std::num::NonZeroUsize;
use std::time::Duration;

use common::*;
use rocmforge_loader::config::ServerSettings;
use rocmforge_server::Readiness;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const CHAT: &str = "/v1/chat/completions";
const DRAIN: Duration = Duration::from_secs(5);

fn own(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| s.to_string()).collect()
}

fn hello() -> Value {
    json!({"messages": [{"role": "user", "content": "Hi"}]})
}

#[tokio::test]
async fn every_refusal_has_an_error_object() {
    let one = NonZeroUsize::MIN;
    let server = Server::start(ServerSettings { max_body_mib: one, ..Default::default() }, DRAIN).await;
    let check = async |request: Vec<u8>, status: u16, code: &str| {
        let answer = server.raw(&request).await;
        answer.check_error(status, code, Value::Null);
        assert!(answer.headers["x-request-id"].starts_with("req_"), "{answer:?}");
        answer
    };
    let line = |line: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes();
    check(line("GET /nowhere"), 404, "unknown_url").await;
    check(line("POST /v1/nowhere"), 404, "unknown_url").await;
    let answer = check(line("GET /v1/chat/completions"), 405, "method_not_allowed").await;
    assert_eq!(answer.headers["allow"], "POST");
    check(line("DELETE /v1/models"), 405, "method_not_allowed").await;
    check(post(CHAT, "{\"messages\": ["), 400, "invalid_json").await;
    check(post(CHAT, ""), 400, "invalid_json").await;
    check(post("/v1/completions", "[1]"), 400, "invalid_json").await;
    let text = String::from_utf8(post(CHAT, "{}")).unwrap().replace("application/json", "text/plain");
    check(text.into_bytes(), 415, "unsupported_content_type").await;
    check(post(CHAT, &"x".repeat((1 << 20) + 1)), 413, "request_too_large").await;
    let chunk = format!("{:x}\r\n{}\r\n", 700_000, "x".repeat(700_000));
    let chunked = "Content-Type: application/json\r\nTransfer-Encoding: chunked";
    let body = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{chunked}\r\n\r\n{chunk}{chunk}0\r\n\r\n"
    );
    check(body.into_bytes(), 413, "request_too_large").await;
    let large =
        format!("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    check(large.into_bytes(), 431, "headers_too_large").await;
    // What the HTTP library refuses by itself.
    let many = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(100));
    check(many.into_bytes(), 431, "headers_too_large").await;
    check(line("G@T /health"), 400, "invalid_http").await;
    check(line(&format!("GET /{}", "x".repeat(66_000))), 414, "uri_too_long").await;
    server.post(CHAT, json!({"messages": [], "n": 1})).await.check_error(400, "invalid_value", json!("messages"));
}

#[tokio::test]
async fn readiness_follows_loading_and_draining() {
    let server = Server::start(ServerSettings::default(), DRAIN).await;
    let check = async |status: u16, code: &str| {
        assert_eq!(server.get("/health").await.status, 200);
        let ready = server.get("/ready").await;
        ready.check_error(status, code, Value::Null);
        assert!(ready.headers["retry-after"].parse::<u32>().unwrap() > 0);
        let answer = server.post(CHAT, hello()).await;
        answer.check_error(status, code, Value::Null);
        assert!(answer.headers.contains_key("retry-after"));
    };
    check(503, "model_loading").await;
    server.state.set_ready();
    assert_eq!(server.get("/ready").await.json(), json!({"status": "ready"}));
    server.post(CHAT, hello()).await.check_error(404, "model_not_found", json!("model"));
    server.state.start_draining();
    server.state.set_ready();
    assert_eq!(server.state.readiness(), Readiness::Draining);
    check(503, "server_draining").await;
    server.stopped().await.unwrap();
}

#[tokio::test]
async fn models_are_listed_and_unknown_ones_not_found() {
    let server = Server::start(ServerSettings::default(), DRAIN).await;
    assert_eq!(server.get("/v1/models").await.json(), json!({"object": "list", "data": []}));
    server.get("/v1/models/none").await.check_error(404, "model_not_found", json!("model"));
    assert_eq!(server.get("/").await.json()["name"], "ROCmForge");
}

#[tokio::test]
async fn hosts_and_origins_that_are_not_the_servers_own_are_refused() {
    let settings = ServerSettings {
        allowed_hosts: own(&["api.example"]),
        cors_origins: own(&["https://app.example"]),
        ..Default::default()
    };
    let server = Server::start(settings, DRAIN).await;
    let check = async |headers: &str, status: u16, code: &str| {
        let request = format!("GET /health HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n");
        let answer = server.raw(request.as_bytes()).await;
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str().unwrap_or("")), (status, code), "{headers}");
        answer
    };
    check("Host: localhost:1234", 200, "").await;
    check("Host: api.example", 200, "").await;
    check("Host: evil.example", 403, "host_not_allowed").await;
    check("Host: localhost\r\nHost: evil.example", 403, "host_not_allowed").await;
    check("Host: localhost\r\nOrigin: https://evil.example", 403, "origin_not_allowed").await;
    check("Host: localhost:5\r\nOrigin: http://localhost:5", 200, "").await;
    let answer = check("Host: localhost\r\nOrigin: https://app.example", 200, "").await;
    assert_eq!(answer.headers["access-control-allow-origin"], "https://app.example");

    let ask = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type";
    let preflight = async |origin: &str| {
        let line = format!("OPTIONS {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: {origin}");
        server.raw(format!("{line}\r\n{ask}\r\n\r\n").as_bytes()).await
    };
    let answer = preflight("https://app.example").await;
    assert_eq!((answer.status, answer.headers["access-control-allow-headers"].as_str()), (200, "content-type"));
    assert_eq!(preflight("https://evil.example").await.status, 403);
}

#[tokio::test]
async fn request_ids_are_echoed() {
    let server = Server::start(ServerSettings::default(), DRAIN).await;
    let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Request-Id: mine-1\r\n\r\n";
    assert_eq!(server.raw(request).await.headers["x-request-id"], "mine-1");
}

#[tokio::test]
async fn metrics_are_open_metrics_text() {
    let server = Server::start(ServerSettings::default(), DRAIN).await;
    server.get("/nowhere").await;
    server.get("/v1/models/some%2Fname").await;
    let answer = server.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.headers["content-type"].starts_with("application/openmetrics-text"));
    assert!(answer.body.ends_with("# EOF\n"));
    for line in [
        "rocmforge_http_responses_total{route=\"none\",status=\"404\"} 1",
        "rocmforge_http_responses_total{route=\"/v1/models/{*id}\",status=\"404\"} 1",
        "rocmforge_http_requests_in_flight 1",
    ] {
        assert!(answer.body.lines().any(|l| l == line), "{line} is not in\n{}", answer.body);
    }
}

#[tokio::test]
async fn half_sent_requests_hold_up_neither_others_nor_the_end() {
    let server = Server::start(ServerSettings::default(), DRAIN).await;
    let whole = post(CHAT, &hello().to_string());
    let mut open = Vec::new();
    for i in 0..64 {
        open.push(server.open(&whole[..whole.len() - 1 - i]).await);
        open.push(server.open(b"GET /hea").await);
    }
    assert_eq!(server.get("/health").await.status, 200);
    drop(open.drain(..64));
    assert_eq!(server.get("/health").await.status, 200);
    server.stopped().await.unwrap();
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_named() {
    let check = async |host: &str, port: u16| {
        let settings = ServerSettings { host: host.into(), port, ..Default::default() };
        let error = rocmforge_server::bind(&settings).await.expect_err(host).to_string();
        assert!(error.contains(&format!("{host}:{port}")), "{error}");
    };
    let server = Server::start(ServerSettings::default(), DRAIN).await;
    check("127.0.0.1", server.port).await;
    check("no such host", 0).await;
}

#[tokio::test]
async fn keys_guard_every_route_but_health_and_readiness() {
    let file = std::env::temp_dir().join(format!("rocmforge-keys-{}", std::process::id()));
    // The digest of "abc".
    let hashed = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    std::fs::write(&file, format!("# keys\nplain:first\n{hashed}\n")).unwrap();
    let cors_origins = own(&["https://app.example"]);
    let settings = ServerSettings { api_keys_file: Some(file.clone()), cors_origins, ..Default::default() };
    let server = Server::start(settings, DRAIN).await;
    let check = async |line: &str, headers: &str, status: u16, code: &str| {
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n");
        let answer = server.raw(request.as_bytes()).await;
        let found = serde_json::from_str::<Value>(&answer.body).unwrap_or_default()["error"]["code"].clone();
        assert_eq!((answer.status, found.as_str().unwrap_or("")), (status, code), "{line} {headers}");
        assert_eq!(answer.headers.get("www-authenticate").map(String::as_str), (status == 401).then_some("Bearer"));
        answer
    };
    check("GET /health", "", 200, "").await;
    check("GET /ready", "", 503, "model_loading").await;
    let chat = format!("POST {CHAT}");
    for line in ["GET /", "GET /metrics", "GET /v1/models", "GET /v1/models/x", "GET /nowhere", "PUT /v1/models", &chat]
    {
        check(line, "", 401, "missing_api_key").await;
        check(line, "Authorization: Bearer wrong\r\n", 401, "invalid_api_key").await;
        check(line, "x-api-key: plain:first\r\n", 401, "invalid_api_key").await;
    }
    check("GET /v1/models", "Authorization: Bearer first\r\n", 200, "").await;
    check("GET /v1/models", "x-api-key: abc\r\n", 200, "").await;
    check("GET /nowhere", "x-api-key: abc\r\n", 404, "unknown_url").await;
    let origin = "Origin: https://app.example\r\n";
    let ask = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n";
    check(&format!("OPTIONS {CHAT}"), &format!("{origin}{ask}"), 200, "").await;
    let refused = check("GET /v1/models", origin, 401, "missing_api_key").await;
    assert_eq!(refused.headers["access-control-allow-origin"], "https://app.example");
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn a_file_of_keys_that_cannot_be_used_leaves_nothing_open() {
    let check = async |api_keys_file: &str, part: &str| {
        let settings = ServerSettings { api_keys_file: Some(api_keys_file.into()), ..Default::default() };
        let server = Server::start(settings, DRAIN).await;
        let error = server.stopped().await.expect_err(api_keys_file).to_string();
        assert!(error.contains(part), "{error}");
    };
    check("/no/such/file", "/no/such/file").await;
    check(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "Cargo.toml:1").await;
}

#[tokio::test]
async fn one_address_cannot_take_every_connection() {
    let settings = ServerSettings { max_connections_per_address: NonZeroUsize::new(2), ..Default::default() };
    let server = Server::start(settings, DRAIN).await;
    let half = b"GET /health HTTP/1.1\r\nHo";
    let first = server.open(half).await;
    let _second = server.open(half).await;
    let closed = async || {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        // What was sent meanwhile may make the end a hard one.
        matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_))
    };
    assert!(closed().await);
    drop(first);
    while server
        .open(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .read(&mut [0; 1])
        .await
        .ok()
        != Some(1)
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
