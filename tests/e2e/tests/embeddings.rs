//! Embeddings of the reference models. The head is a matrix with more rows than columns, so the hidden states before it
//! are known from transformers' logits: the head of an embedding has to be what transformers recorded, and for the mean,
//! because the head is linear, the mean of what it recorded.

use std::path::Path;
use std::sync::Arc;

use rocmforge_e2e::{NoVocabulary, TOLERANCE, load_options, max_difference, plugins};
use rocmforge_engine::{EngineConfig, EngineHandle, Event, GenerateRequest, Pooling, Runner, plan_cache};
use rocmforge_gguf::GgufFile;
use rocmforge_loader::{LoadOptions, Model};
use rocmforge_program::Op;
use rocmforge_test_support::{expected_json, models, npy_f32, token_ids};

const MODELS: [&str; 8] =
    ["llama3-gqa", "qwen2-yarn", "mixtral", "gemma2", "glm4", "phi3", "llama2-spm-mha", "chatglm-sep"];

/// A model in an engine that computes prompts in pieces of 13 tokens.
struct Embedder {
    engine: EngineHandle,
    file: Arc<GgufFile>,
    softcap: Option<f32>,
}

impl Embedder {
    fn new(path: &Path) -> Embedder {
        let options = LoadOptions { embeddings: true, ..load_options(64, 4) };
        let model = Model::load(&plugins(), path, &options, &mut |_| {}).unwrap_or_else(|e| panic!("{e}"));
        let executable = model.executable;
        let softcap = executable.program().nodes.iter().find_map(|n| match n.op {
            Op::Softcap { cap, .. } => Some(cap),
            _ => None,
        });
        let costs = executable.memory().cache_block.clone();
        let blocks = plan_cache(executable.program(), executable.limits(), &costs, 256, 1 << 26).expect("a cache");
        let config = EngineConfig { cache_blocks: blocks, max_tokens: Some(13), ..EngineConfig::default() };
        let engine = EngineHandle::start(executable, Arc::new(NoVocabulary), &config).expect("the engine starts");
        Embedder { engine, file: model.file, softcap }
    }

    fn embed(&self, prompt: &[u32], pooling: Pooling) -> Vec<f32> {
        let request = GenerateRequest { prompt: prompt.to_vec(), embed: Some(pooling), ..GenerateRequest::default() };
        let mut stream = self.engine.submit(request).expect("the request is taken");
        match stream.blocking_next() {
            Some(Event::Embedding(embedding)) => embedding,
            other => panic!("{other:?}"),
        }
    }

    /// The head's logits, before they are capped.
    fn head(&self, hidden: &[f32]) -> Vec<f32> {
        let head = self.file.tensor("output.weight").or_else(|| self.file.tensor("token_embd.weight")).expect("a head");
        let row = |bytes: &[u8]| -> f64 {
            let weights = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            weights.zip(hidden).map(|(w, &h)| f64::from(w) * f64::from(h)).sum()
        };
        head.bytes().chunks_exact(4 * hidden.len()).map(|bytes| row(bytes) as f32).collect()
    }

    /// Recorded logits as they were before they were capped.
    fn uncapped(&self, logit: f32) -> f64 {
        let logit = f64::from(logit);
        self.softcap.map_or(logit, |cap| f64::from(cap) * (logit / f64::from(cap)).atanh())
    }
}

#[test]
fn heads_of_embeddings_are_the_logits_of_transformers() {
    let found = models(&MODELS);
    assert!(found.len() >= 6, "{found:?}");
    for dir in found {
        let expected = expected_json(&dir);
        let embedder = Embedder::new(&dir.join("model.gguf"));
        let sequence = &expected["sequences"]["random48"];
        let ids = token_ids(&sequence["ids"]);
        let (shape, recorded) = npy_f32(dir.join(sequence["logits"].as_str().expect("a file name")));
        let rows: Vec<Vec<f64>> =
            recorded.chunks_exact(shape[1]).map(|row| row.iter().map(|&l| embedder.uncapped(l)).collect()).collect();
        let last = rows[rows.len() - 1].iter().map(|&l| l as f32).collect::<Vec<f32>>();
        let column = |i: usize| rows.iter().map(|row| row[i]).sum::<f64>() / rows.len() as f64;
        let mean: Vec<f32> = (0..shape[1]).map(|i| column(i) as f32).collect();
        for (pooling, expected) in [(Pooling::Last, last), (Pooling::Mean, mean)] {
            // The second time the prompt is in the cache.
            for _ in 0..2 {
                let embedding = embedder.embed(&ids, pooling);
                assert!(embedding.len() < shape[1], "the head tells all of it");
                let difference = max_difference(&embedder.head(&embedding), &expected);
                assert!(difference <= TOLERANCE, "{}: {pooling:?}: {difference}", dir.display());
            }
        }
    }
}
