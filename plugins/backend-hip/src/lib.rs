//! The HIP backend: compiles a program to launches over a static arena and runs them on an AMD GPU.
//!
//! The host's side of it needs no ROCm to be built: HIP is looked for when the backend is created, and a machine without
//! it gets one error that says so. Kernels come as images per instruction set (`rocmforge-kernels-hip`).

mod arena;
mod build;
mod cache;
mod executable;
mod gpu;
mod graph;
mod images;
mod memory;
mod metadata;
mod options;
mod plan;
mod profile;
mod run;
mod select;
mod upload;
mod weights;

use std::sync::Arc;

use rocmforge_sdk::program::Op;
use rocmforge_sdk::{Backend, CompileOptions, DType, Device, Error, Options, Program, Result, SAMPLE_EXTENSION, log};

pub use executable::HipExecutable;
use gpu::Gpu;
use options::HipOptions;

rocmforge_sdk::export_plugin! { name: "hip", backend: HipBackend }

/// The GPUs of this machine that are used.
pub struct HipBackend {
    gpus: Vec<Arc<Gpu>>,
    options: HipOptions,
}

impl Backend for HipBackend {
    type Exec = HipExecutable;

    fn create(options: &Options) -> Result<HipBackend> {
        let options: HipOptions = options.parse()?;
        let gpus = select::devices(&options)?;
        for gpu in &gpus {
            log!(
                Info,
                "device {} with {} compute units, waves of {}",
                gpu.facts,
                gpu.facts.compute_units,
                gpu.facts.wave
            );
        }
        Ok(HipBackend { gpus, options })
    }

    fn devices(&self) -> Result<Vec<Device>> {
        let device = |gpu: &Arc<Gpu>| Device {
            id: gpu.facts.id(),
            description: format!("{} ({})", gpu.facts.name, gpu.facts.arch),
            memory_total: gpu.facts.memory,
            memory_free: gpu.free_memory(),
        };
        Ok(self.gpus.iter().filter(|gpu| !gpu.is_lost()).map(device).collect())
    }

    fn extensions(&self) -> Vec<String> {
        if self.options.sampling { vec![SAMPLE_EXTENSION.into()] } else { vec![] }
    }

    // Every type of weights is read, see `rocmforge_kernels_hip::stored_as`.
    fn supports(&self, op: &Op, _: &[DType]) -> bool {
        !matches!(op, Op::Custom(_))
    }

    fn compile(&self, program: Program, options: CompileOptions) -> Result<HipExecutable> {
        let gpu = self.gpus.iter().find(|gpu| !gpu.is_lost());
        let gpu = gpu.ok_or_else(|| Error::device("every device was lost"))?;
        HipExecutable::new(gpu, &self.options, &program, options)
    }

    fn compile_on(&self, program: Program, options: CompileOptions, device: &str) -> Result<HipExecutable> {
        let gpu = self.gpus.iter().find(|gpu| gpu.facts.id() == device);
        let Some(gpu) = gpu else {
            let known: Vec<String> = self.gpus.iter().map(|gpu| gpu.facts.id()).collect();
            return Err(Error::invalid(format!("device: expected one of {}, found '{device}'", known.join(", "))));
        };
        HipExecutable::new(gpu, &self.options, &program, options)
    }
}
