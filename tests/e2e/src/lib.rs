//! Runs reference models through the built plugin files and measures how far their logits are from those recorded.
#![forbid(unsafe_code)]

pub mod browser;
mod cases;
mod far;
pub mod hip;
pub mod load;
pub mod python;
mod quantised;
pub mod server;
mod specification;
mod tiny;
mod variant;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rocmforge_engine::{
    EngineConfig, EngineHandle, Event, GenerateRequest, Rows, Runner, SamplingParams, SingleSequence, StopParams,
    Vocabulary, plan_cache,
};
use rocmforge_loader::config::PluginEntry;
use rocmforge_loader::{CompileOptions, Config, LibraryInfo, LoadOptions, LoaderError, Model, Plugins};
use rocmforge_test_support::{expected_json, npy_f32, token_ids};
use serde_json::Value;

pub use cases::{Cases, Count, cases};
pub use far::far;
pub use quantised::{Quantised, quantised};
pub use specification::Specification;
pub use tiny::{Random, Tiny};
pub use variant::Variant;

/// Largest difference of a logit from transformers' that an F32 model may show.
pub const TOLERANCE: f32 = 5e-4;

/// The folder of the built programs and plugins: that of this program, or its parent for a test.
pub fn build_folder() -> PathBuf {
    let exe = std::env::current_exe().expect("this program has a file");
    let folder = exe.parent().expect("a file has a folder");
    let folder = if folder.ends_with("deps") { folder.parent().expect("deps has a parent") } else { folder };
    let backend = folder.join("librocmforge_backend_cpu.so");
    assert!(backend.is_file(), "{} is missing; run `cargo build --release` first", backend.display());
    folder.to_owned()
}

/// Every plugin of the build folder, loaded once per process.
pub fn plugins() -> Arc<Plugins> {
    static PLUGINS: OnceLock<Arc<Plugins>> = OnceLock::new();
    PLUGINS
        .get_or_init(|| {
            let config = Config { search_paths: vec![build_folder()], ..Config::default() };
            let plugins = Plugins::load(&config, None).expect("the plugins load");
            assert!(plugins.skipped().is_empty(), "{:?}", plugins.skipped());
            Arc::new(plugins)
        })
        .clone()
}

/// An architecture plugin from anywhere, and the CPU backend of the build folder.
///
/// # Errors
/// The plugin does not load.
pub fn plugins_with(architecture: &Path) -> Result<Arc<Plugins>, LoaderError> {
    let entry =
        |path: PathBuf| PluginEntry { name: None, path: Some(path), optional: false, options: toml::Table::new() };
    let backend = entry(build_folder().join("librocmforge_backend_cpu.so"));
    let config = Config { plugins: vec![backend, entry(architecture.to_owned())], ..Config::default() };
    Ok(Arc::new(Plugins::load(&config, None)?))
}

/// The plugins of [`plugins`] with the CPU backend's activations as floats, where it rounds them to 8 bits by default.
pub fn exact_plugins() -> Arc<Plugins> {
    static PLUGINS: OnceLock<Arc<Plugins>> = OnceLock::new();
    let entry = |library: &LibraryInfo| {
        let mut options = toml::Table::new();
        if library.backends.iter().any(|b| b == "cpu") {
            options.insert("activations".into(), "f32".into());
        }
        // Optional: this machine may lack the device of a backend.
        PluginEntry { name: None, path: Some(library.path.clone()), optional: true, options }
    };
    PLUGINS
        .get_or_init(|| {
            let config = Config { plugins: plugins().libraries().iter().map(entry).collect(), ..Config::default() };
            Arc::new(Plugins::load(&config, None).expect("the plugins load"))
        })
        .clone()
}

/// For so many sequences at once, in blocks of 16 tokens.
pub fn load_options(max_tokens: usize, max_sequences: usize) -> LoadOptions {
    let compile = CompileOptions { max_tokens: max_tokens as u32, max_sequences: max_sequences as u32, block_size: 16 };
    // The pack's sequences are short, and some models choose their rope by the longest context that is served.
    LoadOptions { context_length: Some(256), ..LoadOptions::new(compile) }
}

/// A model of so many sequences at once, in blocks of 16 tokens.
pub fn load(path: &Path, max_tokens: usize, max_sequences: usize) -> Model {
    load_with(&plugins(), path, max_tokens, max_sequences)
}

/// The same through these plugins.
pub fn load_with(plugins: &Arc<Plugins>, path: &Path, max_tokens: usize, max_sequences: usize) -> Model {
    let options = load_options(max_tokens, max_sequences);
    Model::load(plugins, path, &options, &mut |_| {}).unwrap_or_else(|e| panic!("{e}"))
}

/// Logits `[tokens, vocab]` after each token, in steps of `chunk`.
pub fn logits(model: &mut Model, tokens: &[u32], chunk: usize) -> Vec<f32> {
    logits_of(&mut model.executable, tokens, chunk)
}

/// The same of anything that runs.
pub fn logits_of(runner: &mut dyn Runner, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut all = vec![];
    let mut sequence = SingleSequence::new(runner, tokens.len()).expect("room for the sequence");
    sequence.expect(tokens.len());
    for piece in tokens.chunks(chunk) {
        all.extend_from_slice(sequence.feed(piece, Rows::All).expect("the step runs"));
    }
    all
}

/// The likeliest token; the first of equals.
pub fn argmax(row: &[f32]) -> u32 {
    let best =
        row.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &x)| if x > best.1 { (i, x) } else { best });
    best.0 as u32
}

