//! The engine as its clients see it, with a model that notices every misplaced token.

mod common;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::client::{WINDOWS, answer, config, model, prompt, read, request, start, start_gated, stop};
use common::{END, Letters, VOCAB, expected_answer, expected_answer_changing_at, expected_logits, text};
use rocmforge_engine::sampler::logprobs;
use rocmforge_engine::{
    EngineConfig, EngineError, EngineHandle, Event, FinishReason, GenerateRequest, SamplingParams, StopParams,
};

#[test]
fn requests_together_get_the_answers_they_get_alone() {
    // The smaller caches cannot hold all requests, so that some of them are preempted.
    for blocks in [26, 40, 400] {
        // No step ends before all of them wait.
        let (model, open) = model().gated();
        let engine = start(model, &config(blocks));
        let requests: Vec<_> = (0..12).map(|i| request(prompt(1 + 5 * i), 20 + i)).collect();
        let streams: Vec<_> = requests.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
        drop(open);
        for (request, stream) in requests.iter().zip(streams) {
            let expected = expected_answer(&WINDOWS, &request.prompt, request.stop.max_tokens.unwrap());
            let answer = read(stream);
            assert_eq!(answer.ids(), expected);
            assert_eq!(answer.text(), text(&expected));
            assert_eq!(answer.reason(), FinishReason::Length);
        }
        let stats = stop(&engine);
        assert_eq!((stats.out_of_length, stats.generated_tokens), (12, (0..12).map(|i| 20 + i).sum()));
        assert_eq!(stats.preemptions > 0, blocks < 400, "{blocks} blocks: {stats:?}");
    }
}

#[test]
fn answers_that_grow_past_a_length_are_those_of_the_longer_sequence() {
    const LENGTHS: [u32; 1] = [24];
    for blocks in [26, 400] {
        let engine = start(model().changing_at(&LENGTHS), &config(blocks));
        let requests: Vec<_> = (0..10).map(|i| request(prompt(1 + 4 * i), 30)).collect();
        let streams: Vec<_> = requests.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
        for (request, stream) in requests.iter().zip(streams) {
            let expected = expected_answer_changing_at(&WINDOWS, &LENGTHS, &request.prompt, 30);
            assert_eq!(read(stream).ids(), expected);
        }
        stop(&engine);
    }
}

#[test]
fn a_program_that_wants_an_unknown_input_is_refused_at_once() {
    let mut model = model().changing_at(&[5]);
    model.rename_input("hidden");
    let error = EngineHandle::start(model, Arc::new(Letters), &config(26)).unwrap_err().to_string();
    assert!(error.contains("longer_than/N") && error.contains("hidden"), "{error}");
}

#[test]
fn a_seed_draws_the_same_tokens_in_company() {
    let seeded = |seed| {
        let sampling = SamplingParams { temperature: 3.0, top_p: 0.9, seed: Some(seed), ..Default::default() };
        GenerateRequest { sampling, ..request(prompt(9), 25) }
    };
    let engine = start(model(), &config(30));
    let alone: Vec<_> = (0..6).map(|seed| answer(&engine, seeded(seed)).ids()).collect();
    let streams: Vec<_> = (0..6).map(|seed| engine.submit(seeded(seed)).unwrap()).collect();
    let together: Vec<_> = streams.into_iter().map(|s| read(s).ids()).collect();
    assert_eq!(alone, together);
    assert_ne!(alone[0], alone[1]);
    stop(&engine);
}

#[test]
fn answers_end_where_they_should() {
    let engine = start(model(), &config(100));
    let tokens = expected_answer(&WINDOWS, &prompt(7), 60);
    let whole = text(&tokens);
    let check = |change: &dyn Fn(&mut StopParams), expected: &str, reason: FinishReason| {
        let mut request = request(prompt(7), 60);
        change(&mut request.stop);
        let answer = answer(&engine, request);
        assert_eq!((answer.text().as_str(), answer.reason()), (expected, reason));
    };
    check(&|_| {}, &whole, FinishReason::Length);
    check(&|s| s.max_tokens = Some(5), &text(&tokens[..5]), FinishReason::Length);
    check(&|s| s.max_tokens = Some(0), "", FinishReason::Length);
    let third = tokens[2];
    assert!(!tokens[..2].contains(&third));
    check(&|s| s.tokens = vec![third], &text(&tokens[..2]), FinishReason::StopToken(third));
    let stops_at: String = whole.chars().skip(4).take(3).collect();
    let before = &whole[..whole.find(&stops_at).unwrap()];
    check(&|s| s.strings = vec!["nowhere".into(), stops_at.clone()], before, FinishReason::StopString(1));
    // Held back to the end, as it might have gone on to be the stop string.
    let unfinished = format!("{}!", &whole[whole.char_indices().rev().nth(2).unwrap().0..]);
    check(&|s| s.strings = vec![unfinished.clone()], &whole, FinishReason::Length);
    stop(&engine);
}

