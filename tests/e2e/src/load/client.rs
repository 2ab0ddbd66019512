//! A client of one request per connection, which notes when what came.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a client waits for the next byte.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of a request.
#[derive(Debug, Default)]
pub struct Reply {
    /// HTTP status; 0 if the connection ended without one.
    pub status: u16,
    /// The body, or all events of a stream.
    pub body: String,
    /// Until the first event with text.
    pub first_token: Option<Duration>,
    /// Between events with text.
    pub gaps: Vec<Duration>,
    /// Tokens of the answer, where a stream says so.
    pub tokens: Option<usize>,
}

/// A POST of JSON as bytes.
pub fn post(address: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

/// A connection with the limits of this client.
///
/// # Errors
/// Nobody listens.
pub fn connect(address: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends a request and reads its reply; hangs up after `events` events of a stream, if that is set.
///
/// # Errors
/// The connection cannot be made, or breaks.
pub fn send(address: &str, request: &[u8], events: Option<usize>) -> std::io::Result<Reply> {
    let start = Instant::now();
    let mut stream = connect(address)?;
    // A server may refuse before it has read everything; its reply says why.
    let sent = stream.write_all(request);
    let mut reader = BufReader::new(stream);
    let mut reply = Reply::default();
    let (mut streams, mut length) = (false, None);
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(0) => return sent.map(|()| reply),
            Err(error) if reply.status == 0 => return Err(error),
            Err(_) => return Ok(reply),
            Ok(_) => {}
        }
        let line = line.trim_end();
        if reply.status == 0 {
            reply.status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        }
        let line = line.to_ascii_lowercase();
        streams |= line.starts_with("content-type: text/event-stream");
        length = line.strip_prefix("content-length: ").and_then(|l| l.parse().ok()).or(length);
        if line.is_empty() {
            break;
        }
    }
    if !streams {
        // A refusal of what was not read to its end may close the connection hard.
        let _ = reader.take(length.unwrap_or(u64::MAX)).read_to_string(&mut reply.body);
        return Ok(reply);
    }
    read_events(&mut reader, start, events, &mut reply)?;
    Ok(reply)
}

fn read_events(
    reader: &mut impl BufRead,
    start: Instant,
    events: Option<usize>,
    reply: &mut Reply,
) -> std::io::Result<()> {
    let mut latest: Option<Instant> = None;
    let mut count = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        // Chunk sizes stand between the events.
        let Some(data) = line.strip_prefix("data: ") else { continue };
        let now = Instant::now();
        let event: Value = serde_json::from_str(data).unwrap_or_default();
        reply.tokens = event["usage"]["completion_tokens"].as_u64().map(|n| n as usize).or(reply.tokens);
        if has_text(&event) {
            match latest.replace(now) {
                None => reply.first_token = Some(now - start),
                Some(before) => reply.gaps.push(now - before),
            }
        }
        reply.body.push_str(data);
        count += 1;
        // Other servers leave the connection open behind the last event.
        if data == "[DONE]\n" || events.is_some_and(|most| count >= most) {
            return Ok(());
        }
    }
}

/// Whether an event of a completion brings text.
fn has_text(event: &Value) -> bool {
    let choice = &event["choices"][0];
    let text = choice["text"].as_str().or(choice["delta"]["content"].as_str());
    text.is_some_and(|t| !t.is_empty())
}
