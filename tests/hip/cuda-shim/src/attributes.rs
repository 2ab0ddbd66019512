//! HIP's numbers for properties of devices as CUDA's.

use std::ffi::c_int;

use rocmforge_hip_sys::*;

/// CUDA's number for the most shared memory of a block, which must be asked for; without asking it is 48 KiB.
pub const MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: c_int = 97;
/// CUDA's numbers for the compute capability.
pub const COMPUTE_CAPABILITY: [c_int; 2] = [75, 76];
/// CUDA's number for a function's limit of shared memory of a launch.
pub const FUNCTION_MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;
/// CUDA's number for a function's own shared memory.
pub const FUNCTION_SHARED_SIZE_BYTES: c_int = 1;

/// CUDA's number for a property of a device.
pub fn device(attribute: hipDeviceAttribute_t) -> Option<c_int> {
    Some(match attribute {
        hipDeviceAttributeMaxThreadsPerBlock => 1,
        hipDeviceAttributeWarpSize => 10,
        hipDeviceAttributeMaxRegistersPerBlock => 12,
        hipDeviceAttributeClockRate => 13,
        hipDeviceAttributeMultiprocessorCount => 16,
        hipDeviceAttributeKernelExecTimeout => 17,
        hipDeviceAttributeIntegrated => 18,
        hipDeviceAttributePciBusId => 33,
        hipDeviceAttributePciDeviceId => 34,
        hipDeviceAttributeMemoryClockRate => 36,
        hipDeviceAttributeMemoryBusWidth => 37,
        hipDeviceAttributeL2CacheSize => 38,
        hipDeviceAttributeMaxThreadsPerMultiProcessor => 39,
        hipDeviceAttributePciDomainID => 50,
        hipDeviceAttributeComputeCapabilityMajor => COMPUTE_CAPABILITY[0],
        hipDeviceAttributeComputeCapabilityMinor => COMPUTE_CAPABILITY[1],
        hipDeviceAttributeMaxSharedMemoryPerBlock => MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        _ => return None,
    })
}

/// CUDA's number for a property of a function: those that HIP has in the table are numbered alike.
pub fn function(attribute: hipFunction_attribute) -> Option<c_int> {
    let known = HIP_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK.0..=HIP_FUNC_ATTRIBUTE_NUM_REGS.0;
    known.contains(&attribute.0).then_some(attribute.0 as c_int)
}