#[test]
fn the_vocabulary_s_end_token_ends_an_answer_unless_ignored() {
    let engine = start(model(), &config(100));
    // A prompt whose greedy answer has an end token among its first tokens, found by trying.
    let answers = |n: usize| (n, expected_answer(&WINDOWS, &prompt(n), 12));
    let (n, tokens) = (1..60).map(answers).find(|(_, t)| t[1..].contains(&END) && t[0] != END).unwrap();
    let end = tokens.iter().position(|&t| t == END).unwrap();
    for (ignore_eos, text, reason) in
        [(true, text(&tokens), FinishReason::Length), (false, text(&tokens[..end]), FinishReason::StopToken(END))]
    {
        let mut request = request(prompt(n), 12);
        request.stop.ignore_eos = ignore_eos;
        let answer = answer(&engine, request);
        assert_eq!((answer.text(), answer.reason()), (text, reason));
    }
    stop(&engine);
}

#[test]
fn log_probabilities_of_prompt_and_answer_are_those_of_the_model() {
    let engine = start(model(), &EngineConfig { max_prompt_logits: 3, ..config(100) });
    let prompt = prompt(21);
    // A second time, when the cache knows the prompt.
    for _ in 0..2 {
        let mut request = request(prompt.clone(), 8);
        request.prompt_logprobs = Some(2);
        request.sampling.logprobs = Some(4);
        let answer = answer(&engine, request);
        let all = [prompt.clone(), answer.ids()].concat();
        let expected = |i: usize, top| logprobs(&expected_logits(&WINDOWS, &all[..i]), all[i], top);
        let known: Vec<_> = (1..21).map(|i| expected(i, 2)).collect();
        assert_eq!(answer.prompt_logprobs.as_ref(), Some(&known));
        for (i, token) in answer.tokens.iter().enumerate() {
            assert_eq!(token.logprobs.as_ref(), Some(&expected(21 + i, 4)));
        }
    }
    let mut scored = request(prompt, 0);
    scored.prompt_logprobs = Some(0);
    let answer = answer(&engine, scored);
    assert_eq!((answer.tokens.len(), answer.prompt_logprobs.unwrap().len()), (0, 20));
    stop(&engine);
}

#[test]
fn usage_tells_what_was_computed() {
    let engine = start(model(), &config(100));
    for cached in [0, 20] {
        let finish = answer(&engine, request(prompt(22), 3)).end.unwrap();
        let usage = finish.usage;
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens), (22, 3, cached));
    }
    assert_eq!(stop(&engine).cached_tokens, 20);
}

#[test]
fn requests_that_cannot_be_served_are_refused_at_once() {
    let engine = start(model(), &config(15));
    let check = |change: &dyn Fn(&mut GenerateRequest), expected: &str| {
        let mut request = request(prompt(5), 3);
        change(&mut request);
        let error = engine.submit(request).unwrap_err().to_string();
        assert!(error.contains(expected), "'{error}' instead of '{expected}'");
    };
    check(&|r| r.prompt = vec![], "prompt: expected at least 1 token, found 0");
    check(&|r| r.prompt = vec![VOCAB as u32], "prompt: expected tokens below 64, found 64");
    check(&|r| r.prompt = prompt(100), "100 tokens, the context holds 100");
    check(&|r| r.prompt = prompt(61), "61 tokens, the whole KV cache holds 60");
    check(&|r| r.sampling.temperature = -1.0, "temperature: expected 0 or more, found -1");
    check(&|r| r.stop.tokens = vec![99], "stop_token_ids");
    check(&|r| r.prompt_logprobs = Some(21), "prompt_logprobs");
    // At the edge: the cache is full with the token before the last.
    assert_eq!(answer(&engine, request(prompt(60), 50)).tokens.len(), 1);
    assert_eq!(answer(&engine, request(prompt(50), 50)).tokens.len(), 11);
    stop(&engine);
    assert_eq!(engine.submit(request(prompt(5), 3)).unwrap_err(), EngineError::ShuttingDown);
}