/// Greedy continuation, computed one token at a time.
pub fn greedy(model: &mut Model, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut sequence = SingleSequence::new(&mut model.executable, prompt.len() + count).expect("room for the sequence");
    let mut next = argmax(sequence.feed(prompt, Rows::Last).expect("the prompt runs"));
    let mut out = vec![next];
    while out.len() < count {
        next = argmax(sequence.feed(&[next], Rows::Last).expect("the step runs"));
        out.push(next);
    }
    out
}

/// Largest absolute difference.
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "as many logits as recorded");
    let difference = |(x, y): (&f32, &f32)| if x.is_nan() || y.is_nan() { f32::INFINITY } else { (x - y).abs() };
    std::iter::zip(a, b).map(difference).fold(0.0, f32::max)
}

/// Root of the mean squared difference.
pub fn rms_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "as many logits as recorded");
    let sum: f64 = std::iter::zip(a, b).map(|(x, y)| f64::from(x - y).powi(2)).sum();
    (sum / a.len() as f64).sqrt()
}

/// What a reference model shows: largest differences from transformers, and whether greedy answers are equal.
#[derive(Debug)]
pub struct Measured {
    /// All prompts in one step each.
    pub prefill: f32,
    /// In steps of 7 tokens.
    pub chunked: f32,
    /// Token by token, through 23 generated tokens where those were recorded.
    pub stepwise: f32,
    /// Greedy continuations of all prompts equal those recorded.
    pub greedy: bool,
    /// The same with all prompts in the engine at once.
    pub batched: bool,
}

/// Measures one model directory of the pack.
pub fn measure(dir: &Path) -> Measured {
    measure_with(&plugins(), dir)
}

/// The same through these plugins.
pub fn measure_with(plugins: &Arc<Plugins>, dir: &Path) -> Measured {
    let expected = expected_json(dir);
    let mut model = load_with(plugins, &dir.join("model.gguf"), 128, 8);
    let mut measured = Measured { prefill: 0.0, chunked: 0.0, stepwise: 0.0, greedy: true, batched: true };
    let mut prompts = vec![];
    for sequence in sequences(&expected) {
        let ids = token_ids(&sequence["ids"]);
        let greedy_ids = token_ids(&sequence["greedy_ids"]);
        let file = dir.join(sequence["logits"].as_str().expect("a file name"));
        if file.is_file() {
            let (_, recorded) = npy_f32(file);
            measured.prefill = measured.prefill.max(max_difference(&logits(&mut model, &ids, ids.len()), &recorded));
            measured.chunked = measured.chunked.max(max_difference(&logits(&mut model, &ids, 7), &recorded));
            measured.stepwise = measured.stepwise.max(max_difference(&logits(&mut model, &ids, 1), &recorded));
        }
        if let Some(file) = sequence["greedy_logits"].as_str().map(|f| dir.join(f)).filter(|f| f.is_file()) {
            let (_, recorded) = npy_f32(file);
            let tokens = [&ids[..], &greedy_ids[..greedy_ids.len() - 1]].concat();
            let all = logits(&mut model, &tokens, 1);
            let tail = &all[all.len() - recorded.len()..];
            measured.stepwise = measured.stepwise.max(max_difference(tail, &recorded));
        }
        measured.greedy &= greedy(&mut model, &ids, greedy_ids.len()) == greedy_ids;
        prompts.push((ids, greedy_ids));
    }
    assert!(!prompts.is_empty(), "{}: no sequences", dir.display());
    let asked: Vec<(Vec<u32>, usize)> = prompts.iter().map(|(p, g)| (p.clone(), g.len())).collect();
    let answers = together(model, &asked, Arc::new(NoVocabulary), 13);
    measured.batched = std::iter::zip(&answers, &prompts).all(|(answer, (_, recorded))| answer == recorded);
    measured
}

fn sequences(expected: &Value) -> impl Iterator<Item = &Value> {
    ["random48", "short1", "short2"].into_iter().filter_map(|name| expected["sequences"].get(name))
}

/// Ends no answer and knows no text.
pub struct NoVocabulary;

impl Vocabulary for NoVocabulary {
    fn is_end_of_generation(&self, _: u32) -> bool {
        false
    }

    fn end_of_generation(&self) -> Vec<u32> {
        vec![]
    }

    fn token_bytes(&self, _: u32, _: &mut Vec<u8>) {}
}

/// Greedy answers to prompts that are all in the engine at once, in steps of at most `budget` tokens.
pub fn together(
    model: Model,
    prompts: &[(Vec<u32>, usize)],
    vocabulary: Arc<dyn Vocabulary>,
    budget: usize,
) -> Vec<Vec<u32>> {
    let executable = model.executable;
    let costs = executable.memory().cache_block.clone();
    let blocks = plan_cache(executable.program(), executable.limits(), &costs, 256, 1 << 26).expect("a cache");
    let config = EngineConfig { cache_blocks: blocks, max_tokens: Some(budget), ..EngineConfig::default() };
    let engine = EngineHandle::start(executable, vocabulary, &config).expect("the engine starts");
    let request = |(prompt, count): &(Vec<u32>, usize)| GenerateRequest {
        prompt: prompt.clone(),
        sampling: SamplingParams::greedy(),
        stop: StopParams { max_tokens: Some(*count), ignore_eos: true, ..StopParams::default() },
        ..GenerateRequest::default()
    };
    let streams: Vec<_> = prompts.iter().map(|p| engine.submit(request(p)).expect("the request is taken")).collect();
    let answer = |mut stream: rocmforge_engine::RequestStream| {
        let mut tokens = vec![];
        while let Some(event) = stream.blocking_next() {
            match event {
                Event::Token(token) => tokens.push(token.token),
                Event::Error(e) => panic!("{e}"),
                Event::Prompt(_) | Event::Embedding(_) | Event::Finished(_) => {}
            }
        }
        tokens
    };
    streams.into_iter().map(answer).collect()
}
