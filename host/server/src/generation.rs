use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rocmforge_engine::{CourseHandle, EngineError, Event, FinishReason, GenerateRequest, RequestStream};

use crate::error::ApiError;
use crate::recorder::{Recorder, RequestContext};
use crate::requests::Tracked;
use crate::state::{AppState, ServedModel};

/// An event, and which of the request's sequences it belongs to.
pub(crate) type Item = Result<(usize, Event), ApiError>;

/// The sequences of one request while they run. Dropping it cancels them.
pub(crate) struct Generation {
    streams: Vec<Option<RequestStream>>,
    /// What has happened to each of them.
    courses: Vec<CourseHandle>,
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
        let mut cancelled = state.cancelled.subscribe();
        let cancelled = Box::pin(async move {
            // The sender lives as long as the server.
            let _ = cancelled.wait_for(|c| *c).await;
        });
        let courses = streams.iter().flatten().map(RequestStream::course).collect();
        let ids = streams.iter().flatten().map(RequestStream::id).collect();
        let tracked = Tracked::new(&model.id, &context, model.engine.clone(), ids);
        let recorder = Recorder::start(state.clone(), tracked, context, sequences, prompt_tokens);
        Ok(Generation { streams, courses, turn: 0, cancelled, recorder })
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
                if self.streams.iter().all(Option::is_none) {
                    self.recorder.completed();
                }
            }
            Event::Prompt(_) | Event::Token(_) => {}
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
