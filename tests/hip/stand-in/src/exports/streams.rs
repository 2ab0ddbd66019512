//! Streams and events.

use std::collections::VecDeque;
use std::ffi::{c_uint, c_void};
use std::sync::Arc;

use rocmforge_hip_sys::*;

use super::{find, give, simple, stream_device};
use crate::queue::{Point, Work};
use crate::runtime::{Event, Runtime, State, Stream};

/// Queues work, or records it where the stream is captured.
pub fn enqueue(runtime: &Runtime, name: &str, stream: hipStream_t, work: Work) -> Result<(), hipError_t> {
    let id = stream.0 as usize;
    {
        let mut state = runtime.state();
        stream_device(&mut state, name, stream)?;
        let state = &mut *state;
        let Some(stream) = state.streams.get_mut(&id) else { return Err(hipErrorInvalidHandle) };
        if let Some(capture) = stream.capture.and_then(|c| state.captures.get_mut(&c)) {
            if let Some((count, joined)) = capture.forks.get_mut(&id) {
                (*count, *joined) = (*count + 1, false);
            }
            capture.work.push(work);
            return if capture.invalid { Err(hipErrorStreamCaptureInvalidated) } else { Ok(()) };
        }
        stream.queue.push_back(work);
    }
    if !runtime.settings.late {
        runtime.executor().run(runtime, id, None);
        return runtime.state().alive(runtime.device());
    }
    Ok(())
}

