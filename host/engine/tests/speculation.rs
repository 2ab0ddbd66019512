//! Speculative decoding as the clients see it: guesses change when tokens come, never which.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::client::{WINDOWS, answer, config, model, prompt, read, request, start, stop};
use common::{Letters, VOCAB, expected_answer, expected_logits};
use rocmforge_engine::{
    DraftModel, DraftRequest, Drafter, EngineConfig, EngineError, EngineHandle, FinishReason, GenerateRequest,
    RequestId, SamplingParams,
};

/// Guesses the real continuation but for every `wrong`th token.
struct Oracle {
    wrong: usize,
    forgotten: Arc<AtomicUsize>,
}

impl Drafter for Oracle {
    fn propose(&mut self, requests: &[DraftRequest<'_>]) -> Result<Vec<Vec<u32>>, EngineError> {
        let guess = |r: &DraftRequest<'_>| {
            let mut guess = expected_answer(&WINDOWS, r.tokens, r.most);
            let wrong = guess.iter_mut().enumerate().filter(|(i, _)| (r.tokens.len() + i).is_multiple_of(self.wrong));
            wrong.for_each(|(_, token)| *token = (*token + 1) % VOCAB as u32);
            guess
        };
        Ok(requests.iter().map(guess).collect())
    }

    fn forget(&mut self, _id: RequestId) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
    }
}

fn start_guessing(drafter: Box<dyn Drafter>, config: &EngineConfig) -> EngineHandle {
    EngineHandle::start_with_drafter(model(), Some(drafter), Arc::new(Letters), config).unwrap()
}

#[test]
fn guesses_change_no_answer() {
    for (wrong, blocks) in [(1, 400), (3, 400), (1000, 400), (3, 30)] {
        let forgotten = Arc::new(AtomicUsize::new(0));
        let engine = start_guessing(Box::new(Oracle { wrong, forgotten: forgotten.clone() }), &config(blocks));
        let sampling = |i: usize| match i % 2 {
            0 => SamplingParams::greedy(),
            _ => SamplingParams { temperature: 0.5, repetition_penalty: 1.1, seed: Some(7), ..Default::default() },
        };
        let requests = (0..8).map(|i| GenerateRequest { sampling: sampling(i), ..request(prompt(5 + i), 20 + i) });
        let requests: Vec<_> = requests.collect();
        let streams: Vec<_> = requests.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
        let plain = start(model(), &config(blocks));
        for (request, stream) in requests.iter().zip(streams) {
            assert_eq!(read(stream).ids(), answer(&plain, request.clone()).ids());
        }
        let stats = stop(&engine);
        assert_eq!(stats.accepted_tokens > 0, wrong > 1, "{stats:?}");
        assert!(stats.guessed_tokens >= stats.accepted_tokens && stats.guessed_tokens > 0, "{stats:?}");
        assert_eq!(stats.generated_tokens, (0..8).map(|i| 20 + i).sum::<u64>());
        assert_eq!(forgotten.load(Ordering::SeqCst), 8);
        stop(&plain);
    }
}

#[test]
fn answers_with_guesses_end_where_they_should() {
    let engine = start_guessing(Box::new(Oracle { wrong: 1000, forgotten: Arc::default() }), &config(100));
    let tokens = expected_answer(&WINDOWS, &prompt(7), 60);
    for i in [3, 6, 9] {
        let token = tokens[i];
        let at = tokens.iter().position(|&t| t == token).unwrap();
        let mut request = request(prompt(7), 60);
        request.stop.tokens = vec![token];
        let answer = answer(&engine, request);
        assert_eq!((answer.ids(), answer.reason()), (tokens[..at].to_vec(), FinishReason::StopToken(token)));
    }
    assert!(stop(&engine).accepted_tokens > 0);
}

#[test]
fn a_draft_model_that_is_the_model_itself_is_always_right() {
    // Enough blocks for all sequences, and too few of them.
    for blocks in [100, 12] {
        let draft = DraftModel::new(Box::new(model()), &[blocks; 2]).unwrap();
        let engine = start_guessing(Box::new(draft), &config(100));
        let streams: Vec<_> = (0..5).map(|i| engine.submit(request(prompt(8 + i), 30)).unwrap()).collect();
        for (i, stream) in streams.into_iter().enumerate() {
            assert_eq!(read(stream).ids(), expected_answer(&WINDOWS, &prompt(8 + i), 30));
        }
        let stats = stop(&engine);
        assert!(stats.accepted_tokens > 50, "{stats:?}");
        assert_eq!(stats.accepted_tokens, stats.guessed_tokens, "{stats:?}");
    }
}

#[test]
fn a_draft_model_that_fails_ends_no_request() {
    let draft = model();
    draft.fail.store(1, Ordering::SeqCst);
    let engine = start_guessing(Box::new(DraftModel::new(Box::new(draft), &[9; 2]).unwrap()), &config(100));
    assert_eq!(answer(&engine, request(prompt(8), 30)).ids(), expected_answer(&WINDOWS, &prompt(8), 30));
    assert_eq!(stop(&engine).guessed_tokens, 0);
}

/// Three likeliest tokens after these, and their probabilities among themselves.
fn likeliest(tokens: &[u32]) -> [(u32, f64); 3] {
    let logits = expected_logits(&WINDOWS, tokens);
    let mut ranked: Vec<u32> = (0..VOCAB as u32).collect();
    ranked.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    let weight = |t: u32| f64::from(logits[t as usize]).exp();
    let total: f64 = ranked[..3].iter().map(|&t| weight(t)).sum();
    [0, 1, 2].map(|i| (ranked[i], weight(ranked[i]) / total))
}

/// Guesses the second likeliest token, which is right now and then.
struct SecondBest;

impl Drafter for SecondBest {
    fn propose(&mut self, requests: &[DraftRequest<'_>]) -> Result<Vec<Vec<u32>>, EngineError> {
        Ok(requests.iter().map(|r| vec![likeliest(r.tokens)[1].0]).collect())
    }

    fn forget(&mut self, _id: RequestId) {}
}

#[test]
fn tokens_drawn_with_guesses_have_the_model_s_distribution() {
    let engine = start_guessing(Box::new(SecondBest), &config(400));
    let draws = 4000;
    let mut counts: HashMap<[u32; 2], usize> = HashMap::new();
    for seed in 0..draws {
        let sampling = SamplingParams { top_k: Some(3), seed: Some(seed), ..Default::default() };
        let ids = answer(&engine, GenerateRequest { sampling, ..request(prompt(9), 3) }).ids();
        // The first token comes with the prompt, the second one is guessed.
        *counts.entry([ids[0], ids[1]]).or_default() += 1;
    }
    let mut chi_square = 0.0;
    for (a, of_a) in likeliest(&prompt(9)) {
        for (b, of_b) in likeliest(&[prompt(9), vec![a]].concat()) {
            let expected = of_a * of_b * draws as f64;
            let found = counts.remove(&[a, b]).unwrap_or(0) as f64;
            chi_square += (found - expected).powi(2) / expected;
        }
    }
    assert!(counts.is_empty(), "tokens that top_k excludes: {counts:?}");
    // Eight degrees of freedom: more than 26.1 happens once in a thousand times, and the seeds are fixed.
    assert!(chi_square < 26.1, "{chi_square}");
    let stats = stop(&engine);
    assert!(stats.accepted_tokens > 300 && stats.accepted_tokens < stats.guessed_tokens, "{stats:?}");
}
