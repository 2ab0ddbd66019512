//! Speeds of a server that speaks the completions API; the server may be any on a loopback address.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::client::{Reply, post, send};
use super::words;

/// What streams got.
#[derive(Debug, Default)]
pub struct Speeds {
    /// Tokens received.
    pub tokens: usize,
    /// In this time.
    pub took: Duration,
    /// Times to the first token, sorted.
    pub first_token: Vec<Duration>,
    /// Times between tokens, sorted.
    pub gaps: Vec<Duration>,
    /// Requests that were not answered as they should be.
    pub faults: Vec<String>,
}

impl Speeds {
    fn add(&mut self, reply: std::io::Result<Reply>) {
        match reply {
            Ok(reply) if reply.status == 200 && reply.first_token.is_some() => {
                self.tokens += reply.tokens.unwrap_or(1 + reply.gaps.len());
                self.first_token.extend(reply.first_token);
                self.gaps.extend(reply.gaps);
            }
            other => self.faults.push(format!("{other:?}")),
        }
    }

    /// Tokens per second, of all streams together.
    pub fn per_second(&self) -> f64 {
        self.tokens as f64 / self.took.as_secs_f64()
    }

    fn sorted(mut self, took: Duration) -> Speeds {
        self.took = took;
        self.first_token.sort_unstable();
        self.gaps.sort_unstable();
        self
    }
}

/// A streamed completion of `prompt_words` words and so many tokens.
pub fn stream(address: &str, prompt: &str, tokens: usize) -> std::io::Result<Reply> {
    let body = json!({
        "prompt": prompt, "max_tokens": tokens, "stream": true, "ignore_eos": true, "temperature": 0.8, "seed": 1,
        "stream_options": {"include_usage": true}
    });
    send(address, &post(address, "/v1/completions", &body.to_string()), None)
}

/// `streams` clients with `requests` requests of `tokens` tokens between them; prompts of 20 to 200 words, others for each
/// `round`.
pub fn streams(address: &str, streams: usize, requests: usize, tokens: usize, round: usize) -> Speeds {
    let (next, speeds, begin) = (AtomicUsize::new(0), Mutex::new(Speeds::default()), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..streams {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::SeqCst);
                    if i >= requests {
                        return;
                    }
                    let reply = stream(address, &words(20 + (i * 53) % 181, i + round * requests), tokens);
                    speeds.lock().expect("nobody panicked").add(reply);
                }
            });
        }
    });
    speeds.into_inner().expect("nobody panicked").sorted(begin.elapsed())
}

