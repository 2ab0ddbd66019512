//! Streams, events, kernels and graphs.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr;

use super::LaunchShape;
use crate::error::HipError;
use crate::library::Hip;
use crate::types::*;

/// Streams and events.
impl Hip {
    /// Creates a stream of the calling thread's device that does not wait for the default stream.
    ///
    /// # Errors
    /// What HIP says.
    pub fn create_stream(&self) -> Result<hipStream_t, HipError> {
        let mut stream = hipStream_t::NULL;
        call!(self, hipStreamCreateWithFlags(&mut stream, hipStreamNonBlocking)).map(|()| stream)
    }

    /// Destroys a stream; queued work still runs.
    ///
    /// # Errors
    /// What HIP says.
    ///
    /// # Safety
    /// The stream is valid, and is not used again.
    pub unsafe fn destroy_stream(&self, stream: hipStream_t) -> Result<(), HipError> {
        call!(self, hipStreamDestroy(stream))
    }

    /// Waits until a stream's work is done.
    ///
    /// # Errors
    /// What HIP says, also about the work that was queued before.
    ///
    /// # Safety
    /// The stream is valid.
    pub unsafe fn synchronize_stream(&self, stream: hipStream_t) -> Result<(), HipError> {
        call!(self, hipStreamSynchronize(stream))
    }

    /// Whether a stream's work is done.
    ///
    /// # Errors
    /// What HIP says, also about the work that was queued before.
    ///
    /// # Safety
    /// The stream is valid.
    pub unsafe fn query_stream(&self, stream: hipStream_t) -> Result<bool, HipError> {
        // SAFETY: the caller vouches for the handle.
        let status = unsafe { (self.functions.hipStreamQuery)(stream) };
        self.done("hipStreamQuery", status)
    }

    /// Lets everything queued to `stream` later wait for `event`.
    ///
    /// # Errors
    /// What HIP says.
    ///
    /// # Safety
    /// Both handles are valid.
    pub unsafe fn stream_wait_event(&self, stream: hipStream_t, event: hipEvent_t) -> Result<(), HipError> {
        call!(self, hipStreamWaitEvent(stream, event, 0))
    }

    /// Creates an event with flags as `hipEventDisableTiming`.
    ///
    /// # Errors
    /// What HIP says.
    pub fn create_event(&self, flags: c_uint) -> Result<hipEvent_t, HipError> {
        let mut event = hipEvent_t::NULL;
        call!(self, hipEventCreateWithFlags(&mut event, flags)).map(|()| event)
    }

    /// Destroys an event.
    ///
    /// # Errors
    /// What HIP says.
    ///
    /// # Safety
    /// The event is valid, and is not used again.
    pub unsafe fn destroy_event(&self, event: hipEvent_t) -> Result<(), HipError> {
        call!(self, hipEventDestroy(event))
    }

    /// Puts an event at the end of what is queued to a stream.
    ///
    /// # Errors
    /// What HIP says.
    ///
    /// # Safety
    /// Both handles are valid and of the same device.
    pub unsafe fn record_event(&self, event: hipEvent_t, stream: hipStream_t) -> Result<(), HipError> {
        call!(self, hipEventRecord(event, stream))
    }

    /// Waits until an event has happened.
    ///
    /// # Errors
    /// What HIP says, also about the work that was queued before.
    ///
    /// # Safety
    /// The event is valid.
    pub unsafe fn synchronize_event(&self, event: hipEvent_t) -> Result<(), HipError> {
        call!(self, hipEventSynchronize(event))
    }

    /// Whether an event has happened.
    ///
    /// # Errors
    /// What HIP says, also about the work that was queued before.
    ///
    /// # Safety
    /// The event is valid.
    pub unsafe fn query_event(&self, event: hipEvent_t) -> Result<bool, HipError> {
        // SAFETY: the caller vouches for the handle.
        let status = unsafe { (self.functions.hipEventQuery)(event) };
        self.done("hipEventQuery", status)
    }

    /// Milliseconds between two events that have happened.
    ///
    /// # Errors
    /// What HIP says, for instance that one has not happened.
    ///
    /// # Safety
    /// Both events are valid.
    pub unsafe fn elapsed_milliseconds(&self, start: hipEvent_t, end: hipEvent_t) -> Result<f32, HipError> {
        let mut milliseconds = 0.0;
        call!(self, hipEventElapsedTime(&mut milliseconds, start, end)).map(|()| milliseconds)
    }

