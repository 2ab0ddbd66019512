//! A running host, for tests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

pub use rocmforge_test_support::repository;

use crate::build_folder;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// The built host.
pub fn host() -> Command {
    Command::new(build_folder().join("rocmforge-host"))
}

/// Runs the host to its end.
pub fn run(args: &[&str], input: &str) -> Output {
    let mut child = host()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the host starts");
    // A host that ends without reading closes the pipe; what it said is checked by the caller.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    child.wait_with_output().expect("the host ends")
}

/// A host that serves on a free port.
pub struct Server {
    child: Child,
    log: Mutex<Receiver<String>>,
    /// Sent with every request.
    key: Option<String>,
    /// `127.0.0.1:PORT`
    pub address: String,
}

impl Server {
    /// Starts `rocmforge-host ARGS.. serve --port 0 MORE..` and waits until it is ready.
    pub fn start(args: &[&str], more: &[&str]) -> Server {
        Server::start_with_keys(args, more, &[])
    }

    /// The same with `ROCMFORGE_API_KEYS` as these keys, where there are any; the first is sent with every request.
    pub fn start_with_keys(args: &[&str], more: &[&str], keys: &[&str]) -> Server {
        Server::start_prepared(args, more, keys, |_| ())
    }

    /// The same with a command that was prepared further.
    pub fn start_prepared(args: &[&str], more: &[&str], keys: &[&str], prepare: impl FnOnce(&mut Command)) -> Server {
        let mut command = host();
        match keys {
            [] => command.env_remove("ROCMFORGE_API_KEYS"),
            keys => command.env("ROCMFORGE_API_KEYS", keys.join(",")),
        };
        prepare(&mut command);
        let mut child = command
            .args(args)
            .args(["serve", "--port", "0"])
            .args(more)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the host starts");
        let (sender, log) = channel();
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let key = keys.first().map(|k| (*k).to_owned());
        let mut server = Server { child, log: Mutex::new(log), key, address: String::new() };
        let line = server.wait_for("listening address=");
        let address = line.rsplit("address=").next().expect("the part after it");
        server.address = address.trim().to_owned();
        server.wait_for("ready");
        server
    }

    /// The next line of the log that contains a text.
    pub fn wait_for(&self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        let mut seen = vec![];
        let log = self.log.lock().expect("no other reader has failed");
        while let Ok(line) = log.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if line.contains(text) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line with '{text}' in the log:\n{}", seen.join("\n"));
    }

    /// Status and body of a GET.
    pub fn get(&self, path: &str) -> (u16, String) {
        let key = self.key_header();
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{key}Connection: close\r\n\r\n", self.address))
    }

    /// Status and body of a POST of JSON.
    pub fn post(&self, path: &str, body: &str) -> (u16, String) {
        let key = self.key_header();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\n{key}Connection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        self.request(&(head + body))
    }

    fn key_header(&self) -> String {
        self.key.as_ref().map(|k| format!("Authorization: Bearer {k}\r\n")).unwrap_or_default()
    }

    fn request(&self, request: &str) -> (u16, String) {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("the request is sent");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("the reply is read");
        let (head, body) = reply.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    /// A connection.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream
    }

    /// The value of a metric whose line starts with `name`.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let (_, body) = self.get("/metrics");
        body.lines().find(|l| l.starts_with(name)).and_then(|l| l.rsplit(' ').next()?.parse().ok())
    }

    /// Waits until a metric has a value.
    pub fn wait_for_metric(&self, name: &str, holds: impl Fn(f64) -> bool) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if self.metric(name).is_some_and(&holds) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{name} is {:?}\n{}", self.metric(name), self.get("/metrics").1);
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(status.success());
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                return status;
            }
            assert!(Instant::now() < end, "the host does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
