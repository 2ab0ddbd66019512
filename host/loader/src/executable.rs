//! A whole model that runs: one segment, or several in a row on different devices.

use std::sync::Arc;

use rocmforge_abi::{CompileOptions, MemoryNeed};
use rocmforge_gguf::GgufFile;
use rocmforge_program::{GroupTables, InputSource, NamedInput, Op, OutputBuffer, Program, RowSampling, Step, output};

use crate::backend::Backend;
use crate::config::GpuLayers;
use crate::error::{LoaderError, PluginErrorKind};
use crate::placement::{Request, place};
use crate::segment::{KernelTime, Limits, Segment};

/// A segment with what it takes of a step.
struct Part {
    segment: Segment,
    /// The whole program's number of each of its cache groups.
    groups: Vec<usize>,
    /// Names of the inputs that it reads.
    inputs: Vec<String>,
    /// Elements per token of the residual stream that it hands on; 0 for the last.
    hidden: usize,
}

/// What a model is built from again when its device is lost.
pub(crate) struct Spare {
    /// As the architecture describes it.
    pub(crate) program: Arc<Program>,
    pub(crate) file: Arc<GgufFile>,
    pub(crate) backends: Vec<Backend>,
    /// Whether it may run elsewhere.
    pub(crate) allowed: bool,
}

/// A compiled program with its weights and KV cache.
pub struct Executable {
    program: Arc<Program>,
    options: CompileOptions,
    memory: MemoryNeed,
    /// In the order in which they run; at least one.
    parts: Vec<Part>,
    /// The residual stream between two segments.
    hidden: Vec<f32>,
    spare: Option<Spare>,
    /// Names of backends whose device was lost.
    lost: Vec<String>,
    /// Blocks of the cache, once it is allocated.
    blocks: Option<Vec<u64>>,
}

fn input_names(program: &Program) -> Vec<String> {
    let name = |op: &Op| match op {
        Op::Input { source: InputSource::Named { name, .. } } => Some(name.clone()),
        _ => None,
    };
    program.nodes.iter().filter_map(|n| name(&n.op)).collect()
}

impl Executable {
    /// A program on one device.
    pub(crate) fn whole(segment: Segment) -> Result<Executable, LoaderError> {
        let program = segment.shared_program();
        let groups = (0..program.group_count()).collect();
        Executable::of(program, vec![(segment, groups)])
    }

