//! Runs a program through the plugin's own tables, as a host does, and through the reference interpreter.
#![allow(dead_code)] // Each test file uses a part.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use rocmforge_abi::{
    CompileOptions, GroupTable, Handle, MemoryNeed, RSlice, RSliceMut, RStr, RVec, Status, StepBatch, StepExt,
    StepOutput, TensorMeta, Weight, status,
};
use rocmforge_backend_cpu::CpuBackend;
use rocmforge_reference::Interpreter;
use rocmforge_sdk::program::{GroupTables, Lead, NamedInput, Program, Step, infer_types};
use rocmforge_sdk::{DType, private};

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

pub type Weights = HashMap<String, (DType, Vec<u8>)>;

/// Random weights of about unit size for every declaration.
pub fn weights(program: &Program, seed: u64) -> Weights {
    let mut random = Random(seed);
    let mut all = Weights::new();
    for w in &program.weights {
        let n = w.dims.iter().product();
        let inputs = *w.dims.last().unwrap() as f32;
        let size = if w.dims.len() == 1 { 1.0 } else { 1.7 / inputs.sqrt() };
        let x: Vec<f32> = random.floats(n).into_iter().map(|x| x * size).collect();
        let mut bytes = vec![0; w.dtype.row_bytes(n).unwrap()];
        if rocmforge_quant::quantize(w.dtype, &x, &mut bytes).is_err() {
            bytes = random_blocks(w.dtype, n, &mut random);
        }
        all.insert(w.name.clone(), (w.dtype, bytes));
    }
    all
}

/// Random blocks with values below 1.
fn random_blocks(dtype: DType, elements: usize, random: &mut Random) -> Vec<u8> {
    let (layout, mut bytes) = (dtype.layout(), vec![]);
    while bytes.len() < dtype.row_bytes(elements).unwrap() {
        let block: Vec<u8> = (0..layout.block_bytes).map(|_| random.next() as u8).collect();
        let mut out = vec![0.0; layout.block_elements];
        rocmforge_quant::dequantize(dtype, &block, &mut out).unwrap();
        if out.iter().all(|x| x.abs() < 1.0) {
            bytes.extend(block);
        }
    }
    bytes
}

/// Whether a plugin runs a step now.
pub static IN_STEP: AtomicBool = AtomicBool::new(false);

pub fn ok(status: Status) {
    assert!(status.code == status::OK, "{}", status.message);
}

/// An executable of the plugin.
pub struct Plugin {
    table: rocmforge_abi::BackendTableRef,
    backend: Handle,
    exec: Handle,
    program: Program,
}

pub struct Sizes {
    pub max_tokens: u32,
    pub max_sequences: u32,
    pub block_size: u32,
    pub blocks: Vec<u64>,
}

impl Plugin {
    /// # Errors
    /// The plugin's message.
    pub fn load(options: &str, program: &Program, weights: &Weights, sizes: &Sizes) -> Result<Plugin, String> {
        let table = private::backend_table::<CpuBackend>("cpu");
        let message = |s: Status| if s.code == status::OK { Ok(()) } else { Err(s.message.to_string()) };
        let mut backend = Handle(std::ptr::null_mut());
        message((table.create())(RStr::from_str(options), &mut backend))?;
        let mut exec = Handle(std::ptr::null_mut());
        let compile = CompileOptions {
            max_tokens: sizes.max_tokens,
            max_sequences: sizes.max_sequences,
            block_size: sizes.block_size,
        };
        let bytes = program.to_bytes();
        message((table.compile())(backend, RSlice::from_slice(&bytes), compile, &mut exec))?;
        let plugin = Plugin { table, backend, exec, program: program.clone() };
        for (i, w) in program.weights.iter().enumerate() {
            let dims: Vec<u64> = w.dims.iter().map(|&d| d as u64).collect();
            let tensor =
                TensorMeta { name: RStr::from_str(&w.name), dtype: w.dtype as u32, dims: RSlice::from_slice(&dims) };
            let data = RSlice::from_slice(&weights[&w.name].1);
            message((plugin.exec_table().bind())(exec, &Weight { index: i as u32, tensor, data }))?;
        }
        message((plugin.exec_table().finalize())(exec))?;
        message((plugin.exec_table().allocate_cache())(exec, RSlice::from_slice(&sizes.blocks)))?;
        Ok(plugin)
    }

    fn exec_table(&self) -> rocmforge_abi::ExecutableTableRef {
        self.table.executable()
    }

    pub fn memory(&self) -> MemoryNeed {
        let mut need = MemoryNeed { weights: 0, activations: 0, cache_block: RVec::new() };
        ok((self.exec_table().memory())(self.exec, &mut need));
        need
    }

    /// # Errors
    /// The plugin's message.
    pub fn run(&self, step: &Step<'_>) -> Result<HashMap<String, Vec<f32>>, String> {
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
        let ext: Vec<StepExt<'_>> = step
            .inputs
            .iter()
            .zip(&names)
            .map(|(i, name)| {
                // SAFETY: every f32 is four bytes of any value.
                let bytes = unsafe { i.data.align_to::<u8>().1 };
                StepExt { name: RStr::from_str(name), data: RSlice::from_slice(bytes) }
            })
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
        IN_STEP.store(true, Ordering::SeqCst);
        let status = (self.exec_table().submit())(self.exec, &batch);
        IN_STEP.store(false, Ordering::SeqCst);
        if status.code != status::OK {
            return Err(status.message.to_string());
        }
        let types = infer_types(&self.program).unwrap();
        let mut data: Vec<(String, Vec<f32>)> = vec![];
        for output in &self.program.outputs {
            let shape = &types.get(output.value).unwrap().shape;
            let rows = match shape.lead {
                Lead::T => step.tokens(),
                Lead::S => step.sequences(),
                Lead::L => step.logits_rows.len(),
            };
            data.push((output.name.clone(), vec![f32::NAN; rows * shape.row_elements().unwrap()]));
        }
        let mut outputs: Vec<StepOutput<'_>> = data
            .iter_mut()
            .map(|(name, data)| StepOutput { name: RStr::from_str(name), data: RSliceMut::from_mut_slice(data) })
            .collect();
        IN_STEP.store(true, Ordering::SeqCst);
        let status = (self.exec_table().wait())(self.exec, RSliceMut::from_mut_slice(&mut outputs));
        IN_STEP.store(false, Ordering::SeqCst);
        ok(status);
        Ok(data.into_iter().collect())
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        ok((self.exec_table().destroy())(self.exec));
        ok((self.table.destroy())(self.backend));
    }
}

