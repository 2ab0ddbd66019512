//! Texts that are embedded beside answers that are generated.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Letters, SimulatedModel, expected_answer, state};
use rocmforge_engine::{
    EngineConfig, EngineError, EngineHandle, Event, FinishReason, GenerateRequest, Pooling, RequestStream,
    RunnerLimits, SamplingParams, StopParams, Usage,
};

const WINDOWS: [Option<u32>; 1] = [None];
const LIMITS: RunnerLimits = RunnerLimits { max_tokens: 16, max_sequences: 4, block_size: 4 };

/// Tokens of an answer: long enough that answers outgrow a small cache together whatever a step takes.
const ANSWER: usize = 50;

fn start(model: SimulatedModel, blocks: u64) -> EngineHandle {
    let config = EngineConfig { cache_blocks: vec![blocks], ..Default::default() };
    EngineHandle::start(model, Arc::new(Letters), &config).unwrap()
}

fn model() -> SimulatedModel {
    SimulatedModel::new(&WINDOWS, LIMITS, 100).embedding()
}

fn prompt(n: usize) -> Vec<u32> {
    (0..n).map(|i| (1 + (i * i + n) % 40) as u32).collect()
}

fn embed(prompt: Vec<u32>, pooling: Pooling) -> GenerateRequest {
    GenerateRequest { prompt, embed: Some(pooling), ..Default::default() }
}

fn expected(prompt: &[u32], pooling: Pooling) -> Vec<f32> {
    let states: Vec<_> = prompt.iter().zip(0..).map(|(&token, at)| state(token, at)).collect();
    match pooling {
        Pooling::Last => states[states.len() - 1].to_vec(),
        Pooling::Mean => {
            let mean = |i: usize| states.iter().map(|s| f64::from(s[i])).sum::<f64>() / states.len() as f64;
            (0..3).map(|i| mean(i) as f32).collect()
        }
    }
}

/// The embedding, tokens, and the end.
fn read(mut stream: RequestStream) -> (Option<Vec<f32>>, Vec<u32>, Usage) {
    let (mut embedding, mut tokens) = (None, vec![]);
    loop {
        match stream.blocking_next().unwrap() {
            Event::Embedding(found) => assert_eq!(embedding.replace(found), None),
            Event::Token(token) => tokens.push(token.token),
            Event::Finished(finish) => {
                assert_eq!(finish.reason, FinishReason::Length);
                return (embedding, tokens, finish.usage);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn close(found: &[f32], expected: &[f32]) -> bool {
    found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5)
}

#[test]
fn embeddings_are_those_of_the_whole_text_whatever_else_runs() {
    // The smaller cache cannot hold all requests, so that some of them are preempted.
    for blocks in [26, 400] {
        // No step ends before all of them wait.
        let (model, open) = model().gated();
        let engine = start(model, blocks);
        let streams: Vec<_> = (0..24)
            .map(|i| {
                let prompt = prompt(1 + 4 * i);
                let request = match i % 3 {
                    0 => embed(prompt, Pooling::Mean),
                    1 => embed(prompt, Pooling::Last),
                    _ => GenerateRequest {
                        prompt: prompt[..prompt.len() / 2 + 1].to_vec(),
                        sampling: SamplingParams::greedy(),
                        stop: StopParams { max_tokens: Some(ANSWER), ignore_eos: true, ..Default::default() },
                        ..Default::default()
                    },
                };
                (request.clone(), engine.submit(request).unwrap())
            })
            .collect();
        drop(open);
        for (request, stream) in streams {
            let (embedding, tokens, usage) = read(stream);
            let wanted = request.embed.map(|pooling| expected(&request.prompt, pooling));
            assert_eq!(embedding.is_some(), wanted.is_some());
            if let (Some(embedding), Some(wanted)) = (embedding, wanted) {
                assert!(close(&embedding, &wanted), "{:?}: {embedding:?}, not {wanted:?}", request.embed);
                assert_eq!((tokens.len(), usage.completion_tokens), (0, 0));
            } else {
                assert_eq!(tokens, expected_answer(&WINDOWS, &request.prompt, ANSWER));
            }
        }
        engine.shutdown(Duration::from_secs(60));
        let stats = engine.stats();
        assert_eq!(stats.preemptions > 0, blocks == 26, "{stats:?}");
        assert!(stats.blocks.iter().all(|b| b.used == 0 && b.free + b.cached == b.total), "{stats:?}");
    }
}

#[test]
fn only_the_last_tokens_state_is_found_after_a_cached_prefix() {
    let engine = start(model(), 400);
    for (pooling, cached) in [(Pooling::Mean, 0), (Pooling::Last, 36), (Pooling::Mean, 0)] {
        let (embedding, _, usage) = read(engine.submit(embed(prompt(40), pooling)).unwrap());
        assert!(close(&embedding.unwrap(), &expected(&prompt(40), pooling)));
        assert_eq!((usage.prompt_tokens, usage.cached_tokens), (40, cached), "{pooling:?}");
    }
}

#[test]
fn a_text_may_fill_the_context_and_no_more() {
    let engine = start(model(), 400);
    assert_eq!(engine.embedding_width(), Some(3));
    assert!(read(engine.submit(embed(prompt(100), Pooling::Mean)).unwrap()).0.is_some());
    let longer = engine.submit(embed(prompt(101), Pooling::Mean)).unwrap_err();
    assert_eq!(longer, EngineError::ContextExceeded { prompt: 101, context: 100 });
    let plain = start(SimulatedModel::new(&WINDOWS, LIMITS, 100), 400);
    assert_eq!(plain.embedding_width(), None);
    let refused = plain.submit(embed(prompt(3), Pooling::Last)).unwrap_err();
    assert!(matches!(refused, EngineError::Request { field: "model", .. }), "{refused}");
}
