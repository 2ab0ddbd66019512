use std::sync::Arc;

use rocmforge_abi::{
    BackendTableRef, CompileOptions, ExecutableTableRef, GroupTable, Handle, MemoryNeed, RSlice, RSliceMut, RStr,
    RString, RVec, StepBatch, StepExt, StepOutput, TensorMeta, Weight,
};
use rocmforge_gguf::GgufFile;
use rocmforge_program::{DType, Op, OutputBuffer, Program, Step};

use crate::error::LoaderError;

/// A device of a backend.
#[derive(Clone, Debug)]
pub struct Device {
    /// Short and stable, e.g. `cpu` or `hip:0`.
    pub id: String,
    /// For people.
    pub description: String,
    /// Memory in all, bytes; 0: not known.
    pub memory_total: u64,
    /// Memory free, bytes; 0: not known.
    pub memory_free: u64,
}

struct Instance {
    table: BackendTableRef,
    handle: Handle,
    name: String,
}

impl Drop for Instance {
    fn drop(&mut self) {
        let status = (self.table.destroy())(self.handle);
        if let Err(e) = LoaderError::check(&self.name, "destroy", status) {
            tracing::warn!("{e}");
        }
    }
}

/// An instance of a backend.
#[derive(Clone)]
pub struct Backend {
    instance: Arc<Instance>,
}

impl Backend {
    pub(crate) fn create(table: BackendTableRef, options_json: &str) -> Result<Backend, LoaderError> {
        let name = table.name().to_string();
        let mut handle = Handle(std::ptr::null_mut());
        LoaderError::check(&name, "create", (table.create())(RStr::from_str(options_json), &mut handle))?;
        Ok(Backend { instance: Arc::new(Instance { table, handle, name }) })
    }

    /// Its name in `plugins.toml`.
    pub fn name(&self) -> &str {
        &self.instance.name
    }

    /// Its devices, best first.
    ///
    /// # Errors
    /// A device that does not answer.
    pub fn devices(&self) -> Result<Vec<Device>, LoaderError> {
        let mut out = RVec::new();
        let status = (self.instance.table.devices())(self.instance.handle, &mut out);
        LoaderError::check(self.name(), "devices", status)?;
        Ok(out
            .into_iter()
            .map(|d| Device {
                id: d.id.into(),
                description: d.description.into(),
                memory_total: d.memory_total,
                memory_free: d.memory_free,
            })
            .collect())
    }

    /// Step extensions that it understands.
    ///
    /// # Errors
    /// A panic in the plugin.
    pub fn extensions(&self) -> Result<Vec<String>, LoaderError> {
        let mut out: RVec<RString> = RVec::new();
        let status = (self.instance.table.extensions())(self.instance.handle, &mut out);
        LoaderError::check(self.name(), "extensions", status)?;
        Ok(out.into_iter().map(String::from).collect())
    }

    /// Whether it runs an operation with weights of these types.
    ///
    /// # Errors
    /// A panic in the plugin.
    pub fn supports(&self, op: &Op, dtypes: &[DType]) -> Result<bool, LoaderError> {
        let json = serde_json::to_string(op).unwrap_or_default();
        let dtypes: Vec<u32> = dtypes.iter().map(|&d| d as u32).collect();
        let mut out = false;
        let call = self.instance.table.supports();
        let status = call(self.instance.handle, RStr::from_str(&json), RSlice::from_slice(&dtypes), &mut out);
        LoaderError::check(self.name(), "supports", status)?;
        Ok(out)
    }

    /// Compiles a program. `file` holds its weights; it stays mapped while the executable lives.
    ///
    /// # Errors
    /// Whatever the backend cannot compile, by operation and layer.
    pub fn compile(
        &self,
        program: Arc<Program>,
        file: Arc<GgufFile>,
        options: CompileOptions,
    ) -> Result<Executable, LoaderError> {
        let bytes = program.to_bytes();
        let mut handle = Handle(std::ptr::null_mut());
        let call = self.instance.table.compile();
        let status = call(self.instance.handle, RSlice::from_slice(&bytes), options, &mut handle);
        LoaderError::check(self.name(), "compile", status)?;
        let mut executable = Executable {
            table: self.instance.table.executable(),
            handle,
            backend: self.clone(),
            program,
            file,
            options,
            memory: MemoryNeed::default(),
        };
        let status = (executable.table.memory())(executable.handle, &mut executable.memory);
        executable.check("memory", status)?;
        Ok(executable)
    }
}

/// A compiled program with its weights and KV cache.
pub struct Executable {
    table: ExecutableTableRef,
    handle: Handle,
    backend: Backend,
    program: Arc<Program>,
    // Holds the mapping that bound weights point into; dropped after the executable is destroyed.
    file: Arc<GgufFile>,
    options: CompileOptions,
    memory: MemoryNeed,
}

