//! What was not given back, and what no program should do.

use std::fmt::Write;

use crate::memory::Place;
use crate::runtime::Runtime;

/// The report: first two numbers that a test reads, then what they are made of.
pub fn text(runtime: &Runtime) -> String {
    let (launches, switches) = {
        let executor = runtime.executor();
        (executor.launches, executor.switches())
    };
    let state = runtime.state();
    let handles = [
        ("streams", state.streams.len()),
        ("events", state.events.len()),
        ("modules", state.modules.len()),
        ("captures", state.captures.len()),
        ("graphs", state.graphs.len()),
        ("executable graphs", state.executables.len()),
    ];
    let leaks = state.memory.live().count() + handles.iter().map(|(_, n)| n).sum::<usize>();
    let mut text = format!("leaks: {leaks}\nmisuses: {}\n", state.misuses.len());
    let mut line = |content: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{content}");
    };
    line(format_args!("launches: {launches}"));
    line(format_args!("lane switches: {switches}"));
    for allocation in state.memory.live() {
        let place = match allocation.place {
            Place::Device(device) => format!("of device {device}"),
            Place::Pinned => "of pinned memory".to_owned(),
        };
        line(format_args!("leak: allocation {}: {} bytes {place}", allocation.number, allocation.bytes));
    }
    for (name, count) in handles.iter().filter(|(_, n)| *n > 0) {
        line(format_args!("leak: {count} {name}"));
    }
    for misuse in &state.misuses {
        line(format_args!("misuse: {misuse}"));
    }
    for (name, count) in &state.calls {
        line(format_args!("calls: {name} {count}"));
    }
    text
}
