//! A token's logits are the same, bit for bit, however many others are computed in its step; so answers with guesses are
//! those without.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocmforge_e2e::server::repository;
use rocmforge_e2e::{NoVocabulary, Random, exact_plugins, load_with, logits, plugins};
use rocmforge_engine::{
    DraftModel, DraftRequest, Drafter, EngineConfig, EngineError, EngineHandle, EngineStats, Event, GenerateRequest,
    PromptLookup, RequestId, SamplingParams, StopParams,
};
use rocmforge_loader::{CompileOptions, LoadOptions, Model, Plugins};
use rocmforge_test_support::{committed_models, models, reference_pack};

const DEMOS: [&str; 5] = [
    "llama-demo-Q4_K_M.gguf",
    "qwen2-demo-Q4_K_M.gguf",
    "mistral-demo-Q4_K_M.gguf",
    "gemma-demo-Q4_K_M.gguf",
    "glm-demo-Q4_K_M.gguf",
];

fn demo(file: &str) -> PathBuf {
    repository().join("tests/models").join(file)
}

/// For contexts that are longer than what attention adds up at a time.
fn load(plugins: &Arc<Plugins>, path: &Path, sequences: u32) -> Model {
    let compile = CompileOptions { max_tokens: 64, max_sequences: sequences, block_size: 16 };
    Model::load(plugins, path, &LoadOptions::new(compile), &mut |_| {}).unwrap_or_else(|e| panic!("{e}"))
}

fn prompt(seed: u64, length: usize, vocabulary: usize) -> Vec<u32> {
    Random::new(seed).tokens(length, vocabulary)
}

/// Logits of a prompt in steps of several lengths, up to `most`.
fn check(what: &str, model: &mut Model, length: usize, most: usize) {
    let vocabulary = model.executable.program().info.vocab_size;
    let length = length.min(model.executable.program().info.context_length as usize);
    let tokens = prompt(3, length, vocabulary);
    let alone = logits(model, &tokens, 1);
    for chunk in [2, 3, 5, 8, 16, 17, 33, 64].into_iter().filter(|&chunk| chunk <= most) {
        let found = logits(model, &tokens, chunk);
        let other = std::iter::zip(&found, &alone).position(|(a, b)| a.to_bits() != b.to_bits());
        let other = other.map(|i| (i / vocabulary, i % vocabulary, found[i], alone[i]));
        assert_eq!(other, None, "{what}: steps of {chunk}: first token, logit and values that differ");
    }
}

#[test]
fn logits_of_the_demo_models() {
    for file in DEMOS {
        for (how, plugins) in [("int8", plugins()), ("f32", exact_plugins())] {
            check(&format!("{file}, {how}"), &mut load(&plugins, &demo(file), 1), 300, 64);
        }
    }
}

#[test]
fn logits_of_models_in_f32() {
    for dir in models(&["llama3-gqa", "gemma2", "glm4", "mixtral", "phi3", "qwen2-yarn", "qwen2moe"]) {
        check(&dir.display().to_string(), &mut load_with(&plugins(), &dir.join("model.gguf"), 64, 1), 200, 64);
    }
}

/// Steps of more than 16 tokens round weights of half precision, if they may.
#[test]
fn logits_of_one_model_in_many_formats() {
    let root = reference_pack().unwrap_or_else(committed_models).join("llama-q/quants");
    let files = std::fs::read_dir(&root).expect("the folder").map(|entry| entry.expect("an entry").path());
    for path in files.filter(|path| path.extension().is_some_and(|e| e == "gguf")) {
        let half = path.ends_with("F16.gguf");
        for (how, plugins, most) in [("int8", plugins(), if half { 16 } else { 64 }), ("f32", exact_plugins(), 64)] {
            check(&format!("{}, {how}", path.display()), &mut load_with(&plugins, &path, 64, 1), 100, most);
        }
    }
}

