//! The CPU backend: compiles a program to a plan over a static arena of activations and runs it with the kernels of
//! `rocmforge-kernels-cpu`.

mod executable;
mod fusion;
mod memory;
mod operations;
mod options;
mod plan;
mod profile;
mod regions;
mod rope_tables;
mod run;
mod weights;

use std::sync::Arc;

use rocmforge_kernels_cpu::{Isa, KernelError, Pool, can_decode};
use rocmforge_sdk::program::Op;
use rocmforge_sdk::{Backend, CompileOptions, DType, Device, Error, Options, Program, Result, host, log};

pub use executable::CpuExecutable;
use options::CpuOptions;

rocmforge_sdk::export_plugin! { name: "cpu", backend: CpuBackend }

/// The processor this process runs on.
#[derive(Debug)]
pub struct CpuBackend {
    pool: Arc<Pool>,
    isa: Isa,
    options: CpuOptions,
}

impl Backend for CpuBackend {
    type Exec = CpuExecutable;

    fn create(options: &Options) -> Result<CpuBackend> {
        let options: CpuOptions = options.parse()?;
        let isa = Isa::named(&options.isa).map_err(|e| Error::invalid(format!("option isa: {e}")))?;
        let threads = match options.threads {
            Some(0) => return Err(Error::invalid("option threads: expected at least 1, found 0")),
            Some(n) => n,
            None => host::compute_threads(),
        };
        let made = if options.pin { Pool::pinned(threads) } else { Pool::new(threads) };
        let pool = made.map_err(|e| Error::device(e.to_string()))?;
        log!(Debug, "{} threads, {}, KV cache in {:?}", pool.threads(), isa.name(), options.kv_type);
        Ok(CpuBackend { pool: Arc::new(pool), isa, options })
    }

    fn devices(&self) -> Result<Vec<Device>> {
        let memory = memory::system();
        let description = format!("{}, {} threads, {}", memory::processor(), self.pool.threads(), self.isa.name());
        let (memory_total, memory_free) = (memory.total, memory.available);
        Ok(vec![Device { id: "cpu".to_owned(), description, memory_total, memory_free }])
    }

    fn supports(&self, op: &Op, dtypes: &[DType]) -> bool {
        !matches!(op, Op::Custom(_)) && dtypes.iter().all(|&d| can_decode(d))
    }

    fn compile(&self, program: Program, options: CompileOptions) -> Result<CpuExecutable> {
        CpuExecutable::new(Arc::clone(&self.pool), self.isa, &self.options, program, options)
    }
}

/// An error of a kernel at some place in the program.
fn kernel_error(place: impl std::fmt::Display, error: KernelError) -> Error {
    let message = format!("{place}: {error}");
    match error {
        KernelError::Weights { .. } => Error::unsupported(message),
        KernelError::Thread { .. } => Error::device(message),
        KernelError::Memory { .. } => Error::out_of_memory(message),
        _ => Error::internal(message),
    }
}
