//! A listening server, a client that sees every byte, and a model that says what it is told to.
#![allow(dead_code, reason = "every test binary uses its own part")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rocmforge_engine::{EngineConfig, EngineHandle, RunError, Runner, RunnerLimits};
use rocmforge_loader::config::{ServerSettings, TracingSettings};
use rocmforge_program::{CacheDecl, IR_VERSION, ModelInfo, OutputBuffer, Program, Step};
use rocmforge_server::{AppState, LazyGrammars, ModelFacts, ModelLoader, ServedModel, ServerError, bind, serve};
use rocmforge_tokenizer::{ChatTemplate, EncodeOptions, Tokenizer};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server on a port of its own.
pub struct Server {
    pub state: Arc<AppState>,
    pub port: u16,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl Server {
    pub async fn start(settings: ServerSettings, drain: Duration) -> Server {
        Server::with_loader(settings, drain, None).await
    }

    /// One that loads models by itself.
    pub async fn with_loader(
        settings: ServerSettings,
        drain: Duration,
        loader: Option<Arc<dyn ModelLoader>>,
    ) -> Server {
        let settings = ServerSettings { port: 0, ..settings };
        Server::with_state(&settings.clone(), AppState::with_loader(settings, loader), drain).await
    }

    /// One with settings for traces.
    pub async fn with_tracing(settings: ServerSettings, tracing: TracingSettings) -> Server {
        let settings = ServerSettings { port: 0, ..settings };
        let state = AppState::new(settings.clone()).with_tracing(tracing);
        Server::with_state(&settings, state, Duration::from_secs(10)).await
    }

    async fn with_state(settings: &ServerSettings, state: AppState, drain: Duration) -> Server {
        let listener = bind(settings).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(state);
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(listener, state.clone(), shutdown, drain));
        Server { state, port, stop: Some(stop), task }
    }

    /// One that serves `model`.
    pub async fn with_model(model: ServedModel) -> Server {
        let server = Server::start(ServerSettings::default(), Duration::from_secs(10)).await;
        server.state.add_model(model);
        server.state.set_ready();
        server
    }

    /// Sends a request on a connection of its own.
    pub async fn open(&self, request: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.write_all(request).await.unwrap();
        stream
    }

    /// Sends bytes and reads the whole answer.
    pub async fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = self.open(request).await;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        Answer::parse(&bytes)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.raw(&post(path, &body.to_string())).await
    }

    pub fn signal(&mut self) {
        drop(self.stop.take());
    }

    pub async fn stopped(mut self) -> Result<(), ServerError> {
        self.signal();
        self.task.await.unwrap()
    }
}

pub fn post(path: &str, body: &str) -> Vec<u8> {
    let headers = format!("Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close", body.len());
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n{body}").into_bytes()
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Answer {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |l: &str| l.split_once(": ").map(|(k, v)| (k.to_ascii_lowercase(), v.to_string())).unwrap();
        let headers: HashMap<_, _> = lines.map(header).collect();
        let chunked = headers.get("transfer-encoding").is_some_and(|t| t == "chunked");
        let body = if chunked { without_chunks(body) } else { body.to_string() };
        Answer { status, headers, body }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The events of a stream; the last one must be `[DONE]`, which is left out.
    pub fn events(&self) -> Vec<Value> {
        assert_eq!(self.headers["content-type"], "text/event-stream");
        let events: Vec<&str> = self.body.split_terminator("\n\n").collect();
        let (last, events) = events.split_last().unwrap();
        assert_eq!(*last, "data: [DONE]");
        let data = |e: &&str| serde_json::from_str(e.strip_prefix("data: ").unwrap()).unwrap();
        events.iter().map(data).collect()
    }

    pub fn check_error(&self, status: u16, code: &str, param: Value) {
        let error = self.json()["error"].clone();
        assert_eq!((self.status, &error["code"], &error["param"]), (status, &code.into(), &param), "{self:?}");
        assert!(error["message"].is_string() && error["type"].is_string(), "{self:?}");
        assert_eq!(error.as_object().unwrap().len(), 4, "{self:?}");
    }
}

fn without_chunks(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        out.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    out
}

/// Says the next word of a text, or begins it; then ends.
pub struct Parrot {
    program: Program,
    next: HashMap<u32, u32>,
    first: u32,
    rows: Vec<f32>,
    gate: Option<Receiver<()>>,
    /// Said in this order, whatever was said before.
    script: Vec<u32>,
    /// Position of the last row, and of the first one of the answer.
    at: (u32, u32),
}

impl Parrot {
    fn new(tokenizer: &Tokenizer, text: &str, context_length: u32) -> Parrot {
        let cache = CacheDecl { layer: 0, kv_heads: 1, key_dim: 1, value_dim: 1, group: 0, window: None };
        let (architecture, vocab_size) = ("parrot".into(), tokenizer.vocab_size());
        let info = ModelInfo { architecture, vocab_size, hidden_size: 1, layers: 1, context_length };
        let (weights, nodes, outputs) = Default::default();
        let program = Program { ir: IR_VERSION, info, weights, caches: vec![cache], nodes, outputs };
        let mut tokens = tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: false });
        tokens.extend(tokenizer.eog_tokens().next());
        let next: HashMap<u32, u32> = tokens.windows(2).map(|w| (w[0], w[1])).collect();
        assert_eq!(next.len(), tokens.len() - 1, "a text without repetitions is needed");
        Parrot { program, next, first: tokens[0], rows: Vec::new(), gate: None, script: Vec::new(), at: (0, 0) }
    }
}

