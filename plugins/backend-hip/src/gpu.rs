//! A device, and what HIP's answers mean to the host.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rocmforge_hip_sys::{
    Hip, HipError, LaunchShape, hipDeviceAttributeMultiprocessorCount, hipDeviceAttributeWarpSize, hipFunction_t,
    hipModule_t, hipStream_t,
};
use rocmforge_kernels_hip::Launch;
use rocmforge_sdk::{Error, Result};

use crate::images::Images;

/// What can be known of a device before it is used.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// HIP's number of it.
    pub(crate) ordinal: i32,
    pub(crate) name: String,
    /// Name of its instruction set, e.g. `gfx1100`.
    pub(crate) arch: String,
    /// PCI address, e.g. `0000:03:00.0`; empty where HIP does not say.
    pub(crate) pci: String,
    /// Hexadecimal; empty where HIP does not say.
    pub(crate) uuid: String,
    /// Lanes of a wave.
    pub(crate) wave: u32,
    pub(crate) compute_units: u32,
    /// Bytes.
    pub(crate) memory: u64,
}

impl Facts {
    pub(crate) fn of(hip: &Hip, ordinal: i32) -> Result<Facts, HipError> {
        let number = |attribute| hip.device_attribute(attribute, ordinal).map(|n| u32::try_from(n).unwrap_or(0));
        let uuid = hip.device_uuid(ordinal).map(|u| uuid_text(&u.bytes)).unwrap_or_default();
        Ok(Facts {
            ordinal,
            name: hip.device_name(ordinal)?,
            arch: hip.device_arch(ordinal)?,
            pci: hip.device_pci_bus_id(ordinal).unwrap_or_default(),
            uuid,
            wave: number(hipDeviceAttributeWarpSize)?,
            compute_units: number(hipDeviceAttributeMultiprocessorCount)?,
            memory: hip.device_total_memory(ordinal)? as u64,
        })
    }

    /// Its name in the placement table.
    pub(crate) fn id(&self) -> String {
        format!("hip:{}", self.ordinal)
    }
}

/// ROCm writes an identification as text, others as bytes.
fn uuid_text(bytes: &[u8]) -> String {
    match bytes.iter().all(|b| b.is_ascii_alphanumeric()) {
        true => String::from_utf8_lossy(bytes).into_owned(),
        false => bytes.iter().map(|b| format!("{b:02x}")).collect(),
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({}, {}, {} MiB)", self.ordinal, self.name, self.arch, self.pci, self.memory >> 20)
    }
}

/// A kernel of a loaded module.
#[derive(Clone, Copy)]
struct Function(hipFunction_t);

/// A device in use, with its kernels. Modules stay loaded as long as it lives.
pub(crate) struct Gpu {
    hip: Arc<Hip>,
    pub(crate) facts: Facts,
    functions: HashMap<&'static str, Function>,
    modules: Vec<hipModule_t>,
    /// Whether it answers no more; nothing is asked of it then.
    lost: AtomicBool,
}

impl Gpu {
    /// Loads the kernels onto a device.
    pub(crate) fn new(hip: Arc<Hip>, facts: Facts, images: &Images) -> Result<Gpu> {
        let mut gpu = Gpu { hip, facts, functions: HashMap::new(), modules: vec![], lost: AtomicBool::new(false) };
        gpu.enter()?;
        let mut of_source = HashMap::new();
        for (source, bytes) in images.iter() {
            // SAFETY: the image is a whole file, built by the project or named by the user.
            let module = gpu.check(format_args!("kernels '{source}'"), unsafe { gpu.hip.load_module(bytes) })?;
            gpu.modules.push(module);
            of_source.insert(source, module);
        }
        for kernel in rocmforge_kernels_hip::launch::KERNELS {
            let Some(&module) = of_source.get(kernel.source) else { continue };
            let name = std::ffi::CString::new(kernel.name).map_err(Error::internal)?;
            // SAFETY: the module was loaded above and is not unloaded before `self` is dropped.
            let function = unsafe { gpu.hip.module_function(module, &name) };
            let function =
                gpu.check(format_args!("kernel '{}' in image '{}'", kernel.name, kernel.source), function)?;
            gpu.functions.insert(kernel.name, Function(function));
        }
        Ok(gpu)
    }

    pub(crate) fn hip(&self) -> &Hip {
        &self.hip
    }

    /// Makes it the calling thread's device.
    pub(crate) fn enter(&self) -> Result<()> {
        if self.is_lost() {
            return Err(Error::device(format!("{}: the device was lost", self.facts)));
        }
        self.check("hipSetDevice", self.hip.set_device(self.facts.ordinal))
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// From now on nothing is asked of the device, not even to free its memory.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Free bytes now; 0: not known.
    pub(crate) fn free_memory(&self) -> u64 {
        let free = self.enter().ok().and_then(|()| self.hip.memory_info().ok());
        free.map_or(0, |m| m.free as u64)
    }

    /// HIP's answer as an error of the backend.
    pub(crate) fn check<T>(&self, what: impl fmt::Display, result: Result<T, HipError>) -> Result<T> {
        result.map_err(|e| {
            if e.loses_device() {
                self.lose();
            }
            let message = format!("device {}: {what}: {e}", self.facts.id());
            match (e.is_out_of_memory(), self.is_lost()) {
                (true, _) => Error::out_of_memory(message),
                (false, true) => Error::device(message),
                // The device still answers, so what was asked of it was wrong.
                (false, false) => Error::internal(message),
            }
        })
    }

    /// Queues a kernel.
    ///
    /// # Safety
    /// Every address in the arguments is valid for what the kernel does with it until the stream has passed this point.
    pub(crate) unsafe fn launch(&self, launch: &Launch, stream: hipStream_t) -> Result<()> {
        let name = launch.kernel.name;
        let Some(function) = self.functions.get(name) else {
            return Err(Error::internal(format!("kernel {name} is not loaded")));
        };
        let shape = LaunchShape { grid: launch.grid, block: [launch.threads, 1, 1], shared_bytes: 0 };
        // SAFETY: the catalogue pairs kernels with their argument structs; for the addresses the caller vouches.
        let result = unsafe { self.hip.launch_packed(function.0, shape, &launch.args, stream) };
        self.check(format_args!("launch of {name}"), result)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        for &module in &self.modules {
            // SAFETY: loaded by `new`, unloaded once; streams that used it belong to values that hold this one.
            let _ = unsafe { self.hip.unload_module(module) };
        }
    }
}
