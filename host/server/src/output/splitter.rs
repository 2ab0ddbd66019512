use std::sync::Arc;

use super::format::{Call, Format};
use super::parse::{Place, Scan, scan};
use super::partial::{Begun, OpenCall, begin};
use super::reasoning::Reasoning;
use crate::params::tools::Tools;

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Reasoning(String),
    Content(String),
    Call(Call),
    /// The name of a call whose arguments follow in pieces.
    Begin(String),
    /// More of the arguments of the latest call that has begun.
    Arguments(String),
}

/// Splits one answer, which comes in pieces of text. What is given out does not depend on how the text is cut: whatever
/// may be the beginning of a call is held back until that is certain.
#[derive(Debug)]
pub(crate) struct Splitter {
    reasoning: Reasoning,
    tools: Option<(Format, Arc<Tools>)>,
    held: String,
    /// Content has been given out.
    content: bool,
    calls: usize,
    /// Arguments are given out while they are being written, where the format allows it.
    eager: bool,
    open: Option<OpenCall>,
    reasoning_tokens: usize,
}

impl Splitter {
    /// `open`: the prompt has begun the reasoning. `tools`: those that can be called.
    pub(crate) fn new(open: bool, tools: Option<(Format, Arc<Tools>)>) -> Splitter {
        Splitter {
            reasoning: Reasoning::new(open),
            tools,
            held: String::new(),
            content: false,
            calls: 0,
            eager: false,
            open: None,
            reasoning_tokens: 0,
        }
    }

    /// For a text in which nothing is reasoning or a call.
    pub(crate) fn plain() -> Splitter {
        Splitter { reasoning: Reasoning::none(), ..Splitter::new(false, None) }
    }

    /// Gives arguments out while they are being written, as far as they can be told from other text by then.
    pub(crate) fn eager(self) -> Splitter {
        Splitter { eager: true, ..self }
    }

    /// Tokens so far that were reasoning, or the tags around it.
    pub(crate) fn reasoning_tokens(&self) -> usize {
        self.reasoning_tokens
    }

    /// As [`push`](Self::push), for the text that came with one token.
    pub(crate) fn token(&mut self, text: &str) -> Vec<Piece> {
        let before = self.reasoning.is_inside();
        let pieces = self.push(text);
        self.reasoning_tokens += usize::from(before || self.reasoning.is_inside());
        pieces
    }

    /// Calls so far.
    pub(crate) fn calls(&self) -> usize {
        self.calls
    }

    pub(crate) fn push(&mut self, text: &str) -> Vec<Piece> {
        let parts = self.reasoning.push(text);
        self.split(parts, false)
    }

    /// What is left when no more text comes.
    pub(crate) fn finish(&mut self) -> Vec<Piece> {
        let parts = self.reasoning.finish();
        self.split(parts, true)
    }

