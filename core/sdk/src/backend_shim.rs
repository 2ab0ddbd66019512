use rocmforge_abi::abi_stable::prefix_type::PrefixTypeTrait;
use rocmforge_abi::{
    self as abi, BackendTable, BackendTableRef, DeviceInfo, ExecutableTable, Handle, RSlice, RSliceMut, RStr, RString,
    RVec, Status, StepBatch, StepOutput,
};
use rocmforge_program::{
    DType, GroupTables, Lead, Op, OutputBuffer, Program, Step, StepLimits, ValueType, WeightId, infer_types, output,
};

use crate::error::{Error, Result};
use crate::guard::guard;
use crate::options::Options;
use crate::step_shim::{Sizes, Tables, named_inputs, row_samplings};
use crate::traits::{Backend, BoundWeight, CompileOptions, Executable};

/// The table of a backend.
pub fn backend_table<B: Backend>(name: &'static str) -> BackendTableRef {
    let executable = ExecutableTable {
        memory: memory::<B::Exec>,
        bind: bind::<B::Exec>,
        finalize: finalize::<B::Exec>,
        allocate_cache: allocate_cache::<B::Exec>,
        submit: submit::<B::Exec>,
        wait: wait::<B::Exec>,
        destroy: destroy_executable::<B::Exec>,
        profile: profile::<B::Exec>,
        limits: limits::<B::Exec>,
        sampled: sampled::<B::Exec>,
    }
    .leak_into_prefix();
    BackendTable {
        name: RStr::from_str(name),
        create: create::<B>,
        destroy: destroy::<B>,
        devices: devices::<B>,
        extensions: extensions::<B>,
        supports: supports::<B>,
        compile: compile::<B>,
        executable,
        compile_on: compile_on::<B>,
    }
    .leak_into_prefix()
}

/// Gives a value to the host as a handle.
fn give<T>(value: T) -> Handle {
    Handle(Box::into_raw(Box::new(value)).cast())
}

/// # Safety
/// `handle` came from [`give`] with the same type and is not destroyed, and no call on another thread uses it mutably.
unsafe fn borrow<'a, T>(handle: Handle) -> Result<&'a T> {
    // SAFETY: the caller's contract; null is refused.
    unsafe { handle.0.cast::<T>().as_ref() }.ok_or_else(|| Error::internal("the host passed a null handle"))
}

extern "C" fn create<B: Backend>(options_json: RStr<'_>, out: &mut Handle) -> Status {
    guard(|| {
        *out = give(B::create(&Options::new(&options_json))?);
        Ok(())
    })
}

extern "C" fn destroy<B: Backend>(backend: Handle) -> Status {
    guard(|| {
        if !backend.0.is_null() {
            // SAFETY: made by `create` with this type; the host destroys each handle once.
            drop(unsafe { Box::from_raw(backend.0.cast::<B>()) });
        }
        Ok(())
    })
}

extern "C" fn devices<B: Backend>(backend: Handle, out: &mut RVec<DeviceInfo>) -> Status {
    guard(|| {
        // SAFETY: the host passes what `create` made.
        let backend = unsafe { borrow::<B>(backend) }?;
        out.extend(backend.devices()?.into_iter().map(|d| DeviceInfo {
            id: d.id.into(),
            description: d.description.into(),
            memory_total: d.memory_total,
            memory_free: d.memory_free,
        }));
        Ok(())
    })
}

extern "C" fn extensions<B: Backend>(backend: Handle, out: &mut RVec<RString>) -> Status {
    guard(|| {
        // SAFETY: the host passes what `create` made.
        let backend = unsafe { borrow::<B>(backend) }?;
        out.extend(backend.extensions().into_iter().map(RString::from));
        Ok(())
    })
}

