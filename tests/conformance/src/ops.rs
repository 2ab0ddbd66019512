use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use rocmforge_gguf::{GgufFile, GgufWriter};
use rocmforge_loader::{Backend, CompileOptions, Executable};
use rocmforge_program::{DType, Lead, Op, OutputBuffer, Program, Step, infer_types};
use rocmforge_reference::Interpreter;

use crate::error::Error;
use crate::paging::{Pager, Scenario};
use crate::report::Outcome;
use crate::tolerance::{Activations, Family, compare};
use crate::weights::Stored;

/// A program with weights and steps, run on a backend and on the interpreter.
pub struct OpCase {
    /// Operation and variant.
    pub name: String,
    /// The program.
    pub program: Program,
    /// Its weights.
    pub weights: Vec<Stored>,
    /// Which tolerance holds.
    pub family: Family,
    /// The steps.
    pub scenario: Scenario,
}

impl OpCase {
    /// Compares all outputs of all steps.
    pub fn run(&self, backend: &Backend, activations: Activations) -> Outcome {
        match self.compare(backend, activations) {
            Ok(outcome) => outcome,
            Err(e) => Outcome::Failed(e.to_string()),
        }
    }

    fn compare(&self, backend: &Backend, activations: Activations) -> Result<Outcome, Error> {
        // As the host does: what the backend does not know of is replaced by its meaning.
        let known = |op: Op| backend.supports(&op, &[]).unwrap_or(false);
        let program = self.program.expand_custom(|custom| known(Op::Custom(custom.clone())))?;
        for node in &program.nodes {
            let dtypes: Vec<DType> = node.op.weights().iter().map(|w| program.weights[w.index()].dtype).collect();
            if !backend.supports(&node.op, &dtypes)? {
                let types: Vec<_> = dtypes.iter().map(|d| d.name()).collect();
                return Ok(Outcome::Skipped(format!("no '{}' with weights [{}]", node.op.name(), types.join(", "))));
            }
        }
        let weights: HashMap<_, _> =
            self.weights.iter().map(|w| (w.name.clone(), (w.dtype, w.bytes.clone()))).collect();
        let mut interpreter = Interpreter::new(self.program.clone(), &weights)?;
        let blocks = vec![self.scenario.blocks; program.group_count()];
        interpreter.allocate_cache(self.scenario.block_size, &blocks)?;
        let program = Arc::new(program);
        let mut executable = compile(backend, &program, &self.weights, self.scenario)?;
        let mut pager = Pager::new(&self.program, self.scenario, &self.name);
        let tolerance = activations.widen(self.family.tolerance());
        for (i, chunks) in self.scenario.steps.iter().enumerate() {
            let step = pager.step(chunks).ok_or_else(|| Error::Kit(format!("step {i}: no free block")))?;
            let expected = step.with(|step| interpreter.run(step))?;
            let found = step.with(|step| execute(&mut executable, &program, step))?;
            for (name, expected) in &expected {
                if let Err(difference) = compare(expected, found.get(name).map_or(&[], Vec::as_slice), tolerance) {
                    let (t, s) = (step.token_ids.len(), step.context_lens.len());
                    return Ok(Outcome::Failed(format!(
                        "step {i} ({t} tokens, {s} sequences), output '{name}': {difference}"
                    )));
                }
            }
        }
        Ok(Outcome::Passed)
    }
}

/// The weights as a model file.
pub fn file_of(weights: &[Stored]) -> Result<GgufFile, Error> {
    let mut writer = GgufWriter::new();
    for w in weights {
        let dims: Vec<u64> = w.dims.iter().rev().map(|&d| d as u64).collect();
        writer.tensor(&w.name, w.dtype, &dims, w.bytes.as_slice())?;
    }
    Ok(GgufFile::from_bytes(Path::new("conformance.gguf"), &writer.to_bytes())?)
}

/// Compiles a program for the steps of a scenario, binds its weights and allocates its cache.
pub fn compile(
    backend: &Backend,
    program: &Arc<Program>,
    weights: &[Stored],
    scenario: Scenario,
) -> Result<Executable, Error> {
    let options = CompileOptions {
        max_tokens: scenario.most_tokens() as u32,
        max_sequences: scenario.sequences as u32,
        block_size: scenario.block_size as u32,
    };
    let mut executable = backend.compile(Arc::clone(program), Arc::new(file_of(weights)?), options)?;
    executable.bind_weights(&mut |_| {})?;
    executable.allocate_cache(&vec![scenario.blocks as u64; program.group_count()])?;
    Ok(executable)
}

/// One step: every output by name.
pub fn execute(
    executable: &mut Executable,
    program: &Program,
    step: &Step<'_>,
) -> Result<BTreeMap<String, Vec<f32>>, Error> {
    let types = infer_types(program)?;
    let mut values = BTreeMap::new();
    for output in &program.outputs {
        let Some(ty) = types.get(output.value) else { continue };
        let lead = match ty.shape.lead {
            Lead::T => step.tokens(),
            Lead::S => step.sequences(),
            Lead::L => step.logits_rows.len(),
        };
        // Not 0: a result that is not written must not pass for a result of 0.
        values.insert(output.name.clone(), vec![f32::NAN; lead * ty.shape.row_elements().unwrap_or(0)]);
    }
    executable.submit(step)?;
    let mut buffers: Vec<_> = values.iter_mut().map(|(name, data)| OutputBuffer { name, data }).collect();
    executable.wait(&mut buffers)?;
    Ok(values)
}
