//! A load on a running server: many clients, some of which leave, send nonsense or too much. Loopback only, bounded in
//! count and time.

pub mod client;
pub mod measure;
pub mod peer;
pub mod process;
mod report;
mod traffic;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use client::{Reply, connect, send};
pub use traffic::{Kind, Traffic, words};

use crate::server::{Server, repository};

/// How much load.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Clients at a time.
    pub clients: usize,
    /// Requests in all.
    pub requests: usize,
    /// Of these, the first so many warm the server up: memory is compared with that after them.
    pub warm_up: usize,
    /// No request begins after this time.
    pub limit: Duration,
    /// Connections that send half a request and then nothing.
    pub half_open: usize,
    /// How long the idle server is watched afterwards.
    pub idle: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Requests by what they were and what they got.
    pub outcomes: BTreeMap<String, usize>,
    /// What should not have been, the first few.
    pub faults: Vec<String>,
    /// Time of the load.
    pub took: Duration,
    /// Resident memory after the warm-up and at the end, bytes.
    pub memory: (u64, u64),
    /// Descriptors before and after.
    pub descriptors: (usize, usize),
    /// KV blocks that are held at the end.
    pub blocks_used: f64,
    /// Times of `/health` under load, sorted.
    pub health: Vec<Duration>,
    /// Times to the first token of streams, sorted.
    pub first_token: Vec<Duration>,
    /// Times between tokens, sorted.
    pub gaps: Vec<Duration>,
    /// Part of a core that the idle server uses.
    pub idle: f64,
}

/// A quantile of sorted times, in milliseconds.
pub fn quantile(sorted: &[Duration], q: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * q).round() as usize).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
}

struct Shared<'a> {
    server: &'a Server,
    plan: Plan,
    begin: Instant,
    next: AtomicUsize,
    done: AtomicBool,
    report: Mutex<Report>,
}

/// Loads the server, waits until it is at rest, and reports.
///
/// # Panics
/// If the server does not come to rest.
pub fn run(server: &Server, plan: &Plan) -> Report {
    let shared = Shared {
        server,
        plan: *plan,
        begin: Instant::now(),
        next: AtomicUsize::new(0),
        done: AtomicBool::new(false),
        report: Mutex::default(),
    };
    let before = process::descriptors(server.pid());
    std::thread::scope(|scope| {
        let half_open = open_half(server, plan.half_open);
        scope.spawn(|| shared.watch_health());
        let clients: Vec<_> = (0..plan.clients).map(|_| scope.spawn(|| shared.client())).collect();
        clients.into_iter().for_each(|c| c.join().expect("a client does not panic"));
        shared.done.store(true, Ordering::SeqCst);
        drop(half_open);
    });
    let mut report = shared.report.into_inner().expect("nobody panicked");
    report.took = shared.begin.elapsed();
    server.wait_for_metric("rocmforge_active_requests", |n| n == 0.0);
    server.wait_for_metric("rocmforge_queue_length", |n| n == 0.0);
    report.blocks_used = server.metric("rocmforge_kv_blocks_used").unwrap_or(f64::NAN);
    let rest = Instant::now() + Duration::from_secs(60);
    while process::descriptors(server.pid()) > before && Instant::now() < rest {
        std::thread::sleep(Duration::from_millis(50));
    }
    report.descriptors = (before, process::descriptors(server.pid()));
    report.memory.1 = process::memory(server.pid());
    report.idle = process::load(server.pid(), plan.idle);
    for times in [&mut report.health, &mut report.first_token, &mut report.gaps] {
        times.sort_unstable();
    }
    report
}

