//! One method for each thing that is asked of HIP: the arguments as Rust has them, the status as an error.
//!
//! Handles and device pointers are plain values here, so whatever takes one is unsafe: HIP from 7 on crashes on a handle
//! that is no longer valid.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use crate::error::HipError;
use crate::library::Hip;
use crate::properties::{PROPERTIES_R0000_ARCH_OFFSET, PROPERTIES_R0600_ARCH_OFFSET, Properties, arch_name};
use crate::types::*;

/// Bytes of a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Not used by anyone.
    pub free: usize,
    /// In all.
    pub total: usize,
}

/// How many threads a launch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Bytes of shared memory of a block beside those that the kernel itself declares.
    pub shared_bytes: u32,
}

/// Calls a required function.
macro_rules! call {
    ($hip:expr, $name:ident($($argument:expr),*)) => {{
        // SAFETY: the function has this type (`Hip::load`), pointers to results are those of locals that outlive the call,
        // and for handles and device pointers the caller of the unsafe method vouches.
        let status = unsafe { ($hip.functions.$name)($($argument),*) };
        $hip.check(stringify!($name), status)
    }};
}

/// Calls an optional function.
macro_rules! call_optional {
    ($hip:expr, $name:ident($($argument:expr),*)) => {{
        let function = $hip.optional($hip.functions.$name, stringify!($name))?;
        // SAFETY: as in `call`.
        let status = unsafe { function($($argument),*) };
        $hip.check(stringify!($name), status)
    }};
}

impl Hip {
    /// The error of a call with this status, if it is one.
    ///
    /// # Errors
    /// For every status but success, with the name and description that the library gives it.
    pub fn check(&self, call: &'static str, status: hipError_t) -> Result<(), HipError> {
        if status == hipSuccess {
            return Ok(());
        }
        // SAFETY: these take any number and give a static text, or null.
        let (name, text) = unsafe {
            (text((self.functions.hipGetErrorName)(status)), text((self.functions.hipGetErrorString)(status)))
        };
        // HIP keeps the last error until it is asked for; left there, a later call of another library would report it.
        // SAFETY: no arguments.
        let _ = unsafe { (self.functions.hipGetLastError)() };
        let known = status.name().unwrap_or("unknown status").to_owned();
        Err(HipError::Status { call, status, name: name.unwrap_or(known), text: text.unwrap_or_default() })
    }
}

/// Devices.
impl Hip {
    /// How many devices there are. None is 0, not an error.
    ///
    /// # Errors
    /// What HIP says, for instance that the kernel's driver is missing.
    pub fn device_count(&self) -> Result<u32, HipError> {
        let mut count = 0;
        match call!(self, hipGetDeviceCount(&mut count)) {
            Err(error) if error.status() == Some(hipErrorNoDevice) => Ok(0),
            other => other.map(|()| u32::try_from(count).unwrap_or(0)),
        }
    }

    /// The driver's version, packed as the library's is.
    ///
    /// # Errors
    /// What HIP says.
    pub fn driver_version(&self) -> Result<i32, HipError> {
        let mut version = 0;
        call!(self, hipDriverGetVersion(&mut version)).map(|()| version)
    }

    /// Makes a device that of the calling thread, for every later call of this thread that names none.
    ///
    /// # Errors
    /// What HIP says, for instance that there is no such device.
    pub fn set_device(&self, device: i32) -> Result<(), HipError> {
        call!(self, hipSetDevice(device))
    }

    /// The calling thread's device.
    ///
    /// # Errors
    /// What HIP says.
    pub fn device(&self) -> Result<i32, HipError> {
        let mut device = 0;
        call!(self, hipGetDevice(&mut device)).map(|()| device)
    }

    /// A device's name for people.
    ///
    /// # Errors
    /// What HIP says.
    pub fn device_name(&self, device: i32) -> Result<String, HipError> {
        let mut buffer = [0u8; 256];
        let length = buffer.len() as c_int;
        call!(self, hipDeviceGetName(buffer.as_mut_ptr().cast::<c_char>(), length, self.handle(device)?))?;
        Ok(buffer_text(&buffer))
    }

