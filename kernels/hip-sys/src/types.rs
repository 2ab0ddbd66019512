//! HIP's types and constants, with HIP's names. An enumeration of HIP is a number here: a later HIP may return values
//! that no Rust enumeration knows.

use std::ffi::{CStr, c_int, c_uint, c_void};

/// A status. See the constants `hipSuccess` and `hipError*`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct hipError_t(pub c_uint);

macro_rules! constants {
    ($kind:ident: $($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        $($(#[$doc])* pub const $name: $kind = $kind($value);)*
    };
}

macro_rules! error_names {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        constants! { hipError_t: $($(#[$doc])* $name = $value;)* }
        impl hipError_t {
            /// HIP's name of this code, or `None` for a code that is not used here.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $($name => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// The same as a C string, for a library that stands in for HIP.
            pub fn c_name(self) -> Option<&'static CStr> {
                match self {
                    $($name => CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()).ok(),)*
                    _ => None,
                }
            }
        }
    };
}

error_names! {
    /// The call succeeded.
    hipSuccess = 0;
    /// An argument is out of its range.
    hipErrorInvalidValue = 1;
    /// The device, or the host for pinned memory, has too little memory left.
    hipErrorOutOfMemory = 2;
    /// HIP could not start.
    hipErrorNotInitialized = 3;
    /// The process is ending.
    hipErrorDeinitialized = 4;
    /// A launch's grid or block is too large.
    hipErrorInvalidConfiguration = 9;
    /// A pointer that no device knows.
    hipErrorInvalidDevicePointer = 17;
    /// The driver is older than the library needs.
    hipErrorInsufficientDriver = 35;
    /// An earlier launch failed.
    hipErrorPriorLaunchFailure = 53;
    /// The function is not a kernel of this device.
    hipErrorInvalidDeviceFunction = 98;
    /// There is no device.
    hipErrorNoDevice = 100;
    /// There is no device of this number.
    hipErrorInvalidDevice = 101;
    /// The image is not a code object.
    hipErrorInvalidImage = 200;
    /// The context is not valid any more.
    hipErrorInvalidContext = 201;
    /// The image holds no code for this device.
    hipErrorNoBinaryForGpu = 209;
    /// The device found memory that it cannot correct.
    hipErrorECCNotCorrectable = 214;
    /// These two devices cannot reach each other's memory.
    hipErrorPeerAccessUnsupported = 217;
    /// A file was not found.
    hipErrorFileNotFound = 301;
    /// A function of the driver's library is missing.
    hipErrorSharedObjectSymbolNotFound = 302;
    /// The driver's library could not start.
    hipErrorSharedObjectInitFailed = 303;
    /// The operating system refused.
    hipErrorOperatingSystem = 304;
    /// A handle that is not, or no longer, valid.
    hipErrorInvalidHandle = 400;
    /// A call that is not allowed in this state.
    hipErrorIllegalState = 401;
    /// A module has no function of this name.
    hipErrorNotFound = 500;
    /// Work is still running: the answer of queries, not a failure.
    hipErrorNotReady = 600;
    /// A kernel accessed memory that is not its own; the device takes no more work from this process.
    hipErrorIllegalAddress = 700;
    /// A launch asks for more registers or shared memory than there are.
    hipErrorLaunchOutOfResources = 701;
    /// The watchdog ended a kernel that ran for too long.
    hipErrorLaunchTimeOut = 702;
    /// Access between these two devices is enabled already.
    hipErrorPeerAccessAlreadyEnabled = 704;
    /// Access between these two devices is not enabled.
    hipErrorPeerAccessNotEnabled = 705;
    /// The context was destroyed.
    hipErrorContextIsDestroyed = 709;
    /// An assertion of a kernel failed.
    hipErrorAssert = 710;
    /// A kernel failed while it ran; the device takes no more work from this process.
    hipErrorLaunchFailure = 719;
    /// The call is not supported here.
    hipErrorNotSupported = 801;
    /// The call is not allowed while a stream is captured.
    hipErrorStreamCaptureUnsupported = 900;
    /// A captured stream was made unusable by an earlier error.
    hipErrorStreamCaptureInvalidated = 901;
    /// Two captures would be joined.
    hipErrorStreamCaptureMerge = 902;
    /// The stream is not being captured.
    hipErrorStreamCaptureUnmatched = 903;
    /// Work forked off the captured stream was not joined again.
    hipErrorStreamCaptureUnjoined = 904;
    /// A captured stream depends on work outside of the capture.
    hipErrorStreamCaptureIsolation = 905;
    /// The default stream would be part of the capture.
    hipErrorStreamCaptureImplicit = 906;
    /// The event was last recorded in a captured stream.
    hipErrorCapturedEvent = 907;
    /// A capture is ended by another thread than began it.
    hipErrorStreamCaptureWrongThread = 908;
    /// A graph cannot be updated this way.
    hipErrorGraphExecUpdateFailure = 910;
    /// Any other failure.
    hipErrorUnknown = 999;
}

impl hipError_t {
    /// Whether after this status the device takes no more work from this process: every later call fails as well.
    pub fn loses_device(self) -> bool {
        matches!(
            self,
            hipErrorDeinitialized
                | hipErrorNoDevice
                | hipErrorInvalidContext
                | hipErrorECCNotCorrectable
                | hipErrorIllegalAddress
                | hipErrorLaunchTimeOut
                | hipErrorContextIsDestroyed
                | hipErrorAssert
                | hipErrorLaunchFailure
                | hipErrorUnknown
        )
    }
}

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name(pub *mut c_void);

        impl $name {
            /// The handle that stands for none.
            pub const NULL: Self = Self(std::ptr::null_mut());
            /// Whether this is no handle.
            pub fn is_null(self) -> bool {
                self.0.is_null()
            }
        }

        // SAFETY: a number that only HIP looks behind, and HIP takes handles from any thread.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}
    )*};
}

