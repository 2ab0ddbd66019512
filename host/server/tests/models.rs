//! Several models in one server: loaded by need, unloaded by age, and no request lost on the way.

mod common;

use std::num::NonZeroUsize;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Answer, Server, gated_model, model, post};
use rocmforge_loader::config::ServerSettings;
use rocmforge_server::{ModelFacts, ModelLoader, ModelOffer, ServedModel};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

const MIB: u64 = 1 << 20;

/// Loads parrots of 100 MiB each that say their own name, and notes what it was asked for.
#[derive(Default)]
struct Parrots {
    asked: Mutex<Vec<(String, Option<u64>)>>,
    /// Each load waits for a message; the sender gone means to load at once.
    gate: Option<Mutex<Receiver<()>>>,
}

impl ModelLoader for Parrots {
    fn load(&self, id: &str, room: Option<u64>) -> Result<ServedModel, String> {
        self.asked.lock().unwrap().push((id.into(), room));
        if let Some(gate) = &self.gate {
            let _ = gate.lock().unwrap().recv();
        }
        if id == "broken" {
            return Err("/secret/path: no such file".into());
        }
        let facts = ModelFacts { memory: 100 * MIB, ..ModelFacts::default() };
        Ok(ServedModel { id: id.into(), facts, ..model(id) })
    }
}

impl Parrots {
    fn loads(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(id, _)| id.clone()).collect()
    }
}

async fn server(parrots: &Arc<Parrots>, models: &[&str], memory: Option<usize>, wait: u64) -> Server {
    let settings = ServerSettings {
        models_memory_mib: memory.and_then(NonZeroUsize::new),
        model_wait_seconds: wait,
        ..ServerSettings::default()
    };
    let server = Server::with_loader(settings, Duration::from_secs(10), Some(parrots.clone())).await;
    for id in models {
        let offer = ModelOffer { id: (*id).into(), created: 1, context_length: 256, bytes: 60 * MIB };
        server.state.offer_model(offer);
    }
    server.state.set_ready();
    server
}

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Hi"}], "temperature": 0})
}

fn text(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_string()
}

async fn states(server: &Server) -> Vec<(String, String)> {
    let list = server.get("/v1/models").await.json();
    let entry = |m: &Value| {
        assert_eq!(m["max_model_len"], 256, "{m}");
        (m["id"].as_str().unwrap().to_string(), m["state"].as_str().unwrap().to_string())
    };
    list["data"].as_array().unwrap().iter().map(entry).collect()
}