    /// A device's PCI address, as `0000:03:00.0`.
    ///
    /// # Errors
    /// What HIP says.
    pub fn device_pci_bus_id(&self, device: i32) -> Result<String, HipError> {
        let mut buffer = [0u8; 64];
        let length = buffer.len() as c_int;
        call!(self, hipDeviceGetPCIBusId(buffer.as_mut_ptr().cast::<c_char>(), length, device))?;
        Ok(buffer_text(&buffer))
    }

    /// A device's identification that is the same in every process.
    ///
    /// # Errors
    /// What HIP says, or that the library has no such function.
    pub fn device_uuid(&self, device: i32) -> Result<hipUUID, HipError> {
        let mut uuid = hipUUID::default();
        call_optional!(self, hipDeviceGetUuid(&mut uuid, self.handle(device)?)).map(|()| uuid)
    }

    /// Bytes of a device's memory.
    ///
    /// # Errors
    /// What HIP says.
    pub fn device_total_memory(&self, device: i32) -> Result<usize, HipError> {
        let mut bytes = 0;
        call!(self, hipDeviceTotalMem(&mut bytes, self.handle(device)?)).map(|()| bytes)
    }

    /// One number about a device.
    ///
    /// # Errors
    /// What HIP says, for instance that it does not know this property.
    pub fn device_attribute(&self, attribute: hipDeviceAttribute_t, device: i32) -> Result<i32, HipError> {
        let mut value = 0;
        call!(self, hipDeviceGetAttribute(&mut value, attribute, device)).map(|()| value)
    }

    /// The name of a device's instruction set without its features, as `gfx1100`.
    ///
    /// # Errors
    /// What HIP says, or that the properties have a layout that is not known.
    pub fn device_arch(&self, device: i32) -> Result<String, HipError> {
        let mut properties = Properties::empty();
        let to = properties.0.as_mut_ptr().cast::<c_void>();
        let (symbol, offset) = match self.functions.hipGetDevicePropertiesR0600 {
            Some(_) => {
                call_optional!(self, hipGetDevicePropertiesR0600(to, device))?;
                ("hipGetDevicePropertiesR0600", PROPERTIES_R0600_ARCH_OFFSET)
            }
            None => {
                call_optional!(self, hipGetDeviceProperties(to, device))?;
                ("hipGetDeviceProperties", PROPERTIES_R0000_ARCH_OFFSET)
            }
        };
        arch_name(&properties.0, offset).map_err(|found| HipError::Properties {
            library: self.path().to_owned(),
            version: self.version().to_string(),
            symbol,
            device,
            offset,
            found,
        })
    }

    fn handle(&self, device: i32) -> Result<hipDevice_t, HipError> {
        let mut handle = 0;
        call!(self, hipDeviceGet(&mut handle, device)).map(|()| handle)
    }

    /// Whether a device can reach another's memory. Without the function it cannot.
    ///
    /// # Errors
    /// What HIP says.
    pub fn can_access_peer(&self, device: i32, peer: i32) -> Result<bool, HipError> {
        if self.functions.hipDeviceCanAccessPeer.is_none() {
            return Ok(false);
        }
        let mut can = 0;
        call_optional!(self, hipDeviceCanAccessPeer(&mut can, device, peer)).map(|()| can != 0)
    }

    /// Lets the calling thread's device reach another's memory. Doing so twice is no error.
    ///
    /// # Errors
    /// What HIP says, or that the library has no such function.
    pub fn enable_peer_access(&self, peer: i32) -> Result<(), HipError> {
        match call_optional!(self, hipDeviceEnablePeerAccess(peer, 0)) {
            Err(error) if error.status() == Some(hipErrorPeerAccessAlreadyEnabled) => Ok(()),
            other => other,
        }
    }
}