/// Times between the tokens of `streams` streams, before and while a prompt of `prompt_words` words is computed, and
/// the time to the first token of that prompt.
pub fn beside_a_long_prompt(
    address: &str,
    streams: usize,
    prompt_words: usize,
) -> (Vec<Duration>, Vec<Duration>, Duration) {
    let (stop, gaps) = (AtomicBool::new(false), Mutex::new(Vec::<(Instant, Duration)>::new()));
    let mut long = (Instant::now(), Instant::now());
    std::thread::scope(|scope| {
        for s in 0..streams {
            let (stop, gaps) = (&stop, &gaps);
            scope.spawn(move || {
                for round in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let begin = Instant::now();
                    // Long enough to go on all the while: a new stream would wait behind the long prompt.
                    let Ok(reply) = stream(address, &words(8, 1000 * s + round), 900) else { return };
                    let mut at = begin + reply.first_token.unwrap_or_default();
                    let mut gaps = gaps.lock().expect("nobody panicked");
                    for gap in reply.gaps {
                        at += gap;
                        gaps.push((at, gap));
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_secs(8));
        long.0 = Instant::now();
        let reply = stream(address, &words(prompt_words, 77), 1);
        long.1 = long.0 + reply.ok().and_then(|r| r.first_token).unwrap_or_default();
        stop.store(true, Ordering::SeqCst);
    });
    let gaps = gaps.into_inner().expect("nobody panicked");
    // The first seconds hold the prompts of the streams themselves.
    let settled = long.0 - Duration::from_secs(5);
    let mut before: Vec<_> = gaps.iter().filter(|g| g.0 > settled && g.0 < long.0).map(|g| g.1).collect();
    let mut during: Vec<_> = gaps.iter().filter(|g| g.0 - g.1 > long.0 && g.0 < long.1).map(|g| g.1).collect();
    before.sort_unstable();
    during.sort_unstable();
    (before, during, long.1 - long.0)
}

/// Greedy streams, one after the other: answers to `chats`, as long as the model makes them, or where there are none what
/// follows prompts that repeat themselves. The tokens per second of each after its first token, and how many tokens were
/// guessed and how many came true, where the server says so.
pub fn greedy(
    address: &str,
    requests: usize,
    tokens: usize,
    chats: &[serde_json::Value],
) -> (Vec<f64>, [f64; 2], Vec<String>) {
    let counters = || ["guessed_tokens_total", "accepted_guessed_tokens_total"].map(|name| counter(address, name));
    let (before, mut speeds, mut faults) = (counters(), Vec::new(), Vec::new());
    for i in 0..requests {
        let mut body = json!({
            "max_tokens": tokens, "stream": true, "temperature": 0, "stream_options": {"include_usage": true}
        });
        let path = match chats.get(i % chats.len().max(1)) {
            Some(messages) => {
                body["messages"] = messages.clone();
                "/v1/chat/completions"
            }
            None => {
                body["ignore_eos"] = true.into();
                body["prompt"] = [words(24, i), words(24, i), words(8, i)].join(". ").into();
                "/v1/completions"
            }
        };
        match send(address, &post(address, path, &body.to_string()), None) {
            Ok(reply) if reply.status == 200 && !reply.gaps.is_empty() => {
                let made = reply.tokens.unwrap_or(1 + reply.gaps.len()) - 1;
                speeds.push(made as f64 / reply.gaps.iter().sum::<Duration>().as_secs_f64());
            }
            other => faults.push(format!("{other:?}")),
        }
    }
    let after = counters();
    (speeds, [after[0] - before[0], after[1] - before[1]], faults)
}

/// The value of a counter of ours; 0 where there is none.
fn counter(address: &str, name: &str) -> f64 {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let body = send(address, request.as_bytes(), None).map(|r| r.body).unwrap_or_default();
    let line = body.lines().find(|l| l.starts_with(&format!("rocmforge_{name}")));
    line.and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

/// Texts per second that become vectors, and tokens per second: `requests` requests of `batch` texts of so many words, one
/// after the other; texts are others for each `round`.
pub fn embeddings(
    address: &str,
    requests: usize,
    batch: usize,
    words_each: usize,
    round: usize,
) -> ([f64; 2], Vec<String>) {
    let (mut tokens, mut faults, begin) = (0, Vec::new(), Instant::now());
    for i in 0..requests {
        let text = |j| words(words_each, (round * requests + i) * batch + j);
        let body = json!({"input": (0..batch).map(text).collect::<Vec<_>>()});
        let reply = send(address, &post(address, "/v1/embeddings", &body.to_string()), None);
        let answer: serde_json::Value =
            reply.as_ref().ok().and_then(|r| serde_json::from_str(&r.body).ok()).unwrap_or_default();
        let vectors = answer["data"].as_array().map_or(0, Vec::len);
        match (vectors == batch, answer["usage"]["total_tokens"].as_u64()) {
            (true, Some(n)) => tokens += n,
            _ => faults.push(format!("{:.200}", format!("{reply:?}"))),
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    ([(requests * batch) as f64 / seconds, tokens as f64 / seconds], faults)
}

/// Times to the first token of prompts that share their first `shared` words, one after the other.
pub fn shared_prefix(address: &str, shared: usize, requests: usize) -> Vec<Duration> {
    let prefix = words(shared, usize::MAX / 3);
    let one = |i| {
        let reply = stream(address, &format!("{prefix} {}", words(10, i)), 1);
        reply.ok().and_then(|r| r.first_token).unwrap_or_default()
    };
    (0..requests).map(one).collect()
}