    fn done(&self, call: &'static str, status: hipError_t) -> Result<bool, HipError> {
        match status {
            hipErrorNotReady => Ok(false),
            other => self.check(call, other).map(|()| true),
        }
    }
}

/// Kernels.
impl Hip {
    /// Loads a code object to the calling thread's device.
    ///
    /// # Errors
    /// What HIP says, for instance that the image is for another device.
    ///
    /// # Safety
    /// The image is a whole code object: HIP is not told how long it is and reads as far as its headers say. Its code is
    /// as trusted as this program's.
    pub unsafe fn load_module(&self, image: &[u8]) -> Result<hipModule_t, HipError> {
        let mut module = hipModule_t::NULL;
        call!(self, hipModuleLoadData(&mut module, image.as_ptr().cast::<c_void>())).map(|()| module)
    }

    /// Unloads a code object.
    ///
    /// # Errors
    /// What HIP says.
    ///
    /// # Safety
    /// The module is valid, and neither it nor its functions are used again, by queued work either.
    pub unsafe fn unload_module(&self, module: hipModule_t) -> Result<(), HipError> {
        call!(self, hipModuleUnload(module))
    }

    /// A kernel of a module.
    ///
    /// # Errors
    /// What HIP says, for instance that there is none of this name.
    ///
    /// # Safety
    /// The module is valid.
    pub unsafe fn module_function(&self, module: hipModule_t, name: &CStr) -> Result<hipFunction_t, HipError> {
        let mut function = hipFunction_t::NULL;
        call!(self, hipModuleGetFunction(&mut function, module, name.as_ptr())).map(|()| function)
    }

    /// Queues a launch whose only parameter is a structure, passed by value.
    ///
    /// # Errors
    /// What HIP says about the launch, not about how it runs.
    ///
    /// # Safety
    /// The kernel takes exactly this structure; every pointer within it is valid for what the kernel does with it, until
    /// the stream has passed this point; the handles are valid.
    pub unsafe fn launch<A: Copy>(
        &self,
        function: hipFunction_t,
        shape: LaunchShape,
        arguments: &A,
        stream: hipStream_t,
    ) -> Result<(), HipError> {
        // SAFETY: what the caller vouches for; the structure is read during the call only.
        unsafe { self.launch_raw(function, shape, ptr::from_ref(arguments).cast::<c_void>(), size_of::<A>(), stream) }
    }

    /// Queues a launch whose only parameter is a structure, given as its bytes, which HIP copies.
    ///
    /// # Errors
    /// What HIP says about the launch, not about how it runs.
    ///
    /// # Safety
    /// As for [`launch`](Self::launch): the bytes are those of the structure that the kernel takes.
    pub unsafe fn launch_packed(
        &self,
        function: hipFunction_t,
        shape: LaunchShape,
        arguments: &[u8],
        stream: hipStream_t,
    ) -> Result<(), HipError> {
        // SAFETY: what the caller vouches for; the bytes are read during the call only.
        unsafe { self.launch_raw(function, shape, arguments.as_ptr().cast::<c_void>(), arguments.len(), stream) }
    }

    /// # Safety
    /// As for [`launch`](Self::launch), with the structure at `arguments`.
    unsafe fn launch_raw(
        &self,
        function: hipFunction_t,
        shape: LaunchShape,
        arguments: *const c_void,
        mut bytes: usize,
        stream: hipStream_t,
    ) -> Result<(), HipError> {
        let mut extra = [
            HIP_LAUNCH_PARAM_BUFFER_POINTER,
            arguments.cast_mut(),
            HIP_LAUNCH_PARAM_BUFFER_SIZE,
            ptr::from_mut(&mut bytes).cast::<c_void>(),
            HIP_LAUNCH_PARAM_END,
        ];
        let LaunchShape { grid: [gx, gy, gz], block: [bx, by, bz], shared_bytes } = shape;
        let (none, extra) = (ptr::null_mut(), extra.as_mut_ptr());
        call!(self, hipModuleLaunchKernel(function, gx, gy, gz, bx, by, bz, shared_bytes, stream, none, extra))
    }

