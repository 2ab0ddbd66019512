//! One program on one device.

use std::sync::Arc;

use rocmforge_abi::{
    CompileOptions, ExecutableTableRef, GroupTable, Handle, MemoryNeed, RSlice, RSliceMut, RStr, RString,
    SAMPLE_EXTENSION, Status, StepBatch, StepExt, StepOutput, TensorMeta, Weight,
};
use rocmforge_gguf::GgufFile;
use rocmforge_program::{OutputBuffer, Program, RowSampling, Step, output};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::backend::{Backend, Device};
use crate::error::{LoaderError, PluginErrorKind};

/// A program compiled for one device, with its weights and KV cache.
pub struct Segment {
    table: ExecutableTableRef,
    handle: Handle,
    backend: Backend,
    program: Arc<Program>,
    // Holds the mapping that bound weights point into; dropped after the executable is destroyed.
    file: Arc<GgufFile>,
    options: CompileOptions,
    device: Option<String>,
    memory: MemoryNeed,
    /// Whether the backend draws tokens from its logits.
    samples: bool,
}

impl Drop for Segment {
    fn drop(&mut self) {
        let status = (self.table.destroy())(self.handle);
        if let Err(e) = self.check("destroy", status) {
            tracing::warn!("{e}");
        }
    }
}

impl Segment {
    /// Takes over what `compile` made.
    pub(crate) fn new(
        backend: Backend,
        table: ExecutableTableRef,
        handle: Handle,
        program: Arc<Program>,
        file: Arc<GgufFile>,
        options: CompileOptions,
        device: Option<&str>,
    ) -> Result<Segment, LoaderError> {
        let (device, memory) = (device.map(str::to_owned), MemoryNeed::default());
        let mut segment = Segment { table, handle, backend, program, file, options, device, memory, samples: false };
        // Both are asked: the name says that the backend does it, the table that it can answer.
        let announced = segment.backend.extensions()?.iter().any(|name| name == SAMPLE_EXTENSION);
        let has_logits = segment.program.outputs.iter().any(|o| o.name == output::LOGITS);
        segment.samples = announced && has_logits && segment.table.sampled().is_some();
        let status = (segment.table.memory())(segment.handle, &mut segment.memory);
        segment.check("memory", status)?;
        Ok(segment)
    }

    fn check(&self, call: &'static str, status: rocmforge_abi::Status) -> Result<(), LoaderError> {
        LoaderError::check(self.backend.name(), call, status)
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    pub(crate) fn shared_program(&self) -> Arc<Program> {
        Arc::clone(&self.program)
    }

    /// The backend that compiled it.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The device that it runs on, as it is now.
    ///
    /// # Errors
    /// A device that does not answer.
    pub fn device(&self) -> Result<Option<Device>, LoaderError> {
        let mut devices = self.backend.devices()?.into_iter();
        Ok(match &self.device {
            Some(id) => devices.find(|d| d.id == *id),
            None => devices.next(),
        })
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
            // A backend that keeps a copy is done with the file's pages, so that both are never held in full.
            tensor.release();
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

    /// Whether its backend draws tokens from logits, so that [`submit`](Segment::submit) may ask for it.
    pub fn samples(&self) -> bool {
        self.samples
    }

    /// Starts a step, with tokens to be drawn from these of its rows of logits.
    ///
    /// # Errors
    /// A step that does not fit the program, device faults.
    pub fn submit(&mut self, step: &Step<'_>, sampling: &[RowSampling]) -> Result<(), LoaderError> {
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
        let mut ext: Vec<StepExt<'_>> = std::iter::zip(&names, step.inputs)
            .map(|(name, input)| StepExt { name: RStr::from_str(name), data: RSlice::from_slice(as_bytes(input.data)) })
            .collect();
        let mut rows = Vec::with_capacity(RowSampling::BYTES * sampling.len());
        if self.samples && !sampling.is_empty() {
            sampling.iter().for_each(|row| row.write(&mut rows));
            ext.push(StepExt { name: RStr::from_str(SAMPLE_EXTENSION), data: RSlice::from_slice(&rows) });
        }
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

    /// Fetches the tokens that were drawn in the step waited for last, in the order in which they were asked for.
    ///
    /// # Errors
    /// Another number of tokens; a backend that draws none.
    pub fn sampled(&mut self, tokens: &mut [u32]) -> Result<(), LoaderError> {
        let Some(call) = self.table.sampled() else { return Err(self.unsupported("sampled", "draws no tokens")) };
        let status = call(self.handle, RSliceMut::from_mut_slice(tokens));
        self.check("sampled", status)
    }

    /// Switches the measuring of kernels on or off and returns what was measured since it was switched on.
    ///
    /// # Errors
    /// A backend that does not measure kernels.
    pub fn profile(&mut self, measure: bool) -> Result<Vec<KernelTime>, LoaderError> {
        let call = self.table.profile().map(|f| move |handle, out: &mut RString| f(handle, measure, out));
        self.measured("profile", call)
    }

    /// Has the backend measure what its device can do at most.
    ///
    /// # Errors
    /// A backend that does not measure it.
    pub fn limits(&mut self) -> Result<Limits, LoaderError> {
        let call = self.table.limits().map(|f| move |handle, out: &mut RString| f(handle, out));
        self.measured("limits", call)
    }

    /// What an optional call of the table writes as JSON.
    fn measured<T: DeserializeOwned>(
        &self,
        name: &'static str,
        call: Option<impl FnOnce(Handle, &mut RString) -> Status>,
    ) -> Result<T, LoaderError> {
        let call = call.ok_or_else(|| self.unsupported(name, "a backend of an older ABI does not measure this"))?;
        let mut json = RString::new();
        let status = call(self.handle, &mut json);
        self.check(name, status)?;
        serde_json::from_str(&json).map_err(|e| self.unsupported(name, format!("unreadable measurements: {e}")))
    }

    fn unsupported(&self, call: &'static str, message: impl Into<String>) -> LoaderError {
        let (plugin, kind) = (self.backend.name().to_owned(), PluginErrorKind::Unsupported);
        LoaderError::Plugin { plugin, call, kind, message: message.into() }
    }
}

/// What a device can do at most, as measured; `None`: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory read per second.
    pub bytes_per_second: Option<f64>,
    /// Products of 8-bit integers or of bfloat16, whichever it multiplies faster, each with its addition, per second.
    pub products_per_second: Option<f64>,
}

/// Time that a kernel took, by the device's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelTime {
    /// The kernel's name.
    pub kernel: String,
    /// How often it ran.
    pub calls: u64,
    /// Microseconds of all runs together.
    pub microseconds: f64,
}

fn as_bytes(data: &[f32]) -> &[u8] {
    // SAFETY: f32 has no padding and u8 no alignment; the lifetime is that of `data`.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), std::mem::size_of_val(data)) }
}
