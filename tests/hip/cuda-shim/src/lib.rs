//! A stand-in for `libamdhip64` on a machine with an NVIDIA card: HIP's functions of the project's table, each done by
//! CUDA's driver, which is loaded at run time.
//!
//! The HIP backend loads it like AMD's library and does not know the difference: it finds an instruction set called `sm_90`
//! or the like and takes its images for that. Without `libcuda.so.1`, or without a device, there are no devices.
//!
//! What differs between the two and is translated here: attributes have other numbers; the arguments of a launch end with
//! another mark; CUDA's functions want a context to be current on every thread, HIP's a device; more than 48 KiB of
//! shared memory of a launch must be asked for; some statuses have no counterpart. Modules, streams, events and graphs are
//! CUDA's own, and so are flags and capture modes, whose numbers agree.
//!
//! Launches follow each other as HIP's do. Those of images that say that their kernels wait themselves for the launch in front
//! of them may begin early, see `overlap`.
#![allow(non_snake_case, non_upper_case_globals)]

mod attributes;
mod context;
mod cuda;
mod exports;
mod overlap;
mod status;
