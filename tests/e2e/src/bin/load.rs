//! Loads servers on loopback addresses and prints what came of it.
//!
//! * `load soak [--requests N] [--clients N] [--half-open N] [--seconds N]`: serves the demo model and loads it with
//!   clients some of which leave, send nonsense or too much; ends with exit status 1 where something is not as it
//!   should be.
//! * `load streams ADDRESS [--streams N] [--requests N] [--tokens N] [--round N]`: tokens per second and latencies of any server
//!   with the completions API.
//! * `load against LLAMA_SERVER MODEL [--threads N] [--streams N] [--requests N] [--tokens N] [--rounds N]`: the same for
//!   this engine and llama-server in turn, with the same model and threads.
//! * `load fairness ADDRESS [--streams N] [--words N]`: how streams fare while a long prompt is computed.
//! * `load guesses ADDRESS [--requests N] [--tokens N] [--prompts FILE]`: tokens per second of greedy streams, one at a time,
//!   and how many guesses of their tokens came true. The file has a JSON object with `messages` in each line.
//! * `load embeddings ADDRESS [--requests N] [--batch N] [--words N] [--round N]`: texts per second that become vectors, of any
//!   server with the embeddings API.
//! * `load prefix ADDRESS [--words N] [--requests N]`: time to the first token of prompts that begin alike.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rocmforge_e2e::load;
use rocmforge_e2e::load::peer::Match;
use rocmforge_e2e::load::{Plan, measure, quantile};
use serde_json::Value;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: usize| {
        let at = args.iter().position(|a| a == name);
        at.and_then(|i| args.get(i + 1)?.parse().ok()).unwrap_or(default)
    };
    match (args.first().map(String::as_str), args.get(1)) {
        (Some("soak"), _) => return soak(number),
        (Some("streams"), Some(address)) => streams(address, number),
        (Some("against"), Some(program)) => return against(program, args.get(2), number),
        (Some("fairness"), Some(address)) => fairness(address, number),
        (Some("guesses"), Some(address)) => {
            let file = args.iter().position(|a| a == "--prompts").map(|i| args.get(i + 1).map(String::as_str));
            match file.map_or(Ok(Vec::new()), |file| chats(file.unwrap_or_default())) {
                Ok(chats) => return guesses(address, &chats, number),
                Err(error) => {
                    eprintln!("{error}");
                    return ExitCode::from(2);
                }
            }
        }
        (Some("embeddings"), Some(address)) => embeddings(address, number),
        (Some("prefix"), Some(address)) => prefix(address, number),
        _ => {
            eprintln!(
                "expected soak, against, or one of streams, fairness, guesses, embeddings, prefix with an address; see the top of the source"
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn soak(number: impl Fn(&str, usize) -> usize) -> ExitCode {
    let plan = Plan {
        clients: number("--clients", 64),
        requests: number("--requests", 10_000),
        warm_up: 1000.min(number("--requests", 10_000) / 2),
        limit: Duration::from_secs(number("--seconds", 1800) as u64),
        half_open: number("--half-open", 1000),
        idle: Duration::from_secs(10),
    };
    let mut server = load::serve_demo();
    let report = load::run(&server, &plan);
    println!("{}", report.text());
    let stopped = load::stop_under_load(&mut server, 16);
    let faults = [report.faults(), stopped.err().into_iter().collect()].concat();
    faults.iter().for_each(|f| println!("FAULT {f}"));
    println!("{} faults", faults.len());
    ExitCode::from(u8::from(!faults.is_empty()))
}

fn streams(address: &str, number: impl Fn(&str, usize) -> usize) {
    let (streams, tokens) = (number("--streams", 16), number("--tokens", 48));
    let requests = number("--requests", 3 * streams);
    let speeds = measure::streams(address, streams, requests, tokens, number("--round", 0));
    let ms = |times: &[Duration]| format!("p50 {:.0} ms, p99 {:.0} ms", quantile(times, 0.5), quantile(times, 0.99));
    println!("{streams} streams, {requests} requests of {tokens} tokens: {:.1} tok/s", speeds.per_second());
    println!("time to first token {}; between tokens {}", ms(&speeds.first_token), ms(&speeds.gaps));
    speeds.faults.iter().take(5).for_each(|f| println!("FAULT {f}"));
}

fn against(program: &str, model: Option<&String>, number: impl Fn(&str, usize) -> usize) -> ExitCode {
    let Some(model) = model else {
        eprintln!("expected the file of a model after that of llama-server");
        return ExitCode::from(2);
    };
    let streams = number("--streams", 16);
    let of = Match {
        program: Path::new(program),
        model: Path::new(model),
        threads: number("--threads", 2),
        streams,
        requests: number("--requests", 2 * streams),
        tokens: number("--tokens", 48),
        rounds: number("--rounds", 3),
    };
    match load::peer::against(&of) {
        Ok((table, faults)) => {
            print!("{table}");
            faults.iter().for_each(|f| println!("FAULT {f}"));
            ExitCode::from(u8::from(!faults.is_empty()))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn fairness(address: &str, number: impl Fn(&str, usize) -> usize) {
    let (streams, words) = (number("--streams", 4), number("--words", 4000));
    let (before, during, took) = measure::beside_a_long_prompt(address, streams, words);
    for (what, times) in [("before", &before), ("during", &during)] {
        let q = |q| quantile(times, q);
        let n = times.len();
        println!("{what}: {n} gaps, p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms", q(0.5), q(0.9), q(0.99));
    }
    println!(
        "{streams} streams, prompt of {words} words in {:.1} s; p50 {:.2} times, p99 {:.2} times what it was",
        took.as_secs_f64(),
        quantile(&during, 0.5) / quantile(&before, 0.5),
        quantile(&during, 0.99) / quantile(&before, 0.99)
    );
}

/// Chats of a file, at least one.
fn chats(file: &str) -> Result<Vec<Value>, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("--prompts {file}: {e}"))?;
    let messages = |(i, line): (usize, &str)| match serde_json::from_str::<Value>(line) {
        Ok(chat) if chat["messages"].is_array() => Ok(chat["messages"].clone()),
        Ok(_) => Err(format!("{file}: line {}: expected an object with `messages`, a list", i + 1)),
        Err(error) => Err(format!("{file}: line {}: {error}", i + 1)),
    };
    let chats = text.lines().enumerate().map(messages).collect::<Result<Vec<_>, _>>()?;
    if chats.is_empty() { Err(format!("{file}: expected a conversation in each line, found none")) } else { Ok(chats) }
}

fn guesses(address: &str, chats: &[Value], number: impl Fn(&str, usize) -> usize) -> ExitCode {
    let (mut speeds, [guessed, right], faults) =
        measure::greedy(address, number("--requests", 5), number("--tokens", 96), chats);
    speeds.sort_by(f64::total_cmp);
    let (least, most) = (speeds.first().copied().unwrap_or(f64::NAN), speeds.last().copied().unwrap_or(f64::NAN));
    let median = speeds.get(speeds.len() / 2).copied().unwrap_or(f64::NAN);
    println!("{} greedy streams: median {median:.1} tok/s, {least:.1} to {most:.1}", speeds.len());
    println!("{guessed} tokens guessed, {right} came true");
    faults.iter().for_each(|f| println!("FAULT {f}"));
    ExitCode::from(u8::from(!faults.is_empty()))
}

fn embeddings(address: &str, number: impl Fn(&str, usize) -> usize) {
    let (requests, batch, words) = (number("--requests", 4), number("--batch", 16), number("--words", 100));
    let ([texts, tokens], faults) = measure::embeddings(address, requests, batch, words, number("--round", 0));
    println!("{requests} requests of {batch} texts of {words} words: {texts:.1} texts/s, {tokens:.0} tok/s");
    faults.iter().take(5).for_each(|f| println!("FAULT {f}"));
}

fn prefix(address: &str, number: impl Fn(&str, usize) -> usize) {
    let times = measure::shared_prefix(address, number("--words", 2000), number("--requests", 4));
    let first = times[0].as_secs_f64();
    for (i, time) in times.iter().enumerate() {
        println!(
            "request {i}: first token after {:.1} ms, {:.1}",
            time.as_secs_f64() * 1e3,
            first / time.as_secs_f64()
        );
    }
}
