//! A program on a device: its memory, and one step after the other.

mod check;
mod recorded;
mod sampling;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rocmforge_sdk::program::{OutputBuffer, Program, RowSampling, Step};
use rocmforge_sdk::{BoundWeight, CompileOptions, Error, Executable, KernelTime, MemoryNeed, Result, log};

use crate::build;
use crate::cache::Caches;
use crate::gpu::Gpu;
use crate::graph::Graphs;
use crate::memory::{DeviceBuffer, Pinned, Stream};
use crate::metadata::{Layout, Rows};
use crate::options::{ActivationOption, HipOptions};
use crate::plan::Plan;
use crate::profile::Profile;
use crate::run::{Run, attention_scratch};
use crate::weights::Weights;
use check::Checked;
use sampling::Sampling;

/// A program with its memory on one device.
pub struct HipExecutable {
    plan: Arc<Plan>,
    program: Program,
    gpu: Arc<Gpu>,
    patience: Duration,
    graphs_wanted: bool,
    max_sequences: usize,
    pub(crate) weights: Weights,
    pub(crate) caches: Caches,
    memory: Option<Memory>,
    /// Rows that the arena has room for.
    capacity: Rows,
    /// Whether the step has exactly one token of each sequence.
    single: bool,
    running: Option<Running>,
    /// Drawing tokens, where the program has logits and it is wanted.
    sampling: Option<Sampling>,
    profile: Option<Profile>,
    graphs: Graphs,
    stream: Stream,
}

/// What steps read and write, beside weights and cache.
pub(crate) struct Memory {
    /// By leading dimension.
    pub(crate) arena: [DeviceBuffer; 3],
    /// Rows that these have room for; they decide where values lie.
    pub(crate) capacity: Rows,
    pub(crate) metadata: DeviceBuffer,
    pub(crate) scratch: DeviceBuffer,
    pub(crate) fault: DeviceBuffer,
    /// Counters that are 0 between launches.
    pub(crate) arrived: DeviceBuffer,
    /// Where tokens are drawn, and the tokens.
    candidates: DeviceBuffer,
    tokens: DeviceBuffer,
    tokens_host: Pinned,
    metadata_host: Pinned,
    inputs_host: Pinned,
    outputs_host: Pinned,
    /// Columns of the block tables.
    blocks: usize,
}

fn single(step: &Step<'_>) -> bool {
    step.query_start.windows(2).all(|ends| ends[1] == ends[0] + 1)
}

/// A step that was submitted.
struct Running {
    rows: Rows,
    /// Where a recorded step runs for the first time: what to compare it with.
    checked: Option<Checked>,
}

/// What a step has brought to the host.
struct Results {
    /// The outputs one behind the other, all rows of logits among them.
    values: Vec<f32>,
    tokens: Vec<u32>,
}

