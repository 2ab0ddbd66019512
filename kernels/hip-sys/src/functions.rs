//! The table of functions: the only place that names what is called of HIP.

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::types::*;

/// Hands the table to a macro, as `required|optional "purpose" hipName(argument: type, ..) -> type;` for each function. What
/// implements the functions checks its own signatures with it; HIP's types and those of `std::ffi` must be in scope there.
#[macro_export]
macro_rules! with_hip_functions {
    ($macro:ident) => {
        $macro! {
            required "start HIP" hipInit(flags: c_uint) -> hipError_t;
            required "version of the driver" hipDriverGetVersion(version: *mut c_int) -> hipError_t;
            required "version of the library" hipRuntimeGetVersion(version: *mut c_int) -> hipError_t;
            required "name of a status" hipGetErrorName(error: hipError_t) -> *const c_char;
            required "description of a status" hipGetErrorString(error: hipError_t) -> *const c_char;
            required "status of the last failed call, cleared by asking" hipGetLastError() -> hipError_t;

            required "number of devices" hipGetDeviceCount(count: *mut c_int) -> hipError_t;
            required "choose the calling thread's device" hipSetDevice(device: c_int) -> hipError_t;
            required "the calling thread's device" hipGetDevice(device: *mut c_int) -> hipError_t;
            required "handle of a device" hipDeviceGet(device: *mut hipDevice_t, ordinal: c_int) -> hipError_t;
            required "name of a device" hipDeviceGetName(name: *mut c_char, length: c_int, device: hipDevice_t) -> hipError_t;
            required "memory of a device" hipDeviceTotalMem(bytes: *mut usize, device: hipDevice_t) -> hipError_t;
            required "one number about a device" hipDeviceGetAttribute(value: *mut c_int, attribute: hipDeviceAttribute_t, device: c_int) -> hipError_t;
            required "PCI address of a device" hipDeviceGetPCIBusId(id: *mut c_char, length: c_int, device: c_int) -> hipError_t;
            optional "lasting identification of a device" hipDeviceGetUuid(uuid: *mut hipUUID, device: hipDevice_t) -> hipError_t;
            optional "name of a device's instruction set, ROCm 6 and later" hipGetDevicePropertiesR0600(properties: *mut c_void, device: c_int) -> hipError_t;
            optional "name of a device's instruction set, ROCm 5" hipGetDeviceProperties(properties: *mut c_void, device: c_int) -> hipError_t;

            required "free and total memory" hipMemGetInfo(free: *mut usize, total: *mut usize) -> hipError_t;
            required "allocate on the device" hipMalloc(pointer: *mut *mut c_void, bytes: usize) -> hipError_t;
            required "free on the device" hipFree(pointer: *mut c_void) -> hipError_t;
            required "allocate pinned host memory" hipHostMalloc(pointer: *mut *mut c_void, bytes: usize, flags: c_uint) -> hipError_t;
            required "free pinned host memory" hipHostFree(pointer: *mut c_void) -> hipError_t;
            required "copy, in a stream" hipMemcpyAsync(to: *mut c_void, from: *const c_void, bytes: usize, kind: hipMemcpyKind, stream: hipStream_t) -> hipError_t;
            required "fill, in a stream" hipMemsetAsync(to: *mut c_void, value: c_int, bytes: usize, stream: hipStream_t) -> hipError_t;

            required "create a stream" hipStreamCreateWithFlags(stream: *mut hipStream_t, flags: c_uint) -> hipError_t;
            required "destroy a stream" hipStreamDestroy(stream: hipStream_t) -> hipError_t;
            required "wait for a stream" hipStreamSynchronize(stream: hipStream_t) -> hipError_t;
            required "ask whether a stream is done" hipStreamQuery(stream: hipStream_t) -> hipError_t;
            required "let a stream wait for an event" hipStreamWaitEvent(stream: hipStream_t, event: hipEvent_t, flags: c_uint) -> hipError_t;

            required "create an event" hipEventCreateWithFlags(event: *mut hipEvent_t, flags: c_uint) -> hipError_t;
            required "destroy an event" hipEventDestroy(event: hipEvent_t) -> hipError_t;
            required "put an event into a stream" hipEventRecord(event: hipEvent_t, stream: hipStream_t) -> hipError_t;
            required "wait for an event" hipEventSynchronize(event: hipEvent_t) -> hipError_t;
            required "ask whether an event has happened" hipEventQuery(event: hipEvent_t) -> hipError_t;
            required "milliseconds between two events" hipEventElapsedTime(milliseconds: *mut f32, start: hipEvent_t, end: hipEvent_t) -> hipError_t;

            required "load a code object" hipModuleLoadData(module: *mut hipModule_t, image: *const c_void) -> hipError_t;
            required "unload a code object" hipModuleUnload(module: hipModule_t) -> hipError_t;
            required "find a kernel" hipModuleGetFunction(function: *mut hipFunction_t, module: hipModule_t, name: *const c_char) -> hipError_t;
            required "launch a kernel" hipModuleLaunchKernel(function: hipFunction_t, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint, block_z: c_uint, shared_bytes: c_uint, stream: hipStream_t, arguments: *mut *mut c_void, extra: *mut *mut c_void) -> hipError_t;
            required "one number about a kernel" hipFuncGetAttribute(value: *mut c_int, attribute: hipFunction_attribute, function: hipFunction_t) -> hipError_t;
            required "blocks of a kernel that a multiprocessor holds at once" hipModuleOccupancyMaxActiveBlocksPerMultiprocessor(blocks: *mut c_int, function: hipFunction_t, block_threads: c_int, shared_bytes: usize) -> hipError_t;

            optional "record a stream's work" hipStreamBeginCapture(stream: hipStream_t, mode: hipStreamCaptureMode) -> hipError_t;
            optional "end recording" hipStreamEndCapture(stream: hipStream_t, graph: *mut hipGraph_t) -> hipError_t;
            optional "number of recorded pieces of work" hipGraphGetNodes(graph: hipGraph_t, nodes: *mut hipGraphNode_t, count: *mut usize) -> hipError_t;
            optional "make recorded work launchable" hipGraphInstantiate(executable: *mut hipGraphExec_t, graph: hipGraph_t, error_node: *mut hipGraphNode_t, log: *mut c_char, log_bytes: usize) -> hipError_t;
            optional "launch recorded work" hipGraphLaunch(executable: hipGraphExec_t, stream: hipStream_t) -> hipError_t;
            optional "destroy launchable work" hipGraphExecDestroy(executable: hipGraphExec_t) -> hipError_t;
            optional "destroy recorded work" hipGraphDestroy(graph: hipGraph_t) -> hipError_t;

            optional "ask whether a device reaches another's memory" hipDeviceCanAccessPeer(can: *mut c_int, device: c_int, peer: c_int) -> hipError_t;
            optional "let the calling thread's device reach another's memory" hipDeviceEnablePeerAccess(peer: c_int, flags: c_uint) -> hipError_t;
            optional "copy between two devices, in a stream" hipMemcpyPeerAsync(to: *mut c_void, to_device: c_int, from: *const c_void, from_device: c_int, bytes: usize, stream: hipStream_t) -> hipError_t;
        }
    };
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// HIP's name of it, which is also its symbol.
    pub name: &'static str,
    /// Whether a library without it is refused; without an optional one, what needs it is off.
    pub required: bool,
    /// What it is called for.
    pub purpose: &'static str,
}