    /// Segments in the order in which they run, each with the whole program's numbers of its cache groups.
    pub(crate) fn of(program: Arc<Program>, segments: Vec<(Segment, Vec<usize>)>) -> Result<Executable, LoaderError> {
        let Some(options) = segments.first().map(|(s, _)| s.options()) else {
            return Err(LoaderError::Placement("a model needs at least one segment".into()));
        };
        let mut memory = MemoryNeed { cache_block: vec![0; program.group_count()].into(), ..MemoryNeed::default() };
        let last = segments.len() - 1;
        let mut parts = vec![];
        for (i, (segment, groups)) in segments.into_iter().enumerate() {
            let need = segment.memory();
            memory.weights = memory.weights.saturating_add(need.weights);
            memory.activations = memory.activations.saturating_add(need.activations);
            for (&group, &bytes) in groups.iter().zip(need.cache_block.iter()) {
                if let Some(sum) = memory.cache_block.get_mut(group) {
                    *sum = sum.saturating_add(bytes);
                }
            }
            let inputs = input_names(segment.program());
            let hidden = if i == last { 0 } else { residual_width(segment.program())? };
            parts.push(Part { segment, groups, inputs, hidden });
        }
        let (hidden, spare, lost, blocks) = (vec![], None, vec![], None);
        Ok(Executable { program, options, memory, parts, hidden, spare, lost, blocks })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The backend that computes the outputs.
    pub fn backend(&self) -> &Backend {
        self.parts[self.parts.len() - 1].segment.backend()
    }

    /// Its segments in the order in which they run, each with the program's numbers of its cache groups.
    pub fn segments(&self) -> impl Iterator<Item = (&Segment, &[usize])> {
        self.parts.iter().map(|p| (&p.segment, &p.groups[..]))
    }

    /// What it needs on all devices together.
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
    /// A weight that the file lacks, or that a backend does not take.
    pub fn bind_weights(&mut self, progress: &mut dyn FnMut(u64)) -> Result<(), LoaderError> {
        let mut before = 0;
        for part in &mut self.parts {
            let mut own = 0;
            part.segment.bind_weights(&mut |done| {
                own = done;
                progress(before + done);
            })?;
            before += own;
        }
        Ok(())
    }

    /// Allocates the KV cache: blocks for each cache group.
    ///
    /// # Errors
    /// Out of memory, with the numbers.
    pub fn allocate_cache(&mut self, blocks: &[u64]) -> Result<(), LoaderError> {
        for part in &mut self.parts {
            // A backend tells a wrong number of groups best.
            let own: Vec<u64> = match blocks.len() == self.program.group_count() {
                true => part.groups.iter().map(|&g| blocks[g]).collect(),
                false => blocks.to_vec(),
            };
            part.segment.allocate_cache(&own)?;
        }
        self.blocks = Some(blocks.to_vec());
        Ok(())
    }

    /// Keeps what it needs to go on elsewhere.
    pub(crate) fn keep_spare(&mut self, spare: Spare) {
        self.spare = Some(spare);
    }

    /// After a failed step: builds the model again on the backends that are left, with an empty cache of the same size, if
    /// a device was lost. `false`: none was.
    ///
    /// # Errors
    /// A device was lost, and the model may not run elsewhere or nothing else takes it.
    pub fn recover(&mut self) -> Result<bool, LoaderError> {
        if self.lost.is_empty() {
            return Ok(false);
        }
        let lost = self.lost.join(", ");
        let Some(spare) = self.spare.take().filter(|s| s.allowed) else {
            return Err(LoaderError::Placement(format!(
                "the device of {lost} is lost, and the model may not run elsewhere"
            )));
        };
        let backends: Vec<Backend> =
            spare.backends.iter().filter(|b| !self.lost.iter().any(|l| l == b.name())).cloned().collect();
        let (mut other, placement) = place(&Request {
            program: &spare.program,
            file: &spare.file,
            backends: &backends,
            unavailable: &[],
            fallback: true,
            gpu_layers: &GpuLayers::Auto,
            context: spare.program.info.context_length,
            cache_bytes: None,
            compile: self.options,
        })?;
        other.bind_weights(&mut |_| {})?;
        if let Some(blocks) = &self.blocks {
            other.allocate_cache(blocks)?;
        }
        placement.to_string().lines().for_each(|line| tracing::info!("{line}"));
        other.spare = Some(Spare { backends, ..spare });
        *self = other;
        Ok(true)
    }

    /// Notes a lost device.
    fn noted(lost: &mut Vec<String>, segment: &Segment, result: Result<(), LoaderError>) -> Result<(), LoaderError> {
        if result.as_ref().is_err_and(|e| e.plugin_kind() == Some(PluginErrorKind::Device)) {
            lost.push(segment.backend().name().to_owned());
        }
        result
    }

    /// Whether tokens can be drawn where the logits are, so that [`submit_sampling`](Executable::submit_sampling) may ask
    /// for it.
    pub fn samples(&self) -> bool {
        self.parts[self.parts.len() - 1].segment.samples()
    }

    /// Starts a step: runs all segments but the last and starts that.
    ///
    /// # Errors
    /// A step that does not fit the program, device faults.
    pub fn submit(&mut self, step: &Step<'_>) -> Result<(), LoaderError> {
        self.submit_sampling(step, &[])
    }

    /// The same with tokens to be drawn from these of its rows of logits, in rising order; of these rows
    /// [`wait`](Executable::wait) gives no logits, and [`sampled`](Executable::sampled) the tokens.
    ///
    /// # Errors
    /// As [`submit`](Executable::submit); parameters out of range.
    pub fn submit_sampling(&mut self, step: &Step<'_>, sampling: &[RowSampling]) -> Result<(), LoaderError> {
        let last = self.parts.len() - 1;
        let Executable { parts, hidden, program, lost, .. } = self;
        if let [part] = &mut parts[..] {
            let result = part.segment.submit(step, sampling);
            return Executable::noted(lost, &part.segment, result);
        }
        if step.groups.len() != program.group_count() {
            let (expected, found) = (program.group_count(), step.groups.len());
            return Err(LoaderError::Placement(format!(
                "step: expected tables of {expected} cache groups, found {found}"
            )));
        }
        for (i, part) in parts.iter_mut().enumerate() {
            let groups: Vec<GroupTables<'_>> = part.groups.iter().map(|&g| step.groups[g]).collect();
            let mut inputs: Vec<NamedInput<'_>> = step.inputs.to_vec();
            inputs.push(NamedInput { name: output::HIDDEN, data: hidden });
            inputs.retain(|input| part.inputs.iter().any(|name| name == input.name));
            let own = if i == last { sampling } else { &[] };
            let result = part.segment.submit(&Step { groups: &groups, inputs: &inputs, ..*step }, own);
            Executable::noted(lost, &part.segment, result)?;
            if part.hidden > 0 {
                hidden.clear();
                hidden.resize(step.tokens().saturating_mul(part.hidden), 0.0);
                let result = part.segment.wait(&mut [OutputBuffer { name: output::HIDDEN, data: hidden }]);
                Executable::noted(lost, &part.segment, result)?;
            }
        }
        Ok(())
    }

    /// Waits for the step and fetches its outputs.
    ///
    /// # Errors
    /// An output of another name or size, device faults.
    pub fn wait(&mut self, outputs: &mut [OutputBuffer<'_>]) -> Result<(), LoaderError> {
        let last = self.parts.len() - 1;
        let segment = &mut self.parts[last].segment;
        let result = segment.wait(outputs);
        Executable::noted(&mut self.lost, segment, result)
    }

    /// Fetches the tokens that were drawn in the step waited for last.
    ///
    /// # Errors
    /// Another number of tokens than were asked for, device faults.
    pub fn sampled(&mut self, tokens: &mut [u32]) -> Result<(), LoaderError> {
        let last = self.parts.len() - 1;
        let segment = &mut self.parts[last].segment;
        let result = segment.sampled(tokens);
        Executable::noted(&mut self.lost, segment, result)
    }

    /// Switches the measuring of kernels on or off and returns what was measured since it was switched on, for the
    /// segments whose backends measure.
    ///
    /// # Errors
    /// No backend of the model measures kernels.
    pub fn profile(&mut self, measure: bool) -> Result<Vec<KernelTime>, LoaderError> {
        let (mut times, mut error) = (None, None);
        for part in &mut self.parts {
            match part.segment.profile(measure) {
                Ok(found) => times.get_or_insert_with(Vec::new).extend(found),
                Err(e) => error = Some(e),
            }
        }
        match (times, error) {
            (Some(times), _) => Ok(times),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(vec![]),
        }
    }

    /// Has the backend measure what its device can do at most.
    ///
    /// # Errors
    /// The model is spread over several devices, or its backend does not measure it.
    pub fn limits(&mut self) -> Result<Limits, LoaderError> {
        match &mut self.parts[..] {
            [part] => part.segment.limits(),
            _ => Err(LoaderError::Placement("the limits of several devices are not one".into())),
        }
    }
}

/// Elements per token of the output `hidden`.
fn residual_width(program: &Program) -> Result<usize, LoaderError> {
    let value = program.outputs.iter().find(|o| o.name == output::HIDDEN).map(|o| o.value);
    let types = rocmforge_program::infer_types(program).map_err(|e| LoaderError::Placement(e.to_string()))?;
    let width = value.and_then(|v| types.get(v)).and_then(|t| t.shape.row_elements());
    width.ok_or_else(|| LoaderError::Placement("a segment without residual stream".into()))
}
