//! Streams, events, modules, kernels and graphs.

use std::ffi::{c_char, c_int, c_uint, c_void};

use rocmforge_hip_sys::*;

use super::{call, forward};
use crate::attributes::{self, FUNCTION_MAX_DYNAMIC_SHARED_SIZE_BYTES, FUNCTION_SHARED_SIZE_BYTES};
use crate::context::{self, ready};
use crate::cuda::{LaunchAttribute, LaunchConfig, PROGRAMMATIC_STREAM_SERIALIZATION};
use crate::overlap;
use crate::status::check;

/// Functions that only pass their arguments on: handles are CUDA's own, and flags have the same numbers.
macro_rules! forwarded {
    ($($name:ident($($argument:ident: $type:ty),*) = $cuda:ident($($passed:expr),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> hipError_t {
            // SAFETY: the caller's handles and pointers.
            forward(|cuda| unsafe { (cuda.$cuda)($($passed),*) })
        }
    )*};
}

forwarded! {
    hipStreamCreateWithFlags(stream: *mut hipStream_t, flags: c_uint) = cuStreamCreate(stream.cast(), flags);
    hipStreamDestroy(stream: hipStream_t) = cuStreamDestroy(stream.0);
    hipStreamSynchronize(stream: hipStream_t) = cuStreamSynchronize(stream.0);
    hipStreamQuery(stream: hipStream_t) = cuStreamQuery(stream.0);
    hipStreamWaitEvent(stream: hipStream_t, event: hipEvent_t, flags: c_uint) = cuStreamWaitEvent(stream.0, event.0, flags);
    hipEventCreateWithFlags(event: *mut hipEvent_t, flags: c_uint) = cuEventCreate(event.cast(), flags);
    hipEventDestroy(event: hipEvent_t) = cuEventDestroy(event.0);
    hipEventRecord(event: hipEvent_t, stream: hipStream_t) = cuEventRecord(event.0, stream.0);
    hipEventSynchronize(event: hipEvent_t) = cuEventSynchronize(event.0);
    hipEventQuery(event: hipEvent_t) = cuEventQuery(event.0);
    hipEventElapsedTime(milliseconds: *mut f32, start: hipEvent_t, end: hipEvent_t)
        = cuEventElapsedTime(milliseconds, start.0, end.0);
    hipModuleLoadData(module: *mut hipModule_t, image: *const c_void) = cuModuleLoadData(module.cast(), image);
    hipModuleOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: *mut c_int, function: hipFunction_t, block_threads: c_int, shared_bytes: usize
    ) = cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function.0, block_threads, shared_bytes);
    hipStreamBeginCapture(stream: hipStream_t, mode: hipStreamCaptureMode) = cuStreamBeginCapture(stream.0, mode.0);
    hipStreamEndCapture(stream: hipStream_t, graph: *mut hipGraph_t) = cuStreamEndCapture(stream.0, graph.cast());
    hipGraphGetNodes(graph: hipGraph_t, nodes: *mut hipGraphNode_t, count: *mut usize)
        = cuGraphGetNodes(graph.0, nodes.cast(), count);
    hipGraphLaunch(executable: hipGraphExec_t, stream: hipStream_t) = cuGraphLaunch(executable.0, stream.0);
    hipGraphExecDestroy(executable: hipGraphExec_t) = cuGraphExecDestroy(executable.0);
    hipGraphDestroy(graph: hipGraph_t) = cuGraphDestroy(graph.0);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGraphInstantiate(
    executable: *mut hipGraphExec_t,
    graph: hipGraph_t,
    _error_node: *mut hipGraphNode_t,
    _log: *mut c_char,
    _log_bytes: usize,
) -> hipError_t {
    // SAFETY: the caller's handles and pointers, here and in every function of this file.
    forward(|cuda| unsafe { (cuda.cuGraphInstantiateWithFlags)(executable.cast(), graph.0, 0) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleGetFunction(
    function: *mut hipFunction_t,
    module: hipModule_t,
    name: *const c_char,
) -> hipError_t {
    call(|| {
        if function.is_null() {
            return Err(hipErrorInvalidValue);
        }
        let (cuda, mut found) = (ready()?, std::ptr::null_mut());
        let (mut most, mut own) = (0, 0);
        // With HIP a launch may ask for all the shared memory that there is. CUDA gives more than 48 KiB only to functions
        // whose limit was raised.
        // SAFETY: as above; the other pointers are those of locals.
        unsafe {
            check((cuda.cuModuleGetFunction)(&mut found, module.0, name))?;
            let limit = attributes::MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
            check((cuda.cuDeviceGetAttribute)(&mut most, limit, context::device()))?;
            check((cuda.cuFuncGetAttribute)(&mut own, FUNCTION_SHARED_SIZE_BYTES, found))?;
            check((cuda.cuFuncSetAttribute)(found, FUNCTION_MAX_DYNAMIC_SHARED_SIZE_BYTES, most - own))?;
            overlap::note(cuda, module.0, found);
            function.write(hipFunction_t(found));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleUnload(module: hipModule_t) -> hipError_t {
    forward(|cuda| {
        overlap::forget(module.0);
        // SAFETY: as above.
        unsafe { (cuda.cuModuleUnload)(module.0) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipFuncGetAttribute(
    value: *mut c_int,
    attribute: hipFunction_attribute,
    function: hipFunction_t,
) -> hipError_t {
    call(|| {
        let (cuda, number) = (ready()?, attributes::function(attribute).ok_or(hipErrorInvalidValue)?);
        // SAFETY: as above.
        check(unsafe { (cuda.cuFuncGetAttribute)(value, number, function.0) })
    })
}

/// CUDA's list of extra options: the same keys as HIP's, with another end.
///
/// # Errors
/// A list that is not one of packed arguments.
///
/// # Safety
/// A list as HIP wants it: pairs, and `HIP_LAUNCH_PARAM_END`.
unsafe fn translate_extra(extra: *mut *mut c_void) -> Result<[*mut c_void; 5], hipError_t> {
    const END: *mut c_void = std::ptr::null_mut();
    let mut list = [END; 5];
    for pair in 0..3 {
        // SAFETY: the list ends with its end mark, which is looked for before anything behind it is read.
        let key = unsafe { *extra.add(2 * pair) };
        if key == HIP_LAUNCH_PARAM_END {
            return if pair == 2 { Ok(list) } else { Err(hipErrorInvalidValue) };
        }
        if pair == 2 || (key != HIP_LAUNCH_PARAM_BUFFER_POINTER && key != HIP_LAUNCH_PARAM_BUFFER_SIZE) {
            break;
        }
        // SAFETY: what follows a key is its value.
        (list[2 * pair], list[2 * pair + 1]) = (key, unsafe { *extra.add(2 * pair + 1) });
    }
    Err(hipErrorInvalidValue)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleLaunchKernel(
    function: hipFunction_t,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: hipStream_t,
    arguments: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> hipError_t {
    call(|| {
        let cuda = ready()?;
        // SAFETY: the caller's list.
        let mut list = if extra.is_null() { None } else { Some(unsafe { translate_extra(extra) }?) };
        let extra = list.as_mut().map_or(std::ptr::null_mut(), |list| list.as_mut_ptr());
        let overlap = LaunchAttribute {
            id: PROGRAMMATIC_STREAM_SERIALIZATION,
            padding: 0,
            value: std::array::from_fn(|i| u32::from(i == 0)),
        };
        let config = LaunchConfig {
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            shared_bytes,
            stream: stream.0,
            attributes: &overlap,
            attribute_count: u32::from(overlap::allowed(function.0)),
        };
        // SAFETY: as above; CUDA copies the arguments before it returns.
        check(unsafe { (cuda.cuLaunchKernelEx)(&config, function.0, arguments, extra) })
    })
}
