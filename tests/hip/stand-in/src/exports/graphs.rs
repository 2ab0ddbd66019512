//! Recording a stream's work and launching it again.

use std::collections::HashMap;
use std::ffi::{c_char, c_void};
use std::sync::Arc;

use rocmforge_hip_sys::*;

use super::streams::enqueue;
use super::{find, give, simple, stream_device};
use crate::queue::Work;
use crate::runtime::{Capture, Graph};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipStreamBeginCapture(stream: hipStream_t, mode: hipStreamCaptureMode) -> hipError_t {
    simple("hipStreamBeginCapture", |runtime| {
        let mut state = runtime.state();
        stream_device(&mut state, "hipStreamBeginCapture", stream)?;
        let (origin, handle) = (stream.0 as usize, state.handle());
        if mode.0 > hipStreamCaptureModeRelaxed.0 {
            return Err(hipErrorInvalidValue);
        }
        let Some(stream) = state.streams.get_mut(&origin) else { return Err(hipErrorInvalidHandle) };
        if stream.capture.is_some() {
            return state
                .refuse(hipErrorIllegalState, "hipStreamBeginCapture: the stream is captured already".to_owned());
        }
        stream.capture = Some(handle);
        let thread = std::thread::current().id();
        let capture = Capture { origin, thread, mode, work: vec![], invalid: false, forks: HashMap::new() };
        state.captures.insert(handle, capture);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipStreamEndCapture(stream: hipStream_t, graph: *mut hipGraph_t) -> hipError_t {
    simple("hipStreamEndCapture", |runtime| {
        let mut state = runtime.state();
        let device = stream_device(&mut state, "hipStreamEndCapture", stream)?;
        let id = stream.0 as usize;
        let handle = state.streams.get(&id).and_then(|s| s.capture);
        let begun_here = |c: &Capture| c.origin == id;
        let Some(handle) = handle.filter(|h| state.captures.get(h).is_some_and(begun_here)) else {
            let text = "hipStreamEndCapture: no capture was begun with this stream";
            return state.refuse(hipErrorStreamCaptureUnmatched, text.to_owned());
        };
        let Some(capture) = state.captures.remove(&handle) else { return Err(hipErrorIllegalState) };
        for stream in state.streams.values_mut().filter(|s| s.capture == Some(handle)) {
            stream.capture = None;
        }
        if capture.invalid {
            return Err(hipErrorStreamCaptureInvalidated);
        }
        if capture.mode != hipStreamCaptureModeRelaxed && capture.thread != std::thread::current().id() {
            return state
                .refuse(hipErrorStreamCaptureWrongThread, "hipStreamEndCapture: another thread began it".to_owned());
        }
        if capture.forks.values().any(|(_, joined)| !joined) {
            let text = "hipStreamEndCapture: the stream did not wait for another one that joined the capture";
            return state.refuse(hipErrorStreamCaptureUnjoined, text.to_owned());
        }
        let made = state.handle();
        state.graphs.insert(made, Graph { device, work: Arc::new(capture.work) });
        // SAFETY: the caller's pointer, here and in every function of this file.
        unsafe { give(graph, hipGraph_t(made as *mut c_void)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGraphGetNodes(
    graph: hipGraph_t,
    nodes: *mut hipGraphNode_t,
    count: *mut usize,
) -> hipError_t {
    simple("hipGraphGetNodes", |runtime| {
        let mut state = runtime.state();
        let found = find(state.graphs.get(&(graph.0 as usize)), "hipGraphGetNodes", graph.0);
        let found = found.map(|g| g.work.iter().filter(|w| w.is_node()).count());
        let total = found.or_else(|(status, text)| state.refuse(status, text))?;
        if !nodes.is_null() {
            return Err(hipErrorNotSupported);
        }
        // SAFETY: as above.
        unsafe { give(count, total) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGraphInstantiate(
    executable: *mut hipGraphExec_t,
    graph: hipGraph_t,
    _error_node: *mut hipGraphNode_t,
    _log: *mut c_char,
    _log_bytes: usize,
) -> hipError_t {
    simple("hipGraphInstantiate", |runtime| {
        let mut state = runtime.state();
        let found = find(state.graphs.get(&(graph.0 as usize)), "hipGraphInstantiate", graph.0);
        let found = found.map(|g| Graph { device: g.device, work: Arc::clone(&g.work) });
        let graph = found.or_else(|(status, text)| state.refuse(status, text))?;
        state.alive(graph.device)?;
        let handle = state.handle();
        state.executables.insert(handle, graph);
        // SAFETY: as above.
        unsafe { give(executable, hipGraphExec_t(handle as *mut c_void)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGraphLaunch(executable: hipGraphExec_t, stream: hipStream_t) -> hipError_t {
    simple("hipGraphLaunch", |runtime| {
        let work = {
            let mut state = runtime.state();
            let device = stream_device(&mut state, "hipGraphLaunch", stream)?;
            let found = find(state.executables.get(&(executable.0 as usize)), "hipGraphLaunch", executable.0);
            let found = found.map(|g| (g.device, Arc::clone(&g.work)));
            let (own, work) = found.or_else(|(status, text)| state.refuse(status, text))?;
            if own != device {
                let text = format!("hipGraphLaunch: recorded on device {own}, the stream is of {device}");
                return state.refuse(hipErrorInvalidHandle, text);
            }
            work
        };
        enqueue(runtime, "hipGraphLaunch", stream, Work::Graph(work))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGraphExecDestroy(executable: hipGraphExec_t) -> hipError_t {
    simple("hipGraphExecDestroy", |runtime| {
        let mut state = runtime.state();
        match state.executables.remove(&(executable.0 as usize)) {
            Some(graph) => state.alive(graph.device),
            None => state.refuse(
                hipErrorInvalidHandle,
                "hipGraphExecDestroy: the handle is not, or no longer, valid".to_owned(),
            ),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGraphDestroy(graph: hipGraph_t) -> hipError_t {
    simple("hipGraphDestroy", |runtime| {
        let mut state = runtime.state();
        match state.graphs.remove(&(graph.0 as usize)) {
            Some(graph) => state.alive(graph.device),
            None => state
                .refuse(hipErrorInvalidHandle, "hipGraphDestroy: the handle is not, or no longer, valid".to_owned()),
        }
    })
}
