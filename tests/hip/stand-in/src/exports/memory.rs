//! Memory, copies and fills.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use rocmforge_hip_sys::*;

use super::streams::enqueue;
use super::{give, not_while_capturing, simple, stream_device};
use crate::memory::Place;
use crate::queue::{Source, Work};
use crate::runtime::Runtime;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMemGetInfo(free: *mut usize, total: *mut usize) -> hipError_t {
    simple("hipMemGetInfo", |runtime| {
        let state = runtime.state();
        state.alive(runtime.device())?;
        let all = runtime.settings.memory;
        let used = state.memory.used(runtime.device());
        // SAFETY: the caller's pointers, here and in every function of this file.
        unsafe { give(free, all.saturating_sub(used)).and(give(total, all)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMalloc(pointer: *mut *mut c_void, bytes: usize) -> hipError_t {
    simple("hipMalloc", |runtime| {
        let (mut state, device) = (runtime.state(), runtime.device());
        state.alive(device)?;
        not_while_capturing(&mut state, "hipMalloc")?;
        if !runtime.has(device) {
            return Err(hipErrorNoDevice);
        }
        if bytes == 0 {
            // SAFETY: as above.
            return unsafe { give(pointer, std::ptr::null_mut()) };
        }
        let free = runtime.settings.memory.saturating_sub(state.memory.used(device));
        let address = if bytes <= free { state.memory.allocate(bytes, Place::Device(device)) } else { None };
        // SAFETY: as above.
        unsafe { give(pointer, address.ok_or(hipErrorOutOfMemory)? as *mut c_void) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipHostMalloc(pointer: *mut *mut c_void, bytes: usize, _flags: c_uint) -> hipError_t {
    simple("hipHostMalloc", |runtime| {
        let mut state = runtime.state();
        state.alive(runtime.device())?;
        not_while_capturing(&mut state, "hipHostMalloc")?;
        let address = state.memory.allocate(bytes, Place::Pinned).ok_or(hipErrorOutOfMemory)?;
        // SAFETY: as above.
        unsafe { give(pointer, address as *mut c_void) }
    })
}

/// Frees memory after all work of all devices, as HIP does.
fn free(runtime: &Runtime, name: &str, pointer: *mut c_void, pinned: bool) -> Result<(), hipError_t> {
    if pointer.is_null() {
        return Ok(());
    }
    not_while_capturing(&mut runtime.state(), name)?;
    let mut executor = runtime.executor();
    for device in 0..runtime.settings.devices {
        executor.run_device(runtime, device as i32);
    }
    let mut state = runtime.state();
    let lost = state.alive(runtime.device());
    match state.memory.free(pointer as usize, pinned) {
        Ok((_, true)) => lost,
        Ok((allocation, false)) => {
            let (number, bytes) = (allocation.number, allocation.bytes);
            let text = format!("{name}: memory behind allocation {number} of {bytes} bytes was changed");
            state.refuse(hipErrorInvalidValue, text)
        }
        Err(text) => state.refuse(hipErrorInvalidValue, format!("{name}: {text}")),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipFree(pointer: *mut c_void) -> hipError_t {
    simple("hipFree", |runtime| free(runtime, "hipFree", pointer, false))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipHostFree(pointer: *mut c_void) -> hipError_t {
    simple("hipHostFree", |runtime| free(runtime, "hipHostFree", pointer, true))
}

/// Which sides of a copy are a device's, if its kind says so.
fn sides(kind: hipMemcpyKind) -> Result<Option<(bool, bool)>, hipError_t> {
    match kind {
        hipMemcpyHostToHost => Ok(Some((false, false))),
        hipMemcpyHostToDevice => Ok(Some((true, false))),
        hipMemcpyDeviceToHost => Ok(Some((false, true))),
        hipMemcpyDeviceToDevice => Ok(Some((true, true))),
        hipMemcpyDefault => Ok(None),
        _ => Err(hipErrorInvalidValue),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMemcpyAsync(
    to: *mut c_void,
    from: *const c_void,
    bytes: usize,
    kind: hipMemcpyKind,
    stream: hipStream_t,
) -> hipError_t {
    simple("hipMemcpyAsync", |runtime| {
        copy(runtime, "hipMemcpyAsync", (to as usize, from as usize, bytes), kind, stream)
    })
}

fn copy(
    runtime: &Runtime,
    name: &'static str,
    (to, from, bytes): (usize, usize, usize),
    kind: hipMemcpyKind,
    stream: hipStream_t,
) -> Result<(), hipError_t> {
    let (to_place, from_place, capturing) = {
        let mut state = runtime.state();
        stream_device(&mut state, name, stream)?;
        if bytes == 0 {
            return Ok(());
        }
        let places = state.memory.place(to, bytes).and_then(|t| state.memory.place(from, bytes).map(|f| (t, f)));
        let (to_place, from_place) = match places {
            Ok(places) => places,
            Err(text) => return state.refuse(hipErrorInvalidValue, format!("{name}: {text}")),
        };
        let on_device = |place| matches!(place, Some(Place::Device(_)));
        let found = (on_device(to_place), on_device(from_place));
        if sides(kind)?.is_some_and(|said| said != found) || to == 0 || from == 0 {
            let text =
                format!("{name}: kind {} of a copy from {from:#x} to {to:#x}, which are not where it says", kind.0);
            return state.refuse(hipErrorInvalidValue, text);
        }
        let capturing = state.streams.get(&(stream.0 as usize)).is_some_and(|s| s.capture.is_some());
        (to_place, from_place, capturing)
    };
    // The host's own memory is read before the call returns, unless the copy is only recorded.
    let source = match from_place {
        None if !capturing => {
            // SAFETY: memory that the caller vouches for.
            let own = unsafe { std::slice::from_raw_parts(from as *const u8, bytes) };
            Source::Bytes(Arc::from(own))
        }
        _ => Source::Address(from),
    };
    enqueue(runtime, name, stream, Work::Copy(to, source, bytes))?;
    // And it is written before the call returns.
    if to_place.is_none() && !capturing {
        runtime.executor().run(runtime, stream.0 as usize, None);
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMemcpyPeerAsync(
    to: *mut c_void,
    to_device: c_int,
    from: *const c_void,
    from_device: c_int,
    bytes: usize,
    stream: hipStream_t,
) -> hipError_t {
    simple("hipMemcpyPeerAsync", |runtime| {
        {
            let mut state = runtime.state();
            let places = (state.memory.place(to as usize, bytes), state.memory.place(from as usize, bytes));
            if places != (Ok(Some(Place::Device(to_device))), Ok(Some(Place::Device(from_device)))) {
                let text = format!("hipMemcpyPeerAsync: from device {from_device} to {to_device}: {places:?}");
                return state.refuse(hipErrorInvalidValue, text);
            }
        }
        let range = (to as usize, from as usize, bytes);
        copy(runtime, "hipMemcpyPeerAsync", range, hipMemcpyDeviceToDevice, stream)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMemsetAsync(
    to: *mut c_void,
    value: c_int,
    bytes: usize,
    stream: hipStream_t,
) -> hipError_t {
    simple("hipMemsetAsync", |runtime| {
        {
            let mut state = runtime.state();
            stream_device(&mut state, "hipMemsetAsync", stream)?;
            match state.memory.place(to as usize, bytes) {
                _ if bytes == 0 => return Ok(()),
                Ok(Some(_)) => {}
                Ok(None) => {
                    return state.refuse(hipErrorInvalidValue, format!("hipMemsetAsync: {to:?} is not allocated"));
                }
                Err(text) => return state.refuse(hipErrorInvalidValue, format!("hipMemsetAsync: {text}")),
            }
        }
        // HIP takes the lowest byte of the number.
        enqueue(runtime, "hipMemsetAsync", stream, Work::Set(to as usize, value as u8, bytes))
    })
}