impl Runner for Parrot {
    fn program(&self) -> &Program {
        &self.program
    }

    fn limits(&self) -> RunnerLimits {
        RunnerLimits { max_tokens: 64, max_sequences: 4, block_size: 4 }
    }

    fn allocate_cache(&mut self, _: &[u64]) -> Result<(), RunError> {
        Ok(())
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<(), RunError> {
        if let Some(gate) = &self.gate {
            // A sender that is gone means to run freely.
            let _ = gate.recv();
        }
        let vocab = self.program.info.vocab_size;
        self.rows = vec![0.0; step.logits_rows.len() * vocab];
        for (row, &at) in self.rows.chunks_mut(vocab).zip(step.logits_rows) {
            let mut next = *self.next.get(&step.token_ids[at as usize]).unwrap_or(&self.first);
            if !self.script.is_empty() {
                let position = step.positions[at as usize];
                let start = if position == self.at.0 + 1 { self.at.1 } else { position };
                self.at = (position, start);
                next = self.script[((position - start) as usize).min(self.script.len() - 1)];
            }
            row[next as usize] = 20.0;
        }
        Ok(())
    }

    fn wait(&mut self, outputs: &mut [OutputBuffer<'_>]) -> Result<(), RunError> {
        outputs.iter_mut().for_each(|o| o.data.copy_from_slice(&self.rows));
        Ok(())
    }
}

pub const TEMPLATE: &str = "{% if messages[0].role == 'tool' %}{{ raise_exception('tools come later') }}{% endif %}\
    {% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";

pub fn tokenizer() -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tokenizer/tests/fixtures/llama-bpe.gguf");
    Tokenizer::from_metadata(rocmforge_gguf::GgufFile::open(&path).unwrap().metadata()).unwrap()
}

/// A model that answers with `text`.
pub fn model(text: &str) -> ServedModel {
    let tokenizer = tokenizer();
    let parrot = Parrot::new(&tokenizer, text, 256);
    served(tokenizer, parrot)
}

/// A model that answers with `text`, which may repeat itself, one request at a time.
pub fn script_model(text: &str) -> ServedModel {
    let tokenizer = tokenizer();
    let mut script = tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: false });
    script.extend(tokenizer.eog_tokens().next());
    let parrot = Parrot { script, ..Parrot::new(&tokenizer, "a", 1024) };
    served(tokenizer, parrot)
}

/// A model that answers with `text`, but every step waits for a message; the sender gone means to run freely.
pub fn gated_model(text: &str) -> (ServedModel, Sender<()>) {
    let tokenizer = tokenizer();
    let (open, gate) = channel();
    let parrot = Parrot { gate: Some(gate), ..Parrot::new(&tokenizer, text, 256) };
    (served(tokenizer, parrot), open)
}

fn served(tokenizer: Tokenizer, parrot: Parrot) -> ServedModel {
    let tokenizer = Arc::new(tokenizer);
    let config = EngineConfig { cache_blocks: vec![256], max_queue: 4, ..EngineConfig::default() };
    let engine = EngineHandle::start(parrot, tokenizer.clone(), &config).unwrap();
    let template = Arc::new(ChatTemplate::new(TEMPLATE, None, None).unwrap());
    let context_length = engine.context_length();
    ServedModel {
        id: "org/parrot".into(),
        created: 1_700_000_000,
        tokenizer,
        template,
        engine,
        context_length,
        max_sequences: 4,
        block_size: 4,
        template_source: Some(TEMPLATE.into()),
        control_tokens_in_messages: false,
        pooling: None,
        grammars: LazyGrammars::default(),
        facts: ModelFacts::default(),
    }
}

/// Waits until something holds that another thread brings about.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("still not after 10 s: {what}");
}
