use rocmforge_abi::{
    CompileOptions, ExecutableTableRef, GroupTable, Handle, RSlice, RSliceMut, RStr, Status, StepBatch, StepExt,
    StepOutput, TensorMeta, Weight, status,
};
use rocmforge_program::{Attention, Builder, DType, InputSource, ModelInfo, NO_BLOCK, Op, Program, ProgramError};

use crate::abi::{Check, Instance, ensure, ok, refused};

/// What the program of these checks is compiled for.
pub(crate) const OPTIONS: CompileOptions = CompileOptions { max_tokens: 8, max_sequences: 2, block_size: 2 };
const BLOCKS: u64 = 4;
const VOCAB: usize = 5;

/// Attention of rows of a table among themselves, and one bias: two weights, a cache, an output per token.
pub(crate) fn program() -> Result<Program, ProgramError> {
    program_of(4)
}

fn program_of(width: usize) -> Result<Program, ProgramError> {
    let info = ModelInfo {
        architecture: "conformance".into(),
        vocab_size: VOCAB,
        hidden_size: width,
        layers: 1,
        context_length: 8,
    };
    let mut b = Builder::new(info);
    let table = b.weight("table", &[VOCAB, width], DType::F32)?;
    let norm = b.weight("norm", &[width], DType::F32)?;
    let ids = b.input(InputSource::TokenIds)?;
    let x = b.push(Op::Embed { ids, table, scale: 1.0 })?;
    b.set_layer(Some(0));
    // A backend may limit a head's size, so that a wide program has many heads.
    let head = width.min(64);
    let q = b.push(Op::Reshape { x, dims: vec![width / head, head] })?;
    let cache = b.cache(width / head, head, head, None);
    let (k, v, scale) = (Some(q), Some(q), 0.5);
    let y = b.push(Op::Attention(Attention { q, k, v, cache, scale, window: None, softcap: None, sinks: None }))?;
    let y = b.push(Op::Reshape { x: y, dims: vec![width] })?;
    let y = b.push(Op::RmsNorm { x: y, weight: Some(norm), eps: 1e-5 })?;
    b.output("rows", y);
    b.finish()
}

/// A weight of the program, as the host would bind it.
#[derive(Clone)]
struct Given {
    index: u32,
    name: &'static str,
    dtype: DType,
    dims: Vec<u64>,
    bytes: Vec<u8>,
}

fn given() -> [Given; 2] {
    given_of(4)
}

fn given_of(width: usize) -> [Given; 2] {
    let numbers = |n: usize| (0..n).flat_map(|i| (0.25 * i as f32 - 1.0).to_le_bytes()).collect();
    [
        Given {
            index: 0,
            name: "table",
            dtype: DType::F32,
            dims: vec![VOCAB as u64, width as u64],
            bytes: numbers(VOCAB * width),
        },
        Given { index: 1, name: "norm", dtype: DType::F32, dims: vec![width as u64], bytes: numbers(width) },
    ]
}

/// One step of one sequence, which checks then spoil.
#[derive(Clone)]
struct Batch {
    token_ids: Vec<u32>,
    positions: Vec<u32>,
    query_start: Vec<u32>,
    context_lens: Vec<u32>,
    block_tables: Vec<u32>,
    max_blocks: u32,
    slots: Vec<u32>,
    logits_rows: Vec<u32>,
    groups: usize,
}

impl Batch {
    /// Three tokens in blocks 3 and 1.
    fn good() -> Batch {
        Batch {
            token_ids: vec![4, 0, 2],
            positions: vec![0, 1, 2],
            query_start: vec![0, 3],
            context_lens: vec![3],
            block_tables: vec![3, 1],
            max_blocks: 2,
            slots: vec![6, 7, 2],
            logits_rows: vec![0],
            groups: 1,
        }
    }
}

/// An executable of [`program`] with its weights. Destroyed before the backend, whose borrow it holds.
pub(crate) struct Exec<'a> {
    table: ExecutableTableRef,
    handle: Handle,
    // The backend may keep pointers into these until the executable is destroyed.
    weights: Vec<Given>,
    backend: &'a Instance,
}

impl Drop for Exec<'_> {
    fn drop(&mut self) {
        // What `destroy` returns is checked where it is called by itself.
        let _ = (self.table.destroy())(self.handle);
    }
}

