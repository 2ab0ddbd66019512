//! Calls whose arguments are given out while they are being written.

use super::format::Format;
use crate::params::tools::Tools;

/// A call that has begun.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) name: String,
    /// Bytes before its arguments.
    pub(super) before: usize,
    pub(super) open: OpenCall,
}

/// A call of which the arguments are coming.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OpenCall {
    /// `None`: they are over.
    arguments: Option<Braces>,
    /// The object around the arguments, where there is one.
    around: Option<Braces>,
    /// What ends the call after that.
    close: Option<&'static str>,
}

/// What is known of the text that follows the beginning of a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Of the text, so many bytes are arguments.
    pub(super) arguments: usize,
    /// And so many after them belong to the call.
    pub(super) after: usize,
    /// The call is over.
    pub(super) over: bool,
}

/// Finds the end of a JSON object without holding it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Braces {
    depth: usize,
    string: bool,
    escaped: bool,
}

impl Braces {
    fn inside() -> Braces {
        Braces { depth: 1, ..Braces::default() }
    }

    /// Bytes of `text` that belong to the object, and whether it ends there.
    fn take(&mut self, text: &str) -> (usize, bool) {
        for (i, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.string => self.escaped = true,
                b'"' => self.string = !self.string,
                _ if self.string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return (i + 1, true);
                    }
                }
                _ => {}
            }
        }
        (text.len(), false)
    }
}

impl OpenCall {
    fn new(around: bool, close: Option<&'static str>) -> OpenCall {
        OpenCall { arguments: Some(Braces::default()), around: around.then(Braces::inside), close }
    }

    /// Takes in what follows. What is neither arguments nor after them has to come again, with more.
    pub(super) fn take(&mut self, text: &str) -> Step {
        let mut step = Step { arguments: 0, after: 0, over: false };
        if let Some(arguments) = &mut self.arguments {
            let (len, ended) = arguments.take(text);
            step.arguments = len;
            if !ended {
                return step;
            }
            self.arguments = None;
        }
        let rest = &text[step.arguments..];
        if let Some(around) = &mut self.around {
            let (len, ended) = around.take(rest);
            step.after = len;
            if !ended {
                return step;
            }
            self.around = None;
        }
        let Some(close) = self.close else {
            step.over = true;
            return step;
        };
        let rest = &rest[step.after..];
        match rest.find(close) {
            Some(at) => {
                step.after += at + close.len();
                step.over = true;
            }
            None => {
                // Its beginning may be there already.
                let kept = (1..close.len()).rev().find(|&n| rest.ends_with(&close[..n])).unwrap_or(0);
                step.after += rest.len() - kept;
            }
        }
        step
    }
}

/// The call that a text begins with, if its arguments have begun.
pub(super) fn begin(format: Format, text: &str, start: bool, tools: &Tools) -> Option<Begun> {
    let behind = |marker: &str| text.trim_start().strip_prefix(marker);
    let at = |rest: &str| text.len() - rest.len();
    let (name, rest, open) = match format {
        Format::Tagged => {
            let (name, rest) = head(behind("<tool_call>")?, tools)?;
            (name, rest, OpenCall::new(true, Some("</tool_call>")))
        }
        Format::MistralNamed => {
            let rest = behind("[TOOL_CALLS]")?;
            let (name, rest) = rest.split_once("[ARGS]")?;
            let name = name.split("[CALL_ID]").next().unwrap_or(name).trim();
            (tools.get(name)?.name.clone(), rest.trim_start(), OpenCall::new(false, None))
        }
        Format::Llama | Format::Gemma if start => {
            let rest = text.trim_start_matches([' ', '\n', '\r', '\t', ';', ',']);
            let rest = match format {
                Format::Llama => rest.strip_prefix("<|python_tag|>").unwrap_or(rest),
                _ => rest,
            };
            let (name, rest) = head(rest, tools)?;
            (name, rest, OpenCall::new(true, None))
        }
        Format::NameLine if start => {
            let (name, rest) = text.trim_start().split_once('\n')?;
            (tools.get(name.trim())?.name.clone(), rest.trim_start(), OpenCall::new(false, None))
        }
        // Lists of calls, and arguments that are no JSON, are given out when they are complete.
        _ => return None,
    };
    rest.starts_with('{').then(|| Begun { name, before: at(rest), open })
}

/// `{"name": "…", "arguments":` and what follows.
fn head<'t>(text: &'t str, tools: &Tools) -> Option<(String, &'t str)> {
    let then = |text: &'t str, expected: &str| text.trim_start().strip_prefix(expected);
    let rest = then(then(then(text, "{")?, "\"name\"")?, ":")?.trim_start();
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<String>();
    let name = values.next()?.ok()?;
    let rest = then(&rest[values.byte_offset()..], ",")?;
    let rest = then(rest, "\"arguments\"").or_else(|| then(rest, "\"parameters\""))?;
    let rest = then(rest, ":")?.trim_start();
    tools.has(&name).then_some((name, rest))
}
