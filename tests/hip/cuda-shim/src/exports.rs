//! HIP's functions, under HIP's names: the table of `rocmforge-hip-sys`, and nothing else.

use rocmforge_hip_sys::{hipError_t, hipErrorUnknown};

use crate::context::{driver, ready};
use crate::cuda::{CUresult, Cuda};
use crate::status::{check, remember};

pub mod devices;
pub mod memory;
pub mod work;

/// Does one call of HIP.
fn call(body: impl FnOnce() -> Result<(), hipError_t>) -> hipError_t {
    let guarded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    remember(guarded.unwrap_or(Err(hipErrorUnknown)))
}

/// Does one call of HIP with one of CUDA, in the context of the calling thread's device.
fn forward(body: impl FnOnce(&Cuda) -> CUresult) -> hipError_t {
    call(|| check(body(ready()?)))
}

/// Does one call of HIP with one of CUDA that needs no context.
fn plain(body: impl FnOnce(&Cuda) -> CUresult) -> hipError_t {
    call(|| check(body(driver()?)))
}

/// Compares the type of every function with the table's.
#[cfg(test)]
mod tests {
    use std::ffi::{c_char, c_int, c_uint, c_void};

    use rocmforge_hip_sys::*;

    use super::{devices::*, memory::*, work::*};

    macro_rules! same_types {
        ($($need:ident $purpose:literal $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
            $({ let _: unsafe extern "C" fn($($type),*) -> $result = $name; })*
        };
    }

    #[test]
    fn every_function_of_the_table_has_its_type() {
        with_hip_functions!(same_types);
    }
}
