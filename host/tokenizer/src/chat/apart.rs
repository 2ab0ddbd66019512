//! Templates in a process of their own, as a template comes with a model file and the engine that runs it bounds its steps
//! but not what one step allocates: whatever it does to memory, time or stack, it does to that process.
//!
//! Both sides write one JSON value per line: first the template and what came of compiling it, then conversations and
//! their prompts.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value as Json, json};

use super::sandbox::{Limits, limit};
use super::{ChatTemplate, RenderContext};
use crate::TemplateError;

/// Bytes that the process may allocate, beside what grows with the input and the stack that it reserves.
const MEMORY: u64 = 112 << 20;
/// Bytes for each byte of the input: a value in JSON takes many times the memory of its text.
const MEMORY_PER_BYTE: u64 = 32;
/// Time of the processor for one rendering, and for each MiB of its input.
const TIME: Duration = Duration::from_secs(1);
/// However little the process got to run.
const PATIENCE: Duration = Duration::from_secs(60);
const ABORTED: i32 = 6;

/// How a process is started that calls [`render_templates`].
#[derive(Clone, Debug)]
pub struct RenderProcess {
    /// The file of the program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

/// The template on this side.
pub(super) struct Apart {
    start: RenderProcess,
    /// Source and tokens, as the process gets them.
    template: String,
    /// One conversation at a time.
    process: Mutex<Option<Renderer>>,
}

struct Renderer {
    child: Child,
    pipes: Option<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Drop for Renderer {
    fn drop(&mut self) {
        // One that has ended by itself is waited for as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Apart {
    pub(super) fn new(start: RenderProcess, template: Json) -> Result<Apart, TemplateError> {
        let apart = Apart { start, template: template.to_string(), process: Mutex::new(None) };
        let renderer = apart.renderer()?;
        *apart.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(renderer);
        Ok(apart)
    }

    /// A process that has compiled the template.
    fn renderer(&self) -> Result<Renderer, TemplateError> {
        let cannot = |e: io::Error| TemplateError::Process(e.to_string());
        let mut command = Command::new(&self.start.program);
        // In a group of its own, so that Ctrl-C in a terminal does not end it before the server has drained.
        command.args(&self.start.args).arg0("rocmforge-template").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(cannot)?;
        let pipes = child.stdin.take().zip(child.stdout.take()).map(|(i, o)| (i, BufReader::new(o)));
        let mut renderer = Renderer { child, pipes };
        renderer.ask(&self.template)?;
        Ok(renderer)
    }

    pub(super) fn render(&self, messages: &Json, context: &RenderContext) -> Result<String, TemplateError> {
        let since = context.now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let request = json!({
            "messages": messages, "tools": context.tools, "extra": context.extra,
            "add_generation_prompt": context.add_generation_prompt, "now": since.as_secs(),
        });
        let request = request.to_string();
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut renderer) = process.take() {
            match renderer.ask(&request) {
                // Something else may have ended it.
                Err(TemplateError::Process(_)) => {}
                answer => {
                    *process = renderer.pipes.is_some().then_some(renderer);
                    return answer;
                }
            }
        }
        let mut renderer = self.renderer()?;
        let answer = renderer.ask(&request);
        *process = renderer.pipes.is_some().then_some(renderer);
        answer
    }
}

impl Renderer {
    /// Sends a line and waits for the answer. Afterwards there are no pipes if the process is of no more use.
    fn ask(&mut self, request: &str) -> Result<String, TemplateError> {
        let Some((mut input, mut output)) = self.pipes.take() else {
            return Err(TemplateError::Process("it has ended".into()));
        };
        let (sender, answers) = channel();
        let answered = std::thread::scope(|scope| {
            scope.spawn(move || {
                let sent = input.write_all(request.as_bytes()).and_then(|()| input.write_all(b"\n"));
                let mut line = String::new();
                let read = sent.and_then(|()| output.read_line(&mut line));
                // Nobody waits any more if the process was given up.
                let _ = sender.send(read.map(|_| (line, input, output)));
            });
            let allowed = TIME + TIME * (request.len() >> 20) as u32;
            let (begin, before) = (Instant::now(), self.processor_time());
            loop {
                match answers.recv_timeout(allowed) {
                    Ok(answer) => return Ok(answer),
                    Err(RecvTimeoutError::Disconnected) => return Ok(Err(io::Error::other("no answer"))),
                    Err(RecvTimeoutError::Timeout) => {}
                }
                let used = self.processor_time().saturating_sub(before);
                if used >= allowed || begin.elapsed() > PATIENCE {
                    // Which ends the thread as well.
                    let _ = self.child.kill();
                    return Err(limit("time", format!("{} s", allowed.as_secs())));
                }
            }
        })?;
        let Some((line, input, output)) = answered.ok().filter(|(line, ..)| line.ends_with('\n')) else {
            return Err(self.end());
        };
        self.pipes = Some((input, output));
        let answer = serde_json::from_str(&line).map_err(|e| TemplateError::Process(e.to_string()))?;
        from_json(&answer)
    }

