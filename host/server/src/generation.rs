use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rocmforge_engine::{CourseHandle, EngineError, EngineHandle, Event, FinishReason, GenerateRequest, RequestStream};

use crate::error::ApiError;
use crate::recorder::{Recorder, RequestContext};
use crate::requests::Tracked;
use crate::state::{AppState, ServedModel};

/// Sequences of a request that are traced one by one; of longer lists the first ones.
const MAX_COURSES: usize = 128;

/// An event, and which of the request's sequences it belongs to.
pub(crate) type Item = Result<(usize, Event), ApiError>;

/// The sequences of one request while they run. Dropping it cancels them.
pub(crate) struct Generation {
    streams: Vec<Option<RequestStream>>,
    /// What has happened to each of them.
    courses: Vec<CourseHandle>,
    /// Not given to the engine yet, with their places among the streams.
    pending: VecDeque<(usize, GenerateRequest)>,
    engine: EngineHandle,
    /// Where to look first, so that all sequences get their turn.
    turn: usize,
    /// Completes when a shutdown does not wait any longer.
    cancelled: Pin<Box<dyn Future<Output = ()> + Send>>,
    recorder: Recorder,
}

impl Generation {
    /// Gives the requests to the engine: all or none of them. `prompt_tokens` counts a prompt once, however many answers
    /// it has.
    pub(crate) fn start(
        state: &Arc<AppState>,
        model: &ServedModel,
        context: RequestContext,
        requests: Vec<GenerateRequest>,
        prompt_tokens: usize,
    ) -> Result<Generation, ApiError> {
        let sequences = requests.len();
        let submit = |request| {
            let stream = model.engine.submit(request).map_err(|e| match e {
                EngineError::Overloaded { limit, .. } if sequences > limit => {
                    ApiError::invalid("n", format!("at most {limit} answers in one request"), sequences)
                }
                other => other.into(),
            });
            stream.map(Some)
        };
        let streams = requests.into_iter().map(submit).collect::<Result<Vec<_>, ApiError>>()?;
        Ok(Generation::of(state, model, context, streams, VecDeque::new(), prompt_tokens))
    }

    /// Gives the requests to the engine, `most` of them at a time, so that a long list leaves others their places.
    pub(crate) fn start_in_turn(
        state: &Arc<AppState>,
        model: &ServedModel,
        context: RequestContext,
        requests: Vec<GenerateRequest>,
        prompt_tokens: usize,
        most: usize,
    ) -> Result<Generation, ApiError> {
        let mut streams: Vec<Option<RequestStream>> = requests.iter().map(|_| None).collect();
        let mut pending: VecDeque<_> = requests.into_iter().enumerate().collect();
        for (at, request) in pending.drain(..most.max(1).min(pending.len())) {
            streams[at] = Some(model.engine.submit(request)?);
        }
        Ok(Generation::of(state, model, context, streams, pending, prompt_tokens))
    }

    fn of(
        state: &Arc<AppState>,
        model: &ServedModel,
        context: RequestContext,
        streams: Vec<Option<RequestStream>>,
        pending: VecDeque<(usize, GenerateRequest)>,
        prompt_tokens: usize,
    ) -> Generation {
        let mut cancelled = state.cancelled.subscribe();
        let cancelled = Box::pin(async move {
            // The sender lives as long as the server.
            let _ = cancelled.wait_for(|c| *c).await;
        });
        let courses = streams.iter().flatten().map(RequestStream::course).collect();
        let ids = streams.iter().flatten().map(RequestStream::id).collect();
        let tracked = Tracked::new(&model.id, &context, model.engine.clone(), ids);
        let recorder = Recorder::start(state.clone(), tracked, context, streams.len(), prompt_tokens);
        Generation { streams, courses, pending, engine: model.engine.clone(), turn: 0, cancelled, recorder }
    }

    /// Gives the engine the next of those that wait for their turn. Where it has no place for it, others of the same
    /// request end first and leave theirs.
    fn submit_next(&mut self) -> Result<(), ApiError> {
        let Some((at, request)) = self.pending.pop_front() else { return Ok(()) };
        match self.engine.submit(request.clone()) {
            Ok(stream) => {
                self.recorder.tracked().adds(stream.id());
                if self.courses.len() < MAX_COURSES {
                    self.courses.push(stream.course());
                }
                self.streams[at] = Some(stream);
                Ok(())
            }
            Err(EngineError::Overloaded { .. } | EngineError::WaitsTooLong { .. })
                if self.streams.iter().any(Option::is_some) =>
            {
                self.pending.push_front((at, request));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The next event of any sequence. An error ends all of them.
    pub(crate) async fn next(&mut self) -> Option<Item> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        if self.streams.iter().all(Option::is_none) {
            return Poll::Ready(None);
        }
        if self.cancelled.as_mut().poll(cx).is_ready() {
            // Without an outcome of its own it counts as cancelled.
            self.streams.clear();
            return Poll::Ready(Some(Err(ApiError::Draining)));
        }
        for i in 0..self.streams.len() {
            let at = (self.turn + i) % self.streams.len();
            let Some(stream) = &mut self.streams[at] else { continue };
            if let Poll::Ready(event) = stream.poll_next(cx) {
                self.turn = at + 1;
                return Poll::Ready(Some(self.take(at, event)));
            }
        }
        Poll::Pending
    }

    fn take(&mut self, at: usize, event: Option<Event>) -> Item {
        let event = event.unwrap_or(Event::Error(EngineError::Stopped));
        self.recorder.event(at, &event);
        match event {
            Event::Error(error) => {
                // What the client or the load is the reason of is no fault to look into.
                match error {
                    EngineError::OutOfTime { .. } | EngineError::WaitsTooLong { .. } => {
                        tracing::info!(id = self.recorder.id(), %error, "a request has ended early");
                    }
                    _ => tracing::error!(id = self.recorder.id(), %error, "a request has failed"),
                }
                self.recorder.failed();
                self.streams.clear();
                return Err(error.into());
            }
            Event::Finished(ref finish) if finish.reason == FinishReason::Cancelled => {
                self.streams.clear();
                let asked = self.recorder.tracked().is_cancelled();
                return Err(if asked { ApiError::Cancelled } else { ApiError::Draining });
            }
            Event::Finished(_) => {
                self.streams[at] = None;
                if let Err(error) = self.submit_next() {
                    self.recorder.failed();
                    self.streams.clear();
                    return Err(error);
                }
                if self.streams.iter().all(Option::is_none) {
                    self.recorder.completed();
                }
            }
            Event::Prompt(_) | Event::Embedding(_) | Event::Token(_) => {}
        }
        Ok((at, event))
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        let courses: Vec<_> = self.courses.iter().map(CourseHandle::read).collect();
        self.recorder.trace(&courses);
    }
}