    fn split(&mut self, (reasoning, answer): (String, String), end: bool) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if !reasoning.is_empty() {
            pieces.push(Piece::Reasoning(reasoning));
        }
        self.held.push_str(&answer);
        let Some((format, tools)) = self.tools.clone() else {
            let text = std::mem::take(&mut self.held);
            pieces.extend((!text.is_empty()).then_some(Piece::Content(text)));
            return pieces;
        };
        while !self.held.is_empty() {
            if self.open.is_some() {
                if !self.arguments(&mut pieces) {
                    break;
                }
                continue;
            }
            match scan(format, &self.held, Place { start: !self.content, end }, &tools) {
                Scan::Wait => match self.begun(format, &tools) {
                    Some(begun) => {
                        self.held.drain(..begun.before);
                        self.calls += 1;
                        self.open = Some(begun.open);
                        pieces.push(Piece::Begin(begun.name));
                    }
                    None => break,
                },
                Scan::Text(len) => {
                    let text: String = self.held.drain(..len).collect();
                    // White space around calls is not content.
                    if self.calls > 0 && text.trim().is_empty() {
                        continue;
                    }
                    self.content = true;
                    pieces.push(Piece::Content(text));
                }
                Scan::Calls(len, calls) => {
                    self.held.drain(..len);
                    // A client that wants one call at a time gets the first.
                    let room = if tools.parallel { calls.len() } else { 1usize.saturating_sub(self.calls) };
                    self.calls += calls.len().min(room);
                    pieces.extend(calls.into_iter().take(room).map(Piece::Call));
                }
            }
        }
        pieces
    }

    /// The call that may be given out before it is complete.
    fn begun(&self, format: Format, tools: &Tools) -> Option<Begun> {
        let another = self.eager && (tools.parallel || self.calls == 0);
        another.then(|| begin(format, &self.held, !self.content, tools)).flatten()
    }

    /// Gives out what is there of the arguments of the open call. False: more text has to come.
    fn arguments(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let Some(open) = &mut self.open else { return true };
        let step = open.take(&self.held);
        let text: String = self.held.drain(..step.arguments).collect();
        self.held.drain(..step.after);
        pieces.extend((!text.is_empty()).then_some(Piece::Arguments(text)));
        if step.over {
            self.open = None;
        }
        step.over
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::params::Fields;
    use crate::params::tools::tools;

    fn weather() -> Arc<Tools> {
        let parameters =
            json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}});
        let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
        let body = json!({"tools": [tool("weather"), tool("time")]});
        let mut fields = Fields::parse(body.to_string().as_bytes()).expect("a body");
        Arc::new(tools(&mut fields).expect("tools").expect("some"))
    }

    /// Content and calls of a text, the same for every way to cut it.
    fn split(format: Format, text: &str) -> (String, Vec<(String, serde_json::Value)>) {
        split_by(format, text, &Splitter::new)
    }

    fn split_eagerly(format: Format, text: &str) -> (String, Vec<(String, serde_json::Value)>) {
        split_by(format, text, &|open, tools| Splitter::new(open, tools).eager())
    }

    type Made<'m> = &'m dyn Fn(bool, Option<(Format, Arc<Tools>)>) -> Splitter;

    fn split_by(format: Format, text: &str, made: Made<'_>) -> (String, Vec<(String, serde_json::Value)>) {
        let mut results = Vec::new();
        let chars: Vec<char> = text.chars().collect();
        for size in (1..=chars.len().max(1)).filter(|s| *s < 8 || *s == chars.len()) {
            let mut splitter = made(false, Some((format, weather())));
            let pieces =
                chars.chunks(size).flat_map(|c| splitter.push(&c.iter().collect::<String>())).collect::<Vec<_>>();
            let (mut content, mut calls): (String, Vec<(String, String)>) = Default::default();
            for piece in pieces.into_iter().chain(splitter.finish()) {
                match piece {
                    Piece::Content(text) => content.push_str(&text),
                    Piece::Call(call) => calls.push((call.name, call.arguments)),
                    Piece::Begin(name) => calls.push((name, String::new())),
                    Piece::Arguments(text) => calls.last_mut().expect("a call has begun").1.push_str(&text),
                    Piece::Reasoning(text) => panic!("no reasoning in {text}"),
                }
            }
            let parsed = |text: &str| serde_json::from_str(text).expect("arguments are JSON");
            results.push((content, calls.into_iter().map(|(name, text)| (name, parsed(&text))).collect()));
        }
        let first = results.swap_remove(0);
        assert!(results.iter().all(|r| *r == first), "{text}: {first:?} {results:?}");
        first
    }

    #[test]
    fn calls_are_found_in_the_formats_of_all_families() {
        let rome = || ("weather".to_string(), json!({"city": "Rome", "days": 2}));
        let now = || ("time".to_string(), json!({}));
        let check = |format: Format, text: &str, content: &str, calls: &[(String, serde_json::Value)]| {
            assert_eq!(split(format, text), (content.to_string(), calls.to_vec()), "{text}");
            assert_eq!(split_eagerly(format, text), (content.to_string(), calls.to_vec()), "{text}");
        };
        let object = r#"{"name": "weather", "arguments": {"city": "Rome", "days": 2}}"#;
        let llama = r#"{"name": "weather", "parameters": {"city": "Rome", "days": 2}}"#;
        check(Format::Tagged, &format!("<tool_call>\n{object}\n</tool_call>"), "", &[rome()]);
        let two = format!("I look.\n<tool_call>{object}</tool_call>\n<tool_call>{{\"name\": \"time\"}}</tool_call>\n");
        check(Format::Tagged, &two, "I look.", &[rome(), now()]);
        check(Format::Tagged, &format!("<tool_call>{object}"), "", &[rome()]);
        let tags = "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>";
        check(Format::TaggedArguments, tags, "", &[rome()]);
        check(Format::TaggedArguments, "<tool_call>time\n</tool_call>", "", &[now()]);
        check(
            Format::MistralList,
            &format!("[TOOL_CALLS] [{object}, {{\"name\": \"time\", \"arguments\": {{}}}}]"),
            "",
            &[rome(), now()],
        );
        let named = r#"[TOOL_CALLS]weather[ARGS]{"city": "Rome", "days": 2}[TOOL_CALLS]time[CALL_ID]abc[ARGS]{}"#;
        check(Format::MistralNamed, named, "", &[rome(), now()]);
        check(Format::Llama, llama, "", &[rome()]);
        check(Format::Llama, &format!("<|python_tag|>{llama}; {llama}"), "", &[rome(), rome()]);
        check(Format::Llama, r#"<|python_tag|>weather.call(city="Rome", days=2)"#, "", &[rome()]);
        check(Format::NameLine, "weather\n{\"city\": \"Rome\", \"days\": 2}", "", &[rome()]);
        check(Format::NameLine, "\ntime\n{}\nweather\n{\"city\": \"Rome\", \"days\": 2}", "", &[now(), rome()]);
        check(Format::Gemma, llama, "", &[rome()]);
        check(Format::Gemma, &format!("```json\n{llama}\n```"), "", &[rome()]);
        check(Format::Gemma, "[weather(city='Rome', days=2), time()]", "", &[rome(), now()]);
        check(Format::Gemma, "```tool_code\nweather(city=\"Rome\", days=2)\n```", "", &[rome()]);
        let tagged = "<start_function_call>call:weather{city:<escape>Rome<escape>,days:2}<end_function_call>";
        check(Format::Gemma, tagged, "", &[rome()]);
    }

    #[test]
    fn what_is_no_call_is_content_to_the_last_byte() {
        let check =
            |format: Format, text: &str| assert_eq!(split(format, text), (text.to_string(), vec![]), "{text:?}");
        let broken = [
            "",
            " plain text\n",
            "a < b <tool",
            "<tool_call>",
            "<tool_call>{\"name\": \"weather\", \"arguments\": {",
            "<tool_call>no JSON</tool_call> after",
            "<tool_call>{\"name\": \"unknown\", \"arguments\": {}}</tool_call>",
            "<tool_call>{\"name\": \"weather\", \"arguments\": 5}</tool_call>",
            "<tool_call>weather<arg_key>city</arg_key></tool_call>",
            "[TOOL_CALLS]",
            "[TOOL_CALLS] [{\"name\": \"weather\"",
            "[TOOL_CALLS]weather[ARGS]{\"city\"",
            "[TOOL_CALLS]weather[x]",
            "{\"name\": \"weather\"",
            "{\"answer\": 5}",
            "{\"name\": \"unknown\", \"parameters\": {}}",
            "<|python_tag|>print(5)",
            "<|python_tag|>",
            "weather",
            "weather\nis fine",
            "weather\n{\"city\":",
            "[1, 2]",
            "[weather(city=Rome)]",
            "[weather(city='Rome'",
            "```python\nprint(5)\n```",
            "```json\n{}",
            "<start_function_call>call:weather{city}<end_function_call>",
        ];
        for format in [
            Format::Tagged,
            Format::TaggedArguments,
            Format::MistralList,
            Format::MistralNamed,
            Format::Llama,
            Format::NameLine,
            Format::Gemma,
        ] {
            broken.iter().for_each(|text| check(format, text));
        }
    }

    #[test]
    fn arguments_are_given_out_as_they_come() {
        let head = |key: &str| format!("{{\"name\": \"weather\", \"{key}\": ");
        let eager = |format, before: &str, after: &str| {
            let mut splitter = Splitter::new(false, Some((format, weather()))).eager();
            // The beginning is certain with the brace that opens the arguments.
            assert_eq!(splitter.push(before), [], "{before}");
            let begin = vec![Piece::Begin("weather".into()), Piece::Arguments("{\"city\": \"a".into())];
            assert_eq!(splitter.push("{\"city\": \"a"), begin);
            assert_eq!(splitter.push("}\\\"b\""), [Piece::Arguments("}\\\"b\"".into())]);
            assert_eq!(splitter.push(&("}".to_string() + after)), [Piece::Arguments("}".into())]);
            assert_eq!((splitter.finish(), splitter.calls()), (vec![], 1), "{before}");
        };
        eager(Format::Tagged, &format!("<tool_call>\n{}", head("arguments")), "}\n</tool_call>");
        eager(Format::Llama, &head("parameters"), "}");
        eager(Format::Gemma, &head("arguments"), "}");
        eager(Format::MistralNamed, "[TOOL_CALLS]weather[ARGS]", "");
        eager(Format::NameLine, "weather\n", "");
    }

    #[test]
    fn one_call_at_a_time_if_asked_for() {
        let mut tools = Arc::unwrap_or_clone(weather());
        tools.parallel = false;
        let mut splitter = Splitter::new(false, Some((Format::Tagged, Arc::new(tools))));
        let call = "<tool_call>{\"name\": \"time\"}</tool_call>";
        let mut pieces = splitter.push(&call.repeat(3));
        pieces.extend(splitter.finish());
        assert_eq!(pieces, [Piece::Call(Call { name: "time".into(), arguments: "{}".into() })]);
    }

    #[test]
    fn reasoning_comes_before_calls() {
        let mut splitter = Splitter::new(true, Some((Format::Tagged, weather())));
        let mut pieces = splitter.token("I need <tool_call> it</think>\n\n<tool_call>{\"name\": \"time\"}</tool_call>");
        pieces.extend(splitter.finish());
        let call = Piece::Call(Call { name: "time".into(), arguments: "{}".into() });
        assert_eq!(pieces, [Piece::Reasoning("I need <tool_call> it".into()), call]);
    }
}
