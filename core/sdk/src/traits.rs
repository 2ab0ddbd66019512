use rocmforge_abi as abi;
use rocmforge_program::{DType, Op, OutputBuffer, Program, RowSampling, Step, WeightId};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::options::Options;

/// How well an architecture fits a file; see [`Architecture::fit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// Not at all.
    No,
    /// As the general case of this `general.architecture`.
    General,
    /// As a special case that a general plugin would get wrong or less right.
    Specific,
}

/// A model family: a pure function from a model file to a [`Program`]. It sees metadata and the tensor list; it has no
/// handle to a backend and does no arithmetic on weights. The crate's documentation begins with a whole one.
pub trait Architecture: Send + Sync + 'static {
    /// Values of `general.architecture` that it may take.
    const CLAIMS: &'static [&'static str];

    /// How well it fits a file that has one of these values; unless implemented, [`Fit::General`].
    fn fit(_model: &Model<'_>) -> Fit {
        Fit::General
    }

    /// The program of a model, in its naive form: fusion belongs to the backend.
    ///
    /// # Errors
    /// Anything missing from the file or wrong in it, by key or tensor name, with what was expected and found.
    fn build(model: &Model<'_>, options: &Options, build: &BuildOptions) -> Result<Program>;
}

/// What the user has set for a model and an architecture must know.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuildOptions {
    /// Context length the model will be served with; `None`: the model's own.
    pub context_length: Option<u32>,
}

/// A device of a backend.
#[derive(Clone, Debug, Default)]
pub struct Device {
    /// Short and stable, e.g. `cpu` or `hip:0`.
    pub id: String,
    /// For people.
    pub description: String,
    /// Memory in all, bytes; 0: not known.
    pub memory_total: u64,
    /// Memory free now, bytes; 0: not known.
    pub memory_free: u64,
}

/// What an executable needs, in bytes.
#[derive(Clone, Debug, Default)]
pub struct MemoryNeed {
    /// Weights held beside the file mapping.
    pub weights: u64,
    /// Activations of the largest step.
    pub activations: u64,
    /// Per block of KV cache, for each cache group.
    pub cache_block: Vec<u64>,
}

/// Settings of a compilation.
#[derive(Clone, Copy, Debug)]
pub struct CompileOptions {
    /// Most tokens in one step.
    pub max_tokens: usize,
    /// Most sequences in one step.
    pub max_sequences: usize,
    /// Tokens per KV block.
    pub block_size: usize,
}

/// A weight of the model file. Cheap to clone; its bytes are the file's mapping.
#[derive(Clone, Debug)]
pub struct BoundWeight {
    /// Its place in the program.
    pub id: WeightId,
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its dimensions, outermost first.
    pub dims: Vec<usize>,
    pub(crate) data: *const u8,
    pub(crate) len: usize,
}

// SAFETY: the bytes are never written while an executable that holds the weight exists (contract of `abi::Weight`).
unsafe impl Send for BoundWeight {}
// SAFETY: as above.
unsafe impl Sync for BoundWeight {}

impl BoundWeight {
    /// The tensor's bytes in the file's layout; exactly as many as type and dimensions ask for, of any alignment.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `abi::Weight::data` stays valid and unchanged until the executable is destroyed, and the shim hands
        // weights only to an executable, whose `Drop` ends its use of them.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

/// Computes programs on some kind of device.
pub trait Backend: Send + Sync + Sized + 'static {
    /// What [`compile`](Backend::compile) makes.
    type Exec: Executable;

    /// An instance with these options.
    ///
    /// # Errors
    /// Unknown or wrong options; no usable device ([`ErrorKind::Device`](crate::ErrorKind::Device)).
    fn create(options: &Options) -> Result<Self>;

    /// The devices it uses, best first.
    ///
    /// # Errors
    /// A device that does not answer.
    fn devices(&self) -> Result<Vec<Device>>;

    /// Step extensions that it understands, by the names of `docs/PLUGIN-ABI.md`.
    fn extensions(&self) -> Vec<String> {
        vec![]
    }

    /// Whether it runs an operation whose weights, in the order of [`Op::weights`], have these element types.
    fn supports(&self, op: &Op, dtypes: &[DType]) -> bool;

    /// Compiles a program. The program is valid; weights and cache come later.
    ///
    /// # Errors
    /// An operation that is not supported, by name and layer.
    fn compile(&self, program: Program, options: CompileOptions) -> Result<Self::Exec>;