/// Serves the demo model with a KV cache so small that all of it is soon in use: pages that were never written take no
/// memory, and would look like a leak when they are.
pub fn serve_demo() -> Server {
    let model = repository().join("tests/models/llama-demo-Q4_K_M.gguf");
    let config = std::env::temp_dir().join(format!("rocmforge-load-{}.toml", std::process::id()));
    std::fs::write(&config, "[scheduler]\nkv_cache_mib = 4\n").expect("a folder for temporary files");
    let (config, model) = (config.to_string_lossy().into_owned(), model.to_string_lossy().into_owned());
    let server = Server::start(&["--config", &config], &["--model", &model]);
    // Read by now; one that stays is small.
    let _ = std::fs::remove_file(&config);
    server
}

/// Ends the server while streams run: each has to get to a last event, and the server to exit with 0.
///
/// # Errors
/// What was not so.
pub fn stop_under_load(server: &mut Server, streams: usize) -> Result<(), String> {
    let address = server.address.clone();
    std::thread::scope(|scope| {
        let stream = |i| measure::stream(&address, &words(5, i), 120);
        let clients: Vec<_> = (0..streams).map(|i| scope.spawn(move || stream(i))).collect();
        server.wait_for_metric("rocmforge_active_requests", |n| n > 0.0);
        server.terminate();
        for client in clients {
            let reply = client.join().map_err(|_| "a client panicked".to_owned())?.map_err(|e| e.to_string())?;
            let ended = reply.body.ends_with("[DONE]\n") || (reply.status == 503 && reply.body.contains("\"error\""));
            if !ended {
                return Err(format!("a stream ended without a last event: {} {}", reply.status, reply.body));
            }
        }
        Ok(())
    })?;
    let status = server.wait();
    if status.success() { Ok(()) } else { Err(format!("the server ended with {status}")) }
}

/// Connections with half a request each.
fn open_half(server: &Server, count: usize) -> Vec<std::net::TcpStream> {
    let half = format!("POST /v1/completions HTTP/1.1\r\nHost: {}\r\nContent-Len", server.address);
    let open = |_| {
        let mut stream = connect(&server.address).ok()?;
        std::io::Write::write_all(&mut stream, half.as_bytes()).ok()?;
        Some(stream)
    };
    (0..count).filter_map(open).collect()
}

impl Shared<'_> {
    fn client(&self) {
        loop {
            let i = self.next.fetch_add(1, Ordering::SeqCst);
            if i >= self.plan.requests || self.begin.elapsed() > self.plan.limit {
                return;
            }
            if i == self.plan.warm_up {
                self.report().memory.0 = process::memory(self.server.pid());
            }
            let traffic = Traffic::new(i, &self.server.address);
            let reply = send(&self.server.address, &traffic.request, traffic.hang_up);
            self.note(&traffic, reply);
        }
    }

    fn note(&self, traffic: &Traffic, reply: std::io::Result<Reply>) {
        let outcome = match &reply {
            Ok(reply) => format!("{:?} {}", traffic.kind, reply.status),
            Err(error) => format!("{:?} {}", traffic.kind, error.kind()),
        };
        let fault = match &reply {
            Ok(reply) => traffic.fault(reply),
            Err(error) => Some(error.to_string()),
        };
        let mut report = self.report();
        *report.outcomes.entry(outcome).or_default() += 1;
        if let Some(fault) = fault.filter(|_| report.faults.len() < 20) {
            report.faults.push(format!("{:?}: {fault}", traffic.kind));
        }
        if let Ok(reply) = reply {
            report.first_token.extend(reply.first_token);
            report.gaps.extend(reply.gaps);
        }
    }

    fn watch_health(&self) {
        let address = &self.server.address;
        let request = format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        while !self.done.load(Ordering::SeqCst) {
            let start = Instant::now();
            let reply = send(address, request.as_bytes(), None);
            let took = start.elapsed();
            let mut report = self.report();
            match reply {
                Ok(reply) if reply.status == 200 => report.health.push(took),
                other => report.faults.push(format!("/health: {other:?}")),
            }
            drop(report);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn report(&self) -> std::sync::MutexGuard<'_, Report> {
        self.report.lock().expect("nobody panicked")
    }
}
