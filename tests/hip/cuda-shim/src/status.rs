//! CUDA's statuses as HIP's.

use std::cell::Cell;

use rocmforge_hip_sys::*;

use crate::cuda::CUresult;

/// HIP's status for one of CUDA's: the same number where both have it, else the one whose consequence is the same.
pub fn translate(status: CUresult) -> hipError_t {
    let same = hipError_t(status);
    if same.name().is_some() {
        return same;
    }
    match status {
        // Unsupported PTX, and PTX that cannot be compiled.
        218..=224 => hipErrorInvalidImage,
        // The device is used by another, or the system is not ready.
        46 | 802 => hipErrorNoDevice,
        // Driver and library do not fit.
        803 | 804 => hipErrorInsufficientDriver,
        // Faults of a kernel: stack, instruction, alignment, address space, program counter.
        714..=718 => hipErrorLaunchFailure,
        720 => hipErrorLaunchOutOfResources,
        _ => hipErrorUnknown,
    }
}

thread_local! {
    static LAST_ERROR: Cell<hipError_t> = const { Cell::new(hipSuccess) };
}

/// Remembers a failed call's status for `hipGetLastError`, and gives it back.
pub fn remember(result: Result<(), hipError_t>) -> hipError_t {
    let status = result.err().unwrap_or(hipSuccess);
    if status != hipSuccess && status != hipErrorNotReady {
        LAST_ERROR.set(status);
    }
    status
}

/// The status of the calling thread's last failed call; forgotten by asking.
pub fn take_last_error() -> hipError_t {
    LAST_ERROR.replace(hipSuccess)
}

/// CUDA's status as a result.
///
/// # Errors
/// Every status but success.
pub fn check(status: CUresult) -> Result<(), hipError_t> {
    if status == 0 { Ok(()) } else { Err(translate(status)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_of_cuda_become_those_of_hip_with_the_same_consequence() {
        for (cuda, hip) in [
            (0, hipSuccess),
            (2, hipErrorOutOfMemory),
            (100, hipErrorNoDevice),
            (200, hipErrorInvalidImage),
            (209, hipErrorNoBinaryForGpu),
            (222, hipErrorInvalidImage),
            (500, hipErrorNotFound),
            (600, hipErrorNotReady),
            (700, hipErrorIllegalAddress),
            (704, hipErrorPeerAccessAlreadyEnabled),
            (715, hipErrorLaunchFailure),
            (716, hipErrorLaunchFailure),
            (719, hipErrorLaunchFailure),
            (803, hipErrorInsufficientDriver),
            (901, hipErrorStreamCaptureInvalidated),
            (12_345, hipErrorUnknown),
        ] {
            assert_eq!(translate(cuda), hip, "CUDA's status {cuda}");
        }
        assert!([700, 714, 719, 702].into_iter().all(|status| translate(status).loses_device()));
    }
}
