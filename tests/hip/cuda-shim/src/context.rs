//! The calling thread's device, and its primary context as CUDA's current one.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

use rocmforge_hip_sys::{hipError_t, hipErrorInvalidDevice, hipErrorNoDevice};

use crate::cuda::{Cuda, Handle, cuda};
use crate::status::check;

thread_local! {
    /// HIP's device of this thread.
    static DEVICE: Cell<i32> = const { Cell::new(0) };
    /// The device whose context is current on this thread, or -1.
    static CURRENT: Cell<i32> = const { Cell::new(-1) };
}

/// The primary contexts, by device; they are never released.
static CONTEXTS: Mutex<Vec<Option<usize>>> = Mutex::new(vec![]);

/// CUDA's driver, whatever the device.
///
/// # Errors
/// There is no driver.
pub fn driver() -> Result<&'static Cuda, hipError_t> {
    cuda().ok_or(hipErrorNoDevice)
}

/// How many devices there are.
///
/// # Errors
/// There is no driver, or what it says.
pub fn device_count() -> Result<i32, hipError_t> {
    let (cuda, mut count) = (driver()?, 0);
    // SAFETY: the pointer is that of a local.
    check(unsafe { (cuda.cuDeviceGetCount)(&mut count) }).map(|()| count)
}

/// A device's number, if there is such a device.
///
/// # Errors
/// There is not.
pub fn existing(device: i32) -> Result<&'static Cuda, hipError_t> {
    if (0..device_count()?).contains(&device) { driver() } else { Err(hipErrorInvalidDevice) }
}

/// A device's primary context.
///
/// # Errors
/// There is no such device, or it cannot have a context.
pub fn primary(device: i32) -> Result<Handle, hipError_t> {
    let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    let index = usize::try_from(device).map_err(|_| hipErrorInvalidDevice)?;
    if let Some(Some(context)) = contexts.get(index) {
        return Ok(*context as Handle);
    }
    let (cuda, mut context) = (existing(device)?, std::ptr::null_mut());
    // SAFETY: the pointer is that of a local; a device's handle is its number.
    check(unsafe { (cuda.cuDevicePrimaryCtxRetain)(&mut context, device) })?;
    if contexts.len() <= index {
        contexts.resize(index + 1, None);
    }
    contexts[index] = Some(context as usize);
    Ok(context)
}

/// CUDA's driver, with the context of the calling thread's device as the current one.
///
/// # Errors
/// There is no driver, no such device, or it cannot have a context.
pub fn ready() -> Result<&'static Cuda, hipError_t> {
    let (cuda, device) = (driver()?, DEVICE.get());
    if CURRENT.get() != device {
        // SAFETY: a primary context that is never released.
        check(unsafe { (cuda.cuCtxSetCurrent)(primary(device)?) })?;
        CURRENT.set(device);
    }
    Ok(cuda)
}

/// The calling thread's device.
pub fn device() -> i32 {
    DEVICE.get()
}

/// Chooses the calling thread's device.
///
/// # Errors
/// There is no such device.
pub fn set_device(device: i32) -> Result<(), hipError_t> {
    existing(device).map(|_| DEVICE.set(device))
}
