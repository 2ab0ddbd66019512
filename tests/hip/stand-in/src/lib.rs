//! A stand-in for `libamdhip64`: HIP's functions of the project's table, on a machine without a GPU.
//!
//! The HIP backend loads it like AMD's library and does not know the difference. Device memory is host memory with an
//! account; a code object is a shared library that a C++ compiler of the host built from the kernels' sources; a kernel's
//! lanes are fibres that take turns ([`block`]), its blocks are spread over a few threads, in an order that changes from
//! launch to launch. Work in a stream runs as late as HIP allows, so that a forgotten wait shows as a wrong result in every
//! run instead of in a few.
//!
//! It is strict where HIP is forgiving or crashes: a handle that was destroyed, memory that is freed twice or of another
//! kind, a copy that leaves its allocation, the default stream, an allocation during a capture are errors, each with a line
//! that says why. New device memory is full of not-a-numbers.
//!
//! Environment variables, read at the first call:
//!
//! | variable | default | |
//! |---|---|---|
//! | `HIP_STAND_IN_WAVE` | 32 | lanes of a wave, 32 or 64; the devices call themselves `simt32` or `simt64` |
//! | `HIP_STAND_IN_DEVICES` | 1 | number of devices, 0 to 16 |
//! | `HIP_STAND_IN_MEMORY` | 4 GiB | bytes of memory of each device |
//! | `HIP_STAND_IN_THREADS` | up to 4 | threads that run blocks |
//! | `HIP_STAND_IN_STREAMS` | late | `eager` runs work when it is queued |
//! | `HIP_STAND_IN_GRAPHS` | right | `stale` leaves the first kernel out of recorded work, so that it computes with what lay there |
//! | `HIP_STAND_IN_FAIL` | | `FUNCTION:CALL:STATUS,..`: that call of that function fails; with a status that loses the device, so does every later call for the device. A launch that loses the device fails when it runs |
//! | `HIP_STAND_IN_REPORT` | | a file for a report of leaks, misuses and counts, written at exit and at each `hipInit` |
#![allow(non_snake_case, non_upper_case_globals)]

pub mod block;
mod exports;
pub mod fibre;
pub mod image;
pub mod memory;
pub mod pool;
mod queue;
mod report;
mod runtime;
mod settings;
