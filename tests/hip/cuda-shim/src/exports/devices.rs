//! The library itself and its devices.

use std::ffi::{c_char, c_int, c_uint, c_void};

use rocmforge_hip_sys::*;

use super::{call, plain};
use crate::attributes::{self, COMPUTE_CAPABILITY};
use crate::context::{self, device_count, existing, ready};
use crate::cuda::cuda;
use crate::status::{check, take_last_error};

/// The version of HIP whose functions these are.
const VERSION: c_int = 60_000_000;

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

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipInit(flags: c_uint) -> hipError_t {
    call(|| context::driver().map(|_| ()).and(if flags == 0 { Ok(()) } else { Err(hipErrorInvalidValue) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDriverGetVersion(version: *mut c_int) -> hipError_t {
    // SAFETY: the caller's pointer, here and in every function of this file.
    plain(|cuda| unsafe { (cuda.cuDriverGetVersion)(version) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipRuntimeGetVersion(version: *mut c_int) -> hipError_t {
    // SAFETY: as above.
    call(|| unsafe { give(version, VERSION) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetErrorName(error: hipError_t) -> *const c_char {
    error.c_name().unwrap_or(c"hipErrorUnknown").as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetErrorString(error: hipError_t) -> *const c_char {
    let mut text = std::ptr::null();
    if let Some(cuda) = cuda() {
        // SAFETY: the pointer is that of a local; a number that is no status is an error, and leaves it null. The statuses
        // of HIP that are used here are CUDA's.
        unsafe { (cuda.cuGetErrorString)(error.0, &mut text) };
    }
    if text.is_null() { c"no description".as_ptr() } else { text }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetLastError() -> hipError_t {
    take_last_error()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetDeviceCount(count: *mut c_int) -> hipError_t {
    call(|| {
        let devices = device_count().unwrap_or(0);
        // SAFETY: as above.
        unsafe { give(count, devices) }?;
        if devices == 0 { Err(hipErrorNoDevice) } else { Ok(()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipSetDevice(device: c_int) -> hipError_t {
    call(|| context::set_device(device))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetDevice(device: *mut c_int) -> hipError_t {
    // SAFETY: as above.
    call(|| unsafe { give(device, context::device()) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceGet(device: *mut hipDevice_t, ordinal: c_int) -> hipError_t {
    // SAFETY: as above.
    plain(|cuda| unsafe { (cuda.cuDeviceGet)(device, ordinal) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceGetName(name: *mut c_char, length: c_int, device: hipDevice_t) -> hipError_t {
    // SAFETY: as above.
    plain(|cuda| unsafe { (cuda.cuDeviceGetName)(name, length, device) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceTotalMem(bytes: *mut usize, device: hipDevice_t) -> hipError_t {
    // SAFETY: as above.
    plain(|cuda| unsafe { (cuda.cuDeviceTotalMem)(bytes, device) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceGetAttribute(
    value: *mut c_int,
    attribute: hipDeviceAttribute_t,
    device: c_int,
) -> hipError_t {
    call(|| {
        let (cuda, number) = (existing(device)?, attributes::device(attribute).ok_or(hipErrorInvalidValue)?);
        // SAFETY: as above.
        check(unsafe { (cuda.cuDeviceGetAttribute)(value, number, device) })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceGetPCIBusId(id: *mut c_char, length: c_int, device: c_int) -> hipError_t {
    // SAFETY: as above.
    call(|| check(unsafe { (existing(device)?.cuDeviceGetPCIBusId)(id, length, device) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceGetUuid(uuid: *mut hipUUID, device: hipDevice_t) -> hipError_t {
    call(|| {
        let (cuda, mut raw) = (existing(device)?, [0; 16]);
        // SAFETY: the pointer is that of a local.
        check(unsafe { (cuda.cuDeviceGetUuid)(&mut raw, device) })?;
        // HIP's is 16 hexadecimal digits as text; the first half of CUDA's tells devices of a machine apart.
        let digits: String = raw[..8].iter().map(|b| format!("{b:02x}")).collect();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(digits.as_bytes());
        // SAFETY: as above.
        unsafe { give(uuid, hipUUID { bytes }) }
    })
}

/// Writes the properties that are read: the name of the instruction set.
///
/// # Safety
/// The pointer is valid for writing `bytes`.
unsafe fn properties(to: *mut c_void, bytes: usize, arch_at: usize, device: c_int) -> Result<(), hipError_t> {
    let (cuda, mut version) = (existing(device)?, [0; 2]);
    for (value, number) in version.iter_mut().zip(COMPUTE_CAPABILITY) {
        // SAFETY: the pointer is that of a local.
        check(unsafe { (cuda.cuDeviceGetAttribute)(value, number, device) })?;
    }
    if to.is_null() {
        return Err(hipErrorInvalidValue);
    }
    let (to, arch) = (to.cast::<u8>(), format!("sm_{}{}", version[0], version[1]));
    // SAFETY: the structure has 256 bytes for the text.
    unsafe {
        to.write_bytes(0, bytes);
        to.add(arch_at).copy_from_nonoverlapping(arch.as_ptr(), arch.len());
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetDevicePropertiesR0600(to: *mut c_void, device: c_int) -> hipError_t {
    // SAFETY: the caller's structure of ROCm 6 has 1,472 bytes.
    call(|| unsafe { properties(to, 1472, PROPERTIES_R0600_ARCH_OFFSET, device) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetDeviceProperties(to: *mut c_void, device: c_int) -> hipError_t {
    // SAFETY: the caller's structure of ROCm 5 has 792 bytes.
    call(|| unsafe { properties(to, 792, PROPERTIES_R0000_ARCH_OFFSET, device) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceCanAccessPeer(can: *mut c_int, device: c_int, peer: c_int) -> hipError_t {
    // SAFETY: as above.
    call(|| check(unsafe { (existing(device)?.cuDeviceCanAccessPeer)(can, device, peer) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceEnablePeerAccess(peer: c_int, flags: c_uint) -> hipError_t {
    call(|| {
        let (cuda, context) = (ready()?, context::primary(peer)?);
        // SAFETY: a primary context that is never released.
        check(unsafe { (cuda.cuCtxEnablePeerAccess)(context, flags) })
    })
}