/// Guesses the answer but for every third token.
struct Oracle(Vec<u32>);

impl Drafter for Oracle {
    fn propose(&mut self, requests: &[DraftRequest<'_>]) -> Result<Vec<Vec<u32>>, EngineError> {
        let guess = |r: &DraftRequest<'_>| {
            let rest = self.0.get(r.tokens.len()..).unwrap_or(&[]);
            let wrong = |(i, &token): (usize, &u32)| match (r.tokens.len() + i).is_multiple_of(3) {
                true => token.checked_sub(1).unwrap_or(1),
                false => token,
            };
            rest.iter().take(r.most).enumerate().map(wrong).collect()
        };
        Ok(requests.iter().map(guess).collect())
    }

    fn forget(&mut self, _: RequestId) {}
}

fn answers(model: Model, drafter: Option<Box<dyn Drafter>>, prompts: &[Vec<u32>]) -> (Vec<Vec<u32>>, EngineStats) {
    let groups = model.executable.program().group_count();
    let config = EngineConfig { cache_blocks: vec![200; groups], ..EngineConfig::default() };
    let engine = EngineHandle::start_with_drafter(model.executable, drafter, Arc::new(NoVocabulary), &config);
    let engine = engine.expect("the engine starts");
    let ask = |prompt: &Vec<u32>| {
        let stop = StopParams { max_tokens: Some(80), ignore_eos: true, ..StopParams::default() };
        let sampling = SamplingParams::greedy();
        engine.submit(GenerateRequest { prompt: prompt.clone(), sampling, stop, ..GenerateRequest::default() })
    };
    let streams: Vec<_> = prompts.iter().map(|p| ask(p).expect("the request is taken")).collect();
    let read = |mut stream: rocmforge_engine::RequestStream| {
        let mut tokens = vec![];
        while let Some(event) = stream.blocking_next() {
            match event {
                Event::Token(token) => tokens.push(token.token),
                Event::Finished(_) => {}
                other => panic!("{other:?}"),
            }
        }
        tokens
    };
    let found = streams.into_iter().map(read).collect();
    engine.shutdown(std::time::Duration::ZERO);
    (found, engine.stats())
}

#[test]
fn answers_with_guesses_are_those_without() {
    for file in DEMOS {
        let path = demo(file);
        let model = |sequences| load(&plugins(), &path, sequences);
        let vocabulary = model(1).executable.program().info.vocab_size;
        let prompts: Vec<Vec<u32>> = (0..4).map(|i| prompt(i, 20 + 77 * i as usize, vocabulary)).collect();
        let alone: Vec<Vec<u32>> =
            prompts.iter().flat_map(|p| answers(model(1), None, std::slice::from_ref(p)).0).collect();
        assert_eq!(answers(model(4), None, &prompts).0, alone, "{file}: together");
        for (prompt, alone) in std::iter::zip(&prompts, &alone) {
            let all = [&prompt[..], alone].concat();
            let (found, stats) = answers(model(1), Some(Box::new(Oracle(all))), std::slice::from_ref(prompt));
            assert_eq!(&found[0], alone, "{file}: guesses, some of them wrong");
            assert!(stats.guessed_tokens > stats.accepted_tokens && stats.accepted_tokens > 0, "{file}: {stats:?}");
        }
        let (found, _) = answers(model(4), Some(Box::new(PromptLookup)), &prompts);
        assert_eq!(found, alone, "{file}: prompt lookup");
        // The model as its own draft computes one token at a time what is then checked several at a time.
        let draft =
            DraftModel::new(Box::new(model(4).executable), &vec![200; model(1).executable.program().group_count()]);
        let (found, stats) = answers(model(4), Some(Box::new(draft.expect("a draft"))), &prompts);
        assert_eq!(found, alone, "{file}: its own draft");
        assert!(stats.accepted_tokens > 100 && stats.accepted_tokens == stats.guessed_tokens, "{file}: {stats:?}");
    }
}