#[test]
fn a_full_queue_refuses_and_recovers() {
    let (engine, open) = start_gated(&EngineConfig { max_queue: 2, ..config(100) });
    let mut streams: Vec<_> = (0..6).map(|_| engine.submit(request(prompt(5), 3)).unwrap()).collect();
    let refused = engine.submit(request(prompt(5), 3)).unwrap_err();
    assert!(matches!(refused, EngineError::Overloaded { outstanding: 6, limit: 6, .. }), "{refused}");
    drop(open);
    read(streams.pop().unwrap());
    answer(&engine, request(prompt(5), 3));
    streams.into_iter().for_each(|s| assert!(read(s).end.is_ok()));
    stop(&engine);
}

#[test]
fn requests_that_wait_for_too_long_are_refused_and_those_that_run_are_not() {
    let limit = Duration::from_secs(2);
    let (engine, open) = start_gated(&EngineConfig { max_wait: Some(limit), ..config(100) });
    let mut running: Vec<_> = (0..4).map(|_| engine.submit(request(prompt(5), 30)).unwrap()).collect();
    (0..6).for_each(|_| open.send(()).unwrap());
    running.iter_mut().for_each(|s| assert!(matches!(s.blocking_next(), Some(Event::Token(_)))));
    let waiting = [0, 1].map(|_| engine.submit(request(prompt(5), 3)).unwrap());
    std::thread::sleep(limit);
    drop(open);
    for stream in waiting {
        let error = read(stream).end.unwrap_err();
        assert!(matches!(error, EngineError::WaitsTooLong { .. }), "{error}");
    }
    running.into_iter().for_each(|s| assert!(read(s).end.is_ok()));
    stop(&engine);
}

#[test]
fn a_request_ends_when_its_time_is_over() {
    let check = |engine: Option<Duration>, own: Option<Duration>, expected: Option<Duration>| {
        let engine = start(model(), &EngineConfig { max_time: engine, ..config(100) });
        let answer = answer(&engine, GenerateRequest { max_time: own, ..request(prompt(10), 5) });
        assert_eq!(answer.end.err(), expected.map(|limit| EngineError::OutOfTime { limit }));
        stop(&engine);
    };
    let long = Some(Duration::from_secs(3600));
    check(None, None, None);
    check(long, Some(Duration::MAX), None);
    check(None, Some(Duration::ZERO), Some(Duration::ZERO));
    check(Some(Duration::ZERO), None, Some(Duration::ZERO));
    check(Some(Duration::ZERO), long, Some(Duration::ZERO));
    check(long, Some(Duration::ZERO), Some(Duration::ZERO));
}

#[test]
fn cancelled_and_abandoned_requests_hold_nothing() {
    let (engine, open) = start_gated(&config(100));
    let streams: Vec<_> = (0..8).map(|i| engine.submit(request(prompt(10 + i), 50)).unwrap()).collect();
    (0..5).for_each(|_| open.send(()).unwrap());
    let mut kept = Vec::new();
    for (i, stream) in streams.into_iter().enumerate() {
        match i % 4 {
            // Both running and waiting ones.
            0 => engine.cancel(stream.id()),
            1 => drop(stream),
            _ => {
                kept.push((i, stream));
                continue;
            }
        }
    }
    drop(open);
    for (i, stream) in kept {
        assert_eq!(read(stream).ids(), expected_answer(&WINDOWS, &prompt(10 + i), 50));
    }
    assert_eq!(stop(&engine).cancelled, 4);
}

#[test]
fn a_cancelled_stream_says_so() {
    let (engine, open) = start_gated(&config(100));
    let stream = engine.submit(request(prompt(10), 50)).unwrap();
    engine.cancel(stream.id());
    drop(open);
    assert_eq!(read(stream).reason(), FinishReason::Cancelled);
    stop(&engine);
}

#[test]
fn a_client_that_reads_slowly_gets_everything_and_stalls_nobody() {
    for stream_buffer in [1, 2, 7] {
        let engine = start(model(), &EngineConfig { stream_buffer, ..config(60) });
        let slow = engine.submit(request(prompt(10), 80)).unwrap();
        for _ in 0..3 {
            assert_eq!(answer(&engine, request(prompt(20), 40)).ids(), expected_answer(&WINDOWS, &prompt(20), 40));
        }
        assert_eq!(engine.stats().paused, 1);
        assert_eq!(read(slow).ids(), expected_answer(&WINDOWS, &prompt(10), 80));
        stop(&engine);
    }
}

