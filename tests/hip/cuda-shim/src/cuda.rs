//! The functions of CUDA's driver that are called, and their types.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// CUDA's status.
pub type CUresult = c_uint;
/// A device's number.
pub type CUdevice = c_int;
/// An address on a device.
pub type CUdeviceptr = u64;
/// A context, stream, event, module, function, graph or executable graph.
pub type Handle = *mut c_void;

/// How a kernel is launched: CUDA's `CUlaunchConfig`.
#[repr(C)]
pub struct LaunchConfig {
    /// Blocks in each dimension.
    pub grid: [c_uint; 3],
    /// Threads of a block in each dimension.
    pub block: [c_uint; 3],
    /// Bytes of shared memory of the launch.
    pub shared_bytes: c_uint,
    /// The stream.
    pub stream: Handle,
    /// So many attributes.
    pub attributes: *const LaunchAttribute,
    /// How many.
    pub attribute_count: c_uint,
}

/// An attribute of a launch: CUDA's `CUlaunchAttribute`, whose value is a union of 64 bytes.
#[repr(C, align(8))]
pub struct LaunchAttribute {
    /// Which attribute.
    pub id: c_uint,
    /// Its value's first word is behind 4 bytes that mean nothing.
    pub padding: c_uint,
    /// The value.
    pub value: [c_uint; 16],
}

/// CUDA's number for the attribute of a launch that may begin before the one in front of it has ended.
pub const PROGRAMMATIC_STREAM_SERIALIZATION: c_uint = 6;

/// CUDA's driver, loaded.
pub struct Cuda {
    functions: Functions,
}

macro_rules! functions {
    ($($name:ident = $symbol:literal ($($type:ty),*);)*) => {
        /// CUDA's functions under their names; the symbols of some carry a version.
        #[allow(clippy::type_complexity)]
        pub struct Functions {
            $(pub $name: unsafe extern "C" fn($($type),*) -> CUresult,)*
        }

        impl Functions {
            fn resolve(library: &'static libloading::Library) -> Result<Self, String> {
                Ok(Self {
                    $($name: {
                        // SAFETY: CUDA's function of this symbol has this type.
                        let found = unsafe { library.get::<unsafe extern "C" fn($($type),*) -> CUresult>($symbol) };
                        *found.map_err(|error| format!("libcuda.so.1: {}: {error}", $symbol))?
                    },)*
                })
            }
        }
    };
}

