//! Chat in the shapes of other APIs. Each translates its request to the members of a chat completion, and the parts of the
//! answer to its own events; what lies between is the same for all.

pub(super) mod anthropic;
pub(super) mod ollama;
pub(super) mod responses;

use std::sync::Arc;

use axum::body::Bytes;
use axum::response::Response;
use rocmforge_engine::{Event, FinishReason};
use serde_json::{Map, Value};

use super::chat::{ChatJob, ChatRequest, Splitting, prepare};
use super::completions::{self, CompletionRequest, Job};
use crate::answer::UsageCount;
use crate::error::ApiError;
use crate::generation::Generation;
use crate::output::{Piece, Splitter};
use crate::params::Fields;
use crate::recorder::RequestContext;
use crate::sse::{Chunks, Wire, respond};
use crate::state::{AppState, ServedModel};
use crate::wire::{Timings, Usage, finish_reason};

/// Names of parameters in a chat completion, and in another API.
pub(super) type Names = &'static [(&'static str, &'static str)];

/// Members of a chat completion.
pub(super) type Members = Map<String, Value>;

/// Puts a member in, unless it is absent.
pub(super) fn put(members: &mut Members, key: &str, value: Option<Value>) {
    members.extend(value.filter(|v| !v.is_null()).map(|v| (key.to_string(), v)));
}

/// A part of an answer, with an id where it is a call.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    Reasoning(String),
    Content(String),
    Call { id: String, name: String, arguments: String },
}

/// What comes next of an answer.
#[derive(Debug)]
enum Next {
    Part(Part),
    /// More of the arguments of the call that came last.
    Arguments(String),
}

/// How an answer ended.
#[derive(Clone, Debug)]
pub(super) struct End {
    /// `stop`, `length` or `tool_calls`.
    pub(super) reason: &'static str,
    /// The stop string that ended it.
    pub(super) stop: Option<String>,
    pub(super) usage: Usage,
    pub(super) timings: Timings,
}

/// An answer that runs.
pub(super) struct Talk {
    generation: Generation,
    reader: Reader,
}

/// Makes parts of the engine's events.
pub(super) struct Reader {
    pub(super) model: Arc<ServedModel>,
    splitting: Splitting,
    splitter: Splitter,
    stops: Vec<String>,
    usage: UsageCount,
}

/// Reads a request, and gives it to the engine. `translate` makes the members of a chat completion of it, and whatever the
/// answer will need. `names`: of parameters there, and what they were in the request.
pub(super) async fn start<T: Send + 'static>(
    state: &Arc<AppState>,
    context: RequestContext,
    names: Names,
    translate: impl Fn() -> Result<(Members, T), ApiError> + Send + Sync + 'static,
) -> Result<(Talk, T), ApiError> {
    let job = move |state: &AppState| {
        let (members, more) = translate()?;
        let request = ChatRequest::take(Fields::of_members(members)).map_err(|e| e.renamed(names))?;
        Ok((prepare(state, request).map_err(|e| e.renamed(names))?, more))
    };
    let (job, more) = state.prepare(job).await?;
    Ok((talk(state, context, job)?, more))
}

/// The same for a text to continue, without a template: `members` are those of a completion.
pub(super) async fn start_plainly(
    state: &Arc<AppState>,
    context: RequestContext,
    names: Names,
    members: Members,
) -> Result<Talk, ApiError> {
    let job = move |state: &AppState| {
        let read = CompletionRequest::take(Fields::of_members(members.clone()));
        let made = read.and_then(|request| completions::prepare(state, request));
        let Job { model, common, requests, .. } = made.map_err(|e| e.renamed(names))?;
        Ok(ChatJob { model, common, requests, splitting: Splitting::none() })
    };
    let job = state.prepare(job).await?;
    talk(state, context, job)
}

fn talk(state: &Arc<AppState>, context: RequestContext, job: ChatJob) -> Result<Talk, ApiError> {
    let ChatJob { model, common, requests, splitting } = job;
    let usage = UsageCount::new(&requests, 1);
    let generation = Generation::start(state, &model, context, requests, usage.prompt_tokens())?;
    let splitter = splitting.splitter();
    let reader = Reader { model, splitting, splitter, stops: common.stop.strings, usage };
    Ok(Talk { generation, reader })
}

impl Reader {
    pub(super) fn prompt_tokens(&self) -> usize {
        self.usage.prompt_tokens()
    }

    fn next(&self, piece: Piece) -> Next {
        Next::Part(match piece {
            Piece::Reasoning(text) => Part::Reasoning(text),
            Piece::Content(text) => Part::Content(text),
            Piece::Call(call) => {
                Part::Call { id: self.splitting.call_id(), name: call.name, arguments: call.arguments }
            }
            Piece::Begin(name) => Part::Call { id: self.splitting.call_id(), name, arguments: String::new() },
            Piece::Arguments(text) => return Next::Arguments(text),
        })
    }