/// A step with the arrays that it borrows.
#[derive(Default)]
pub struct StepData {
    token_ids: Vec<u32>,
    positions: Vec<u32>,
    query_start: Vec<u32>,
    context_lens: Vec<u32>,
    tables: Vec<(Vec<u32>, usize, Vec<u32>)>,
    pub logits_rows: Vec<u32>,
    inputs: Vec<(String, Vec<f32>)>,
}

impl StepData {
    /// Sequence `sequences[i].0` gets so many further tokens; `lengths` holds what each has in the cache.
    pub fn new(
        program: &Program,
        block_size: usize,
        lengths: &mut [usize],
        sequences: &[(usize, usize)],
        random: &mut Random,
    ) -> StepData {
        let mut step = StepData { query_start: vec![0], ..StepData::default() };
        let blocks_each = 16;
        step.tables = vec![(vec![], blocks_each, vec![]); program.group_count()];
        for &(sequence, tokens) in sequences {
            let before = lengths[sequence];
            lengths[sequence] += tokens;
            for p in before..lengths[sequence] {
                step.token_ids.push(random.below(program.info.vocab_size) as u32);
                step.positions.push(p as u32);
                if p % 3 == 0 || p + 1 == lengths[sequence] {
                    step.logits_rows.push(step.positions.len() as u32 - 1);
                }
            }
            step.query_start.push(step.positions.len() as u32);
            step.context_lens.push(lengths[sequence] as u32);
            for (g, (table, _, slots)) in step.tables.iter_mut().enumerate() {
                let oldest = program.group_window(g).map_or(0, |w| (before + 1).saturating_sub(w as usize));
                // Blocks of different sequences alternate, and those that a window has passed are not there.
                let block = |b: usize| (b * lengths.len() + sequence) as u32;
                table.extend((0..blocks_each).map(|b| if b < oldest / block_size { u32::MAX } else { block(b) }));
                slots.extend(
                    (before..lengths[sequence])
                        .map(|p| block(p / block_size) * block_size as u32 + (p % block_size) as u32),
                );
            }
        }
        step
    }

    pub fn with_input(mut self, name: &str, data: Vec<f32>) -> StepData {
        self.inputs.push((name.to_owned(), data));
        self
    }

    pub fn tokens(&self) -> usize {
        self.token_ids.len()
    }

    pub fn borrow<R>(&self, f: impl FnOnce(&Step<'_>) -> R) -> R {
        let groups: Vec<GroupTables<'_>> = self
            .tables
            .iter()
            .map(|(t, max_blocks, s)| GroupTables { block_tables: t, max_blocks: *max_blocks, slot_mapping: s })
            .collect();
        let inputs: Vec<NamedInput<'_>> = self.inputs.iter().map(|(name, data)| NamedInput { name, data }).collect();
        f(&Step {
            token_ids: &self.token_ids,
            positions: &self.positions,
            query_start: &self.query_start,
            context_lens: &self.context_lens,
            groups: &groups,
            logits_rows: &self.logits_rows,
            inputs: &inputs,
        })
    }
}

/// Every output of every step, within `tolerance` of the largest number that the reference's output has in any step: in a
/// step of one token all of an output's few numbers may be small because what they add up cancels.
pub fn check(options: &str, program: &Program, steps: &[StepData], tolerance: f32) {
    let (block_size, blocks) = (4, 64);
    let weights = weights(program, 1);
    let sizes = Sizes { max_tokens: 64, max_sequences: 4, block_size, blocks: vec![blocks; program.group_count()] };
    let plugin = Plugin::load(options, program, &weights, &sizes).unwrap();
    let mut reference = Interpreter::new(program.clone(), &weights).unwrap();
    reference.allocate_cache(block_size as usize, &vec![blocks as usize; program.group_count()]).unwrap();
    let expected: Vec<_> = steps.iter().map(|step| step.borrow(|step| reference.run(step).unwrap())).collect();
    let largest_of = |name: &String| {
        let numbers = expected.iter().filter_map(|outputs| outputs.get(name)).flatten();
        numbers.fold(1e-3f32, |m, x| m.max(x.abs()))
    };
    for (i, (step, expected)) in steps.iter().zip(&expected).enumerate() {
        step.borrow(|step| {
            let found = plugin.run(step).unwrap();
            for (name, expected) in expected {
                let largest = largest_of(name);
                assert_eq!(found[name].len(), expected.len(), "{options} step {i} {name}");
                for (j, (f, e)) in found[name].iter().zip(expected).enumerate() {
                    assert!(
                        (f - e).abs() <= tolerance * largest,
                        "{options}, step {i}, output {name}, element {j}: found {f}, expected {e} (largest {largest})\n{}",
                        program
                    );
                }
            }
        });
    }
}
