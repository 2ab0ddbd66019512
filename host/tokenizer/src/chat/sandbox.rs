//! Limits on what a template may cost.

use std::error::Error as _;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use minijinja::{Error, ErrorKind};
use serde_json::Value as Json;

use super::Raised;
use crate::TemplateError;

/// Nested macros, includes and loops.
pub(super) const RECURSION: usize = 200;
const SOURCE: usize = 1 << 20;
const TIME: Duration = Duration::from_secs(10);
/// Every step can add a level to a nested value, and values are freed recursively: a step must find this much stack.
const STACK_PER_STEP: u64 = 256;
const BASE_STEPS: u64 = 500_000;
const STEPS_PER_NODE: u64 = 1_000;
const MAX_STEPS: u64 = 4_000_000;
const BASE_OUTPUT: usize = 1 << 20;

/// The limits for one rendering; they grow with the input.
pub(super) struct Limits {
    pub steps: u64,
    output: usize,
}

impl Limits {
    pub fn for_input<'j>(input: impl Iterator<Item = &'j Json>) -> Limits {
        let (mut nodes, mut bytes) = (0, 0);
        for value in input {
            measure(value, &mut nodes, &mut bytes);
        }
        Limits { steps: (BASE_STEPS + STEPS_PER_NODE * nodes).min(MAX_STEPS), output: BASE_OUTPUT + 16 * bytes }
    }
}

impl Limits {
    /// Bytes of stack for a rendering, most of which are never touched.
    pub fn stack(&self) -> u64 {
        self.steps * STACK_PER_STEP
    }
}

fn measure(value: &Json, nodes: &mut u64, bytes: &mut usize) {
    *nodes += 1;
    match value {
        Json::String(s) => *bytes += s.len(),
        Json::Array(items) => items.iter().for_each(|v| measure(v, nodes, bytes)),
        Json::Object(map) => {
            for (key, v) in map {
                *bytes += key.len() + 8;
                measure(v, nodes, bytes);
            }
        }
        _ => *bytes += 8,
    }
}

pub(super) fn check_source(source: &str) -> Result<(), TemplateError> {
    if source.len() <= SOURCE {
        return Ok(());
    }
    Err(limit("its size", format!("{SOURCE} bytes, found {}", source.len())))
}

pub(super) fn limit(what: &'static str, limit: String) -> TemplateError {
    TemplateError::Limit { what, limit }
}

/// Collects the output within the limits.
pub(super) struct Output {
    text: Vec<u8>,
    max: usize,
    deadline: Instant,
    exceeded: Option<TemplateError>,
}

impl Write for &mut Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > self.max {
            self.exceeded = Some(limit("output", format!("{} bytes", self.max)));
        } else if Instant::now() > self.deadline {
            self.exceeded = Some(limit("time", format!("{} s", TIME.as_secs())));
        } else {
            self.text.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        Err(io::Error::other("limit exceeded"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `render` on a thread whose stack is deep enough for the deepest value that it can build.
pub(super) fn run(
    limits: &Limits,
    render: impl FnOnce(&mut Output) -> Result<(), Error> + Send,
) -> Result<String, TemplateError> {
    let stack = limits.stack() as usize;
    let work = || {
        let mut output =
            Output { text: Vec::new(), max: limits.output, deadline: Instant::now() + TIME, exceeded: None };
        let result = render(&mut output);
        match (result, output.exceeded) {
            (_, Some(exceeded)) => Err(exceeded),
            (Err(e), _) => Err(describe(&e, limits)),
            (Ok(()), None) => String::from_utf8(output.text).map_err(|e| TemplateError::Render(e.to_string())),
        }
    };
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("chat-template".into()).stack_size(stack);
        let thread = builder
            .spawn_scoped(scope, work)
            .map_err(|e| TemplateError::Render(format!("no thread to render on: {e}")))?;
        let panicked = |_| TemplateError::Render("the template engine panicked".into());
        thread.join().map_err(panicked)?
    })
}

fn describe(error: &Error, limits: &Limits) -> TemplateError {
    let mut source = error.source();
    while let Some(e) = source {
        if let Some(Raised(message)) = e.downcast_ref() {
            return TemplateError::Raised(message.clone());
        }
        source = e.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return limit("steps", format!("{} instructions", limits.steps));
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        text.push_str(": ");
        text.push_str(&e.to_string());
        source = e.source();
    }
    TemplateError::Render(text)
}
