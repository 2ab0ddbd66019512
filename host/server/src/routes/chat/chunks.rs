//! Shapes of chat answers, whole and in pieces.

use std::sync::Arc;

use axum::body::Bytes;
use rocmforge_engine::{Event, Finish, TokenEvent};

use super::{CHUNK, Splitting};
use crate::answer::{Answer, UsageCount};
use crate::output::{Piece, Splitter};
use crate::params::Common;
use crate::params::common::StreamOptions;
use crate::sse::{Chunks, frame};
use crate::state::ServedModel;
use crate::wire::{
    ChatChoice, ChatLogprobs, ChunkChoice, Delta, DeltaCall, DeltaFunction, Envelope, Message, TokenLogprob, ToolCall,
    finish_reason,
};

/// A whole answer.
pub(super) fn choice(
    index: usize,
    answer: Answer,
    common: &Common,
    model: &ServedModel,
    splitting: &Splitting,
) -> ChatChoice {
    let logprobs = common.sampling.logprobs.map(|_| logprobs(&answer.tokens, model));
    let mut splitter = splitting.splitter();
    let mut pieces = splitter.push(&answer.text);
    pieces.extend(splitter.finish());
    let (mut content, mut reasoning, mut tool_calls) = (String::new(), String::new(), Vec::new());
    for piece in pieces {
        match piece {
            Piece::Content(text) => content.push_str(&text),
            Piece::Reasoning(text) => reasoning.push_str(&text),
            Piece::Call(call) => tool_calls.push(ToolCall::new(splitting.call_id(), call)),
        }
    }
    let finish_reason = with_calls(answer.finish_reason, &splitter);
    let reasoning = Some(reasoning).filter(|r| splitting.include_reasoning && !r.is_empty());
    let content = (!content.is_empty() || tool_calls.is_empty()).then_some(content);
    let message = Message {
        role: "assistant",
        content,
        refusal: None,
        reasoning_content: reasoning.clone(),
        reasoning,
        tool_calls,
    };
    ChatChoice { index, message, logprobs, finish_reason }
}

fn with_calls(reason: &'static str, splitter: &Splitter) -> &'static str {
    if reason == "stop" && splitter.calls() > 0 { "tool_calls" } else { reason }
}

fn logprobs(tokens: &[TokenEvent], model: &ServedModel) -> ChatLogprobs {
    let entry = |t: &TokenEvent| t.logprobs.as_ref().map(|l| TokenLogprob::new(&model.tokenizer, t.token, l));
    ChatLogprobs { content: tokens.iter().filter_map(entry).collect() }
}

/// The chunks of a streamed answer.
pub(super) struct ChatChunks {
    id: String,
    created: u64,
    model: Arc<ServedModel>,
    options: StreamOptions,
    usage: UsageCount,
    splitting: Splitting,
    /// Per sequence.
    splitters: Vec<Splitter>,
    /// Calls so far, per sequence.
    calls: Vec<usize>,
}

impl ChatChunks {
    pub(super) fn new(
        id: String,
        created: u64,
        model: Arc<ServedModel>,
        options: StreamOptions,
        usage: UsageCount,
        splitting: Splitting,
    ) -> ChatChunks {
        let splitters: Vec<Splitter> = (0..usage.sequences()).map(|_| splitting.splitter()).collect();
        let calls = vec![0; splitters.len()];
        ChatChunks { id, created, model, options, usage, splitting, splitters, calls }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>) -> Bytes {
        let finish = choices.iter().any(|c| c.finish_reason.is_some());
        let timings = self.usage.timings_of_chunk(self.options, choices.is_empty(), finish);
        let usage = self.usage.of_chunk(self.options, choices.is_empty());
        let (id, created, model) = (&self.id, self.created, &self.model.id);
        frame(&Envelope { id, object: CHUNK, created, model, choices, usage, timings })
    }

    fn delta(&self, index: usize, delta: Delta, logprobs: Option<ChatLogprobs>) -> Bytes {
        self.chunk(vec![ChunkChoice { index, delta, logprobs, finish_reason: None }])
    }

    /// One chunk for each delta, the first with the log-probabilities.
    fn pieces(&mut self, index: usize, pieces: Vec<Piece>, mut logprobs: Option<ChatLogprobs>) -> Vec<Bytes> {
        let mut deltas: Vec<Delta> = pieces.into_iter().flat_map(|piece| self.deltas(index, piece)).collect();
        if deltas.is_empty() && logprobs.is_some() {
            deltas.push(Delta { content: Some(String::new()), ..Delta::default() });
        }
        deltas.into_iter().map(|delta| self.delta(index, delta, logprobs.take())).collect()
    }

    fn deltas(&mut self, index: usize, piece: Piece) -> Vec<Delta> {
        match piece {
            Piece::Content(text) => vec![Delta { content: Some(text), ..Delta::default() }],
            Piece::Reasoning(_) if !self.splitting.include_reasoning => vec![],
            Piece::Reasoning(text) => {
                let reasoning = Some(text);
                vec![Delta { reasoning_content: reasoning.clone(), reasoning, ..Delta::default() }]
            }
            Piece::Call(call) => {
                let at = self.calls[index];
                self.calls[index] += 1;
                // The name first and then the arguments, which clients put together.
                let begin = DeltaCall {
                    index: at,
                    id: Some(self.splitting.call_id()),
                    kind: Some("function"),
                    function: DeltaFunction { name: Some(call.name), arguments: String::new() },
                };
                let function = DeltaFunction { name: None, arguments: call.arguments };
                let rest = DeltaCall { index: at, id: None, kind: None, function };
                [begin, rest].into_iter().map(|c| Delta { tool_calls: Some(vec![c]), ..Delta::default() }).collect()
            }
        }
    }
}

impl Chunks for ChatChunks {
    fn start(&mut self) -> Vec<Bytes> {
        let first = |index| {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
            self.delta(index, delta, None)
        };
        (0..self.usage.sequences()).map(first).collect()
    }

    fn event(&mut self, index: usize, event: Event) -> Vec<Bytes> {
        self.usage.event(index, &event);
        match event {
            Event::Token(token) => {
                let pieces = self.splitters[index].push(&token.text);
                let logprobs = token.logprobs.is_some().then(|| logprobs(std::slice::from_ref(&token), &self.model));
                self.pieces(index, pieces, logprobs)
            }
            Event::Finished(Finish { reason, text, .. }) => {
                let mut pieces = self.splitters[index].push(&text);
                pieces.extend(self.splitters[index].finish());
                let mut chunks = self.pieces(index, pieces, None);
                let finish_reason = Some(with_calls(finish_reason(&reason), &self.splitters[index]));
                let last = ChunkChoice { index, delta: Delta::default(), logprobs: None, finish_reason };
                chunks.push(self.chunk(vec![last]));
                chunks
            }
            Event::Prompt(_) | Event::Embedding(_) | Event::Error(_) => vec![],
        }
    }

    fn end(&mut self) -> Vec<Bytes> {
        match self.options.include_usage {
            true => vec![self.chunk(vec![])],
            false => vec![],
        }
    }
}