impl<'a> Exec<'a> {
    pub(crate) fn compile(backend: &'a Instance) -> Result<Exec<'a>, String> {
        Exec::compile_program(backend, program())
    }

    fn compile_program(backend: &'a Instance, program: Result<Program, ProgramError>) -> Result<Exec<'a>, String> {
        let program = program.map_err(|e| e.to_string())?.to_bytes();
        let (status, handle) = backend.compile(&program, OPTIONS);
        ok("compile", status)?;
        Ok(Exec { table: backend.table.executable(), handle, weights: vec![], backend })
    }

    fn bind(&mut self, weight: Given) -> Status {
        self.weights.push(weight);
        let w = &self.weights[self.weights.len() - 1];
        let weight = Weight {
            index: w.index,
            tensor: TensorMeta {
                name: RStr::from_str(w.name),
                dtype: w.dtype as u32,
                dims: RSlice::from_slice(&w.dims),
            },
            data: RSlice::from_slice(&w.bytes),
        };
        (self.table.bind())(self.handle, &weight)
    }

    fn finalize(&self) -> Status {
        (self.table.finalize())(self.handle)
    }

    fn allocate(&self, blocks: &[u64]) -> Status {
        (self.table.allocate_cache())(self.handle, RSlice::from_slice(blocks))
    }

    fn submit(&self, batch: &Batch) -> Status {
        self.submit_with(batch, &[])
    }

    fn submit_with(&self, batch: &Batch, ext: &[StepExt<'_>]) -> Status {
        let group = GroupTable {
            block_tables: RSlice::from_slice(&batch.block_tables),
            max_blocks: batch.max_blocks,
            slot_mapping: RSlice::from_slice(&batch.slots),
        };
        let groups = vec![group; batch.groups];
        let batch = StepBatch {
            token_ids: RSlice::from_slice(&batch.token_ids),
            positions: RSlice::from_slice(&batch.positions),
            query_start: RSlice::from_slice(&batch.query_start),
            context_lens: RSlice::from_slice(&batch.context_lens),
            groups: RSlice::from_slice(&groups),
            logits_rows: RSlice::from_slice(&batch.logits_rows),
            ext: RSlice::from_slice(ext),
        };
        (self.table.submit())(self.handle, &batch)
    }

    fn wait(&self, name: &str, data: &mut [f32]) -> Status {
        let mut outputs = [StepOutput { name: RStr::from_str(name), data: RSliceMut::from_mut_slice(data) }];
        (self.table.wait())(self.handle, RSliceMut::from_mut_slice(&mut outputs))
    }

    /// Everything up to the first step.
    fn ready(&mut self) -> Check {
        for weight in given() {
            ok("bind", self.bind(weight))?;
        }
        ok("finalize", self.finalize())?;
        ok("allocate_cache", self.allocate(&[BLOCKS]))
    }

    /// A good step and its result.
    fn step(&self) -> Result<Vec<f32>, String> {
        ok("submit", self.submit(&Batch::good()))?;
        let mut rows = vec![f32::NAN; 12];
        ok("wait", self.wait("rows", &mut rows))?;
        ensure(rows.iter().all(|x| x.is_finite()), || format!("wait: expected finite results, found {rows:?}"))?;
        Ok(rows)
    }

    /// The result of a good step, after whatever was tried before.
    fn still_works(&self) -> Check {
        self.step().map(drop)
    }
}

type ExecCheck = fn(&mut Exec<'_>) -> Check;

pub(crate) const CHECKS: &[(&str, ExecCheck)] = &[
    ("no step before weights and cache", order_of_calls),
    ("weights come in any order", any_order),
    ("a missing weight is named", missing_weight),
    ("weights that do not fit are refused", wrong_weights),
    ("caches that do not fit are refused", wrong_caches),
    ("a cache beyond any memory is out of memory", huge_cache),
    ("submit and wait come in turn", turns),
    ("outputs of another name or size are refused", wrong_outputs),
    ("steps out of range are refused", wrong_steps),
    ("unknown extensions are ignored", unknown_extension),
    ("no sequence at all", empty_step),
    ("a new cache forgets", new_cache),
    ("two executables do not mix", two_at_once),
    ("destroyed while a step is under way", destroyed_early),
];

fn order_of_calls(e: &mut Exec<'_>) -> Check {
    refused("submit before bind", e.submit(&Batch::good()), &[])?;
    for weight in given() {
        ok("bind", e.bind(weight))?;
    }
    refused("submit before finalize", e.submit(&Batch::good()), &[])?;
    ok("finalize", e.finalize())?;
    refused("submit before allocate_cache", e.submit(&Batch::good()), &[])?;
    ok("allocate_cache", e.allocate(&[BLOCKS]))?;
    e.still_works()
}

fn any_order(e: &mut Exec<'_>) -> Check {
    let [table, norm] = given();
    ok("bind of the last weight first", e.bind(norm))?;
    ok("bind", e.bind(table))?;
    ok("finalize", e.finalize())?;
    ok("allocate_cache", e.allocate(&[BLOCKS]))?;
    e.still_works()
}

fn missing_weight(e: &mut Exec<'_>) -> Check {
    let [table, norm] = given();
    ok("bind", e.bind(table))?;
    refused("finalize without a weight", e.finalize(), &["norm"])?;
    ok("bind", e.bind(norm))?;
    ok("finalize", e.finalize())
}

fn wrong_weights(e: &mut Exec<'_>) -> Check {
    let [table, norm] = given();
    let wrong = [
        ("an index beyond the table", Given { index: 2, ..table.clone() }),
        ("the largest index", Given { index: u32::MAX, ..table.clone() }),
        ("another name", Given { name: "other", ..table.clone() }),
        ("another weight's index", Given { index: 1, ..table.clone() }),
        ("another type", Given { dtype: DType::F16, ..table.clone() }),
        ("other dimensions", Given { dims: vec![4, VOCAB as u64], ..table.clone() }),
        ("no dimensions", Given { dims: vec![], ..table.clone() }),
        ("dimensions that overflow", Given { dims: vec![1 << 40, 1 << 40], ..table.clone() }),
        ("too few bytes", Given { bytes: vec![0; VOCAB * 4 * 4 - 1], ..table.clone() }),
        ("too many bytes", Given { bytes: vec![0; VOCAB * 4 * 4 + 4], ..table.clone() }),
        ("no bytes", Given { bytes: vec![], ..table.clone() }),
    ];
    for (what, weight) in wrong {
        refused(&format!("bind with {what}"), e.bind(weight), &[])?;
    }
    ok("bind", e.bind(table.clone()))?;
    refused("bind of the same weight again", e.bind(table), &["table"])?;
    ok("bind", e.bind(norm))?;
    ok("finalize", e.finalize())?;
    ok("allocate_cache", e.allocate(&[BLOCKS]))?;
    e.still_works()
}

fn wrong_caches(e: &mut Exec<'_>) -> Check {
    e.ready()?;
    refused("allocate_cache for no group", e.allocate(&[]), &[])?;
    refused("allocate_cache for two groups", e.allocate(&[BLOCKS, BLOCKS]), &[])?;
    refused("allocate_cache of 2^64 - 1 blocks", e.allocate(&[u64::MAX]), &[])?;
    ok("allocate_cache", e.allocate(&[BLOCKS]))?;
    e.still_works()
}

/// A petabyte: more than the address space has, so no lazy allocation hides it.
fn huge_cache(e: &mut Exec<'_>) -> Check {
    let width = 1 << 16;
    let mut wide = Exec::compile_program(e.backend, program_of(width))?;
    for weight in given_of(width) {
        ok("bind", wide.bind(weight))?;
    }
    ok("finalize", wide.finalize())?;
    let result = wide.allocate(&[u64::from(u32::MAX / OPTIONS.block_size)]);
    let code = result.code;
    refused("allocate_cache of a petabyte", result, &[])?;
    ensure(code == status::OUT_OF_MEMORY, || {
        format!("expected code {} (out of memory), found {}", status::OUT_OF_MEMORY.0, code.0)
    })
}

fn turns(e: &mut Exec<'_>) -> Check {
    e.ready()?;
    let mut rows = vec![0.0; 12];
    refused("wait without a step", e.wait("rows", &mut rows), &[])?;
    ok("submit", e.submit(&Batch::good()))?;
    refused("a second submit", e.submit(&Batch::good()), &[])?;
    ok("wait", e.wait("rows", &mut rows))?;
    refused("a second wait", e.wait("rows", &mut rows), &[])?;
    e.still_works()
}

fn wrong_outputs(e: &mut Exec<'_>) -> Check {
    e.ready()?;
    let expected = e.step()?;
    ok("submit", e.submit(&Batch::good()))?;
    for length in [0, 11, 13, 4] {
        refused(&format!("wait for {length} of 12 elements"), e.wait("rows", &mut vec![0.0; length]), &["rows", "12"])?;
    }
    refused("wait for an unknown output", e.wait("logits", &mut [0.0; 12]), &["logits"])?;
    let mut rows = vec![f32::NAN; 12];
    ok("wait for the step whose outputs were refused", e.wait("rows", &mut rows))?;
    ensure(rows == expected, || format!("expected {expected:?} again, found {rows:?}"))
}

fn wrong_steps(e: &mut Exec<'_>) -> Check {
    e.ready()?;
    let good = Batch::good;
    let many = Batch {
        token_ids: vec![0; 9],
        positions: (0..9).collect(),
        query_start: vec![0, 9],
        context_lens: vec![9],
        ..good()
    };
    let wrong = [
        ("a token id beyond the vocabulary", Batch { token_ids: vec![4, 5, 2], ..good() }),
        ("the largest token id", Batch { token_ids: vec![4, u32::MAX, 2], ..good() }),
        ("more tokens than compiled for", many),
        ("positions with a gap", Batch { positions: vec![0, 2, 3], ..good() }),
        ("positions that go back", Batch { positions: vec![2, 1, 0], ..good() }),
        ("positions beyond the context", Batch { positions: vec![1, 2, 3], ..good() }),
        ("too few positions", Batch { positions: vec![0, 1], ..good() }),
        ("query_start that does not start at 0", Batch { query_start: vec![1, 3], ..good() }),
        ("query_start that ends early", Batch { query_start: vec![0, 2], ..good() }),
        ("query_start that ends late", Batch { query_start: vec![0, 4], ..good() }),
        ("an empty query_start", Batch { query_start: vec![], ..good() }),
        ("a context shorter than its tokens", Batch { context_lens: vec![2], ..good() }),
        ("a context beyond the block table", Batch { context_lens: vec![u32::MAX], ..good() }),
        ("no context", Batch { context_lens: vec![], ..good() }),
        ("a block beyond the cache", Batch { block_tables: vec![3, 4], slots: vec![6, 7, 8], ..good() }),
        ("no block where one is needed", Batch { block_tables: vec![3, NO_BLOCK], ..good() }),
        ("a block table of another size", Batch { block_tables: vec![3], ..good() }),
        ("more columns than the table has", Batch { max_blocks: u32::MAX, ..good() }),
        ("a slot beyond the cache", Batch { slots: vec![6, 7, u32::MAX], ..good() }),
        ("a slot of another block", Batch { slots: vec![6, 7, 4], ..good() }),
        ("too few slots", Batch { slots: vec![6, 7], ..good() }),
        ("a row of logits beyond the tokens", Batch { logits_rows: vec![3], ..good() }),
        ("no group", Batch { groups: 0, ..good() }),
        ("two groups", Batch { groups: 2, ..good() }),
    ];
    for (what, batch) in wrong {
        refused(&format!("submit with {what}"), e.submit(&batch), &[])?;
    }
    e.still_works()
}

fn unknown_extension(e: &mut Exec<'_>) -> Check {
    e.ready()?;
    let expected = e.step()?;
    let ext = StepExt { name: RStr::from_str("conformance/unknown"), data: RSlice::from_slice(&[1, 2, 3]) };
    ok("submit with an unknown extension", e.submit_with(&Batch::good(), &[ext]))?;
    let mut rows = vec![f32::NAN; 12];
    ok("wait", e.wait("rows", &mut rows))?;
    ensure(rows == expected, || format!("expected {expected:?} again, found {rows:?}"))
}

fn empty_step(e: &mut Exec<'_>) -> Check {
    e.ready()?;
    let nothing = Batch {
        token_ids: vec![],
        positions: vec![],
        query_start: vec![0],
        context_lens: vec![],
        block_tables: vec![],
        slots: vec![],
        logits_rows: vec![],
        ..Batch::good()
    };
    ok("submit of no token", e.submit(&nothing))?;
    ok("wait", e.wait("rows", &mut []))?;
    e.still_works()
}

fn new_cache(e: &mut Exec<'_>) -> Check {
    e.ready()?;
    let expected = e.step()?;
    ok("allocate_cache again", e.allocate(&[BLOCKS]))?;
    let again = e.step()?;
    ensure(again == expected, || format!("expected {expected:?} again, found {again:?}"))?;
    ok("allocate_cache smaller", e.allocate(&[2]))?;
    refused("submit with a block that is gone", e.submit(&Batch::good()), &[])
}

fn two_at_once(e: &mut Exec<'_>) -> Check {
    e.ready()?;
    let expected = e.step()?;
    let mut other = Exec::compile(e.backend)?;
    for mut weight in given() {
        weight.bytes.chunks_exact_mut(4).for_each(|b| b.copy_from_slice(&1.0f32.to_le_bytes()));
        ok("bind", other.bind(weight))?;
    }
    ok("finalize", other.finalize())?;
    ok("allocate_cache", other.allocate(&[BLOCKS]))?;
    ok("submit", e.submit(&Batch::good()))?;
    let different = other.step()?;
    let mut rows = vec![f32::NAN; 12];
    ok("wait", e.wait("rows", &mut rows))?;
    ensure(rows == expected && different != expected, || {
        format!("expected {expected:?} beside another executable, found {rows:?}")
    })?;
    drop(other);
    e.still_works()
}

fn destroyed_early(e: &mut Exec<'_>) -> Check {
    e.ready()?;
    let other = {
        let mut other = Exec::compile(e.backend)?;
        other.ready()?;
        ok("submit", other.submit(&Batch::good()))?;
        other
    };
    ok("destroy", (other.table.destroy())(other.handle))?;
    std::mem::forget(other);
    e.still_works()
}
