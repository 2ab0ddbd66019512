//! Tokens drawn by the device: nothing that a client sees depends on who draws.

mod common;

use std::sync::Arc;

use common::client::{Answer, WINDOWS, answer, config, model, prompt, read, request, start, stop};
use common::{Letters, VOCAB, expected_answer};
use rocmforge_engine::{
    DraftModel, EngineConfig, EngineError, EngineHandle, EngineStats, GenerateRequest, PromptLookup, SamplingParams,
};

/// Ways of sampling that a device knows, and others.
fn ways() -> Vec<SamplingParams> {
    let plain = SamplingParams { seed: Some(3), temperature: 0.7, ..Default::default() };
    vec![
        SamplingParams::greedy(),
        plain.clone(),
        SamplingParams { top_k: Some(5), ..plain.clone() },
        SamplingParams { top_p: 0.8, ..plain.clone() },
        SamplingParams { min_p: 0.2, ..plain.clone() },
        SamplingParams { min_p: 0.01, top_k: Some(20), top_p: 0.9, ..plain.clone() },
        // From here on the host draws.
        SamplingParams { logprobs: Some(2), ..plain.clone() },
        SamplingParams { repetition_penalty: 1.3, ..plain.clone() },
        SamplingParams { logit_bias: vec![(5, 4.0)], ..plain.clone() },
        SamplingParams { bad_words: Arc::new([vec![7]]), ..plain.clone() },
        SamplingParams { typical_p: 0.9, ..plain.clone() },
        SamplingParams { temperature: 1e-20, ..plain },
    ]
}

fn requests() -> Vec<GenerateRequest> {
    let one = |(i, sampling)| GenerateRequest { sampling, ..request(prompt(3 + 2 * i), 20 + i) };
    let mut requests: Vec<_> = ways().into_iter().enumerate().map(one).collect();
    // Several answers to one prompt, and one that may not end at first.
    requests.extend((0..3).map(|seed| {
        let sampling = SamplingParams { seed: Some(seed), ..Default::default() };
        GenerateRequest { sampling, ..request(prompt(9), 25) }
    }));
    let mut early = request(prompt(4), 12);
    (early.stop.min_tokens, early.stop.tokens) = (6, expected_answer(&WINDOWS, &prompt(4), 3));
    requests.push(early);
    // The probabilities of a prompt come from logits beside the draws.
    requests.push(GenerateRequest { prompt_logprobs: Some(1), ..request(prompt(8), 10) });
    requests
}

fn answers(engine: &EngineHandle) -> (Vec<Answer>, EngineStats) {
    let streams: Vec<_> = requests().into_iter().map(|r| engine.submit(r).unwrap()).collect();
    let answers = streams.into_iter().map(read).collect();
    (answers, stop(engine))
}

#[test]
fn answers_are_the_same_whoever_draws() {
    // With few blocks some requests are preempted, with guesses rows are checked that never count.
    for (blocks, guesses) in [(400, "none"), (26, "none"), (400, "lookup"), (400, "model"), (40, "model")] {
        let start = |drawing: bool| {
            let runner = if drawing { model().drawing() } else { model() };
            let drafter: Option<Box<dyn rocmforge_engine::Drafter>> = match guesses {
                "lookup" => Some(Box::new(PromptLookup)),
                "model" => Some(Box::new(DraftModel::new(Box::new(model()), &[100; 2]).unwrap())),
                _ => None,
            };
            EngineHandle::start_with_drafter(runner, drafter, Arc::new(Letters), &config(blocks)).unwrap()
        };
        let (by_host, host) = answers(&start(false));
        let (by_device, device) = answers(&start(true));
        assert_eq!(host.device_draws, 0);
        assert!(device.device_draws > 100, "{blocks} blocks, guesses: {guesses}: {device:?}");
        assert!(device.device_draws < device.generated_tokens + device.guessed_tokens, "{device:?}");
        assert_eq!(device.preemptions > 0, host.preemptions > 0);
        for (i, (a, b)) in by_host.iter().zip(&by_device).enumerate() {
            assert_eq!(a.tokens, b.tokens, "{blocks} blocks, guesses: {guesses}, request {i}");
            assert_eq!((&a.end.as_ref().unwrap().reason, &a.prompt_logprobs), (&b.reason(), &b.prompt_logprobs));
        }
    }
}

#[test]
fn prompts_that_begin_alike_share_blocks_all_the_same() {
    let engine = start(model().drawing(), &EngineConfig { prefix_caching: true, ..config(400) });
    let long = prompt(40);
    for length in [40, 37, 40] {
        let found = answer(&engine, request(long[..length].to_vec(), 8));
        assert_eq!(found.ids(), expected_answer(&WINDOWS, &long[..length], 8));
    }
    let stats = stop(&engine);
    assert!(stats.cached_tokens > 0 && stats.device_draws == 24, "{stats:?}");
}

#[test]
fn rows_without_a_token_end_their_request_with_an_error() {
    let mut broken = model().drawing();
    broken.broken = true;
    let engine = start(broken, &config(100));
    let found = answer(&engine, request(prompt(5), 8));
    assert_eq!(found.end.unwrap_err(), EngineError::NoToken { position: 4 });
    // What the host draws is not affected.
    let sampling = SamplingParams { logprobs: Some(0), ..SamplingParams::greedy() };
    let found = answer(&engine, GenerateRequest { sampling, ..request(prompt(5), 8) });
    assert_eq!(found.ids(), expected_answer(&WINDOWS, &prompt(5), 8));
    assert!(found.ids().iter().all(|&t| (t as usize) < VOCAB));
    stop(&engine);
}