#[test]
fn a_client_that_never_reads_is_given_up() {
    let engine = start(model(), &EngineConfig { stream_buffer: 2, stall_timeout: Duration::ZERO, ..config(60) });
    let unread = engine.submit(request(prompt(10), 80)).unwrap();
    answer(&engine, request(prompt(10), 2));
    while engine.stats().failed == 0 {
        std::thread::yield_now();
    }
    assert_eq!(read(unread).end, Err(EngineError::Stalled { seconds: 0, buffer: 2 }));
    stop(&engine);
}

#[test]
fn a_failing_step_ends_its_requests_and_no_others() {
    let model = model();
    let fail = model.fail.clone();
    let engine = start(model, &EngineConfig { max_failures: 2, ..config(100) });
    for unhealthy in [false, true] {
        fail.store(1, Ordering::SeqCst);
        let error = answer(&engine, request(prompt(10), 5)).end.unwrap_err();
        assert_eq!(error, EngineError::Step { message: "simulated failure".into() });
        while engine.stats().unhealthy != unhealthy {
            std::thread::yield_now();
        }
    }
    assert!(!engine.is_healthy());
    assert_eq!(answer(&engine, request(prompt(10), 5)).ids(), expected_answer(&WINDOWS, &prompt(10), 5));
    let stats = stop(&engine);
    assert_eq!((stats.unhealthy, stats.failed, stats.failed_steps), (false, 2, 2));
}

#[test]
fn an_engine_that_is_gone_says_so() {
    let model = model();
    model.fail.store(usize::MAX, Ordering::SeqCst);
    let engine = start(model, &config(100));
    assert_eq!(answer(&engine, request(prompt(10), 5)).end, Err(EngineError::Stopped));
    while engine.is_healthy() {
        std::thread::yield_now();
    }
    assert_eq!(engine.submit(request(prompt(10), 5)).unwrap_err(), EngineError::Stopped);
    engine.shutdown(Duration::MAX);
}

#[test]
fn shutdown_drains_or_cancels() {
    let (engine, open) = start_gated(&config(100));
    let streams: Vec<_> = (0..6).map(|_| engine.submit(request(prompt(10), 30)).unwrap()).collect();
    drop(open);
    stop(&engine);
    streams.into_iter().for_each(|s| assert_eq!(read(s).reason(), FinishReason::Length));

    let (engine, open) = start_gated(&config(100));
    let streams: Vec<_> = (0..6).map(|_| engine.submit(request(prompt(10), 30)).unwrap()).collect();
    let other = engine.clone();
    let shutdown = std::thread::spawn(move || other.shutdown(Duration::ZERO));
    while !matches!(engine.submit(request(prompt(1), 1)), Err(EngineError::ShuttingDown)) {}
    drop(open);
    shutdown.join().unwrap();
    streams.into_iter().for_each(|s| assert_eq!(read(s).reason(), FinishReason::Cancelled));
    assert!(!engine.is_healthy());
}

#[test]
fn streams_work_in_asynchronous_tasks() {
    let engine = start(model(), &config(100));
    let mut stream = engine.submit(request(prompt(10), 5)).unwrap();
    // An executor of one task that never sleeps.
    let mut task = std::pin::pin!(async {
        let mut events = 0;
        while let Some(event) = stream.next().await {
            events += 1;
            assert!(!matches!(event, Event::Error(_)));
        }
        (poll_fn(|cx| stream.poll_next(cx)).await, events)
    });
    let mut context = Context::from_waker(Waker::noop());
    let end = loop {
        match task.as_mut().poll(&mut context) {
            Poll::Ready(end) => break end,
            Poll::Pending => std::thread::yield_now(),
        }
    };
    assert_eq!(end, (None, 6));
    stop(&engine);
}

#[test]
fn settings_that_do_not_go_with_the_executable_are_refused() {
    let check = |config: EngineConfig, expected: &str| {
        let error = EngineHandle::start(model(), Arc::new(Letters), &config).unwrap_err().to_string();
        assert!(error.contains(expected), "'{error}' instead of '{expected}'");
    };
    check(EngineConfig::default(), "expected one number for each of 2 cache groups, found []");
    check(config(0), "blocks of cache group 0");
    check(EngineConfig { max_tokens: Some(17), ..config(9) }, "tokens in a step: expected 1 to 16, found 17");
    check(EngineConfig { max_sequences: Some(0), ..config(9) }, "sequences in a step: expected 1 to 4, found 0");
    check(EngineConfig { max_context: Some(101), ..config(9) }, "context: expected 1 to 100, found 101");
    check(EngineConfig { max_prompt_logits: 0, ..config(9) }, "prompt logits");
}