impl HipExecutable {
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        options: &HipOptions,
        program: &Program,
        compile: CompileOptions,
    ) -> Result<HipExecutable> {
        gpu.enter()?;
        let plan = Arc::new(build::plan(program, options.activations == ActivationOption::F32)?);
        let patience = Duration::from_secs(options.timeout_seconds.max(1));
        let weights = Weights::new(gpu, &plan, patience)?;
        let caches = Caches::new(gpu, program, compile.block_size, options.kv_type)?;
        let (tokens, sequences) = (compile.max_tokens, compile.max_sequences);
        let capacity = Rows { tokens, sequences, logits: sequences.min(tokens) };
        let graphs_wanted = options.graphs && gpu.hip().has_graphs();
        let sampling = Sampling::of(&plan, options.sampling);
        log!(Debug, "{} nodes in {} stages, {} matrices", program.nodes.len(), plan.stages.len(), plan.matrices.len());
        Ok(HipExecutable {
            plan,
            program: program.clone(),
            gpu: Arc::clone(gpu),
            patience,
            graphs_wanted,
            max_sequences: sequences,
            weights,
            caches,
            memory: None,
            capacity,
            single: false,
            running: None,
            sampling,
            profile: None,
            graphs: Graphs::default(),
            stream: Stream::new(gpu)?,
        })
    }

    fn arena_bytes(&self, lead: usize) -> u64 {
        self.plan.row_bytes[lead].saturating_mul(self.capacity.lead(lead) as u64)
    }

    /// Elements of each output in a step, and of all together; without the rows that tokens are drawn from, unless all are
    /// compared.
    fn output_floats(&self, rows: Rows, all: bool) -> (Vec<usize>, usize) {
        let rows_of = |i: usize, lead: usize| match &self.sampling {
            Some(s) if s.output == i && !all => rows.lead(lead).saturating_sub(s.rows.len()),
            _ => rows.lead(lead),
        };
        let outputs = self.plan.outputs.iter().enumerate();
        let each: Vec<usize> = outputs.map(|(i, o)| o.view.width.saturating_mul(rows_of(i, o.view.lead))).collect();
        let all = each.iter().fold(0usize, |sum, &n| sum.saturating_add(n));
        (each, all)
    }

    fn input_floats(&self, rows: Rows) -> usize {
        self.plan.inputs.iter().map(|(_, v)| v.width.saturating_mul(rows.lead(v.lead))).sum()
    }

    fn first_blocks(&self) -> usize {
        64
    }

    fn metadata_bytes(&self) -> u64 {
        4 * Layout::new(self.capacity, self.caches.groups(), self.first_blocks()).len as u64
    }

    fn scratch_bytes(&self) -> u64 {
        attention_scratch(&self.plan, &self.gpu.facts)
    }

    /// Enough for every tile of attention.
    fn counter_bytes(&self) -> u64 {
        let heads = self.program.caches.iter().map(|c| c.kv_heads).max().unwrap_or(1) as u64;
        let rows = (self.capacity.tokens as u64).saturating_add(self.capacity.sequences as u64);
        rows.saturating_mul(heads).saturating_mul(4).max(256)
    }

    fn allocate(&self) -> Result<Memory> {
        let buffer = |bytes, what: &str| DeviceBuffer::new(&self.gpu, bytes, what);
        let arena = |lead| {
            let rows = self.capacity.lead(lead);
            let what = format!("activations of {rows} rows; use fewer tokens per step or fewer rows with logits");
            DeviceBuffer::new(&self.gpu, self.arena_bytes(lead), what)
        };
        let pinned = |bytes: usize, what: &str| Pinned::new(&self.gpu, bytes, what);
        let memory = Memory {
            arena: [arena(0)?, arena(1)?, arena(2)?],
            capacity: self.capacity,
            metadata: buffer(self.metadata_bytes(), "the step's tables")?,
            scratch: buffer(self.scratch_bytes(), "attention over parts of the context")?,
            fault: buffer(256, "a flag")?,
            arrived: buffer(self.counter_bytes(), "counters")?,
            candidates: buffer(self.candidate_bytes(), "candidates of sampling")?,
            tokens: buffer(4 * self.capacity.logits as u64, "tokens")?,
            tokens_host: pinned(4 * self.capacity.logits, "tokens")?,
            metadata_host: pinned(self.metadata_bytes() as usize, "the step's tables")?,
            inputs_host: pinned(4 * self.input_floats(self.capacity) + 16 * self.plan.inputs.len(), "inputs")?,
            outputs_host: pinned(4 * self.output_floats(self.capacity, true).1, "outputs")?,
            blocks: self.first_blocks(),
        };
        // SAFETY: the buffers are moved into `self.memory`, or dropped after the wait.
        unsafe {
            self.stream.clear(&memory.fault)?;
            self.stream.clear(&memory.arrived)?;
            memory.arena.iter().try_for_each(|a| self.stream.clear(a))?;
        }
        self.stream.wait(self.patience)?;
        Ok(memory)
    }

    /// Room for a step with more rows, or longer tables, than any before.
    fn make_room(&mut self, rows: Rows, blocks: usize) -> Result<()> {
        if rows.logits > self.capacity.logits {
            self.graphs.clear();
            self.capacity.logits = rows.logits;
            // First, so that old and new are never held together.
            self.memory = None;
            let allocated = self.allocate();
            if allocated.is_err() {
                self.capacity.logits = self.max_sequences.min(self.capacity.tokens);
                self.memory = Some(self.allocate()?);
            }
            self.memory = Some(allocated?);
        }
        let (gpu, capacity) = (Arc::clone(&self.gpu), self.capacity);
        let Some(memory) = &mut self.memory else {
            return Err(Error::invalid("a step before the weights were bound"));
        };
        if blocks > memory.blocks {
            let columns = blocks.next_power_of_two();
            let words = Layout::new(capacity, self.caches.groups(), columns).len;
            memory.metadata = DeviceBuffer::new(&gpu, 4 * words as u64, "the step's tables")?;
            memory.metadata_host = Pinned::new(&gpu, 4 * words, "the step's tables")?;
            memory.blocks = columns;
            self.graphs.clear();
        }
        Ok(())
    }

    fn upload(&mut self, step: &Step<'_>, layout: &Layout) -> Result<()> {
        let Some(memory) = &mut self.memory else { return Ok(()) };
        layout.write(step, memory.metadata_host.words_mut());
        if let Some(sampling) = &self.sampling {
            layout.write_requests(&sampling.rows, memory.metadata_host.words_mut());
        }
        // SAFETY: both buffers are kept until the stream is waited for: by `wait`, or before they are replaced.
        unsafe { self.stream.upload(&memory.metadata_host, 4 * layout.len, &memory.metadata, 0)? };
        let mut at = 0;
        for (name, view) in &self.plan.inputs {
            let found = step.inputs.iter().find(|i| i.name == name);
            let found = found.ok_or_else(|| Error::invalid(format!("input '{name}': expected it in the step")))?;
            let bytes = 4 * found.data.len();
            let to = memory.inputs_host.bytes_mut().get_mut(at..at + bytes);
            let to = to.ok_or_else(|| Error::invalid(format!("input '{name}': too many elements")))?;
            to.chunks_exact_mut(4).zip(found.data).for_each(|(to, x)| to.copy_from_slice(&x.to_ne_bytes()));
            let offset = view.buffer().map_or(0, |b| {
                let b = self.plan.buffers[b.0 as usize];
                b.before * memory.capacity.lead(b.lead) as u64
            });
            // SAFETY: as above.
            unsafe { self.stream.upload_from(&memory.inputs_host, at, bytes, &memory.arena[view.lead], offset)? };
            at += bytes.next_multiple_of(16);
        }
        Ok(())
    }

    fn run<'a>(&'a self, layout: &'a Layout, profile: Option<&'a mut Profile>) -> Result<Run<'a>> {
        let memory = self.memory.as_ref().ok_or_else(|| Error::invalid("a step before the weights were bound"))?;
        Ok(Run {
            plan: &self.plan,
            weights: &self.weights,
            caches: &self.caches,
            memory,
            layout,
            stream: &self.stream,
            facts: &self.gpu.facts,
            context: 1,
            single: self.single,
            profile,
            unscaled: HashMap::new(),
        })
    }

    /// Launches every stage.
    fn launch(&mut self, layout: &Layout, context: u32) -> Result<()> {
        let mut profile = self.profile.take();
        let result = self.run(layout, profile.as_mut()).and_then(|mut run| {
            run.context = context;
            run.all()
        });
        self.profile = profile;
        result
    }
}