functions! {
    cuInit = "cuInit" (c_uint);
    cuDriverGetVersion = "cuDriverGetVersion" (*mut c_int);
    cuGetErrorString = "cuGetErrorString" (CUresult, *mut *const c_char);
    cuDeviceGetCount = "cuDeviceGetCount" (*mut c_int);
    cuDeviceGet = "cuDeviceGet" (*mut CUdevice, c_int);
    cuDeviceGetName = "cuDeviceGetName" (*mut c_char, c_int, CUdevice);
    cuDeviceTotalMem = "cuDeviceTotalMem_v2" (*mut usize, CUdevice);
    cuDeviceGetAttribute = "cuDeviceGetAttribute" (*mut c_int, c_int, CUdevice);
    cuDeviceGetPCIBusId = "cuDeviceGetPCIBusId" (*mut c_char, c_int, CUdevice);
    cuDeviceGetUuid = "cuDeviceGetUuid" (*mut [u8; 16], CUdevice);
    cuDeviceCanAccessPeer = "cuDeviceCanAccessPeer" (*mut c_int, CUdevice, CUdevice);
    cuDevicePrimaryCtxRetain = "cuDevicePrimaryCtxRetain" (*mut Handle, CUdevice);
    cuCtxSetCurrent = "cuCtxSetCurrent" (Handle);
    cuCtxEnablePeerAccess = "cuCtxEnablePeerAccess" (Handle, c_uint);
    cuMemGetInfo = "cuMemGetInfo_v2" (*mut usize, *mut usize);
    cuMemAlloc = "cuMemAlloc_v2" (*mut CUdeviceptr, usize);
    cuMemFree = "cuMemFree_v2" (CUdeviceptr);
    cuMemHostAlloc = "cuMemHostAlloc" (*mut *mut c_void, usize, c_uint);
    cuMemFreeHost = "cuMemFreeHost" (*mut c_void);
    cuMemcpyAsync = "cuMemcpyAsync" (CUdeviceptr, CUdeviceptr, usize, Handle);
    cuMemcpyPeerAsync = "cuMemcpyPeerAsync" (CUdeviceptr, Handle, CUdeviceptr, Handle, usize, Handle);
    cuMemsetD8Async = "cuMemsetD8Async" (CUdeviceptr, u8, usize, Handle);
    cuStreamCreate = "cuStreamCreate" (*mut Handle, c_uint);
    cuStreamDestroy = "cuStreamDestroy_v2" (Handle);
    cuStreamSynchronize = "cuStreamSynchronize" (Handle);
    cuStreamQuery = "cuStreamQuery" (Handle);
    cuStreamWaitEvent = "cuStreamWaitEvent" (Handle, Handle, c_uint);
    cuEventCreate = "cuEventCreate" (*mut Handle, c_uint);
    cuEventDestroy = "cuEventDestroy_v2" (Handle);
    cuEventRecord = "cuEventRecord" (Handle, Handle);
    cuEventSynchronize = "cuEventSynchronize" (Handle);
    cuEventQuery = "cuEventQuery" (Handle);
    cuEventElapsedTime = "cuEventElapsedTime" (*mut f32, Handle, Handle);
    cuModuleLoadData = "cuModuleLoadData" (*mut Handle, *const c_void);
    cuModuleUnload = "cuModuleUnload" (Handle);
    cuModuleGetFunction = "cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
    cuFuncGetAttribute = "cuFuncGetAttribute" (*mut c_int, c_int, Handle);
    cuFuncSetAttribute = "cuFuncSetAttribute" (Handle, c_int, c_int);
    cuOccupancyMaxActiveBlocksPerMultiprocessor = "cuOccupancyMaxActiveBlocksPerMultiprocessor"
        (*mut c_int, Handle, c_int, usize);
    cuLaunchKernelEx = "cuLaunchKernelEx" (*const LaunchConfig, Handle, *mut *mut c_void, *mut *mut c_void);
    cuStreamBeginCapture = "cuStreamBeginCapture_v2" (Handle, c_uint);
    cuStreamEndCapture = "cuStreamEndCapture" (Handle, *mut Handle);
    cuGraphGetNodes = "cuGraphGetNodes" (Handle, *mut Handle, *mut usize);
    cuGraphInstantiateWithFlags = "cuGraphInstantiateWithFlags" (*mut Handle, Handle, u64);
    cuGraphLaunch = "cuGraphLaunch" (Handle, Handle);
    cuGraphExecDestroy = "cuGraphExecDestroy" (Handle);
    cuGraphDestroy = "cuGraphDestroy" (Handle);
}

impl std::ops::Deref for Cuda {
    type Target = Functions;

    fn deref(&self) -> &Functions {
        &self.functions
    }
}

fn load() -> Result<Cuda, String> {
    // SAFETY: the initialisers of NVIDIA's driver.
    let library =
        unsafe { libloading::Library::new("libcuda.so.1") }.map_err(|error| {
            match std::error::Error::source(&error) {
                Some(source) => source.to_string(),
                None => error.to_string(),
            }
        })?;
    // The driver has threads and state that must outlive every call.
    let library: &'static libloading::Library = Box::leak(Box::new(library));
    let cuda = Cuda { functions: Functions::resolve(library)? };
    // SAFETY: the flags must be 0.
    match unsafe { (cuda.cuInit)(0) } {
        0 => Ok(cuda),
        status => Err(format!("cuInit: status {status}")),
    }
}

/// CUDA's driver; `None` without one, which is said once.
pub fn cuda() -> Option<&'static Cuda> {
    static CUDA: OnceLock<Option<Cuda>> = OnceLock::new();
    CUDA.get_or_init(|| load().inspect_err(|reason| eprintln!("hip cuda shim: no devices: {reason}")).ok()).as_ref()
}