extern "C" fn supports<B: Backend>(
    backend: Handle,
    op_json: RStr<'_>,
    dtypes: RSlice<'_, u32>,
    out: &mut bool,
) -> Status {
    guard(|| {
        // SAFETY: the host passes what `create` made.
        let backend = unsafe { borrow::<B>(backend) }?;
        let dtypes: Option<Vec<DType>> = dtypes.iter().map(|&id| DType::from_id(id)).collect();
        *out = match (serde_json::from_str::<Op>(&op_json), dtypes) {
            (Ok(op), Some(dtypes)) => backend.supports(&op, &dtypes),
            _ => false,
        };
        Ok(())
    })
}

extern "C" fn compile<B: Backend>(
    backend: Handle,
    program: RSlice<'_, u8>,
    options: abi::CompileOptions,
    out: &mut Handle,
) -> Status {
    guard(|| compiled::<B>(backend, program, options, None, out))
}

extern "C" fn compile_on<B: Backend>(
    backend: Handle,
    program: RSlice<'_, u8>,
    options: abi::CompileOptions,
    device: RStr<'_>,
    out: &mut Handle,
) -> Status {
    guard(|| compiled::<B>(backend, program, options, Some(device.as_str()), out))
}

fn compiled<B: Backend>(
    backend: Handle,
    program: RSlice<'_, u8>,
    options: abi::CompileOptions,
    device: Option<&str>,
    out: &mut Handle,
) -> Result<()> {
    // SAFETY: the host passes what `create` made.
    let backend = unsafe { borrow::<B>(backend) }?;
    let options = CompileOptions::from(options);
    if options.max_tokens == 0 || options.max_sequences == 0 || options.block_size == 0 {
        return Err(Error::invalid(format!("compile: expected sizes of at least 1, found {options:?}")));
    }
    let program = Program::from_bytes(program.as_slice())?;
    let exec = match device {
        Some(device) => backend.compile_on(program.clone(), options, device)?,
        None => backend.compile(program.clone(), options)?,
    };
    // What is not announced is ignored, as the rules of extensions say.
    let samples = backend.extensions().iter().any(|name| name == abi::SAMPLE_EXTENSION);
    *out = give(Loaded::new(exec, program, options, samples)?);
    Ok(())
}

/// An executable with what is needed to check the host's calls, so that authors can trust their arguments.
struct Loaded<E> {
    exec: E,
    program: Program,
    options: CompileOptions,
    tables: Tables,
    output_types: Vec<ValueType>,
    blocks: Vec<usize>,
    bound: Vec<bool>,
    finalized: bool,
    /// Whether its backend draws tokens.
    samples: bool,
    /// The step under way.
    running: Option<Sizes>,
    /// Tokens drawn in the step waited for last.
    drawn: usize,
    poisoned: bool,
}

impl<E: Executable> Loaded<E> {
    fn new(exec: E, program: Program, options: CompileOptions, samples: bool) -> Result<Loaded<E>> {
        let types = infer_types(&program)?;
        let output_types: Vec<ValueType> = program.outputs.iter().filter_map(|o| types.get(o.value).cloned()).collect();
        let tables = Tables::of(&program)?;
        let bound = vec![false; program.weights.len()];
        let logits = std::iter::zip(&program.outputs, &output_types).find(|(o, _)| o.name == output::LOGITS);
        let samples = samples && logits.is_some_and(|(_, ty)| ty.shape.lead == Lead::L);
        Ok(Loaded {
            exec,
            program,
            options,
            tables,
            output_types,
            blocks: vec![],
            bound,
            finalized: false,
            samples,
            running: None,
            drawn: 0,
            poisoned: false,
        })
    }

