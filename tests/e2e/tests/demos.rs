//! The five demo models through their plugins: held-out prompts, answered as expected word for word.

use rocmforge_e2e::server::{Server, repository};
use rocmforge_e2e::{argmax, load};
use rocmforge_engine::{Rows, SingleSequence};
use rocmforge_tokenizer::{RenderContext, Tokenizer};
use serde_json::{Value, json};

/// Of the prompts that `make_corpus.py --eval` writes, the first of each task that has one right answer; 29 tasks.
fn prompts() -> Vec<Value> {
    let lines = include_str!("../../models/demo_prompts.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Greedy answers are those expected.
fn check(file: &str, architecture: &str) {
    let mut model = load(&repository().join("tests/models").join(file), 512, 1);
    assert_eq!(model.architecture, architecture, "{file}");
    assert!(model.unused_tensors.is_empty(), "{file}: {:?}", model.unused_tensors);
    let tokenizer = Tokenizer::from_metadata(model.file.metadata()).expect("a tokenizer");
    let template = tokenizer.compile_chat_template().expect("a template");
    let context = RenderContext { add_generation_prompt: true, ..RenderContext::default() };
    let limit = model.executable.program().info.context_length as usize;
    let mut sequence = SingleSequence::new(&mut model.executable, limit).expect("room for the sequence");
    let cases = prompts();
    assert_eq!(cases.len(), 29);
    for case in cases {
        let prompt = template.render(&case["messages"], &context).expect("the conversation renders");
        let mut tokens = tokenizer.encode_prompt(&prompt);
        let mut answer = vec![];
        sequence.clear();
        loop {
            let mut next = 0;
            for piece in tokens.chunks(512) {
                next = argmax(sequence.feed(piece, Rows::Last).expect("the step runs"));
            }
            if tokenizer.is_eog(next) || sequence.len() == limit {
                break;
            }
            answer.push(next);
            tokens = vec![next];
        }
        let text = tokenizer.decode(&answer, true);
        assert_eq!(Some(text.trim()), case["expected"].as_str(), "{file}: {}", case["id"]);
    }
}

#[test]
fn the_llama_demo_answers() {
    check("llama-demo-Q4_K_M.gguf", "llama");
}

#[test]
fn the_qwen2_demo_answers() {
    check("qwen2-demo-Q4_K_M.gguf", "qwen2");
}

#[test]
fn the_mistral_demo_answers() {
    check("mistral-demo-Q4_K_M.gguf", "mistral");
}

#[test]
fn the_gemma_demo_answers() {
    check("gemma-demo-Q4_K_M.gguf", "gemma");
}

#[test]
fn the_glm_demo_answers() {
    check("glm-demo-Q4_K_M.gguf", "glm");
}

/// The shipped configuration with its commented models, each served by name.
#[test]
fn the_shipped_configuration_shows_how_to_serve_every_demo() {
    let shipped = std::fs::read_to_string(repository().join("plugins.toml")).expect("the configuration");
    let models = repository().join("tests/models").canonicalize().expect("the folder of the models");
    let uncommented = |line: &str| {
        let code = line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()));
        code.unwrap_or(line).replace("tests/models", models.to_str().expect("a path in UTF-8")) + "\n"
    };
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("plugins.toml");
    std::fs::write(&config, shipped.lines().map(uncommented).collect::<String>()).expect("written");
    for name in ["llama-demo", "qwen2-demo", "mistral-demo", "gemma-demo", "glm-demo"] {
        let server = Server::start(&["--config", config.to_str().expect("a path in UTF-8")], &["--model", name]);
        let body = json!({ "model": name, "messages": [{ "role": "user", "content": "What is 14 + 74?" }] });
        let (status, answer) = server.post("/v1/chat/completions", &body.to_string());
        assert_eq!(status, 200, "{name}: {answer}");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer["choices"][0]["message"]["content"], "88", "{name}: {answer}");
    }
}
