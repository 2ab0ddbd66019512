//! Kernels that may be launched before the launch in front of them has ended.
//!
//! HIP's launches to a stream follow each other. Kernels that wait for the launch in front of them themselves, before they
//! touch what it reads or writes, keep that order when CUDA lets them begin early, so that what they prepare overlaps with
//! its end. A module says so of all of its kernels by one more of the name below.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use crate::cuda::{Cuda, Handle};

/// The kernel of modules all of whose kernels wait for the launch in front of them.
const MARK: &std::ffi::CStr = c"rf_launches_overlap";

/// Functions of such modules, with their modules.
static KERNELS: RwLock<Option<HashMap<usize, usize>>> = RwLock::new(None);

/// Remembers a function if its module has the mark and `HIP_CUDA_SHIM_OVERLAP` is not 0.
pub fn note(cuda: &Cuda, module: Handle, function: Handle) {
    let mut mark = std::ptr::null_mut();
    // SAFETY: a module that is loaded; the other pointers are those of a local and of a string that ends with 0.
    let found = unsafe { (cuda.cuModuleGetFunction)(&mut mark, module, MARK.as_ptr()) };
    if found == 0 && std::env::var_os("HIP_CUDA_SHIM_OVERLAP").is_none_or(|value| value != "0") {
        let mut kernels = KERNELS.write().unwrap_or_else(PoisonError::into_inner);
        kernels.get_or_insert_default().insert(function as usize, module as usize);
    }
}

/// Whether launches of a function may begin early.
pub fn allowed(function: Handle) -> bool {
    let kernels = KERNELS.read().unwrap_or_else(PoisonError::into_inner);
    kernels.as_ref().is_some_and(|kernels| kernels.contains_key(&(function as usize)))
}

/// Forgets the functions of a module, whose handles may be given to others.
pub fn forget(module: Handle) {
    let mut kernels = KERNELS.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(kernels) = kernels.as_mut() {
        kernels.retain(|_, owner| *owner != module as usize);
    }
}