    fn bind(&mut self, weight: &abi::Weight<'_>) -> Result<()> {
        let name = weight.tensor.name.as_str();
        let Some(decl) = self.program.weights.get(weight.index as usize) else {
            return Err(Error::invalid(format!("weight '{name}': no such weight in the program ({})", weight.index)));
        };
        let dims: Vec<usize> = weight.tensor.dims.iter().map(|&d| d as usize).collect();
        let bytes = decl.dtype.row_bytes(decl.dims.iter().product()).unwrap_or(usize::MAX);
        let same = decl.name == name && decl.dims == dims && decl.dtype as u32 == weight.tensor.dtype;
        if !same || weight.data.len() != bytes {
            return Err(Error::invalid(format!(
                "weight '{}': expected {}{:?} in {bytes} bytes, found '{name}' type {} {dims:?} in {} bytes",
                decl.name,
                decl.dtype,
                decl.dims,
                weight.tensor.dtype,
                weight.data.len()
            )));
        }
        if std::mem::replace(&mut self.bound[weight.index as usize], true) {
            return Err(Error::invalid(format!("weight '{name}': bound twice")));
        }
        self.exec.bind(BoundWeight {
            id: WeightId(weight.index),
            name: name.to_owned(),
            dtype: decl.dtype,
            dims,
            data: weight.data.as_ptr(),
            len: weight.data.len(),
        })
    }

    fn finalize(&mut self) -> Result<()> {
        if let Some(missing) = self.bound.iter().position(|b| !b) {
            return Err(Error::invalid(format!("weight '{}' was never bound", self.program.weights[missing].name)));
        }
        self.exec.finalize()?;
        self.finalized = true;
        Ok(())
    }

    fn allocate_cache(&mut self, blocks: &[u64]) -> Result<()> {
        let groups = self.program.group_count();
        // A slot number must fit a u32, and NO_BLOCK must never be a block.
        let most = u64::from(u32::MAX) / self.options.block_size as u64;
        if blocks.len() != groups || blocks.iter().any(|&b| b > most) {
            return Err(Error::invalid(format!(
                "KV cache: expected at most {most} blocks for each of {groups} groups, found {blocks:?}"
            )));
        }
        self.blocks.clear();
        self.exec.allocate_cache(blocks)?;
        self.blocks = blocks.iter().map(|&b| b as usize).collect();
        Ok(())
    }

    fn submit(&mut self, batch: &StepBatch<'_>) -> Result<()> {
        if !self.finalized || (self.blocks.is_empty() && self.program.group_count() > 0) {
            return Err(Error::invalid("submit: expected finalize and allocate_cache before the first step"));
        }
        if self.running.is_some() {
            return Err(Error::invalid("submit: expected wait for the step before"));
        }
        let groups: Vec<GroupTables<'_>> = batch
            .groups
            .iter()
            .map(|g| GroupTables {
                block_tables: g.block_tables.as_slice(),
                max_blocks: g.max_blocks as usize,
                slot_mapping: g.slot_mapping.as_slice(),
            })
            .collect();
        let inputs = named_inputs(batch)?;
        let step = Step {
            token_ids: batch.token_ids.as_slice(),
            positions: batch.positions.as_slice(),
            query_start: batch.query_start.as_slice(),
            context_lens: batch.context_lens.as_slice(),
            groups: &groups,
            logits_rows: batch.logits_rows.as_slice(),
            inputs: &inputs,
        };
        let limits = StepLimits {
            vocab_size: self.tables.tokens,
            max_tokens: self.options.max_tokens,
            max_sequences: self.options.max_sequences,
            block_size: self.options.block_size,
            num_blocks: &self.blocks,
        };
        step.check(&self.program, &limits)?;
        self.tables.check(&step)?;
        let sampling = match self.samples {
            true => row_samplings(batch)?,
            false => vec![],
        };
        self.drawn = 0;
        match &sampling[..] {
            [] => self.exec.submit(&step)?,
            rows => self.exec.submit_sampling(&step, rows)?,
        }
        self.running = Some(Sizes::of(&step, sampling.len()));
        Ok(())
    }