handles! {
    /// A queue of work on a device.
    hipStream_t;
    /// A point in a stream.
    hipEvent_t;
    /// A loaded code object.
    hipModule_t;
    /// A kernel of a module.
    hipFunction_t;
    /// Recorded work.
    hipGraph_t;
    /// Recorded work that can be launched.
    hipGraphExec_t;
    /// One piece of recorded work.
    hipGraphNode_t;
}

/// A device, for the few functions that take one instead of its number.
pub type hipDevice_t = c_int;

/// An identification of a device that is the same in every process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct hipUUID {
    /// The bytes; ROCm writes 16 hexadecimal digits as text.
    pub bytes: [u8; 16],
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident($of:ty) { $($(#[$cdoc:meta])* $constant:ident = $value:expr;)* })*) => {$(
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name(pub $of);
        constants! { $name: $($(#[$cdoc])* $constant = $value;)* }
    )*};
}

numbers! {
    /// Where a copy goes from and to.
    hipMemcpyKind(c_uint) {
        /// From host memory to host memory.
        hipMemcpyHostToHost = 0;
        /// From host memory to the device.
        hipMemcpyHostToDevice = 1;
        /// From the device to host memory.
        hipMemcpyDeviceToHost = 2;
        /// From a device to the same device.
        hipMemcpyDeviceToDevice = 3;
        /// As the pointers say.
        hipMemcpyDefault = 4;
    }

    /// A property of a device that is one number. The numbers are those of HIP from 5.0 on.
    hipDeviceAttribute_t(c_uint) {
        /// Clock of the multiprocessors in kHz.
        hipDeviceAttributeClockRate = 5;
        /// 1 for a device that shares the host's memory.
        hipDeviceAttributeIntegrated = 16;
        /// 1 if kernels are ended after some seconds.
        hipDeviceAttributeKernelExecTimeout = 18;
        /// Bytes of the second-level cache.
    hipDeviceAttributeL2CacheSize = 19;
        /// First part of the compute capability.
        hipDeviceAttributeComputeCapabilityMajor = 23;
        /// Largest number of threads of a block.
        hipDeviceAttributeMaxThreadsPerBlock = 56;
        /// Largest number of threads that a multiprocessor holds at once.
        hipDeviceAttributeMaxThreadsPerMultiProcessor = 57;
        /// Width of the memory bus in bits.
        hipDeviceAttributeMemoryBusWidth = 59;
        /// Clock of the memory in kHz.
        hipDeviceAttributeMemoryClockRate = 60;
        /// Second part of the compute capability.
        hipDeviceAttributeComputeCapabilityMinor = 61;
        /// Number of multiprocessors: compute units, or pairs of them on RDNA.
        hipDeviceAttributeMultiprocessorCount = 63;
        /// The device's number on its PCI bus.
        hipDeviceAttributePciBusId = 67;
        /// The device's number on its PCI device.
        hipDeviceAttributePciDeviceId = 68;
        /// The device's PCI domain.
        hipDeviceAttributePciDomainID = 69;
        /// Registers (32-bit) that a block can use.
        hipDeviceAttributeMaxRegistersPerBlock = 71;
        /// Bytes of shared memory that a block can use.
        hipDeviceAttributeMaxSharedMemoryPerBlock = 74;
        /// Threads of a wave.
        hipDeviceAttributeWarpSize = 87;
    }

    /// A property of a kernel that is one number.
    hipFunction_attribute(c_uint) {
        /// Largest number of threads of a block of this kernel.
        HIP_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 0;
        /// Bytes of shared memory that a block of this kernel uses, without those that a launch adds.
        HIP_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES = 1;
        /// Bytes of constant memory.
        HIP_FUNC_ATTRIBUTE_CONST_SIZE_BYTES = 2;
        /// Bytes of private memory of a thread: more than 0 where registers spill.
        HIP_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES = 3;
        /// Registers of a thread.
        HIP_FUNC_ATTRIBUTE_NUM_REGS = 4;
    }

    /// What other threads may do while a stream is captured.
    hipStreamCaptureMode(c_uint) {
        /// No thread makes calls that could be part of the capture by mistake.
        hipStreamCaptureModeGlobal = 0;
        /// Only the capturing thread is restricted.
        hipStreamCaptureModeThreadLocal = 1;
        /// Nothing is restricted.
        hipStreamCaptureModeRelaxed = 2;
    }
}

/// Flag of a stream that does not wait for the default stream.
pub const hipStreamNonBlocking: c_uint = 1;
/// Flags of an event that measures time.
pub const hipEventDefault: c_uint = 0;
/// Flag of an event whose waiting thread sleeps.
pub const hipEventBlockingSync: c_uint = 1;
/// Flag of an event that only orders.
pub const hipEventDisableTiming: c_uint = 2;
/// Flags of pinned memory without special wishes.
pub const hipHostMallocDefault: c_uint = 0;
/// Flag of memory that is pinned for every device.
pub const hipHostMallocPortable: c_uint = 1;

/// In `extra` of a launch: the next entry is the address of the packed arguments.
pub const HIP_LAUNCH_PARAM_BUFFER_POINTER: *mut c_void = std::ptr::without_provenance_mut(1);
/// In `extra` of a launch: the next entry is the address of a `usize`, the number of bytes of the packed arguments.
pub const HIP_LAUNCH_PARAM_BUFFER_SIZE: *mut c_void = std::ptr::without_provenance_mut(2);
/// The last entry of `extra` of a launch. CUDA's is 0.
pub const HIP_LAUNCH_PARAM_END: *mut c_void = std::ptr::without_provenance_mut(3);