    /// One number about a kernel.
    ///
    /// # Errors
    /// What HIP says.
    ///
    /// # Safety
    /// The function is valid.
    pub unsafe fn function_attribute(
        &self,
        attribute: hipFunction_attribute,
        function: hipFunction_t,
    ) -> Result<i32, HipError> {
        let mut value = 0;
        call!(self, hipFuncGetAttribute(&mut value, attribute, function)).map(|()| value)
    }

    /// How many blocks of a kernel a multiprocessor holds at once.
    ///
    /// # Errors
    /// What HIP says.
    ///
    /// # Safety
    /// The function is valid.
    pub unsafe fn max_blocks_per_multiprocessor(
        &self,
        function: hipFunction_t,
        block_threads: u32,
        shared_bytes: usize,
    ) -> Result<i32, HipError> {
        let (mut blocks, threads) = (0, c_int::try_from(block_threads).unwrap_or(c_int::MAX));
        call!(self, hipModuleOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, function, threads, shared_bytes))
            .map(|()| blocks)
    }
}

/// Graphs.
impl Hip {
    /// Whether the library has every function of graphs.
    pub fn has_graphs(&self) -> bool {
        let f = &self.functions;
        f.hipStreamBeginCapture.is_some()
            && f.hipStreamEndCapture.is_some()
            && f.hipGraphInstantiate.is_some()
            && f.hipGraphLaunch.is_some()
            && f.hipGraphExecDestroy.is_some()
            && f.hipGraphDestroy.is_some()
    }

    /// From now on records what is queued to a stream, instead of running it.
    ///
    /// # Errors
    /// What HIP says, or that the library has no such function.
    ///
    /// # Safety
    /// The stream is valid. Until the capture ends, nothing is allocated and nothing waits for this stream.
    pub unsafe fn begin_capture(&self, stream: hipStream_t, mode: hipStreamCaptureMode) -> Result<(), HipError> {
        call_optional!(self, hipStreamBeginCapture(stream, mode))
    }

    /// Ends recording.
    ///
    /// # Errors
    /// What HIP says, for instance that a call in between made the capture invalid.
    ///
    /// # Safety
    /// The stream is valid.
    pub unsafe fn end_capture(&self, stream: hipStream_t) -> Result<hipGraph_t, HipError> {
        let mut graph = hipGraph_t::NULL;
        call_optional!(self, hipStreamEndCapture(stream, &mut graph)).map(|()| graph)
    }

    /// How many pieces of work were recorded.
    ///
    /// # Errors
    /// What HIP says, or that the library has no such function.
    ///
    /// # Safety
    /// The graph is valid.
    pub unsafe fn graph_nodes(&self, graph: hipGraph_t) -> Result<usize, HipError> {
        let mut count = 0;
        call_optional!(self, hipGraphGetNodes(graph, ptr::null_mut(), &mut count)).map(|()| count)
    }

    /// Makes recorded work launchable.
    ///
    /// # Errors
    /// What HIP says.
    ///
    /// # Safety
    /// The graph is valid.
    pub unsafe fn instantiate_graph(&self, graph: hipGraph_t) -> Result<hipGraphExec_t, HipError> {
        let mut executable = hipGraphExec_t::NULL;
        call_optional!(self, hipGraphInstantiate(&mut executable, graph, ptr::null_mut(), ptr::null_mut(), 0))
            .map(|()| executable)
    }

    /// Queues recorded work.
    ///
    /// # Errors
    /// What HIP says.
    ///
    /// # Safety
    /// Both handles are valid, and so is every pointer that was recorded, until the stream has passed this point.
    pub unsafe fn launch_graph(&self, executable: hipGraphExec_t, stream: hipStream_t) -> Result<(), HipError> {
        call_optional!(self, hipGraphLaunch(executable, stream))
    }

    /// Destroys launchable work.
    ///
    /// # Errors
    /// What HIP says.
    ///
    /// # Safety
    /// The handle is valid, is not used again, and its last launch is done.
    pub unsafe fn destroy_graph_exec(&self, executable: hipGraphExec_t) -> Result<(), HipError> {
        call_optional!(self, hipGraphExecDestroy(executable))
    }

    /// Destroys recorded work; what was made launchable from it stays valid.
    ///
    /// # Errors
    /// What HIP says.
    ///
    /// # Safety
    /// The graph is valid, and is not used again.
    pub unsafe fn destroy_graph(&self, graph: hipGraph_t) -> Result<(), HipError> {
        call_optional!(self, hipGraphDestroy(graph))
    }
}
