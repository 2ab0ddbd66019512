//! The reference interpreter in the place of a backend.

use std::collections::BTreeMap;

use rocmforge_engine::{RunError, Runner, RunnerLimits};
use rocmforge_gguf::GgufFile;
use rocmforge_loader::Model;
use rocmforge_program::{DType, OutputBuffer, Program, Step};
use rocmforge_reference::{Interpreter, WeightSource};

use crate::{load_options, plugins};

/// Runs the program that a plugin makes of a file as the specification says.
pub struct Specification {
    interpreter: Interpreter,
    limits: RunnerLimits,
    outputs: BTreeMap<String, Vec<f32>>,
}

struct Weights<'f>(&'f GgufFile);

impl WeightSource for Weights<'_> {
    fn weight(&self, name: &str) -> Option<(DType, &[u8])> {
        self.0.tensor(name).map(|t| (t.info.dtype, t.bytes()))
    }
}

impl Specification {
    /// For a file and the sizes of a step.
    pub fn new(file: &GgufFile, max_tokens: usize, max_sequences: usize) -> Specification {
        let options = load_options(max_tokens, max_sequences);
        let program = Model::program(&plugins(), file, &options).unwrap_or_else(|e| panic!("{e}"));
        let interpreter = Interpreter::new(program, &Weights(file)).expect("an interpreter");
        let limits = RunnerLimits { max_tokens, max_sequences, block_size: options.compile.block_size as usize };
        Specification { interpreter, limits, outputs: BTreeMap::new() }
    }
}

impl Runner for Specification {
    fn program(&self) -> &Program {
        self.interpreter.program()
    }

    fn limits(&self) -> RunnerLimits {
        self.limits
    }

    fn allocate_cache(&mut self, blocks: &[u64]) -> Result<(), RunError> {
        let blocks: Vec<usize> = blocks.iter().map(|&b| b as usize).collect();
        Ok(self.interpreter.allocate_cache(self.limits.block_size, &blocks)?)
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<(), RunError> {
        self.outputs = self.interpreter.run(step)?;
        Ok(())
    }

    fn wait(&mut self, outputs: &mut [OutputBuffer<'_>]) -> Result<(), RunError> {
        for output in outputs {
            output.data.copy_from_slice(self.outputs.get(output.name).ok_or("no such output")?);
        }
        Ok(())
    }
}