    fn wait(&mut self, outputs: &mut [StepOutput<'_>]) -> Result<()> {
        // The step stays the running one while its outputs are refused: it was submitted and must be waited for.
        let Some(sizes) = self.running else {
            return Err(Error::invalid("wait: expected a submitted step"));
        };
        let mut buffers = Vec::with_capacity(outputs.len());
        for output in outputs {
            let name = output.name.as_str();
            let Some(i) = self.program.outputs.iter().position(|o| o.name == name) else {
                return Err(Error::invalid(format!("wait: the program has no output '{name}'")));
            };
            let expected = sizes.elements_of(name, &self.output_types[i].shape);
            if output.data.len() != expected {
                let found = output.data.len();
                return Err(Error::invalid(format!(
                    "wait: output '{name}': expected {expected} elements, found {found}"
                )));
            }
            buffers.push(OutputBuffer { name, data: output.data.as_mut_slice() });
        }
        self.running = None;
        self.exec.wait(&mut buffers)?;
        self.drawn = sizes.sampled;
        Ok(())
    }

    fn sampled(&mut self, tokens: &mut [u32]) -> Result<()> {
        if self.running.is_some() || tokens.len() != self.drawn {
            let found = tokens.len();
            return Err(Error::invalid(format!(
                "sampled: expected {} tokens of a step that was waited for, found room for {found}",
                self.drawn
            )));
        }
        match tokens {
            [] => Ok(()),
            _ => self.exec.sampled(tokens),
        }
    }
}

/// A call on an executable. After a panic its state is unknown, so it takes no further call.
fn on<E: Executable>(handle: Handle, call: impl FnOnce(&mut Loaded<E>) -> Result<()>) -> Status {
    guard(|| {
        // SAFETY: the host passes what `compile` made, from one thread at a time.
        let loaded = unsafe { handle.0.cast::<Loaded<E>>().as_mut() };
        let loaded = loaded.ok_or_else(|| Error::internal("the host passed a null handle"))?;
        if loaded.poisoned {
            return Err(Error::internal("this executable panicked before and takes no further call"));
        }
        loaded.poisoned = true;
        let result = call(loaded);
        loaded.poisoned = false;
        result
    })
}

extern "C" fn memory<E: Executable>(executable: Handle, out: &mut abi::MemoryNeed) -> Status {
    on::<E>(executable, |loaded| {
        let need = loaded.exec.memory();
        *out = abi::MemoryNeed {
            weights: need.weights,
            activations: need.activations,
            cache_block: need.cache_block.into(),
        };
        Ok(())
    })
}

extern "C" fn bind<E: Executable>(executable: Handle, weight: &abi::Weight<'_>) -> Status {
    on::<E>(executable, |loaded| loaded.bind(weight))
}

extern "C" fn finalize<E: Executable>(executable: Handle) -> Status {
    on::<E>(executable, Loaded::finalize)
}

extern "C" fn allocate_cache<E: Executable>(executable: Handle, blocks: RSlice<'_, u64>) -> Status {
    on::<E>(executable, |loaded| loaded.allocate_cache(blocks.as_slice()))
}

extern "C" fn submit<E: Executable>(executable: Handle, batch: &StepBatch<'_>) -> Status {
    on::<E>(executable, |loaded| loaded.submit(batch))
}

extern "C" fn wait<E: Executable>(executable: Handle, mut outputs: RSliceMut<'_, StepOutput<'_>>) -> Status {
    on::<E>(executable, |loaded| loaded.wait(outputs.as_mut_slice()))
}

extern "C" fn profile<E: Executable>(executable: Handle, measure: bool, out: &mut RString) -> Status {
    on::<E>(executable, |loaded| {
        *out = serde_json::to_string(&loaded.exec.profile(measure)?).unwrap_or_default().into();
        Ok(())
    })
}

extern "C" fn limits<E: Executable>(executable: Handle, out: &mut RString) -> Status {
    on::<E>(executable, |loaded| {
        *out = serde_json::to_string(&loaded.exec.limits()?).unwrap_or_default().into();
        Ok(())
    })
}

extern "C" fn sampled<E: Executable>(executable: Handle, mut tokens: RSliceMut<'_, u32>) -> Status {
    on::<E>(executable, |loaded| loaded.sampled(tokens.as_mut_slice()))
}

extern "C" fn destroy_executable<E: Executable>(executable: Handle) -> Status {
    guard(|| {
        if !executable.0.is_null() {
            // SAFETY: made by `compile` with this type; the host destroys each handle once.
            drop(unsafe { Box::from_raw(executable.0.cast::<Loaded<E>>()) });
        }
        Ok(())
    })
}