macro_rules! field {
    (required $f:ty) => { $f };
    (optional $f:ty) => { Option<$f> };
}

macro_rules! is_required {
    (required) => {
        true
    };
    (optional) => {
        false
    };
}

/// Asks for a symbol's address, as [`resolve`](HipFunctions::resolve) needs it.
macro_rules! resolved {
    (required $find:ident $name:ident $f:ty) => {{
        let address = $find(stringify!($name))?;
        // SAFETY: the caller of `resolve` vouches that the symbol is HIP's function of this name, whose type is the table's.
        unsafe { std::mem::transmute::<*mut c_void, $f>(address) }
    }};
    (optional $find:ident $name:ident $f:ty) => {
        // SAFETY: as above; an address that was found is not null.
        $find(stringify!($name)).ok().map(|address| unsafe { std::mem::transmute::<*mut c_void, $f>(address) })
    };
}

macro_rules! table {
    ($($need:ident $purpose:literal $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        /// HIP's functions; an optional one is `None` where the library has none. Prefer the methods of [`Hip`](crate::Hip).
        pub struct HipFunctions {
            $(#[doc = concat!("Called to ", $purpose, ".")]
            pub $name: field!($need unsafe extern "C" fn($($argument: $type),*) -> $result),)*
        }

        /// Every function, in the order of the table.
        pub const FUNCTIONS: &[Function] = &[
            $(Function { name: stringify!($name), required: is_required!($need), purpose: $purpose },)*
        ];

        impl HipFunctions {
            /// Fills the table. `find` gives the address of a symbol, which is never null.
            ///
            /// # Errors
            /// What `find` says about the first required symbol that it cannot find.
            ///
            /// # Safety
            /// Every address that `find` gives is that of HIP's function of that name, and stays valid.
            pub(crate) unsafe fn resolve<E>(find: impl Fn(&'static str) -> Result<*mut c_void, E>) -> Result<Self, E> {
                Ok(Self { $($name: resolved!($need find $name unsafe extern "C" fn($($type),*) -> $result),)* })
            }
        }
    };
}

with_hip_functions!(table);

macro_rules! signatures {
    ($($need:ident $purpose:literal $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        const SIGNATURES: &[&str] = &[$(stringify!(($($argument: $type),*) -> $result),)*];
    };
}

with_hip_functions!(signatures);

/// The table as a document in Markdown: `docs/hip-functions.md`.
pub fn function_table() -> String {
    let required = FUNCTIONS.iter().filter(|f| f.required).count();
    let mut text = format!(
        "# Functions of HIP that are called\n\n\
         The HIP backend calls {} functions of `libamdhip64` and no other: {required} that must be there and {} without which \
         a feature is off.\n`cargo run -p rocmforge-hip-sys --example function_table` prints this document; a test compares \
         the two.\n\n| function | | called to |\n|---|---|---|\n",
        FUNCTIONS.len(),
        FUNCTIONS.len() - required,
    );
    for (function, signature) in FUNCTIONS.iter().zip(SIGNATURES) {
        let need = if function.required { "required" } else { "optional" };
        let signature = signature.split_whitespace().collect::<Vec<_>>().join(" ");
        text += &format!("| `{}{signature}` | {need} | {} |\n", function.name, function.purpose);
    }
    text
}
