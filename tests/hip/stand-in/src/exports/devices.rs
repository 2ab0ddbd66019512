//! The library itself and its devices.

use std::ffi::{c_char, c_int, c_uint, c_void};

use rocmforge_hip_sys::*;

use super::{give, give_text, simple};
use crate::runtime::{Runtime, take_last_error};

/// HIP 6.0.
const VERSION: c_int = 60_000_000;
const MULTIPROCESSORS: c_int = 4;
const SHARED_BYTES: c_int = 64 * 1024;

fn existing(runtime: &Runtime, device: c_int) -> Result<(), hipError_t> {
    if runtime.has(device) { Ok(()) } else { Err(hipErrorInvalidDevice) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipInit(flags: c_uint) -> hipError_t {
    simple("hipInit", |runtime| {
        runtime.report();
        if flags == 0 { Ok(()) } else { Err(hipErrorInvalidValue) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDriverGetVersion(version: *mut c_int) -> hipError_t {
    // SAFETY: the caller's pointer, here and in every function of this file.
    simple("hipDriverGetVersion", |_| unsafe { give(version, VERSION) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipRuntimeGetVersion(version: *mut c_int) -> hipError_t {
    // SAFETY: as above.
    simple("hipRuntimeGetVersion", |_| unsafe { give(version, VERSION) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetErrorName(error: hipError_t) -> *const c_char {
    error.c_name().unwrap_or(c"hipErrorUnknown").as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetErrorString(error: hipError_t) -> *const c_char {
    let text = match error {
        hipSuccess => c"no error",
        hipErrorInvalidValue => c"invalid argument",
        hipErrorOutOfMemory => c"out of memory",
        hipErrorNoDevice => c"no device",
        hipErrorInvalidDevice => c"invalid device ordinal",
        hipErrorInvalidImage => c"the image is not one of this stand-in",
        hipErrorNoBinaryForGpu => c"the image is for another kind of device",
        hipErrorInvalidHandle => c"invalid handle",
        hipErrorNotFound => c"named symbol not found",
        hipErrorNotReady => c"not ready",
        hipErrorLaunchFailure => c"a kernel failed while it ran",
        _ => c"see the standard error stream",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetLastError() -> hipError_t {
    let _ = simple("hipGetLastError", |_| Ok(()));
    take_last_error()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetDeviceCount(count: *mut c_int) -> hipError_t {
    simple("hipGetDeviceCount", |runtime| {
        let devices = c_int::try_from(runtime.settings.devices).unwrap_or(0);
        // SAFETY: as above.
        unsafe { give(count, devices) }?;
        if devices == 0 { Err(hipErrorNoDevice) } else { Ok(()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipSetDevice(device: c_int) -> hipError_t {
    simple("hipSetDevice", |runtime| existing(runtime, device).map(|()| runtime.set_device(device)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetDevice(device: *mut c_int) -> hipError_t {
    // SAFETY: as above.
    simple("hipGetDevice", |runtime| unsafe { give(device, runtime.device()) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceGet(device: *mut hipDevice_t, ordinal: c_int) -> hipError_t {
    simple("hipDeviceGet", |runtime| {
        existing(runtime, ordinal)?;
        // SAFETY: as above.
        unsafe { give(device, ordinal) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceGetName(name: *mut c_char, length: c_int, device: hipDevice_t) -> hipError_t {
    simple("hipDeviceGetName", |runtime| {
        existing(runtime, device)?;
        let text = format!("Processor, waves of {}", runtime.settings.wave);
        // SAFETY: as above.
        unsafe { give_text(name, length, &text) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceTotalMem(bytes: *mut usize, device: hipDevice_t) -> hipError_t {
    simple("hipDeviceTotalMem", |runtime| {
        existing(runtime, device)?;
        // SAFETY: as above.
        unsafe { give(bytes, runtime.settings.memory) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceGetAttribute(
    value: *mut c_int,
    attribute: hipDeviceAttribute_t,
    device: c_int,
) -> hipError_t {
    simple("hipDeviceGetAttribute", |runtime| {
        existing(runtime, device)?;
        let number = match attribute {
            hipDeviceAttributeWarpSize => c_int::try_from(runtime.settings.wave).unwrap_or(0),
            hipDeviceAttributeMultiprocessorCount => MULTIPROCESSORS,
            hipDeviceAttributeMaxThreadsPerBlock => 1024,
            hipDeviceAttributeMaxThreadsPerMultiProcessor => 2048,
            hipDeviceAttributeMaxSharedMemoryPerBlock => SHARED_BYTES,
            hipDeviceAttributeMaxRegistersPerBlock => 65_536,
            hipDeviceAttributeL2CacheSize => 4 << 20,
            hipDeviceAttributeClockRate | hipDeviceAttributeMemoryClockRate => 1_000_000,
            hipDeviceAttributeMemoryBusWidth => 128,
            hipDeviceAttributePciBusId => device + 1,
            hipDeviceAttributeIntegrated
            | hipDeviceAttributeKernelExecTimeout
            | hipDeviceAttributeComputeCapabilityMajor
            | hipDeviceAttributeComputeCapabilityMinor
            | hipDeviceAttributePciDeviceId
            | hipDeviceAttributePciDomainID => 0,
            _ => return Err(hipErrorInvalidValue),
        };
        // SAFETY: as above.
        unsafe { give(value, number) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceGetPCIBusId(id: *mut c_char, length: c_int, device: c_int) -> hipError_t {
    simple("hipDeviceGetPCIBusId", |runtime| {
        existing(runtime, device)?;
        // SAFETY: as above.
        unsafe { give_text(id, length, &format!("0000:{:02x}:00.0", device + 1)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceGetUuid(uuid: *mut hipUUID, device: hipDevice_t) -> hipError_t {
    simple("hipDeviceGetUuid", |runtime| {
        existing(runtime, device)?;
        let digits = format!("{:016x}", 0x5354_414e_4449_4e00_u64 + u64::from(device.unsigned_abs()));
        let mut bytes = [0; 16];
        bytes.copy_from_slice(digits.as_bytes());
        // SAFETY: as above.
        unsafe { give(uuid, hipUUID { bytes }) }
    })
}

/// Writes the properties that are read: the name, and that of the instruction set.
///
/// # Safety
/// The pointer is valid for writing `bytes`.
unsafe fn properties(
    runtime: &Runtime,
    to: *mut c_void,
    bytes: usize,
    arch_at: usize,
    device: c_int,
) -> Result<(), hipError_t> {
    existing(runtime, device)?;
    if to.is_null() {
        return Err(hipErrorInvalidValue);
    }
    let to = to.cast::<u8>();
    let arch = format!("simt{}", runtime.settings.wave);
    // SAFETY: both texts are shorter than what the structure has for them.
    unsafe {
        to.write_bytes(0, bytes);
        to.copy_from_nonoverlapping(b"Processor".as_ptr(), 9);
        to.add(arch_at).copy_from_nonoverlapping(arch.as_ptr(), arch.len());
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetDevicePropertiesR0600(to: *mut c_void, device: c_int) -> hipError_t {
    simple("hipGetDevicePropertiesR0600", |runtime| {
        // SAFETY: the caller's structure of ROCm 6 has 1,472 bytes.
        unsafe { properties(runtime, to, 1472, PROPERTIES_R0600_ARCH_OFFSET, device) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetDeviceProperties(to: *mut c_void, device: c_int) -> hipError_t {
    simple("hipGetDeviceProperties", |runtime| {
        // SAFETY: the caller's structure of ROCm 5 has 792 bytes.
        unsafe { properties(runtime, to, 792, PROPERTIES_R0000_ARCH_OFFSET, device) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceCanAccessPeer(can: *mut c_int, device: c_int, peer: c_int) -> hipError_t {
    simple("hipDeviceCanAccessPeer", |runtime| {
        existing(runtime, device)?;
        existing(runtime, peer)?;
        // SAFETY: as above.
        unsafe { give(can, c_int::from(device != peer)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceEnablePeerAccess(peer: c_int, flags: c_uint) -> hipError_t {
    simple("hipDeviceEnablePeerAccess", |runtime| {
        existing(runtime, peer)?;
        if peer == runtime.device() || flags != 0 { Err(hipErrorInvalidValue) } else { Ok(()) }
    })
}
