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

/// What the sequences of a request have said, split while it comes.
pub(super) struct Parts(Vec<(Splitter, Vec<Piece>)>);

impl Parts {
    pub(super) fn new(sequences: usize, splitting: &Splitting) -> Parts {
        Parts((0..sequences).map(|_| (splitting.splitter(), vec![])).collect())
    }

    pub(super) fn take(&mut self, sequence: usize, event: &Event) {
        let (splitter, pieces) = &mut self.0[sequence];
        match event {
            Event::Token(token) => pieces.extend(splitter.token(&token.text)),
            Event::Finished(finish) => {
                pieces.extend(splitter.push(&finish.text));
                pieces.extend(splitter.finish());
            }
            Event::Prompt(_) | Event::Embedding(_) | Event::Error(_) => {}
        }
    }

    pub(super) fn reasoning_tokens(&self) -> usize {
        self.0.iter().map(|(splitter, _)| splitter.reasoning_tokens()).sum()
    }

    /// The pieces of each sequence.
    pub(super) fn finish(self) -> Vec<Vec<Piece>> {
        self.0.into_iter().map(|(_, pieces)| pieces).collect()
    }
}

/// A whole answer.
pub(super) fn choice(
    index: usize,
    answer: Answer,
    pieces: Vec<Piece>,
    common: &Common,
    model: &ServedModel,
    splitting: &Splitting,
) -> ChatChoice {
    let logprobs = common.sampling.logprobs.map(|_| logprobs(&answer.tokens, model));
    let (mut content, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
    for piece in pieces {
        match piece {
            Piece::Content(text) => content.push_str(&text),
            Piece::Reasoning(text) => reasoning.push_str(&text),
            Piece::Call(call) => calls.push(call),
            // Of streams only.
            Piece::Begin(_) | Piece::Arguments(_) => {}
        }
    }
    let finish_reason = with_calls(answer.finish_reason, calls.len(), splitting);
    let reasoning = Some(reasoning).filter(|r| splitting.include_reasoning && !r.is_empty());
    let content = (!content.is_empty() || calls.is_empty()).then_some(content);
    let (function_call, calls) = match splitting.legacy() {
        true => (calls.into_iter().next().map(Into::into), vec![]),
        false => (None, calls),
    };
    let message = Message {
        role: "assistant",
        content,
        refusal: None,
        reasoning_content: reasoning.clone(),
        reasoning,
        tool_calls: calls.into_iter().map(|call| ToolCall::new(splitting.call_id(), call)).collect(),
        function_call,
    };
    ChatChoice { index, message, logprobs, finish_reason }
}

fn with_calls(reason: &'static str, calls: usize, splitting: &Splitting) -> &'static str {
    match reason {
        "stop" if calls > 0 && splitting.legacy() => "function_call",
        "stop" if calls > 0 => "tool_calls",
        reason => reason,
    }
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
        let splitters: Vec<Splitter> = (0..usage.sequences()).map(|_| splitting.splitter().eager()).collect();
        let calls = vec![0; splitters.len()];
        ChatChunks { id, created, model, options, usage, splitting, splitters, calls }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>) -> Bytes {
        let finish = choices.iter().any(|c| c.finish_reason.is_some());
        let timings = self.usage.timings_of_chunk(self.options, choices.is_empty(), finish);
        let usage = self.usage.of_chunk(self.options, choices.is_empty());
        let (id, created, model) = (&self.id, self.created, &self.model.id);
        frame(&Envelope { id, object: CHUNK, created, model, choices, usage, timings, prompt_logprobs: None })
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
            // The name first and then the arguments, which clients put together.
            Piece::Call(call) => {
                vec![self.call(index, Some(call.name), String::new()), self.call(index, None, call.arguments)]
            }
            Piece::Begin(name) => vec![self.call(index, Some(name), String::new())],
            Piece::Arguments(text) => vec![self.call(index, None, text)],
        }
    }

    /// The beginning of another call, or more arguments of the latest one.
    fn call(&mut self, index: usize, name: Option<String>, arguments: String) -> Delta {
        let begins = name.is_some();
        let function = DeltaFunction { name, arguments };
        if self.splitting.legacy() {
            return Delta { function_call: Some(function), ..Delta::default() };
        }
        self.calls[index] += usize::from(begins);
        let call = DeltaCall {
            index: self.calls[index].saturating_sub(1),
            id: begins.then(|| self.splitting.call_id()),
            kind: begins.then_some("function"),
            function,
        };
        Delta { tool_calls: Some(vec![call]), ..Delta::default() }
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
                let pieces = self.splitters[index].token(&token.text);
                self.usage.set_reasoning(self.splitters.iter().map(Splitter::reasoning_tokens).sum());
                let logprobs = token.logprobs.is_some().then(|| logprobs(std::slice::from_ref(&token), &self.model));
                self.pieces(index, pieces, logprobs)
            }
            Event::Finished(Finish { reason, text, .. }) => {
                let mut pieces = self.splitters[index].push(&text);
                pieces.extend(self.splitters[index].finish());
                let mut chunks = self.pieces(index, pieces, None);
                let finish_reason =
                    Some(with_calls(finish_reason(&reason), self.splitters[index].calls(), &self.splitting));
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
