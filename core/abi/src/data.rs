use abi_stable::StableAbi;
use abi_stable::std_types::{RSlice, RSliceMut, RStr, RString, RVec};

/// An open set of numbers in the place of an enum: an unknown value is data, not undefined behaviour.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u32);

/// Result codes of [`Status`].
pub mod status {
    use super::Code;
    /// Success.
    pub const OK: Code = Code(0);
    /// An argument, option or program is wrong.
    pub const INVALID: Code = Code(1);
    /// Correct, but not supported here.
    pub const UNSUPPORTED: Code = Code(2);
    /// Not enough memory; the message has the numbers.
    pub const OUT_OF_MEMORY: Code = Code(3);
    /// The device is missing, lost or hung.
    pub const DEVICE: Code = Code(4);
    /// The plugin panicked; the instance must not be used again except to destroy it.
    pub const PANIC: Code = Code(5);
    /// A file or system call failed.
    pub const IO: Code = Code(6);
    /// A fault of the plugin itself.
    pub const INTERNAL: Code = Code(7);
}

/// Levels of [`HostTable::log`].
pub mod level {
    use super::Code;
    /// Something failed.
    pub const ERROR: Code = Code(1);
    /// Something is not as it should be.
    pub const WARN: Code = Code(2);
    /// Worth knowing.
    pub const INFO: Code = Code(3);
    /// For whoever looks for a fault.
    pub const DEBUG: Code = Code(4);
    /// Everything.
    pub const TRACE: Code = Code(5);
}

/// What a call came to.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct Status {
    /// One of [`status`].
    pub code: Code,
    /// What went wrong, where, what was expected; empty on success.
    pub message: RString,
}

impl Status {
    /// Success.
    pub fn ok() -> Status {
        Status { code: status::OK, message: RString::new() }
    }

    /// Failure.
    pub fn error(code: Code, message: impl Into<String>) -> Status {
        Status { code, message: RString::from(message.into()) }
    }
}

/// An instance owned by the side that made it. Only that side looks behind the pointer.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct Handle(pub *mut ());

// SAFETY: a handle is a number to everyone but its maker, and the tables state which calls may run at the same time.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

/// Kinds of [`MetaValue`]; numbered as GGUF value types.
pub mod meta {
    use super::Code;
    /// No such key.
    pub const NONE: Code = Code(u32::MAX);
    /// Unsigned integer of any width; in `bits`.
    pub const UNSIGNED: Code = Code(10);
    /// Signed integer of any width; in `bits`, two's complement.
    pub const SIGNED: Code = Code(11);
    /// Float of any width; in `bits` as f64.
    pub const FLOAT: Code = Code(12);
    /// Truth value; `bits` is 0 or 1.
    pub const BOOL: Code = Code(7);
    /// Text; in `text`.
    pub const STRING: Code = Code(8);
    /// Array; `bits` is its length, read its elements one by one.
    pub const ARRAY: Code = Code(9);
}

/// A metadata value, borrowed from the host.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct MetaValue<'a> {
    /// One of [`meta`].
    pub kind: Code,
    /// The scalar, or the length of an array.
    pub bits: u64,
    /// The text.
    pub text: RStr<'a>,
}

/// A tensor of the file, borrowed from the host.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct TensorMeta<'a> {
    /// Its name.
    pub name: RStr<'a>,
    /// Element type by its GGUF number.
    pub dtype: u32,
    /// Dimensions, outermost first.
    pub dims: RSlice<'a, u64>,
}

/// A weight given to an executable.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct Weight<'a> {
    /// Its place in the program's table of weights.
    pub index: u32,
    /// The tensor.
    pub tensor: TensorMeta<'a>,
    /// Its bytes, in the file's layout. **They stay valid and unchanged until the executable is destroyed.**
    pub data: RSlice<'a, u8>,
}

/// A device that a backend can compute on.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct DeviceInfo {
    /// Short and stable, e.g. `cpu` or `hip:0`.
    pub id: RString,
    /// For people, e.g. the processor's name and what is used of it.
    pub description: RString,
    /// Memory in all, bytes; 0: not known.
    pub memory_total: u64,
    /// Memory free now, bytes; 0: not known.
    pub memory_free: u64,
}

/// What an executable needs.
#[repr(C)]
#[derive(StableAbi, Clone, Debug, Default)]
pub struct MemoryNeed {
    /// Bytes of weights held beside the file mapping.
    pub weights: u64,
    /// Bytes of activations for the largest step.
    pub activations: u64,
    /// Bytes per block of KV cache, for each cache group.
    pub cache_block: RVec<u64>,
}

/// Settings of a compilation.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct CompileOptions {
    /// Most tokens in one step.
    pub max_tokens: u32,
    /// Most sequences in one step.
    pub max_sequences: u32,
    /// Tokens per KV block.
    pub block_size: u32,
}

/// Block table and slots of one cache group; see `rocmforge_program::GroupTables`.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct GroupTable<'a> {
    /// `[S, max_blocks]`, row-major.
    pub block_tables: RSlice<'a, u32>,
    /// Columns of `block_tables`.
    pub max_blocks: u32,
    /// `[T]`.
    pub slot_mapping: RSlice<'a, u32>,
}

/// A named extension of a step. Names and meanings are listed in `docs/PLUGIN-ABI.md`; a plugin ignores what it
/// did not announce in [`BackendTable::extensions`].
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct StepExt<'a> {
    /// For example `input/hidden`.
    pub name: RStr<'a>,
    /// Its data.
    pub data: RSlice<'a, u8>,
}

/// One step; see `rocmforge_program::Step` for the meaning of each field.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct StepBatch<'a> {
    /// `[T]`
    pub token_ids: RSlice<'a, u32>,
    /// `[T]`
    pub positions: RSlice<'a, u32>,
    /// `[S + 1]`
    pub query_start: RSlice<'a, u32>,
    /// `[S]`
    pub context_lens: RSlice<'a, u32>,
    /// One per cache group.
    pub groups: RSlice<'a, GroupTable<'a>>,
    /// `[L]`
    pub logits_rows: RSlice<'a, u32>,
    /// Extensions.
    pub ext: RSlice<'a, StepExt<'a>>,
}

/// Where the host wants an output.
#[repr(C)]
#[derive(StableAbi, Debug)]
pub struct StepOutput<'a> {
    /// The output's name.
    pub name: RStr<'a>,
    /// Room for exactly its elements.
    pub data: RSliceMut<'a, f32>,
}
