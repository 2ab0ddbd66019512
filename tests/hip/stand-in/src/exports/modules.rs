//! Modules and kernels.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use rocmforge_hip_sys::*;

use super::streams::enqueue;
use super::{find, give, simple, stream_device};
use crate::block::MAX_LANES;
use crate::image::Image;
use crate::queue::{Kernel, QueuedLaunch, Work};
use crate::runtime::{Injected, State, call};

/// Largest argument structure of a kernel.
const MAX_ARGUMENT_BYTES: usize = 4096;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleLoadData(module: *mut hipModule_t, image: *const c_void) -> hipError_t {
    simple("hipModuleLoadData", |runtime| {
        let device = runtime.device();
        runtime.state().alive(device)?;
        if image.is_null() {
            return Err(hipErrorInvalidValue);
        }
        // SAFETY: the caller's pointers, here and in every function of this file; the image is whole and trusted.
        let loaded = unsafe { Image::load(image.cast(), runtime.settings.wave) };
        let mut state = runtime.state();
        let image = match loaded {
            Ok(image) => Arc::new(image),
            Err((status, text)) => return state.refuse(status, format!("hipModuleLoadData: {text}")),
        };
        let handle = state.handle();
        state.modules.insert(handle, (device, image));
        // SAFETY: as above.
        unsafe { give(module, hipModule_t(handle as *mut c_void)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleUnload(module: hipModule_t) -> hipError_t {
    simple("hipModuleUnload", |runtime| {
        let id = module.0 as usize;
        let device = {
            let mut state = runtime.state();
            let found = find(state.modules.get(&id), "hipModuleUnload", module.0).map(|(device, _)| *device);
            found.or_else(|(status, text)| state.refuse(status, text))?
        };
        runtime.executor().run_device(runtime, device);
        let unloaded = {
            let mut state = runtime.state();
            let kernels: Vec<usize> = state.kernels.iter().filter(|(_, k)| k.module == id).map(|(h, _)| *h).collect();
            let kernels: Vec<_> = kernels.iter().filter_map(|handle| state.kernels.remove(handle)).collect();
            (state.modules.remove(&id), kernels)
        };
        drop(unloaded);
        runtime.state().alive(device)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleGetFunction(
    function: *mut hipFunction_t,
    module: hipModule_t,
    name: *const c_char,
) -> hipError_t {
    simple("hipModuleGetFunction", |runtime| {
        let id = module.0 as usize;
        let mut state = runtime.state();
        let found = find(state.modules.get(&id), "hipModuleGetFunction", module.0).map(|(d, i)| (*d, Arc::clone(i)));
        let (device, image) = found.or_else(|(status, text)| state.refuse(status, text))?;
        state.alive(device)?;
        if name.is_null() {
            return Err(hipErrorInvalidValue);
        }
        // SAFETY: a C string of the caller.
        let name = unsafe { CStr::from_ptr(name) };
        let entry = image.kernel(name).ok_or(hipErrorNotFound)?;
        let handle = state.handle();
        let kernel = Kernel { image, entry, name: name.to_string_lossy().into_owned(), module: id, device };
        state.kernels.insert(handle, Arc::new(kernel));
        // SAFETY: as above.
        unsafe { give(function, hipFunction_t(handle as *mut c_void)) }
    })
}

fn kernel(state: &mut State, name: &str, function: hipFunction_t) -> Result<Arc<Kernel>, hipError_t> {
    let found = find(state.kernels.get(&(function.0 as usize)), name, function.0).map(Arc::clone);
    found.or_else(|(status, text)| state.refuse(status, text))
}

/// The packed arguments that `extra` describes, as 64-bit words.
///
/// # Errors
/// What is wrong with the list.
///
/// # Safety
/// `extra` is a list as HIP wants it: pairs, and `HIP_LAUNCH_PARAM_END`.
unsafe fn packed(extra: *mut *mut c_void) -> Result<Vec<u64>, &'static str> {
    if extra.is_null() {
        return Err("no packed arguments");
    }
    let (mut buffer, mut bytes) = (std::ptr::null::<u8>(), None::<usize>);
    for pair in 0..3 {
        // SAFETY: the list ends with its end mark, which is looked for before anything behind it is read.
        let key = unsafe { *extra.add(2 * pair) };
        if key == HIP_LAUNCH_PARAM_END {
            let bytes = bytes
                .filter(|b| *b <= MAX_ARGUMENT_BYTES)
                .ok_or("no size of the arguments, or more than 4096 bytes")?;
            if buffer.is_null() {
                return Err("no address of the arguments");
            }
            let mut words = vec![0u64; bytes.div_ceil(8).max(1)];
            // SAFETY: the caller's arguments of that size; the words have at least as many bytes.
            unsafe { words.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(buffer, bytes) };
            return Ok(words);
        }
        // SAFETY: what follows a key is its value.
        let value = unsafe { *extra.add(2 * pair + 1) };
        match key {
            HIP_LAUNCH_PARAM_BUFFER_POINTER => buffer = value.cast::<u8>().cast_const(),
            // SAFETY: the address of a size.
            HIP_LAUNCH_PARAM_BUFFER_SIZE if !value.is_null() => bytes = Some(unsafe { *value.cast::<usize>() }),
            _ => return Err("a key that is none"),
        }
    }
    Err("no end")
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
    const NAME: &str = "hipModuleLaunchKernel";
    call("hipModuleLaunchKernel", |runtime, injected| {
        let launch = {
            let mut state = runtime.state();
            let device = stream_device(&mut state, NAME, stream)?;
            let kernel = kernel(&mut state, NAME, function)?;
            if kernel.device != device {
                let text =
                    format!("{NAME}: {} is loaded to device {}, the stream is of {device}", kernel.name, kernel.device);
                return state.refuse(hipErrorInvalidHandle, text);
            }
            let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
            let lanes = block.iter().try_fold(1usize, |n, b| n.checked_mul(*b as usize)).unwrap_or(usize::MAX);
            if grid.contains(&0) || lanes == 0 || lanes > MAX_LANES || grid[1].max(grid[2]) > 65_535 {
                let text = format!("{NAME}: {}: {grid:?} blocks of {block:?} threads", kernel.name);
                return state.refuse(hipErrorInvalidConfiguration, text);
            }
            if shared_bytes != 0 || !arguments.is_null() {
                let text = format!("{NAME}: {}: memory of the launch, or arguments that are not packed", kernel.name);
                return state.refuse(hipErrorNotSupported, text);
            }
            // SAFETY: the caller's list, which is read during the call only.
            match unsafe { packed(extra) } {
                Ok(arguments) => QueuedLaunch { kernel, arguments, grid, lanes },
                Err(text) => return state.refuse(hipErrorInvalidValue, format!("{NAME}: {}: {text}", kernel.name)),
            }
        };
        let work = match injected {
            Some(Injected(status)) => Work::Lose(status),
            None => Work::Launch(Arc::new(launch)),
        };
        enqueue(runtime, NAME, stream, work)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipFuncGetAttribute(
    value: *mut c_int,
    attribute: hipFunction_attribute,
    function: hipFunction_t,
) -> hipError_t {
    simple("hipFuncGetAttribute", |runtime| {
        kernel(&mut runtime.state(), "hipFuncGetAttribute", function)?;
        let number = match attribute {
            HIP_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK => MAX_LANES as c_int,
            HIP_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
            | HIP_FUNC_ATTRIBUTE_CONST_SIZE_BYTES
            | HIP_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES
            | HIP_FUNC_ATTRIBUTE_NUM_REGS => 0,
            _ => return Err(hipErrorInvalidValue),
        };
        // SAFETY: as above.
        unsafe { give(value, number) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int,
    function: hipFunction_t,
    block_threads: c_int,
    _shared_bytes: usize,
) -> hipError_t {
    simple("hipModuleOccupancyMaxActiveBlocksPerMultiprocessor", |runtime| {
        kernel(&mut runtime.state(), "hipModuleOccupancyMaxActiveBlocksPerMultiprocessor", function)?;
        if block_threads < 1 || block_threads > MAX_LANES as c_int {
            return Err(hipErrorInvalidValue);
        }
        // SAFETY: as above.
        unsafe { give(blocks, 2048 / block_threads) }
    })
}
