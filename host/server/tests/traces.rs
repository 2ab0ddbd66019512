//! Traces of requests: at `/traces`, and as a collector of OpenTelemetry gets them.

mod common;

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Server, gated_model, model};
use rocmforge_loader::config::{ServerSettings, TracingSettings};
use rocmforge_server::ServedModel;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const TEXT: &str = " the sequence, that ñ is";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A listener of the protocol: keeps every request that arrives, and answers with the next of `statuses`, then with 200.
struct Collector {
    endpoint: String,
    requests: mpsc::UnboundedReceiver<Sent>,
}

struct Sent {
    head: String,
    body: Value,
}

impl Collector {
    async fn start(statuses: &'static [u16]) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (sender, requests) = mpsc::unbounded_channel();
        let answered = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let status = statuses.get(answered.fetch_add(1, Ordering::SeqCst)).copied().unwrap_or(200);
                let sender = sender.clone();
                tokio::spawn(async move {
                    let sent = take(stream, status).await;
                    let _ = sender.send(sent);
                });
            }
        });
        Collector { endpoint, requests }
    }

    async fn next(&mut self) -> Sent {
        tokio::time::timeout(Duration::from_secs(20), self.requests.recv()).await.expect("traces arrive").unwrap()
    }

    /// The spans of the next request, by name.
    async fn spans(&mut self) -> Vec<Value> {
        let sent = self.next().await;
        let [resource] = array(&sent.body["resourceSpans"]) else { panic!("{}", sent.body) };
        let [scope] = array(&resource["scopeSpans"]) else { panic!("{}", sent.body) };
        array(&scope["spans"]).to_vec()
    }
}

async fn take(mut stream: TcpStream, status: u16) -> Sent {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        let mut part = [0; 4096];
        let n = stream.read(&mut part).await.unwrap();
        bytes.extend_from_slice(&part[..n]);
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok()).unwrap();
            bytes.drain(..end + 4);
            break (head, length);
        }
        assert!(n > 0, "the head ends");
    };
    while bytes.len() < length {
        let mut part = [0; 4096];
        let n = stream.read(&mut part).await.unwrap();
        assert!(n > 0, "the body is complete");
        bytes.extend_from_slice(&part[..n]);
    }
    let reply = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}");
    stream.write_all(reply.as_bytes()).await.unwrap();
    Sent { head, body: serde_json::from_slice(&bytes).unwrap() }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn attributes(span: &Value) -> BTreeMap<String, Value> {
    array(&span["attributes"]).iter().map(|a| (text(&a["key"]).to_owned(), a["value"].clone())).collect()
}

fn nanos(value: &Value) -> u64 {
    text(value).parse().unwrap()
}

async fn server(tracing: TracingSettings, model: ServedModel) -> Server {
    let server = Server::with_tracing(ServerSettings::default(), tracing).await;
    server.state.add_model(model);
    server.state.set_ready();
    server
}

fn sent_to(endpoint: &str) -> TracingSettings {
    let export_interval_ms = NonZeroU64::new(20);
    TracingSettings { otlp_endpoint: Some(endpoint.into()), export_interval_ms, ..TracingSettings::default() }
}

fn request(path: &str, headers: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let more = format!("Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close", body.len());
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n{headers}\r\n{body}").into_bytes()
}

