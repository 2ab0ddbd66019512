//! HIP's functions, under HIP's names: the table of `rocmforge-hip-sys`, and nothing else.

use std::ffi::c_void;

use rocmforge_hip_sys::*;

use crate::runtime::{Runtime, State, call};

pub mod devices;
pub mod graphs;
pub mod memory;
pub mod modules;
pub mod streams;

/// A call without failures that the settings ask for.
fn simple(name: &'static str, body: impl FnOnce(&Runtime) -> Result<(), hipError_t>) -> hipError_t {
    call(name, |runtime, _| body(runtime))
}

/// Writes a result.
///
/// # Errors
/// A null pointer.
///
/// # Safety
/// A pointer that is not null is valid for writing.
unsafe fn give<T>(to: *mut T, value: T) -> Result<(), hipError_t> {
    if to.is_null() {
        return Err(hipErrorInvalidValue);
    }
    // SAFETY: what the caller vouches for.
    unsafe { to.write(value) };
    Ok(())
}

/// Writes a text with its final zero, cut to `length` bytes.
///
/// # Safety
/// A pointer that is not null is valid for writing `length` bytes.
unsafe fn give_text(to: *mut std::ffi::c_char, length: i32, text: &str) -> Result<(), hipError_t> {
    let room = usize::try_from(length).ok().filter(|n| *n > 0).ok_or(hipErrorInvalidValue)?;
    if to.is_null() {
        return Err(hipErrorInvalidValue);
    }
    let bytes = &text.as_bytes()[..text.len().min(room - 1)];
    // SAFETY: what the caller vouches for.
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        to.add(bytes.len()).write(0);
    }
    Ok(())
}

/// What a handle stands for.
///
/// # Errors
/// Invalid handle, with a note: it was destroyed, or is of another kind.
fn find<'a, T>(found: Option<&'a T>, name: &str, handle: *mut c_void) -> Result<&'a T, (hipError_t, String)> {
    found.ok_or_else(|| (hipErrorInvalidHandle, format!("{name}: the handle {handle:?} is not, or no longer, valid")))
}

/// The device of a stream that is valid and whose device is not lost.
fn stream_device(state: &mut State, name: &str, stream: hipStream_t) -> Result<i32, hipError_t> {
    if stream.is_null() {
        return state.refuse(hipErrorInvalidHandle, format!("{name}: the default stream waits for every other one"));
    }
    let device = find(state.streams.get(&(stream.0 as usize)), name, stream.0).map(|s| s.device);
    match device {
        Err((status, text)) => state.refuse(status, text),
        Ok(device) => state.alive(device).map(|()| device),
    }
}

/// Refuses what no thread, or not this one, may do while a stream is being captured.
fn not_while_capturing(state: &mut State, name: &str) -> Result<(), hipError_t> {
    let this = std::thread::current().id();
    let restricted = |mode: hipStreamCaptureMode, thread| match mode {
        hipStreamCaptureModeGlobal => true,
        hipStreamCaptureModeThreadLocal => thread == this,
        _ => false,
    };
    let mut broken = false;
    for capture in state.captures.values_mut().filter(|c| restricted(c.mode, c.thread)) {
        (capture.invalid, broken) = (true, true);
    }
    if broken {
        return state
            .refuse(hipErrorStreamCaptureUnsupported, format!("{name}: not allowed while a stream is captured"));
    }
    Ok(())
}

/// Compares the type of every function with the table's.
#[cfg(test)]
mod tests {
    use std::ffi::{c_char, c_int, c_uint, c_void};

    use rocmforge_hip_sys::*;

    use super::{devices::*, graphs::*, memory::*, modules::*, streams::*};

    macro_rules! same_types {
        ($($need:ident $purpose:literal $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
            $({ let _: unsafe extern "C" fn($($type),*) -> $result = $name; })*
        };
    }

    #[test]
    fn every_function_of_the_table_has_its_type() {
        with_hip_functions!(same_types);
    }
}
