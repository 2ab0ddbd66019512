//! llama-server beside the host, with the same model and as many threads, under the same load in turn.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::client::send;
use super::measure::{self, Speeds};
use super::quantile;
use crate::server::Server;

/// How long it may take to load a model.
const PATIENCE: Duration = Duration::from_secs(120);

/// What both serve.
#[derive(Clone, Copy, Debug)]
pub struct Match<'a> {
    /// The file of llama-server.
    pub program: &'a Path,
    /// A GGUF file.
    pub model: &'a Path,
    /// Threads of each; the other is idle meanwhile.
    pub threads: usize,
    /// Streams at a time.
    pub streams: usize,
    /// Requests of each round.
    pub requests: usize,
    /// Tokens of each answer.
    pub tokens: usize,
    /// Each server gets its load so many times, in turn.
    pub rounds: usize,
}

struct Peer {
    child: Child,
    address: String,
}

impl Peer {
    fn start(of: &Match<'_>) -> Result<Peer, String> {
        // Free now, and most likely in a moment as well.
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| e.to_string())?;
        let port = port.port();
        let number = |n: usize| n.to_string();
        let (threads, slots) = (number(of.threads), number(of.streams));
        let context = number(of.streams * 1024);
        let mut command = Command::new(of.program);
        command.arg("--model").arg(of.model).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args([
            "--threads",
            &threads,
            "--threads-batch",
            &threads,
            "--parallel",
            &slots,
            "--ctx-size",
            &context,
        ]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.map_err(|e| format!("{}: {e}", of.program.display()))?;
        let peer = Peer { child, address: format!("127.0.0.1:{port}") };
        let request = format!("GET /health HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", peer.address);
        let end = Instant::now() + PATIENCE;
        while !send(&peer.address, request.as_bytes(), None).is_ok_and(|r| r.status == 200) {
            if Instant::now() > end {
                return Err(format!("{} does not become ready", of.program.display()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(peer)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // One that has ended by itself is gone as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Loads both servers and returns a table of every round, with what went wrong.
///
/// # Errors
/// llama-server cannot be started.
pub fn against(of: &Match<'_>) -> Result<(String, Vec<String>), String> {
    let text = |n: usize| n.to_string();
    let (threads, model) = (text(of.threads), of.model.to_string_lossy().into_owned());
    let ours = Server::start(&["--threads", &threads], &["--model", &model, "--context-length", "2048"]);
    let theirs = Peer::start(of)?;
    let servers = [("rocmforge-host", &ours.address), ("llama-server", &theirs.address)];
    for (_, address) in servers {
        // Pages of the model are read, kernels have run once.
        measure::streams(address, 2, 2, 8, usize::MAX >> 16);
    }
    let mut table =
        String::from("| server | tok/s | first token p50 / p99 | between tokens p50 / p99 |\n|---|---|---|---|\n");
    let (mut faults, mut all) = (Vec::new(), [Vec::new(), Vec::new()]);
    for round in 0..of.rounds {
        for ((name, address), rounds) in servers.iter().zip(&mut all) {
            let speeds = measure::streams(address, of.streams, of.requests, of.tokens, round);
            table += &row(name, &speeds);
            faults.extend(speeds.faults.iter().take(3).map(|f| format!("{name}: {f}")));
            rounds.push(speeds);
        }
    }
    table += &ratios(&all);
    Ok((table, faults))
}

fn row(name: &str, speeds: &Speeds) -> String {
    let q = |times: &[Duration], q| quantile(times, q);
    let Speeds { first_token, gaps, .. } = speeds;
    let first = format!("{:.2} s / {:.2} s", q(first_token, 0.5) / 1e3, q(first_token, 0.99) / 1e3);
    let between = format!("{:.0} ms / {:.0} ms", q(gaps, 0.5), q(gaps, 0.99));
    format!("| {name} | {:.1} | {first} | {between} |\n", speeds.per_second())
}

/// Ours over theirs, from the medians of the rounds.
fn ratios([ours, theirs]: &[Vec<Speeds>; 2]) -> String {
    let median = |rounds: &[Speeds], of: &dyn Fn(&Speeds) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let ratio = |of: &dyn Fn(&Speeds) -> f64| median(ours, of) / median(theirs, of);
    let first = |q| ratio(&|s: &Speeds| quantile(&s.first_token, q));
    let between = |q| ratio(&|s: &Speeds| quantile(&s.gaps, q));
    format!(
        "| ratio of the medians | {:.2} | {:.2} / {:.2} | {:.2} / {:.2} |\n",
        ratio(&Speeds::per_second),
        first(0.5),
        first(0.99),
        between(0.5),
        between(0.99)
    )
}
