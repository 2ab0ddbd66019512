//! The APIs of others, as their own clients use them.

use rocmforge_e2e::python;
use rocmforge_e2e::server::{Server, repository};

#[test]
fn the_clients_of_other_apis_work() {
    let Some(program) = python::with_dialects() else {
        println!(
            "skipped: no virtual environment with anthropic, ollama and openai (needs python3-venv and a network)"
        );
        return;
    };
    let config = repository().join("plugins.toml");
    let server = Server::start(&["--config", config.to_str().expect("a path in UTF-8")], &[]);
    let script = repository().join("tests/e2e/python/dialects.py");
    let url = format!("http://{}", server.address);
    let (passed, text) = python::run(&program, &[script.to_str().expect("a path in UTF-8"), &url, "llama-demo"]);
    println!("{text}");
    assert!(passed, "{text}");
    server.wait_for_metric("vllm:num_requests_running", |n| n == 0.0);
    server.wait_for_metric("rocmforge_kv_blocks_used", |n| n == 0.0);
}