impl Drop for Executable {
    fn drop(&mut self) {
        let status = (self.table.destroy())(self.handle);
        if let Err(e) = self.check("destroy", status) {
            tracing::warn!("{e}");
        }
    }
}

impl Executable {
    fn check(&self, call: &'static str, status: rocmforge_abi::Status) -> Result<(), LoaderError> {
        LoaderError::check(self.backend.name(), call, status)
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The backend that compiled it.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// What it needs.
    pub fn memory(&self) -> &MemoryNeed {
        &self.memory
    }

    /// What it was compiled for.
    pub fn options(&self) -> CompileOptions {
        self.options
    }

    /// Binds every weight of the program from the file, telling `progress` the bytes bound so far, then finalises.
    ///
    /// # Errors
    /// A weight that the file lacks, or that the backend does not take.
    pub fn bind_weights(&mut self, progress: &mut dyn FnMut(u64)) -> Result<(), LoaderError> {
        let mut done = 0;
        for (index, decl) in self.program.weights.iter().enumerate() {
            let Some(tensor) = self.file.tensor(&decl.name) else {
                return Err(LoaderError::Model {
                    file: self.file.shards().first().map(|m| m.path().to_owned()).unwrap_or_default(),
                    message: format!("tensor '{}' is missing from the file", decl.name),
                });
            };
            let dims: Vec<u64> = decl.dims.iter().map(|&d| d as u64).collect();
            let weight = Weight {
                index: index as u32,
                tensor: TensorMeta {
                    name: RStr::from_str(&decl.name),
                    dtype: tensor.info.dtype as u32,
                    dims: RSlice::from_slice(&dims),
                },
                data: RSlice::from_slice(tensor.bytes()),
            };
            let status = (self.table.bind())(self.handle, &weight);
            self.check("bind", status)?;
            done += tensor.info.len as u64;
            progress(done);
        }
        let status = (self.table.finalize())(self.handle);
        self.check("finalize", status)
    }

    /// Allocates the KV cache: blocks for each cache group.
    ///
    /// # Errors
    /// Out of memory, with the numbers.
    pub fn allocate_cache(&mut self, blocks: &[u64]) -> Result<(), LoaderError> {
        let status = (self.table.allocate_cache())(self.handle, RSlice::from_slice(blocks));
        self.check("allocate_cache", status)
    }

    /// Starts a step.
    ///
    /// # Errors
    /// A step that does not fit the program, device faults.
    pub fn submit(&mut self, step: &Step<'_>) -> Result<(), LoaderError> {
        let groups: Vec<GroupTable<'_>> = step
            .groups
            .iter()
            .map(|g| GroupTable {
                block_tables: RSlice::from_slice(g.block_tables),
                max_blocks: g.max_blocks as u32,
                slot_mapping: RSlice::from_slice(g.slot_mapping),
            })
            .collect();
        let names: Vec<String> = step.inputs.iter().map(|i| format!("input/{}", i.name)).collect();
        let ext: Vec<StepExt<'_>> = std::iter::zip(&names, step.inputs)
            .map(|(name, input)| StepExt { name: RStr::from_str(name), data: RSlice::from_slice(as_bytes(input.data)) })
            .collect();
        let batch = StepBatch {
            token_ids: RSlice::from_slice(step.token_ids),
            positions: RSlice::from_slice(step.positions),
            query_start: RSlice::from_slice(step.query_start),
            context_lens: RSlice::from_slice(step.context_lens),
            groups: RSlice::from_slice(&groups),
            logits_rows: RSlice::from_slice(step.logits_rows),
            ext: RSlice::from_slice(&ext),
        };
        let status = (self.table.submit())(self.handle, &batch);
        self.check("submit", status)
    }

    /// Waits for the step and fetches its outputs.
    ///
    /// # Errors
    /// An output of another name or size, device faults.
    pub fn wait(&mut self, outputs: &mut [OutputBuffer<'_>]) -> Result<(), LoaderError> {
        let mut outputs: Vec<StepOutput<'_>> = outputs
            .iter_mut()
            .map(|o| StepOutput { name: RStr::from_str(o.name), data: RSliceMut::from_mut_slice(o.data) })
            .collect();
        let status = (self.table.wait())(self.handle, RSliceMut::from_mut_slice(&mut outputs));
        self.check("wait", status)
    }
}

fn as_bytes(data: &[f32]) -> &[u8] {
    // SAFETY: f32 has no padding and u8 no alignment; the lifetime is that of `data`.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), std::mem::size_of_val(data)) }
}
