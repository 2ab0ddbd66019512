//! Several requests at once get the greedy answers that they get alone, on a trained model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocmforge_e2e::{greedy, load};
use rocmforge_engine::{
    EngineConfig, EngineHandle, Event, FinishReason, GenerateRequest, RequestStream, SamplingParams, StopParams,
};
use rocmforge_loader::Model;
use rocmforge_tokenizer::{EncodeOptions, Tokenizer};

const ANSWER: usize = 24;
const QUESTIONS: [&str; 8] = [
    "What is 14 + 74?",
    "What is the capital of France?",
    "Hello!",
    "Repeat the word apple three times, then the word pear, and then say nothing more at all.",
    "78 + 40 = ?",
    "What is the capital of France? And what is the capital of Japan? And of Italy? And of Spain? And of Greece?",
    "a",
    "Write a short story about a dog that finds a bone in the garden and takes it home to show it to a friend.",
];

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/llama-demo-Q4_K_M.gguf")
}

fn model() -> Model {
    load(&demo(), 64, 8)
}

fn start(model: Model, tokenizer: Arc<Tokenizer>, blocks: u64, budget: usize) -> EngineHandle {
    let groups = model.executable.program().group_count();
    let config = EngineConfig { cache_blocks: vec![blocks; groups], max_tokens: Some(budget), ..Default::default() };
    EngineHandle::start(model.executable, tokenizer, &config).expect("the engine starts")
}

fn ask(engine: &EngineHandle, prompt: &[u32]) -> RequestStream {
    let stop = StopParams { max_tokens: Some(ANSWER), ignore_eos: true, ..Default::default() };
    let request =
        GenerateRequest { prompt: prompt.to_vec(), sampling: SamplingParams::greedy(), stop, ..Default::default() };
    engine.submit(request).expect("the request is taken")
}

fn read(mut stream: RequestStream) -> Vec<u32> {
    let mut tokens = vec![];
    while let Some(event) = stream.blocking_next() {
        match event {
            Event::Token(token) => tokens.push(token.token),
            Event::Finished(finish) => assert_eq!(finish.reason, FinishReason::Length),
            other => panic!("{other:?}"),
        }
    }
    tokens
}

#[test]
fn eight_requests_at_once_get_the_answers_they_get_alone() {
    let mut model = model();
    let tokenizer = Tokenizer::from_metadata(model.file.metadata()).expect("the demo model has a tokenizer");
    let prompts = QUESTIONS.map(|q| tokenizer.encode(q, EncodeOptions { add_special: true, parse_special: false }));
    let alone: Vec<_> = prompts.iter().map(|p| greedy(&mut model, p, ANSWER)).collect();
    let longest = prompts.iter().map(|p| (p.len() + ANSWER).div_ceil(16)).max().expect("eight prompts");
    let tokenizer = Arc::new(tokenizer);
    // Room for all of them, prompts in pieces; then so little that some of them lose their blocks and start over.
    for (blocks, budget) in [(64, 64), (64, 9), (longest as u64 + 2, 64)] {
        let engine = start(self::model(), tokenizer.clone(), blocks, budget);
        // The second time the prompts are in the cache.
        for _ in 0..2 {
            let streams: Vec<_> = prompts.iter().map(|p| ask(&engine, p)).collect();
            let together: Vec<_> = streams.into_iter().map(read).collect();
            assert_eq!(together, alone, "{blocks} blocks, steps of {budget} tokens");
        }
        engine.shutdown(std::time::Duration::ZERO);
        let stats = engine.stats();
        assert!(stats.blocks.iter().all(|b| b.used == 0 && b.free + b.cached == b.total), "{stats:?}");
        assert_eq!(stats.preemptions > 0, blocks < 64, "{stats:?}");
    }
}