/// Refuses to wait for a stream that is captured.
fn not_captured(state: &mut State, name: &str, stream: hipStream_t) -> Result<(), hipError_t> {
    let capture = state.streams.get(&(stream.0 as usize)).and_then(|s| s.capture);
    let Some(capture) = capture else { return Ok(()) };
    if let Some(capture) = state.captures.get_mut(&capture) {
        capture.invalid = true;
    }
    state.refuse(hipErrorStreamCaptureUnsupported, format!("{name}: the stream is captured"))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipStreamCreateWithFlags(stream: *mut hipStream_t, flags: c_uint) -> hipError_t {
    simple("hipStreamCreateWithFlags", |runtime| {
        let (mut state, device) = (runtime.state(), runtime.device());
        state.alive(device)?;
        if !runtime.has(device) {
            return Err(hipErrorNoDevice);
        }
        if flags != hipStreamNonBlocking {
            let text = "hipStreamCreateWithFlags: such a stream waits for the default stream";
            return state.refuse(hipErrorInvalidValue, text.to_owned());
        }
        let handle = state.handle();
        state.streams.insert(handle, Stream { device, queue: VecDeque::new(), capture: None });
        // SAFETY: the caller's pointer, here and in every function of this file.
        unsafe { give(stream, hipStream_t(handle as *mut c_void)) }
    })
}

/// A stream that is valid, even if its device is lost.
fn known(state: &mut State, name: &str, stream: hipStream_t) -> Result<i32, hipError_t> {
    let device = find(state.streams.get(&(stream.0 as usize)), name, stream.0).map(|s| s.device);
    device.or_else(|(status, text)| state.refuse(status, text))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipStreamDestroy(stream: hipStream_t) -> hipError_t {
    simple("hipStreamDestroy", |runtime| {
        let device = {
            let mut state = runtime.state();
            let device = known(&mut state, "hipStreamDestroy", stream)?;
            not_captured(&mut state, "hipStreamDestroy", stream)?;
            device
        };
        runtime.executor().run(runtime, stream.0 as usize, None);
        let mut state = runtime.state();
        state.streams.remove(&(stream.0 as usize));
        state.alive(device)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipStreamSynchronize(stream: hipStream_t) -> hipError_t {
    simple("hipStreamSynchronize", |runtime| {
        let device = waitable(runtime, "hipStreamSynchronize", stream)?;
        runtime.executor().run(runtime, stream.0 as usize, None);
        runtime.state().alive(device)
    })
}

/// The device of a stream that can be waited for.
fn waitable(runtime: &Runtime, name: &str, stream: hipStream_t) -> Result<i32, hipError_t> {
    let mut state = runtime.state();
    let device = stream_device(&mut state, name, stream)?;
    not_captured(&mut state, name, stream).map(|()| device)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipStreamQuery(stream: hipStream_t) -> hipError_t {
    simple("hipStreamQuery", |runtime| {
        let device = waitable(runtime, "hipStreamQuery", stream)?;
        let id = stream.0 as usize;
        // Asking is progress, or who asks in a loop would wait for ever.
        runtime.executor().step(runtime, id);
        let state = runtime.state();
        state.alive(device)?;
        let done = state.streams.get(&id).is_none_or(|s| s.queue.is_empty());
        if done { Ok(()) } else { Err(hipErrorNotReady) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipStreamWaitEvent(stream: hipStream_t, event: hipEvent_t, flags: c_uint) -> hipError_t {
    simple("hipStreamWaitEvent", |runtime| {
        if flags != 0 {
            return Err(hipErrorInvalidValue);
        }
        let id = stream.0 as usize;
        let point = {
            let mut state = runtime.state();
            stream_device(&mut state, "hipStreamWaitEvent", stream)?;
            let (point, captured) =
                event_of(&mut state, "hipStreamWaitEvent", event, |e| (e.point.clone(), e.captured))?;
            let own = state.streams.get(&id).and_then(|s| s.capture);
            if let Some(recorded) = captured {
                return join(&mut state, stream, recorded);
            }
            if own.is_some() && point.is_some() {
                let text = "hipStreamWaitEvent: a captured stream waits for work outside of the capture";
                return state.refuse(hipErrorStreamCaptureIsolation, text.to_owned());
            }
            point
        };
        point.map_or(Ok(()), |point| enqueue(runtime, "hipStreamWaitEvent", stream, Work::Wait(point)))
    })
}

/// A stream waits for an event that was recorded in a capture: it becomes part of the capture, or has waited for a fork.
fn join(state: &mut State, stream: hipStream_t, (capture, from, count): (usize, usize, u64)) -> Result<(), hipError_t> {
    let id = stream.0 as usize;
    let Some(recording) = state.captures.get_mut(&capture) else {
        return state
            .refuse(hipErrorCapturedEvent, "hipStreamWaitEvent: the event was recorded in a capture".to_owned());
    };
    if let Some((now, joined)) = recording.forks.get_mut(&from) {
        *joined |= *now == count && id == recording.origin;
    }
    let Some(waiting) = state.streams.get_mut(&id) else { return Err(hipErrorInvalidHandle) };
    match waiting.capture {
        None => {
            waiting.capture = Some(capture);
            recording.forks.insert(id, (0, false));
            Ok(())
        }
        Some(own) if own == capture => Ok(()),
        Some(_) => {
            state.refuse(hipErrorStreamCaptureMerge, "hipStreamWaitEvent: an event of another capture".to_owned())
        }
    }
}

/// Something of an event that is valid.
fn event_of<T>(state: &mut State, name: &str, event: hipEvent_t, get: impl Fn(&Event) -> T) -> Result<T, hipError_t> {
    let found = find(state.events.get(&(event.0 as usize)), name, event.0).map(get);
    found.or_else(|(status, text)| state.refuse(status, text))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipEventCreateWithFlags(event: *mut hipEvent_t, flags: c_uint) -> hipError_t {
    simple("hipEventCreateWithFlags", |runtime| {
        let mut state = runtime.state();
        state.alive(runtime.device())?;
        if flags & !(hipEventBlockingSync | hipEventDisableTiming) != 0 {
            return Err(hipErrorInvalidValue);
        }
        let handle = state.handle();
        let timed = flags & hipEventDisableTiming == 0;
        state.events.insert(handle, Event { timed, point: None, captured: None });
        // SAFETY: as above.
        unsafe { give(event, hipEvent_t(handle as *mut c_void)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipEventDestroy(event: hipEvent_t) -> hipError_t {
    simple("hipEventDestroy", |runtime| {
        let mut state = runtime.state();
        event_of(&mut state, "hipEventDestroy", event, |_| ())?;
        state.events.remove(&(event.0 as usize));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipEventRecord(event: hipEvent_t, stream: hipStream_t) -> hipError_t {
    simple("hipEventRecord", |runtime| {
        let id = stream.0 as usize;
        let point = {
            let mut state = runtime.state();
            stream_device(&mut state, "hipEventRecord", stream)?;
            event_of(&mut state, "hipEventRecord", event, |_| ())?;
            let capture = state.streams.get(&id).and_then(|s| s.capture);
            let recorded =
                capture.and_then(|c| state.captures.get(&c)).and_then(|c| c.forks.get(&id)).map_or(0, |f| f.0);
            let Some(event) = state.events.get_mut(&(event.0 as usize)) else { return Err(hipErrorInvalidHandle) };
            match capture {
                Some(capture) => {
                    (event.point, event.captured) = (None, Some((capture, id, recorded)));
                    return Ok(());
                }
                None => {
                    let point = Point::new(id);
                    (event.point, event.captured) = (Some(Arc::clone(&point)), None);
                    point
                }
            }
        };
        enqueue(runtime, "hipEventRecord", stream, Work::Record(point))
    })
}

/// The point of an event that can be waited for, if it was recorded.
fn awaited(runtime: &Runtime, name: &str, event: hipEvent_t) -> Result<Option<Arc<Point>>, hipError_t> {
    let mut state = runtime.state();
    state.alive(runtime.device())?;
    let (point, captured) = event_of(&mut state, name, event, |e| (e.point.clone(), e.captured))?;
    match captured {
        Some(_) => state.refuse(hipErrorCapturedEvent, format!("{name}: the event was recorded in a capture")),
        None => Ok(point),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipEventSynchronize(event: hipEvent_t) -> hipError_t {
    simple("hipEventSynchronize", |runtime| {
        if let Some(point) = awaited(runtime, "hipEventSynchronize", event)? {
            runtime.executor().run(runtime, point.stream, Some(&point));
        }
        runtime.state().alive(runtime.device())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipEventQuery(event: hipEvent_t) -> hipError_t {
    simple("hipEventQuery", |runtime| {
        let Some(point) = awaited(runtime, "hipEventQuery", event)? else { return Ok(()) };
        if !point.is_done() {
            runtime.executor().step(runtime, point.stream);
        }
        runtime.state().alive(runtime.device())?;
        if point.is_done() { Ok(()) } else { Err(hipErrorNotReady) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipEventElapsedTime(milliseconds: *mut f32, start: hipEvent_t, end: hipEvent_t) -> hipError_t {
    simple("hipEventElapsedTime", |runtime| {
        let mut state = runtime.state();
        let mut points = vec![];
        for event in [start, end] {
            let (timed, point) = event_of(&mut state, "hipEventElapsedTime", event, |e| (e.timed, e.point.clone()))?;
            let Some(point) = point.filter(|_| timed) else {
                let text = "hipEventElapsedTime: an event that was never recorded, or that measures no time";
                return state.refuse(hipErrorInvalidHandle, text.to_owned());
            };
            points.push(point.reached().ok_or(hipErrorNotReady)?);
        }
        let elapsed = match points[1].checked_duration_since(points[0]) {
            Some(later) => later.as_secs_f32(),
            None => -points[0].duration_since(points[1]).as_secs_f32(),
        };
        // SAFETY: as above.
        unsafe { give(milliseconds, elapsed * 1e3) }
    })
}
