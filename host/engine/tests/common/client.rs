//! An engine with a [simulated model](super::SimulatedModel), and what its clients do.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use rocmforge_engine::{
    EngineConfig, EngineError, EngineHandle, EngineStats, Event, Finish, FinishReason, GenerateRequest, RequestStream,
    RunnerLimits, SamplingParams, StopParams, TokenEvent,
};

use super::{Letters, SimulatedModel};

pub const WINDOWS: [Option<u32>; 2] = [None, Some(6)];
pub const LIMITS: RunnerLimits = RunnerLimits { max_tokens: 16, max_sequences: 4, block_size: 4 };
pub const CONTEXT: u32 = 100;

pub fn model() -> SimulatedModel {
    SimulatedModel::new(&WINDOWS, LIMITS, CONTEXT)
}

pub fn config(blocks: u64) -> EngineConfig {
    EngineConfig { cache_blocks: vec![blocks; 2], ..Default::default() }
}

pub fn start(model: SimulatedModel, config: &EngineConfig) -> EngineHandle {
    EngineHandle::start(model, Arc::new(Letters), config).unwrap()
}

/// An engine whose steps wait for a message each, or run freely once the sender is dropped.
pub fn start_gated(config: &EngineConfig) -> (EngineHandle, Sender<()>) {
    let (model, open) = model().gated();
    (start(model, config), open)
}

pub fn prompt(n: usize) -> Vec<u32> {
    (0..n).map(|i| (1 + (i * i + n) % 40) as u32).collect()
}

pub fn request(prompt: Vec<u32>, max_tokens: usize) -> GenerateRequest {
    let stop = StopParams { max_tokens: Some(max_tokens), ignore_eos: true, ..Default::default() };
    GenerateRequest { prompt, sampling: SamplingParams::greedy(), stop, ..Default::default() }
}

#[derive(Debug)]
pub struct Answer {
    pub prompt_logprobs: Option<Vec<rocmforge_engine::Logprobs>>,
    pub tokens: Vec<TokenEvent>,
    pub end: Result<Finish, EngineError>,
}

impl Answer {
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|t| t.token).collect()
    }

    pub fn text(&self) -> String {
        let pieces: String = self.tokens.iter().map(|t| t.text.as_str()).collect();
        pieces + &self.end.as_ref().unwrap().text
    }

    pub fn reason(&self) -> FinishReason {
        self.end.as_ref().unwrap().reason.clone()
    }
}

pub fn read(mut stream: RequestStream) -> Answer {
    let (mut prompt_logprobs, mut tokens) = (None, Vec::new());
    let end = loop {
        match stream.blocking_next().unwrap() {
            Event::Prompt(logprobs) => assert!(prompt_logprobs.replace(logprobs).is_none() && tokens.is_empty()),
            Event::Token(token) => tokens.push(token),
            Event::Embedding(_) => panic!("nobody wants an embedding"),
            Event::Finished(finish) => break Ok(finish),
            Event::Error(error) => break Err(error),
        }
    };
    assert_eq!(stream.blocking_next(), None);
    Answer { prompt_logprobs, tokens, end }
}

pub fn answer(engine: &EngineHandle, request: GenerateRequest) -> Answer {
    read(engine.submit(request).unwrap())
}

/// Shuts the engine down and checks that it held nothing at its end.
pub fn stop(engine: &EngineHandle) -> EngineStats {
    engine.shutdown(Duration::from_secs(600));
    let stats = engine.stats();
    assert_eq!((stats.running, stats.waiting, stats.paused), (0, 0, 0));
    for count in &stats.blocks {
        assert_eq!((count.used, count.free + count.cached), (0, count.total), "{stats:?}");
    }
    stats
}