    /// Why the process has ended.
    fn end(&mut self) -> TemplateError {
        match self.child.wait() {
            // How allocations end that cannot be had, and a stack without an end.
            Ok(status) if status.signal() == Some(ABORTED) => limit("memory", format!("{} MiB", MEMORY >> 20)),
            Ok(status) => TemplateError::Process(format!("it has ended with {status}")),
            Err(error) => TemplateError::Process(error.to_string()),
        }
    }

    /// Time of the processor that the process has used.
    fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The name, in parentheses, may have spaces; ticks of user and system time are numbers 12 and 13 behind it.
        let numbers = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = numbers.skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        // There are 100 in a second on every Linux.
        Duration::from_millis(10 * ticks)
    }
}

/// Renders what its parent asks for, until that closes `input`. `limit` has the system refuse this process more memory
/// than so many bytes from now on.
///
/// # Errors
/// The parent is gone.
pub fn render_templates(
    input: &mut impl BufRead,
    output: &mut impl Write,
    limit: impl Fn(u64),
) -> Result<(), io::Error> {
    let mut line = String::new();
    let mut template = None;
    while input.read_line(&mut line)? > 0 {
        let own = MEMORY + MEMORY_PER_BYTE * line.len() as u64;
        limit(own);
        let request = serde_json::from_str::<Json>(&line).map_err(|e| TemplateError::Render(e.to_string()));
        let answer = request.and_then(|request| match &template {
            None => {
                template = Some(compile(&request)?);
                Ok(String::new())
            }
            Some(template) => {
                let (messages, context) = conversation(&request);
                limit(own + Limits::for_input([Some(messages), context.tools.as_ref()].into_iter().flatten()).stack());
                template.render(messages, &context)
            }
        });
        serde_json::to_writer(&mut *output, &to_json(&answer))?;
        output.write_all(b"\n")?;
        output.flush()?;
        line = String::new();
    }
    Ok(())
}

fn compile(request: &Json) -> Result<ChatTemplate, TemplateError> {
    let text = |key: &str| request[key].as_str().map(str::to_owned);
    ChatTemplate::new(&text("source").unwrap_or_default(), text("bos"), text("eos"))
}

fn conversation(request: &Json) -> (&Json, RenderContext) {
    let context = RenderContext {
        add_generation_prompt: request["add_generation_prompt"] == true,
        tools: Some(request["tools"].clone()).filter(|t| !t.is_null()),
        extra: request["extra"].as_object().map_or_else(Map::new, Clone::clone),
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(request["now"].as_u64().unwrap_or_default()),
    };
    (&request["messages"], context)
}

fn to_json(answer: &Result<String, TemplateError>) -> Json {
    match answer {
        Ok(text) => json!({"text": text}),
        Err(TemplateError::Raised(message)) => json!({"raised": message}),
        Err(TemplateError::Syntax(message)) => json!({"syntax": message}),
        Err(TemplateError::Render(message)) => json!({"render": message}),
        Err(TemplateError::Process(message)) => json!({"process": message}),
        Err(TemplateError::Limit { what, limit }) => json!({"what": what, "limit": limit}),
    }
}

fn from_json(answer: &Json) -> Result<String, TemplateError> {
    let text = |key: &str| answer[key].as_str().map(str::to_owned);
    if let Some(text) = text("text") {
        return Ok(text);
    }
    let error = text("raised").map(TemplateError::Raised);
    let error = error.or_else(|| text("syntax").map(TemplateError::Syntax));
    let error = error.or_else(|| text("render").map(TemplateError::Render));
    let named = |what: &str| ["its size", "output", "time", "steps"].into_iter().find(|name| *name == what);
    let limited = || Some(limit(named(answer["what"].as_str()?)?, text("limit")?));
    Err(error.or_else(limited).unwrap_or_else(|| TemplateError::Process(answer.to_string())))
}