fn expected(states: &[(&str, &str)]) -> Vec<(String, String)> {
    states.iter().map(|(id, state)| (id.to_string(), state.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_routed_by_model_and_load_it() {
    let parrots = Arc::default();
    let server = server(&parrots, &["one", "two"], None, 60).await;
    assert_eq!(states(&server).await, expected(&[("one", "unloaded"), ("two", "unloaded")]));
    assert_eq!(server.get("/ready").await.status, 200);
    assert_eq!(text(&server.post("/v1/chat/completions", chat("two")).await), "two");
    assert_eq!(states(&server).await, expected(&[("one", "unloaded"), ("two", "loaded")]));
    assert_eq!(text(&server.post("/v1/chat/completions", chat("one")).await), "one");
    assert_eq!(text(&server.post("/v1/chat/completions", chat("two")).await), "two");
    assert_eq!(parrots.loads(), ["two", "one"]);
    server.post("/v1/chat/completions", chat("three")).await.check_error(404, "model_not_found", json!("model"));
    let mut unnamed = chat("");
    unnamed["model"] = Value::Null;
    let answer = server.post("/v1/chat/completions", unnamed).await;
    answer.check_error(400, "missing_required_parameter", json!("model"));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_for_one_model_load_it_once() {
    let parrots = Arc::default();
    let server = server(&parrots, &["one"], None, 60).await;
    let answers = (0..4).map(|_| server.post("/v1/chat/completions", chat("one")));
    for answer in futures(answers).await {
        assert_eq!(text(&answer), "one");
    }
    assert_eq!(parrots.loads(), ["one"]);
}

/// Runs them at the same time.
async fn futures<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut running: Vec<_> = futures.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, result) in &mut running {
            if result.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(cx)
            {
                *result = Some(value);
            }
        }
        match running.iter().all(|(_, r)| r.is_some()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    running.into_iter().filter_map(|(_, r)| r).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_recently_used_model_makes_room() {
    let parrots = Arc::default();
    let server = server(&parrots, &["one", "two", "three"], Some(250), 60).await;
    for id in ["one", "two", "one", "three"] {
        assert_eq!(text(&server.post("/v1/chat/completions", chat(id)).await), id);
    }
    assert_eq!(states(&server).await, expected(&[("one", "loaded"), ("three", "loaded"), ("two", "unloaded")]));
    // What the others leave is what the next one may take.
    let rooms: Vec<_> = parrots.asked.lock().unwrap().iter().map(|(_, room)| room.map(|r| r / MIB)).collect();
    assert_eq!(rooms, [Some(250), Some(150), Some(150)]);
    assert_eq!(text(&server.post("/v1/chat/completions", chat("two")).await), "two");
    assert_eq!(states(&server).await, expected(&[("one", "unloaded"), ("three", "loaded"), ("two", "loaded")]));
}

/// The regression that matters most: an answer that runs while its model has to go.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_has_to_go_finishes_its_requests_first() {
    let parrots = Arc::default();
    let server = server(&parrots, &["two"], Some(150), 60).await;
    let (model, gate) = gated_model("a b c d");
    let facts = ModelFacts { memory: 100 * MIB, ..ModelFacts::default() };
    server.state.add_model(ServedModel { id: "one".into(), facts, ..model });
    let mut body = chat("one");
    body["stream"] = json!(true);
    let mut running = server.open(&post("/v1/chat/completions", &body.to_string())).await;
    let mut first = [0; 64];
    assert!(running.read(&mut first).await.unwrap() > 0);

    let waiting = server.post("/v1/chat/completions", chat("two"));
    let ending = async {
        while states(&server).await[0] != ("one".to_string(), "unloading".to_string()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // It is not loaded before the other is gone.
        assert!(parrots.loads().is_empty());
        drop(gate);
        let mut rest = String::new();
        running.read_to_string(&mut rest).await.unwrap();
        rest
    };
    let (answer, rest) = tokio::join!(waiting, ending);
    assert!(rest.contains("\"finish_reason\":\"stop\"") && rest.contains("data: [DONE]"), "{rest}");
    assert_eq!(text(&answer), "two");
    assert_eq!(states(&server).await, expected(&[("one", "unloaded"), ("two", "loaded")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_does_not_wait_longer_than_configured_for_a_model() {
    let (open, gate) = std::sync::mpsc::channel();
    let parrots = Arc::new(Parrots { gate: Some(Mutex::new(gate)), ..Parrots::default() });
    let server = server(&parrots, &["one"], None, 0).await;
    let answer = server.post("/v1/chat/completions", chat("one")).await;
    answer.check_error(503, "model_loading", Value::Null);
    assert!(answer.headers["retry-after"].parse::<u32>().unwrap() > 0);
    assert_eq!(states(&server).await, expected(&[("one", "loading")]));
    drop(open);
    // Loading has gone on without the client.
    for _ in 0..2000 {
        if states(&server).await == expected(&[("one", "loaded")]) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(text(&server.post("/v1/chat/completions", chat("one")).await), "one");
    assert_eq!(parrots.loads(), ["one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_loaded_says_so_without_telling_paths() {
    let parrots = Arc::default();
    let server = server(&parrots, &["broken", "one"], None, 60).await;
    for _ in 0..2 {
        let answer = server.post("/v1/chat/completions", chat("broken")).await;
        answer.check_error(500, "model_load_failed", Value::Null);
        assert!(!answer.body.contains("secret"), "{answer:?}");
    }
    // It is not tried again at once.
    assert_eq!(parrots.loads(), ["broken"]);
    assert_eq!(text(&server.post("/v1/chat/completions", chat("one")).await), "one");
    assert_eq!(states(&server).await, expected(&[("broken", "failed"), ("one", "loaded")]));
    assert_eq!(server.state.load_model("broken").await, Err("/secret/path: no such file".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_larger_than_the_limit_is_refused_and_unloads_nothing() {
    let parrots = Arc::default();
    let server = server(&parrots, &["one"], Some(150), 60).await;
    server.state.offer_model(ModelOffer { id: "big".into(), created: 1, context_length: 256, bytes: 151 * MIB });
    assert_eq!(text(&server.post("/v1/chat/completions", chat("one")).await), "one");
    let answer = server.post("/v1/chat/completions", chat("big")).await;
    answer.check_error(500, "model_load_failed", Value::Null);
    assert_eq!(states(&server).await, expected(&[("big", "failed"), ("one", "loaded")]));
    assert_eq!(parrots.loads(), ["one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_loaded_and_unloaded_by_hand() {
    let parrots = Arc::default();
    let server = server(&parrots, &["one"], None, 60).await;
    let done = |answer: Answer| (answer.status, answer.json()["success"].clone());
    assert_eq!(done(server.post("/models/load", json!({"model": "one"})).await), (200, json!(true)));
    assert_eq!(states(&server).await, expected(&[("one", "loaded")]));
    assert_eq!(done(server.post("/models/unload", json!({"model": "one"})).await), (200, json!(true)));
    assert_eq!(states(&server).await, expected(&[("one", "unloaded")]));
    assert_eq!(done(server.post("/models/unload", json!({"model": "one"})).await), (200, json!(false)));
    server.post("/models/unload", json!({"model": "two"})).await.check_error(404, "model_not_found", json!("model"));
    server.post("/models/load", json!({})).await.check_error(400, "missing_required_parameter", json!("model"));
    let wrong = server.post("/models/load", json!({"model": "one", "x": 1})).await;
    wrong.check_error(400, "unknown_parameter", json!("x"));
}
