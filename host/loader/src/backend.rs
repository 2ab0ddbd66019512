use std::sync::Arc;

use rocmforge_abi::{BackendTableRef, CompileOptions, Handle, RSlice, RStr, RString, RVec};
use rocmforge_gguf::GgufFile;
use rocmforge_program::{DType, Op, Program};

use crate::error::LoaderError;
use crate::executable::Executable;
use crate::segment::Segment;

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

    /// Compiles a program for a device, the first one where none is named. `file` holds its weights; it stays mapped
    /// while the executable lives.
    ///
    /// # Errors
    /// Whatever the backend cannot compile, by operation and layer; a device that it does not have.
    pub fn compile_on(
        &self,
        program: Arc<Program>,
        file: Arc<GgufFile>,
        options: CompileOptions,
        device: Option<&str>,
    ) -> Result<Segment, LoaderError> {
        let bytes = program.to_bytes();
        let mut handle = Handle(std::ptr::null_mut());
        let (table, bytes) = (self.instance.table, RSlice::from_slice(&bytes));
        let status = match (device, table.compile_on()) {
            (Some(device), Some(call)) => {
                call(self.instance.handle, bytes, options, RStr::from_str(device), &mut handle)
            }
            // A backend of ABI 1.0 has its first device only, which is all that `place` asks of it.
            _ => (table.compile())(self.instance.handle, bytes, options, &mut handle),
        };
        LoaderError::check(self.name(), "compile", status)?;
        Segment::new(self.clone(), table.executable(), handle, program, file, options, device)
    }

    /// Compiles a program for the first device.
    ///
    /// # Errors
    /// As [`compile_on`](Backend::compile_on).
    pub fn compile(
        &self,
        program: Arc<Program>,
        file: Arc<GgufFile>,
        options: CompileOptions,
    ) -> Result<Executable, LoaderError> {
        Executable::whole(self.compile_on(program, file, options, None)?)
    }

    /// Whether it can compile for another device than its first.
    pub(crate) fn chooses_devices(&self) -> bool {
        self.instance.table.compile_on().is_some()
    }
}
