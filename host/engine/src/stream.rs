use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::mpsc;

use crate::course::CourseHandle;
use crate::error::EngineError;
use crate::request::Event;
use crate::sequence::RequestId;
use crate::worker::Command;

/// Room that is kept in a stream: for the events of one step (prompt, token) and for the last one.
const RESERVE: usize = 3;

/// Capacity of the channel for a buffer of so many events.
fn capacity(buffer: usize) -> usize {
    buffer.max(1) + RESERVE - 1
}

/// The engine's end of a stream. It never blocks: before the channel is full the request is paused, and the client's
/// end asks for more once it has read half.
#[derive(Debug)]
pub(crate) struct EventSender {
    events: mpsc::Sender<Event>,
    paused: Arc<AtomicBool>,
}

impl EventSender {
    /// Sends; an error means that nobody listens any more.
    pub(crate) fn send(&self, event: Event) -> Result<(), ()> {
        self.events.try_send(event).map_err(|_| ())
    }

    /// Whether the request has to pause, which the client's end is told.
    pub(crate) fn must_pause(&self) -> bool {
        let full = || self.events.capacity() < RESERVE && !self.events.is_closed();
        if !full() {
            return false;
        }
        self.paused.store(true, Ordering::SeqCst);
        // The client may have read everything before it could see the flag, and would then never ask.
        let still = full();
        self.paused.store(still, Ordering::SeqCst);
        still
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.events.is_closed()
    }
}

/// The answer to a request, as it comes. Dropping it cancels the request.
#[derive(Debug)]
pub struct RequestStream {
    id: RequestId,
    events: mpsc::Receiver<Event>,
    paused: Arc<AtomicBool>,
    commands: Sender<Command>,
    course: CourseHandle,
    ended: bool,
}

/// Both ends of the stream of a request, for up to `buffer` events that wait to be read.
pub(crate) fn channel(id: RequestId, buffer: usize, commands: Sender<Command>) -> (EventSender, RequestStream) {
    let (sender, events) = mpsc::channel(capacity(buffer));
    let paused = Arc::new(AtomicBool::new(false));
    let course = CourseHandle::new(Instant::now());
    let stream = RequestStream { id, events, paused: paused.clone(), commands, course, ended: false };
    (EventSender { events: sender, paused }, stream)
}

impl RequestStream {
    /// The request's number, for [`EngineHandle::cancel`](crate::EngineHandle::cancel).
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// What happens to the request; also after its end.
    pub fn course(&self) -> CourseHandle {
        self.course.clone()
    }

    /// The next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`next`](Self::next) in the form that a `Stream` implementation needs.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.events.poll_recv(cx).map(|event| Some(self.received(event)))
    }

    /// [`next`](Self::next) for threads; not to be called in an asynchronous task.
    pub fn blocking_next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self.events.blocking_recv();
        Some(self.received(event))
    }

    fn received(&mut self, event: Option<Event>) -> Event {
        // A channel that closes without a last event means that the engine thread is gone.
        let event = event.unwrap_or(Event::Error(EngineError::Stopped));
        self.ended = matches!(event, Event::Finished(_) | Event::Error(_));
        if self.events.len() * 2 <= self.events.max_capacity() && self.paused.swap(false, Ordering::SeqCst) {
            self.tell(Command::Resume(self.id));
        }
        event
    }

    fn tell(&self, command: Command) {
        // An engine that is gone has nothing to cancel or resume.
        let _ = self.commands.send(command);
    }
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        if !self.ended {
            // Closed first, so that the engine does not send into it any more.
            self.events.close();
            self.tell(Command::Cancel(self.id));
        }
    }
}