/// Memory.
impl Hip {
    /// Bytes of the calling thread's device that are free, and in all.
    ///
    /// # Errors
    /// What HIP says.
    pub fn memory_info(&self) -> Result<MemoryInfo, HipError> {
        let (mut free, mut total) = (0, 0);
        call!(self, hipMemGetInfo(&mut free, &mut total)).map(|()| MemoryInfo { free, total })
    }

    /// Allocates memory of the calling thread's device.
    ///
    /// # Errors
    /// What HIP says, for instance that there is too little memory.
    pub fn malloc(&self, bytes: usize) -> Result<*mut c_void, HipError> {
        let mut pointer = ptr::null_mut();
        call!(self, hipMalloc(&mut pointer, bytes)).map(|()| pointer)
    }

    /// Frees what [`malloc`](Self::malloc) gave.
    ///
    /// # Errors
    /// What HIP says.
    ///
    /// # Safety
    /// The pointer came from `malloc`, was not freed before, and no queued work uses it.
    pub unsafe fn free(&self, pointer: *mut c_void) -> Result<(), HipError> {
        call!(self, hipFree(pointer))
    }

    /// Allocates pinned host memory, with flags as `hipHostMallocPortable`.
    ///
    /// # Errors
    /// What HIP says.
    pub fn host_malloc(&self, bytes: usize, flags: c_uint) -> Result<*mut c_void, HipError> {
        let mut pointer = ptr::null_mut();
        call!(self, hipHostMalloc(&mut pointer, bytes, flags)).map(|()| pointer)
    }

    /// Frees what [`host_malloc`](Self::host_malloc) gave.
    ///
    /// # Errors
    /// What HIP says.
    ///
    /// # Safety
    /// The pointer came from `host_malloc`, was not freed before, and neither queued work nor a reference uses it.
    pub unsafe fn host_free(&self, pointer: *mut c_void) -> Result<(), HipError> {
        call!(self, hipHostFree(pointer))
    }

    /// Queues a copy.
    ///
    /// # Errors
    /// What HIP says.
    ///
    /// # Safety
    /// Both ranges are valid and stay so until the stream has passed this point; the stream is valid.
    pub unsafe fn memcpy_async(
        &self,
        to: *mut c_void,
        from: *const c_void,
        bytes: usize,
        kind: hipMemcpyKind,
        stream: hipStream_t,
    ) -> Result<(), HipError> {
        call!(self, hipMemcpyAsync(to, from, bytes, kind, stream))
    }

    /// Queues a copy between two devices, each given with its number.
    ///
    /// # Errors
    /// What HIP says, or that the library has no such function.
    ///
    /// # Safety
    /// As for [`memcpy_async`](Self::memcpy_async).
    pub unsafe fn memcpy_peer_async(
        &self,
        to: (*mut c_void, i32),
        from: (*const c_void, i32),
        bytes: usize,
        stream: hipStream_t,
    ) -> Result<(), HipError> {
        call_optional!(self, hipMemcpyPeerAsync(to.0, to.1, from.0, from.1, bytes, stream))
    }

    /// Queues setting every byte of a range to `value`.
    ///
    /// # Errors
    /// What HIP says.
    ///
    /// # Safety
    /// The range is valid and stays so until the stream has passed this point; the stream is valid.
    pub unsafe fn memset_async(
        &self,
        to: *mut c_void,
        value: u8,
        bytes: usize,
        stream: hipStream_t,
    ) -> Result<(), HipError> {
        call!(self, hipMemsetAsync(to, c_int::from(value), bytes, stream))
    }
}

/// Text of a static C string, if there is one.
///
/// # Safety
/// Null, or a C string that lives for ever.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    // SAFETY: what the caller vouches for.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

fn buffer_text(buffer: &[u8]) -> String {
    let end = buffer.iter().position(|b| *b == 0).unwrap_or(buffer.len());
    String::from_utf8_lossy(&buffer[..end]).into_owned()
}

mod work;
