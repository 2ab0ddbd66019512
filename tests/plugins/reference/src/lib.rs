//! Runs programs on the reference interpreter, after changing them as its option `fault` says: each fault is a
//! mistake that a backend could make, and that a test of backends must notice.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

use rocmforge_reference::{Interpreter, ReferenceError, sample};
use rocmforge_sdk::program::{
    Activation, DType, GateKind, Op, OutputBuffer, Program, RopeScaling, RopeStyle, RowSampling, Step, output,
};
use rocmforge_sdk::{Backend, BoundWeight, CompileOptions, Device, Error, Executable, MemoryNeed, Options, Result};
use serde::Deserialize;

#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    fault: String,
}

struct Reference(Settings);

impl Backend for Reference {
    type Exec = Exec;

    fn create(options: &Options) -> Result<Reference> {
        Ok(Reference(options.parse()?))
    }

    fn devices(&self) -> Result<Vec<Device>> {
        Ok(vec![Device { id: "reference".into(), ..Device::default() }])
    }

    fn extensions(&self) -> Vec<String> {
        vec![rocmforge_sdk::SAMPLE_EXTENSION.into()]
    }

    fn supports(&self, op: &Op, _: &[DType]) -> bool {
        !matches!(op, Op::Custom(_))
    }

    fn compile(&self, mut program: Program, options: CompileOptions) -> Result<Exec> {
        for node in &mut program.nodes {
            spoil(&mut node.op, &self.0.fault);
        }
        program.validate()?;
        Ok(Exec {
            fault: self.0.fault.clone(),
            program,
            block_size: options.block_size,
            weights: HashMap::new(),
            interpreter: None,
            results: BTreeMap::new(),
            drawn: vec![],
        })
    }
}

/// Changes an operation as a mistake would.
fn spoil(op: &mut Op, fault: &str) {
    match (fault, op) {
        ("norm without epsilon", Op::RmsNorm { eps, .. } | Op::LayerNorm { eps, .. }) => *eps = 0.0,
        ("norm without weight", Op::RmsNorm { weight, .. } | Op::LayerNorm { weight, .. }) => *weight = None,
        ("layer norm without bias", Op::LayerNorm { bias, .. }) => *bias = None,
        ("linear without bias", Op::Linear { bias, .. }) => *bias = None,
        ("experts without bias", Op::ExpertLinear { bias, .. }) => *bias = None,
        ("embed without scale", Op::Embed { scale, .. }) => *scale = 1.0,
        ("scale without addition", Op::Scale { add, .. }) => *add = 0.0,
        ("a cap 1% too high", Op::Softcap { cap, .. }) => *cap *= 1.01,
        ("gelu of the wrong kind", Op::Unary { kind: kind @ Activation::GeluErf, .. }) => *kind = Activation::GeluTanh,
        ("gelu of the wrong kind", Op::GatedAct { kind: kind @ Activation::GeluErf, .. }) => {
            *kind = Activation::GeluTanh
        }
        ("gate and up swapped", Op::GatedAct { gate, up, .. }) => std::mem::swap(gate, up),
        ("sub the other way round", Op::Sub { a, b }) => std::mem::swap(a, b),
        ("split the other way round", Op::Split { sizes, .. }) => sizes.reverse(),
        ("concat the other way round", Op::Concat { xs }) => xs.reverse(),
        ("slice from the start", Op::Slice { start, .. }) => *start = 0,
        ("position scale from 0", Op::PositionScale { interval, .. }) => *interval += 1,
        ("first instead of mean", op @ Op::MeanPool { .. }) => {
            if let Op::MeanPool { x } = *op {
                *op = Op::LastPool { x };
            }
        }
        (fault, Op::Rope(rope)) => match fault {
            "rope of the other style" => {
                rope.style = match rope.style {
                    RopeStyle::Half => RopeStyle::Interleaved,
                    RopeStyle::Interleaved => RopeStyle::Half,
                }
            }
            "rope without factors" => rope.factors = None,
            "rope without scaling" => rope.scaling = RopeScaling::None,
            "rope without magnitude" => rope.magnitude = 1.0,
            "rope with the usual base" => rope.base = 10_000.0,
            "rope without ramp" => {
                if let RopeScaling::Yarn { factor, .. } = rope.scaling {
                    rope.scaling = RopeScaling::Linear { factor };
                }
            }
            _ => {}
        },
        (fault, Op::Attention(a)) => match fault {
            "attention without window" => a.window = None,
            "a window one too narrow" => a.window = a.window.map(|w| (w - 1).max(1)),
            "attention without softcap" => a.softcap = None,
            "attention without sinks" => a.sinks = None,
            "attention with the usual scale" => a.scale = 0.25,
            _ => {}
        },
        (fault, Op::Router(r)) => match fault {
            "router without renormalization" => r.renormalize = false,
            "router without scale" => r.scale = 1.0,
            "router without bias" => r.selection_bias = None,
            "softmax after the choice" if r.gate == GateKind::Softmax => r.gate = GateKind::SoftmaxTopK,
            _ => {}
        },
        _ => {}
    }
}