    /// Has arguments of calls come while they are being written.
    fn eager(self) -> Reader {
        Reader { splitter: self.splitter.eager(), ..self }
    }

    /// The parts that an event adds, and how the answer ends if it does.
    fn take(&mut self, event: Event) -> (Vec<Next>, Option<End>) {
        self.usage.event(0, &event);
        let (mut pieces, reason) = match event {
            Event::Token(token) => {
                let pieces = self.splitter.token(&token.text);
                self.usage.set_reasoning(self.splitter.reasoning_tokens());
                (pieces, None)
            }
            Event::Finished(finish) => {
                let mut pieces = self.splitter.push(&finish.text);
                pieces.extend(self.splitter.finish());
                (pieces, Some(finish.reason))
            }
            _ => (vec![], None),
        };
        let parts = pieces.drain(..).map(|piece| self.next(piece)).collect();
        (parts, reason.map(|reason| self.end(&reason)))
    }

    fn end(&self, reason: &FinishReason) -> End {
        let stop = match reason {
            FinishReason::StopString(i) => self.stops.get(*i).cloned(),
            _ => None,
        };
        let reason = match finish_reason(reason) {
            "stop" if self.splitter.calls() > 0 => "tool_calls",
            reason => reason,
        };
        End { reason, stop, usage: self.usage.total(), timings: self.usage.timings() }
    }
}

/// Turns the parts of an answer into what a stream of some API has.
pub(super) trait Shape: Send + Unpin + 'static {
    const WIRE: Wire;
    /// Calls come with what there is of their arguments, mostly nothing, and more of them follows.
    const EAGER: bool;

    /// Before anything else.
    fn begin(&mut self, reader: &Reader) -> Vec<Bytes>;
    fn part(&mut self, part: Part) -> Vec<Bytes>;
    /// More arguments of the call that was the last part; in streams that are [`EAGER`](Self::EAGER) only.
    fn arguments(&mut self, text: &str) -> Vec<Bytes>;
    /// After the last part.
    fn end(&mut self, end: End) -> Vec<Bytes>;
    /// Instead of what would still come.
    fn error(&mut self, error: &ApiError) -> Vec<Bytes>;
}

struct Stream<S> {
    reader: Reader,
    shape: S,
}

impl<S: Shape> Chunks for Stream<S> {
    fn wire(&self) -> Wire {
        S::WIRE
    }

    fn start(&mut self) -> Vec<Bytes> {
        self.shape.begin(&self.reader)
    }

    fn event(&mut self, _: usize, event: Event) -> Vec<Bytes> {
        let (parts, end) = self.reader.take(event);
        let parts = parts.into_iter().flat_map(|next| match next {
            Next::Part(part) => self.shape.part(part),
            Next::Arguments(text) => self.shape.arguments(&text),
        });
        let mut frames: Vec<Bytes> = parts.collect();
        frames.extend(end.into_iter().flat_map(|end| self.shape.end(end)));
        frames
    }

    fn end(&mut self) -> Vec<Bytes> {
        vec![]
    }

    fn error(&mut self, error: &ApiError) -> Vec<Bytes> {
        self.shape.error(error)
    }
}

impl Talk {
    pub(super) fn model(&self) -> &Arc<ServedModel> {
        &self.reader.model
    }

    /// A response with the parts as they come.
    pub(super) fn stream<S: Shape>(self, shape: S) -> Response {
        let Talk { generation, reader } = self;
        let reader = if S::EAGER { reader.eager() } else { reader };
        respond(generation, Stream { reader, shape })
    }

    /// Waits for the whole answer. Parts of the same kind that follow each other are put together.
    pub(super) async fn whole(self) -> Result<(Vec<Part>, End), ApiError> {
        let Talk { mut generation, mut reader } = self;
        let mut whole: Vec<Part> = Vec::new();
        let mut ended = None;
        while let Some(item) = generation.next().await {
            let (parts, end) = reader.take(item?.1);
            ended = end.or(ended);
            for part in parts {
                match (whole.last_mut(), part) {
                    (Some(Part::Content(text)), Next::Part(Part::Content(more)))
                    | (Some(Part::Reasoning(text)), Next::Part(Part::Reasoning(more)))
                    | (Some(Part::Call { arguments: text, .. }), Next::Arguments(more)) => text.push_str(&more),
                    (_, Next::Part(part)) => whole.push(part),
                    // There is none without a call.
                    (_, Next::Arguments(_)) => {}
                }
            }
        }
        let end = ended.ok_or_else(|| ApiError::Internal("the answer has no end".into()))?;
        Ok((whole, end))
    }
}

/// The tokens of a conversation, as far as the prompt goes.
pub(super) fn count_tokens(state: &AppState, names: Names, members: Members) -> Result<usize, ApiError> {
    let request = ChatRequest::take(Fields::of_members(members)).map_err(|e| e.renamed(names))?;
    let model = state.model(request.common.model.as_deref())?;
    Ok(request.render(&model)?.encode_prompt(&model.tokenizer).len())
}