    /// Compiles a program for one of [`devices`](Backend::devices), by its id. A backend with a single device need not
    /// implement it.
    ///
    /// # Errors
    /// As [`compile`](Backend::compile); a device that it does not have.
    fn compile_on(&self, program: Program, options: CompileOptions, device: &str) -> Result<Self::Exec> {
        let devices = self.devices()?;
        if devices.first().is_some_and(|d| d.id == device) {
            return self.compile(program, options);
        }
        let known: Vec<_> = devices.iter().take(1).map(|d| d.id.as_str()).collect();
        Err(Error::unsupported(format!("device: expected {}, found '{device}'", known.join(", "))))
    }
}

/// Time that a kernel took, by the device's clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct KernelTime {
    /// The kernel's name.
    pub kernel: String,
    /// How often it ran.
    pub calls: u64,
    /// Microseconds of all runs together.
    pub microseconds: f64,
}

/// What a device can do at most, as measured; `None`: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Limits {
    /// Bytes of memory read per second.
    pub bytes_per_second: Option<f64>,
    /// Products of 8-bit integers or of bfloat16, whichever it multiplies faster, each with its addition, per second.
    pub products_per_second: Option<f64>,
}

/// A compiled program. Calls come from one thread at a time, in the order of the methods here.
pub trait Executable: Send + 'static {
    /// What it will need, before a weight is read.
    fn memory(&self) -> MemoryNeed;

    /// Gives it a weight, in any order, each exactly once. Type and dimensions are those of the program.
    ///
    /// # Errors
    /// Out of memory, device faults.
    fn bind(&mut self, weight: BoundWeight) -> Result<()>;

    /// All weights have come.
    ///
    /// # Errors
    /// Out of memory, device faults.
    fn finalize(&mut self) -> Result<()>;

    /// Allocates the KV cache: blocks for each cache group. Again: the old contents are gone.
    ///
    /// # Errors
    /// Out of memory, with the numbers.
    fn allocate_cache(&mut self, blocks: &[u64]) -> Result<()>;

    /// Starts a step. Its indices are checked; it may not be kept beyond the call.
    ///
    /// # Errors
    /// Device faults.
    fn submit(&mut self, step: &Step<'_>) -> Result<()>;

    /// Starts a step and draws tokens from these of its rows of logits, of which there is at least one; their order, rows
    /// and numbers are checked. Called only where [`extensions`](Backend::extensions) name
    /// [`SAMPLE_EXTENSION`](crate::SAMPLE_EXTENSION).
    ///
    /// # Errors
    /// Device faults.
    fn submit_sampling(&mut self, _step: &Step<'_>, _rows: &[RowSampling]) -> Result<()> {
        Err(Error::internal("this backend announces sample/1 and does not draw tokens"))
    }

    /// Writes the tokens that were drawn in the step waited for last, in the order of its rows;
    /// [`NO_TOKEN`](crate::program::NO_TOKEN) where a row cannot be drawn from.
    ///
    /// # Errors
    /// Device faults.
    fn sampled(&mut self, _tokens: &mut [u32]) -> Result<()> {
        Err(Error::internal("this backend announces sample/1 and does not draw tokens"))
    }

    /// Waits for the step and writes the outputs asked for. Names and lengths are checked. Of logits, rows that tokens are
    /// drawn from are left out, and the others follow each other.
    ///
    /// # Errors
    /// Device faults.
    fn wait(&mut self, outputs: &mut [OutputBuffer<'_>]) -> Result<()>;

    /// Switches the measuring of kernels on or off, and returns what was measured since it was switched on.
    ///
    /// # Errors
    /// A backend that does not measure kernels.
    fn profile(&mut self, _measure: bool) -> Result<Vec<KernelTime>> {
        Err(Error::unsupported("this backend does not measure kernels"))
    }

    /// Measures what the device can do at most, in a few seconds.
    ///
    /// # Errors
    /// A backend that does not measure it.
    fn limits(&mut self) -> Result<Limits> {
        Err(Error::unsupported("this backend does not measure limits"))
    }
}

impl From<abi::CompileOptions> for CompileOptions {
    fn from(o: abi::CompileOptions) -> CompileOptions {
        CompileOptions {
            max_tokens: o.max_tokens as usize,
            max_sequences: o.max_sequences as usize,
            block_size: o.block_size as usize,
        }
    }
}
