//! Memory, copies and fills.

use std::ffi::{c_int, c_uint, c_void};

use rocmforge_hip_sys::*;

use super::{call, forward};
use crate::context::{primary, ready};
use crate::status::check;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMemGetInfo(free: *mut usize, total: *mut usize) -> hipError_t {
    // SAFETY: the caller's pointers, here and in every function of this file.
    forward(|cuda| unsafe { (cuda.cuMemGetInfo)(free, total) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMalloc(pointer: *mut *mut c_void, bytes: usize) -> hipError_t {
    call(|| {
        if pointer.is_null() {
            return Err(hipErrorInvalidValue);
        }
        let (cuda, mut address) = (ready()?, 0);
        // CUDA refuses to allocate nothing, HIP gives a null pointer.
        if bytes > 0 {
            // SAFETY: the pointer is that of a local.
            check(unsafe { (cuda.cuMemAlloc)(&mut address, bytes) })?;
        }
        // SAFETY: as above.
        unsafe { pointer.write(address as *mut c_void) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipFree(pointer: *mut c_void) -> hipError_t {
    forward(|cuda| match pointer.is_null() {
        true => 0,
        // SAFETY: as above.
        false => unsafe { (cuda.cuMemFree)(pointer as u64) },
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipHostMalloc(pointer: *mut *mut c_void, bytes: usize, flags: c_uint) -> hipError_t {
    // Portable, mapped and write-combined have the same numbers; HIP's other flags are about coherence on AMD's hardware.
    const SHARED_FLAGS: c_uint = 7;
    // SAFETY: as above.
    forward(|cuda| unsafe { (cuda.cuMemHostAlloc)(pointer, bytes, flags & SHARED_FLAGS) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipHostFree(pointer: *mut c_void) -> hipError_t {
    forward(|cuda| match pointer.is_null() {
        true => 0,
        // SAFETY: as above.
        false => unsafe { (cuda.cuMemFreeHost)(pointer) },
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMemcpyAsync(
    to: *mut c_void,
    from: *const c_void,
    bytes: usize,
    kind: hipMemcpyKind,
    stream: hipStream_t,
) -> hipError_t {
    call(|| {
        if kind.0 > hipMemcpyDefault.0 {
            return Err(hipErrorInvalidValue);
        }
        let (cuda, to, from) = (ready()?, to as u64, from as u64);
        if bytes == 0 {
            return Ok(());
        }
        // Addresses of the host and of devices do not overlap, so CUDA knows the kind.
        // SAFETY: as above.
        check(unsafe { (cuda.cuMemcpyAsync)(to, from, bytes, stream.0) })
    })
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
    call(|| {
        let (cuda, to_context, from_context) = (ready()?, primary(to_device)?, primary(from_device)?);
        let (to, from) = (to as u64, from as u64);
        // SAFETY: as above; primary contexts are never released.
        check(unsafe { (cuda.cuMemcpyPeerAsync)(to, to_context, from, from_context, bytes, stream.0) })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMemsetAsync(
    to: *mut c_void,
    value: c_int,
    bytes: usize,
    stream: hipStream_t,
) -> hipError_t {
    forward(|cuda| match bytes {
        0 => 0,
        // HIP takes the lowest byte of the number.
        // SAFETY: as above.
        _ => unsafe { (cuda.cuMemsetD8Async)(to as u64, value as u8, bytes, stream.0) },
    })
}