fn chat() -> Value {
    json!({"messages": [{"role": "user", "content": "a secret question"}], "stream": true, "max_tokens": 4})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_one_tree_of_spans_per_request() {
    let mut collector = Collector::start(&[]).await;
    let settings = TracingSettings {
        service_name: Some("the service".into()),
        otlp_headers: BTreeMap::from([("x-token".into(), "abc".into())]),
        ..sent_to(&collector.endpoint)
    };
    let server = server(settings, model(TEXT)).await;
    let headers = format!("traceparent: 00-{TRACE}-{CALLER}-01\r\ntracestate: a=b\r\nx-request-id: mine\r\n");
    let answer = server.raw(&request("/v1/chat/completions", &headers, &chat())).await;
    assert_eq!(answer.status, 200, "{answer:?}");

    let sent = collector.next().await;
    assert!(sent.head.starts_with("post /v1/traces http/1.1\r\n"), "{}", sent.head);
    assert!(sent.head.contains("\r\ncontent-type: application/json"), "{}", sent.head);
    assert!(sent.head.contains("\r\nx-token: abc"), "{}", sent.head);
    // Neither the question nor the answer.
    for word in ["secret", "question", "sequence"] {
        assert!(!sent.body.to_string().contains(word), "{word}");
    }
    let [resource] = array(&sent.body["resourceSpans"]) else { panic!("{}", sent.body) };
    assert_eq!(attributes(&resource["resource"])["service.name"], json!({"stringValue": "the service"}));
    let spans = array(&resource["scopeSpans"][0]["spans"]);
    check_tree(spans);
    let root = spans.iter().find(|s| s["kind"] == 2).unwrap();
    assert_eq!((text(&root["parentSpanId"]), text(&root["traceState"])), (CALLER, "a=b"));
    assert_eq!(root["name"], "POST /v1/chat/completions");
    assert_eq!(root.get("status"), None);
    let found = attributes(root);
    assert_eq!(found["rocmforge.request_id"], json!({"stringValue": "mine"}));
    assert_eq!(found["http.response.status_code"], json!({"intValue": "200"}));
    assert_eq!(found["gen_ai.operation.name"], json!({"stringValue": "chat"}));
    assert_eq!(found["gen_ai.request.model"], json!({"stringValue": "org/parrot"}));
    assert_eq!(found["gen_ai.usage.output_tokens"], json!({"intValue": "4"}));
    let reasons = json!({"arrayValue": {"values": [{"stringValue": "length"}]}});
    assert_eq!(found["gen_ai.response.finish_reasons"], reasons);
    server.stopped().await.unwrap();
}

/// All spans belong to one trace and lie within their parents, which are there; the stages follow each other.
fn check_tree(spans: &[Value]) {
    let ids: HashSet<&str> = spans.iter().map(|s| text(&s["spanId"])).collect();
    assert_eq!(ids.len(), spans.len(), "ids are not used twice");
    for span in spans {
        assert_eq!(span["traceId"], TRACE, "{span}");
        assert_eq!(text(&span["spanId"]).len(), 16, "{span}");
        assert!(nanos(&span["startTimeUnixNano"]) <= nanos(&span["endTimeUnixNano"]), "{span}");
        let Some(parent) = spans.iter().find(|p| p["spanId"] == span["parentSpanId"]) else {
            assert_eq!((&span["parentSpanId"], &span["kind"]), (&json!(CALLER), &json!(2)), "{span}");
            continue;
        };
        assert!(nanos(&parent["startTimeUnixNano"]) <= nanos(&span["startTimeUnixNano"]), "{span} {parent}");
        assert!(nanos(&span["endTimeUnixNano"]) <= nanos(&parent["endTimeUnixNano"]), "{span} {parent}");
    }
    let one = |name: &str| {
        let found: Vec<_> = spans.iter().filter(|s| s["name"] == name).collect();
        assert_eq!(found.len(), 1, "{name}: {spans:?}");
        found[0].clone()
    };
    let stages = ["tokenize", "queue", "prefill", "decode"].map(one);
    for pair in stages.windows(2) {
        assert!(nanos(&pair[0]["endTimeUnixNano"]) <= nanos(&pair[1]["startTimeUnixNano"]), "{pair:?}");
    }
    one("stream");
    let chunk = one("prefill chunk");
    assert_eq!(chunk["parentSpanId"], stages[2]["spanId"]);
    assert_eq!(attributes(&chunk)["rocmforge.tokens"], attributes(&stages[2])["rocmforge.tokens"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_decide_whether_a_trace_is_sent() {
    let mut collector = Collector::start(&[]).await;
    let server = server(sent_to(&collector.endpoint), model(TEXT)).await;
    let body = json!({"prompt": "x", "max_tokens": 1});
    for (trace, flags) in [("1".repeat(32), "00"), ("2".repeat(32), "01")] {
        let headers = format!("traceparent: 00-{trace}-{CALLER}-{flags}\r\n");
        assert_eq!(server.raw(&request("/v1/completions", &headers, &body)).await.status, 200);
    }
    // What is not sent is remembered here all the same.
    let listed = server.get("/traces").await.json();
    let sampled: Vec<_> = array(&listed["data"]).iter().map(|t| (&t["trace_id"], &t["sampled"])).collect();
    assert_eq!(sampled, [(&json!("2".repeat(32)), &json!(true)), (&json!("1".repeat(32)), &json!(false))]);
    let spans = collector.spans().await;
    assert!(spans.iter().all(|s| s["traceId"] == "2".repeat(32)), "{spans:?}");
    server.stopped().await.unwrap();
    assert!(collector.requests.try_recv().is_err(), "nothing else was sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_in_passing_is_sent_again_and_nothing_is_lost_at_the_end() {
    let mut collector = Collector::start(&[503]).await;
    let settings = TracingSettings { export_interval_ms: NonZeroU64::new(3_600_000), ..sent_to(&collector.endpoint) };
    let server = server(settings, model(TEXT)).await;
    assert_eq!(server.post("/v1/completions", json!({"prompt": "x", "max_tokens": 1})).await.status, 200);
    // The interval is an hour, so only the end of the server can be what sends.
    let stopped = tokio::spawn(server.stopped());
    let (first, second) = (collector.next().await, collector.next().await);
    assert_eq!(first.body, second.body);
    stopped.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_gone_hurts_nobody() {
    // A port that nobody listens on any more.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = server(sent_to(&format!("http://{gone}")), model(TEXT)).await;
    let body = json!({"prompt": "x", "max_tokens": 2});
    for _ in 0..20 {
        assert_eq!(server.post("/v1/completions", body.clone()).await.status, 200);
    }
    assert_eq!(array(&server.get("/traces?limit=100").await.json()["data"]).len(), 20);
    server.stopped().await.unwrap();

    let server = Server::with_tracing(ServerSettings::default(), sent_to("no url")).await;
    let error = server.stopped().await.unwrap_err().to_string();
    assert!(error.contains("tracing.otlp_endpoint") && error.contains("no url"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_latest_traces_can_be_read() {
    let settings = TracingSettings { keep: 3, ..TracingSettings::default() };
    let server = server(settings, model(TEXT)).await;
    for i in 0..5 {
        let body = json!({"prompt": "x", "max_tokens": 2, "n": 2});
        let answer = server.raw(&request("/v1/completions", &format!("x-request-id: r{i}\r\n"), &body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    // Requests that nothing is done for leave no trace.
    assert_eq!(server.get("/health").await.status, 200);
    assert_eq!(server.post("/v1/nothing", json!({})).await.status, 404);
    let listed = server.get("/traces").await.json();
    let ids: Vec<&str> = array(&listed["data"]).iter().map(|t| text(&t["request_id"])).collect();
    assert_eq!(ids, ["r4", "r3", "r2"]);
    let one = server.get("/traces?request_id=r3&limit=1").await.json();
    let [trace] = array(&one["data"]) else { panic!("{one}") };
    let names: Vec<&str> = array(&trace["root"]["children"]).iter().map(|s| text(&s["name"])).collect();
    assert_eq!(names[0], "tokenize", "{trace}");
    assert_eq!(names.last(), Some(&"respond"), "{trace}");
    for name in ["queue", "prefill", "decode"] {
        assert_eq!(names.iter().filter(|n| **n == name).count(), 2, "one for each answer: {names:?}");
    }
    assert_eq!(trace["root"]["attributes"]["rocmforge.outcome"], "completed");
    assert_eq!(server.get("/traces?limit=x").await.status, 400);
    server.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_has_a_trace_as_well() {
    let (model, gate) = gated_model(TEXT);
    let server = server(TracingSettings::default(), model).await;
    let stream = server.open(&request("/v1/chat/completions", "", &chat())).await;
    let started = "rocmforge_requests_started_total{model=\"org/parrot\"} 1";
    while !server.get("/metrics").await.body.contains(started) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(stream);
    gate.send(()).unwrap();
    let mut listed = server.get("/traces").await.json();
    while array(&listed["data"]).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        listed = server.get("/traces").await.json();
    }
    let trace = &listed["data"][0];
    assert_eq!(
        (&trace["status"], &trace["root"]["attributes"]["rocmforge.outcome"]),
        (&json!(499), &json!("cancelled"))
    );
    drop(gate);
    server.stopped().await.unwrap();
}