struct Exec {
    fault: String,
    program: Program,
    block_size: usize,
    weights: HashMap<String, (DType, Vec<u8>)>,
    interpreter: Option<Interpreter>,
    results: BTreeMap<String, Vec<f32>>,
    /// Tokens that were drawn in the step.
    drawn: Vec<u32>,
}

/// Changes how a token is drawn, as a mistake would.
fn spoiled(sampling: RowSampling, fault: &str) -> RowSampling {
    match fault {
        "always the likeliest token" => RowSampling { temperature: 0.0, ..sampling },
        "draws without temperature" => RowSampling { temperature: 1.0, ..sampling },
        "draws without top_k" => RowSampling { top_k: 0, ..sampling },
        "draws without top_p" => RowSampling { top_p: 1.0, ..sampling },
        "draws without min_p" => RowSampling { min_p: 0.0, ..sampling },
        "draws at one quantile" => RowSampling { draw: 1 << 63, ..sampling },
        _ => sampling,
    }
}

fn error(e: ReferenceError) -> Error {
    match e {
        ReferenceError::Cache { .. } => Error::out_of_memory(e),
        e => Error::invalid(e),
    }
}

impl Executable for Exec {
    fn memory(&self) -> MemoryNeed {
        let mut need = MemoryNeed { cache_block: vec![0; self.program.group_count()], ..MemoryNeed::default() };
        for c in &self.program.caches {
            let row = c.kv_heads * (c.key_dim + c.value_dim);
            need.cache_block[c.group as usize] += (4 * row * self.block_size) as u64;
        }
        need
    }

    fn bind(&mut self, weight: BoundWeight) -> Result<()> {
        let mut bytes = weight.bytes().to_vec();
        // The last byte of a row of f32 holds a sign; of a quantised row, codes.
        if let ("a wrong last element", Some(last)) = (self.fault.as_str(), bytes.last_mut()) {
            *last ^= 0x80;
        }
        self.weights.insert(weight.name, (weight.dtype, bytes));
        Ok(())
    }

    fn finalize(&mut self) -> Result<()> {
        self.interpreter = Some(Interpreter::new(self.program.clone(), &self.weights).map_err(error)?);
        Ok(())
    }

    fn allocate_cache(&mut self, blocks: &[u64]) -> Result<()> {
        let blocks: Vec<usize> = blocks.iter().map(|&b| b as usize).collect();
        match &mut self.interpreter {
            Some(interpreter) => interpreter.allocate_cache(self.block_size, &blocks).map_err(error),
            None => Err(Error::internal("no interpreter")),
        }
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<()> {
        let Some(interpreter) = &mut self.interpreter else { return Err(Error::internal("no interpreter")) };
        let first = *step.logits_rows.first().unwrap_or(&0);
        let rows = vec![first; step.logits_rows.len()];
        let step = match self.fault.as_str() {
            "the same row for all" => Step { logits_rows: &rows, ..*step },
            _ => *step,
        };
        self.results = interpreter.run(&step).map_err(error)?;
        Ok(())
    }

    fn submit_sampling(&mut self, step: &Step<'_>, rows: &[RowSampling]) -> Result<()> {
        self.submit(step)?;
        let logits = self.results.get_mut(output::LOGITS).ok_or_else(|| Error::internal("no logits"))?;
        let width = logits.len() / step.logits_rows.len().max(1);
        let all: Vec<Vec<f32>> = logits.chunks_exact(width.max(1)).map(<[f32]>::to_vec).collect();
        let row = |r: &RowSampling| match self.fault.as_str() {
            "draws from the first row" => 0,
            _ => r.row as usize,
        };
        self.drawn = rows.iter().map(|r| sample(&all[row(r)], &spoiled(*r, &self.fault))).collect();
        let left = all.into_iter().zip(0..).filter(|(_, i)| rows.iter().all(|r| r.row != *i));
        *logits = left.flat_map(|(row, _)| row).collect();
        Ok(())
    }

    fn sampled(&mut self, tokens: &mut [u32]) -> Result<()> {
        tokens.copy_from_slice(&self.drawn);
        Ok(())
    }

    fn wait(&mut self, outputs: &mut [OutputBuffer<'_>]) -> Result<()> {
        for output in outputs {
            let values = self.results.get(output.name).ok_or_else(|| Error::internal("no such output"))?;
            // Leaves an output as it was.
            if self.fault != "an output that is not written" {
                output.data.copy_from_slice(values);
            }
        }
        Ok(())
    }
}

rocmforge_sdk::export_plugin! { name: "reference", backend: Reference }
