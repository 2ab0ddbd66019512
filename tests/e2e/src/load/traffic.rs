//! What clients send.

use serde_json::{Value, json};

use super::client::{Reply, post};

/// Kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An answer in one piece.
    Plain,
    /// An answer as it comes.
    Stream,
    /// A stream whose client leaves.
    Cancel,
    /// No valid request.
    Malformed,
    /// More than the model or the server takes.
    Oversized,
}

/// One request, and what is to be expected.
pub struct Traffic {
    /// Its kind.
    pub kind: Kind,
    /// Its bytes.
    pub request: Vec<u8>,
    /// After so many events of a stream the client leaves.
    pub hang_up: Option<usize>,
    status: u16,
}

/// `n` words, the same for the same seed.
pub fn words(n: usize, seed: usize) -> String {
    const WORDS: [&str; 16] = [
        "river", "stone", "seven", "lamp", "green", "walk", "story", "open", "plus", "garden", "under", "light",
        "number", "old", "train", "what",
    ];
    let mut state = seed as u64 + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        WORDS[(state % 16) as usize]
    };
    (0..n).map(|_| next()).collect::<Vec<_>>().join(" ")
}

impl Traffic {
    /// The `i`th request: of 20, six are cancelled, one is malformed, two are too large; the others are plain and
    /// streams in turn.
    pub fn new(i: usize, address: &str) -> Traffic {
        // Spread, so that the kinds do not come in a fixed order.
        let kind = match (i * 7 + i / 20) % 20 {
            0..6 => Kind::Cancel,
            6 => Kind::Malformed,
            7 | 8 => Kind::Oversized,
            n if n % 2 == 0 => Kind::Plain,
            _ => Kind::Stream,
        };
        let completion = |body: Value| post(address, "/v1/completions", &body.to_string());
        let length = 3 + (i * 37) % 150;
        let prompt = words(length, i);
        let tokens = 1 + (i * 13) % 24;
        let (request, hang_up, status) = match kind {
            Kind::Plain if i.is_multiple_of(3) => {
                let messages = json!([{"role": "user", "content": prompt}]);
                let body = json!({"messages": messages, "max_tokens": tokens, "temperature": 0.8, "seed": i});
                (post(address, "/v1/chat/completions", &body.to_string()), None, 200)
            }
            Kind::Plain => (completion(json!({"prompt": prompt, "max_tokens": tokens})), None, 200),
            Kind::Stream => {
                let body = json!({"prompt": prompt, "max_tokens": tokens, "stream": true, "ignore_eos": true});
                (completion(body), None, 200)
            }
            Kind::Cancel => {
                let body = json!({"prompt": prompt, "max_tokens": 200, "stream": true, "ignore_eos": true});
                (completion(body), Some(1 + i % 5), 200)
            }
            Kind::Malformed => (malformed(i, address), None, 400),
            Kind::Oversized if i.is_multiple_of(2) => {
                (completion(json!({"prompt": words(20_000, i), "max_tokens": 1})), None, 400)
            }
            Kind::Oversized => {
                let head = format!(
                    "POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n{{"
                );
                (head.into_bytes(), None, 413)
            }
        };
        Traffic { kind, request, hang_up, status }
    }

    /// What is wrong with a reply.
    pub fn fault(&self, reply: &Reply) -> Option<String> {
        let start: String = reply.body.chars().take(300).collect();
        if reply.status != self.status {
            return Some(format!("status {} instead of {}: {start}", reply.status, self.status));
        }
        if reply.body.contains("\"error\"") != (self.status != 200) {
            return Some(format!("an error in a stream, or none in a refusal: {start}"));
        }
        let end = match self.kind {
            Kind::Stream => "[DONE]",
            Kind::Plain => "\"finish_reason\"",
            _ => "",
        };
        (!reply.body.contains(end)).then(|| format!("no {end} in {start}"))
    }
}

fn malformed(i: usize, address: &str) -> Vec<u8> {
    let bodies = [
        "{\"prompt\": \"x\", ",
        "[1, 2]",
        "",
        "{\"prompt\": 7}",
        "{\"prompt\": \"x\", \"max_tokens\": -1}",
        "{\"prompt\": \"x\", \"no_such_parameter\": 1}",
        "\u{0}\u{1}",
    ];
    post(address, "/v1/completions", bodies[i / 20 % bodies.len()])
}