impl Executable for HipExecutable {
    fn memory(&self) -> MemoryNeed {
        let arena: u64 = (0..3).map(|lead| self.arena_bytes(lead)).fold(0, u64::saturating_add);
        let others = [self.metadata_bytes(), self.scratch_bytes(), self.candidate_bytes()];
        let activations = others.into_iter().fold(arena, u64::saturating_add);
        MemoryNeed { weights: self.weights.bytes(), activations, cache_block: self.caches.block_bytes() }
    }

    fn bind(&mut self, weight: BoundWeight) -> Result<()> {
        self.gpu.enter()?;
        self.weights.bind(&self.plan, &weight)
    }

    fn finalize(&mut self) -> Result<()> {
        self.gpu.enter()?;
        self.weights.finalize(&self.plan, &self.program)?;
        self.memory = Some(self.allocate()?);
        Ok(())
    }

    fn allocate_cache(&mut self, blocks: &[u64]) -> Result<()> {
        self.gpu.enter()?;
        self.graphs.clear();
        self.caches.allocate(blocks, &self.stream, self.patience)
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<()> {
        self.start(step, &[])
    }

    fn submit_sampling(&mut self, step: &Step<'_>, rows: &[RowSampling]) -> Result<()> {
        self.start(step, rows)
    }

    fn sampled(&mut self, tokens: &mut [u32]) -> Result<()> {
        let drawn = self.sampling.as_ref().map_or(&[][..], |s| &s.drawn);
        if drawn.len() != tokens.len() {
            return Err(Error::internal(format!("{} tokens were drawn, {} are asked for", drawn.len(), tokens.len())));
        }
        tokens.copy_from_slice(drawn);
        Ok(())
    }

    fn wait(&mut self, outputs: &mut [OutputBuffer<'_>]) -> Result<()> {
        let Some(running) = self.running.take() else {
            return Err(Error::invalid("wait: expected a submitted step"));
        };
        self.stream.wait(self.patience)?;
        if let Some(profile) = &mut self.profile {
            profile.end()?;
        }
        let Some(checked) = running.checked else { return self.take_results(running.rows, None, outputs) };
        let found = self.checked(running.rows, checked)?;
        self.take_results(running.rows, Some(&found), outputs)
    }

    fn profile(&mut self, measure: bool) -> Result<Vec<KernelTime>> {
        let times = self.profile.as_ref().map_or(vec![], Profile::times);
        self.profile = measure.then(Profile::default);
        Ok(times)
    }
}

impl Drop for HipExecutable {
    fn drop(&mut self) {
        // The rule of `memory`: nothing goes while the device may use it. A device that does not answer is lost by then,
        // and its memory is left alone.
        let _ = self.stream.wait(self.patience);
    }
}
