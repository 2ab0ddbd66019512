//! Several models behind one server, more than fit its memory.

use rocmforge_e2e::server::{Server, repository};
use serde_json::{Value, json};

/// The demo models, loaded by need, in so many MiB.
fn server(name: &str, memory_mib: u32) -> Server {
    let models = repository().join("tests/models");
    let plugins = ["backend-cpu", "arch-llama", "arch-qwen2", "arch-gemma"];
    let mut text: String = plugins.map(|p| format!("[[plugins]]\nname = \"{p}\"\n")).concat();
    for (id, file) in
        [("llama", "llama-demo-Q4_K_M.gguf"), ("qwen2", "qwen2-demo-Q4_K_M.gguf"), ("gemma", "gemma-demo-Q4_K_M.gguf")]
    {
        let file = models.join(file);
        text += &format!("[models.{id}]\npath = {:?}\nload = \"use\"\n", file.display().to_string());
    }
    text += "[scheduler]\nkv_cache_mib = 16\nmax_sequences = 4\n";
    text += &format!("[server]\nmodels_memory_mib = {memory_mib}\n");
    let file = std::env::temp_dir().join(format!("rocmforge-{name}-{}.toml", std::process::id()));
    std::fs::write(&file, text).expect("the configuration is written");
    let server = Server::start(&["--config", file.to_str().expect("a path in UTF-8")], &[]);
    std::fs::remove_file(&file).expect("the configuration is there");
    server
}

fn states(server: &Server) -> Vec<(String, String, u64)> {
    let (status, body) = server.get("/v1/models");
    assert_eq!(status, 200, "{body}");
    let list: Value = serde_json::from_str(&body).expect("JSON");
    let text = |v: &Value| v.as_str().expect("a string").to_owned();
    let model = |m: &Value| (text(&m["id"]), text(&m["state"]), m["max_model_len"].as_u64().expect("a number"));
    list["data"].as_array().expect("a list").iter().map(model).collect()
}

fn answer(server: &Server, model: &str) -> String {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "What is 14 + 74?"}],
        "temperature": 0, "max_tokens": 16});
    let (status, body) = server.post("/v1/chat/completions", &body.to_string());
    assert_eq!(status, 200, "{model}: {body}");
    let value: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(value["model"], model);
    value["choices"][0]["message"]["content"].as_str().expect("a text").to_owned()
}

#[test]
fn no_request_is_lost_while_models_take_turns_in_memory() {
    // Room for one, or for two, but never for all three.
    let server = server("turns", 80);
    for (id, state, context) in states(&server) {
        assert_eq!(state, "unloaded", "{id}");
        assert!(context >= 256, "{id} says {context}");
    }
    let names = ["llama", "qwen2", "gemma"];
    let alone = names.map(|name| answer(&server, name));
    let (server, alone) = (&server, &alone);
    let ask = move |worker: usize| {
        for round in 0..4 {
            let i = (worker + round) % names.len();
            assert_eq!(answer(server, names[i]), alone[i], "{}", names[i]);
        }
    };
    std::thread::scope(|scope| {
        for worker in 0..6 {
            scope.spawn(move || ask(worker));
        }
    });
    let loaded = states(server).iter().filter(|(_, state, _)| state == "loaded").count();
    assert!((1..=2).contains(&loaded), "{:?}", states(server));
    server.wait_for_metric("rocmforge_requests_failed_total{model=\"llama\"}", |n| n == 0.0);
}
