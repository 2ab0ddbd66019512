use std::collections::BTreeMap;

use rocmforge_program::{
    InputSource, Lead, Op, Program, Shape, Step, StepLimits, Types, ValueId, WeightId, infer_types,
};

use crate::attention::Caches;
use crate::elementwise::{activation, map, softcap, zip};
use crate::error::ReferenceError;
use crate::experts::ExpertShape;
use crate::weights::{WeightSource, load};
use crate::{dense, experts, layout};

/// Runs a Program step by step on f32 copies of its weights.
pub struct Interpreter {
    program: Program,
    types: Types,
    weights: Vec<Vec<f32>>,
    caches: Option<Caches>,
}

/// A computed value, row-major.
enum Value {
    F32(Vec<f32>),
    Index(Vec<u32>),
}

impl Interpreter {
    /// Validates the program, replaces its custom operations by their decompositions, and dequantises every weight.
    ///
    /// # Errors
    /// A program that breaks a rule; a weight that is missing or not as declared.
    pub fn new(program: Program, weights: &dyn WeightSource) -> Result<Interpreter, ReferenceError> {
        program.validate()?;
        let program = program.expand_custom(|_| false)?;
        let types = infer_types(&program)?;
        let weights = program.weights.iter().map(|decl| load(decl, weights)).collect::<Result<_, _>>()?;
        let caches = program.caches.is_empty().then(Caches::empty);
        Ok(Interpreter { program, types, weights, caches })
    }

    /// The program that runs: without custom operations, so its values may be numbered differently from those given.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Makes empty KV caches of `num_blocks[g]` blocks of `block_size` tokens for each cache group `g`.
    ///
    /// # Errors
    /// A block size of 0, another number of groups than the program has, or more memory than there is.
    pub fn allocate_cache(&mut self, block_size: usize, num_blocks: &[usize]) -> Result<(), ReferenceError> {
        self.caches = Some(Caches::new(&self.program, block_size, num_blocks)?);
        Ok(())
    }

    /// Runs a step and returns the elements of every output by name.
    ///
    /// # Errors
    /// No cache yet, a step that breaks a rule of [`Step::check`], a named input that is missing or of another size,
    /// an index beyond its table.
    pub fn run(&mut self, step: &Step<'_>) -> Result<BTreeMap<String, Vec<f32>>, ReferenceError> {
        self.run_with_taps(step, |_, _| {})
    }

    /// [`run`](Interpreter::run), showing each f32 value of [`program`](Interpreter::program) as it is computed.
    ///
    /// # Errors
    /// As [`run`](Interpreter::run).
    pub fn run_with_taps(
        &mut self,
        step: &Step<'_>,
        mut tap: impl FnMut(ValueId, &[f32]),
    ) -> Result<BTreeMap<String, Vec<f32>>, ReferenceError> {
        let caches = self.caches.as_mut().ok_or_else(|| ReferenceError::Cache {
            expected: "a call of allocate_cache before the first step".into(),
            found: "none".into(),
        })?;
        step.check(
            &self.program,
            &StepLimits {
                vocab_size: self.program.info.vocab_size,
                max_tokens: usize::MAX,
                max_sequences: usize::MAX,
                block_size: caches.block_size,
                num_blocks: &caches.num_blocks,
            },
        )?;
        let mut frame =
            Frame { program: &self.program, types: &self.types, weights: &self.weights, step, values: vec![] };
        for (i, node) in self.program.nodes.iter().enumerate() {
            let index_error = |(index, limit)| ReferenceError::Index { node: i, op: node.op.name(), limit, index };
            for value in frame.execute(&node.op, caches, &index_error)? {
                if let Value::F32(elements) = &value {
                    tap(ValueId(frame.values.len() as u32), elements);
                }
                frame.values.push(value);
            }
        }
        let outputs = self.program.outputs.iter();
        Ok(outputs.map(|o| (o.name.clone(), frame.f32(o.value).to_vec())).collect())
    }
}

/// Makes the error of an index (first) that is not below its limit (second).
type IndexError<'a> = &'a dyn Fn((u32, usize)) -> ReferenceError;

/// The values of one step.
struct Frame<'a> {
    program: &'a Program,
    types: &'a Types,
    weights: &'a [Vec<f32>],
    step: &'a Step<'a>,
    values: Vec<Value>,
}

impl Frame<'_> {
    // Validation has checked that every operand is defined and of the element type asked for, so that the empty
    // slices below are never used.
    fn f32(&self, id: ValueId) -> &[f32] {
        match self.values.get(id.index()) {
            Some(Value::F32(elements)) => elements,
            _ => &[],
        }
    }

    fn index(&self, id: ValueId) -> &[u32] {
        match self.values.get(id.index()) {
            Some(Value::Index(elements)) => elements,
            _ => &[],
        }
    }

    fn dims(&self, id: ValueId) -> &[usize] {
        self.types.get(id).map_or(&[], |t| &t.shape.dims)
    }

    /// Size of the last dimension.
    fn last(&self, id: ValueId) -> usize {
        self.types.get(id).map_or(1, |t| t.shape.last())
    }

    /// Elements per leading row.
    fn row(&self, id: ValueId) -> usize {
        self.types.get(id).and_then(|t| t.shape.row_elements()).unwrap_or(1)
    }

    fn weight(&self, id: WeightId) -> &[f32] {
        self.weights.get(id.index()).map_or(&[], Vec::as_slice)
    }

    fn optional(&self, id: Option<WeightId>) -> Option<&[f32]> {
        id.map(|id| self.weight(id))
    }

    fn weight_dims(&self, id: WeightId) -> &[usize] {
        self.program.weights.get(id.index()).map_or(&[], |w| &w.dims)
    }

    fn execute(&self, op: &Op, caches: &mut Caches, error: IndexError<'_>) -> Result<Vec<Value>, ReferenceError> {
        let value = match op {
            Op::Input { source } => self.input(source)?,
            Op::Embed { ids, table, scale } => {
                let (ids, dims) = (self.index(*ids), self.weight_dims(*table));
                let rows = layout::gather(self.weight(*table), ids, dims[1]).map_err(|id| error((id, dims[0])))?;
                Value::F32(map(&rows, |x| x * f64::from(*scale)))
            }
            Op::GatherRows { x, rows } => {
                let (rows, width) = (self.index(*rows), self.row(*x));
                let failed = |row| error((row, self.step.tokens()));
                match self.values.get(x.index()) {
                    Some(Value::Index(x)) => Value::Index(layout::gather(x, rows, width).map_err(failed)?),
                    _ => Value::F32(layout::gather(self.f32(*x), rows, width).map_err(failed)?),
                }
            }
            Op::Split { x, sizes } => return Ok(self.split(*x, sizes)),
            Op::Router(router) => {
                let logits = self.f32(router.logits);
                let bias = self.optional(router.selection_bias);
                let (chosen, weights) = experts::route(router, logits, bias, self.last(router.logits));
                return Ok(vec![Value::Index(chosen), Value::F32(weights)]);
            }
            Op::Attention(a) => {
                let decl = &self.program.caches[a.cache.index()];
                if let (Some(k), Some(v)) = (a.k, a.v) {
                    caches.append(a.cache.index(), decl, self.step, self.f32(k), self.f32(v));
                }
                Value::F32(caches.attend(a, decl, self.step, self.f32(a.q), self.optional(a.sinks)))
            }
            _ => Value::F32(self.rowwise(op)),
        };
        Ok(vec![value])
    }

    fn input(&self, source: &InputSource) -> Result<Value, ReferenceError> {
        Ok(match source {
            InputSource::TokenIds => Value::Index(self.step.token_ids.to_vec()),
            InputSource::Positions => Value::Index(self.step.positions.to_vec()),
            InputSource::LogitsRows => Value::Index(self.step.logits_rows.to_vec()),
            InputSource::Named { name, ty } => {
                let expected = self.elements(&ty.shape);
                let wrong = |found: String| ReferenceError::Input { name: name.clone(), expected, found };
                let found = self.step.inputs.iter().find(|i| i.name == name).ok_or_else(|| wrong("none".into()))?;
                if found.data.len() != expected {
                    return Err(wrong(found.data.len().to_string()));
                }
                Value::F32(found.data.to_vec())
            }
        })
    }

    /// Elements that a shape has in this step.
    fn elements(&self, shape: &Shape) -> usize {
        let rows = match shape.lead {
            Lead::T => self.step.tokens(),
            Lead::S => self.step.sequences(),
            Lead::L => self.step.logits_rows.len(),
        };
        shape.row_elements().map_or(usize::MAX, |n| n.saturating_mul(rows))
    }

    fn split(&self, x: ValueId, sizes: &[usize]) -> Vec<Value> {
        let (elements, width) = (self.f32(x), self.last(x));
        let mut start = 0;
        let mut parts = Vec::new();
        for size in sizes {
            parts.push(Value::F32(layout::columns(elements, width, start..start + size)));
            start += size;
        }
        parts
    }

    /// Operations with one f32 result that cannot fail.
    fn rowwise(&self, op: &Op) -> Vec<f32> {
        match op {
            Op::Linear { x, weight, bias } => {
                dense::linear(self.f32(*x), self.weight(*weight), self.optional(*bias), self.last(*x))
            }
            Op::RmsNorm { x, weight, eps } => {
                dense::rms_norm(self.f32(*x), self.optional(*weight), *eps, self.last(*x))
            }
            Op::LayerNorm { x, weight, bias, eps } => {
                dense::layer_norm(self.f32(*x), self.optional(*weight), self.optional(*bias), *eps, self.last(*x))
            }
            Op::Add { a, b } => self.binary(*a, *b, |a, b| a + b),
            Op::Sub { a, b } => self.binary(*a, *b, |a, b| a - b),
            Op::Mul { a, b } => self.binary(*a, *b, |a, b| a * b),
            Op::Scale { x, mul, add } => map(self.f32(*x), |x| x * f64::from(*mul) + f64::from(*add)),
            Op::Unary { x, kind } => map(self.f32(*x), |x| activation(*kind, x)),
            Op::Softcap { x, cap } => map(self.f32(*x), |x| softcap(x, f64::from(*cap))),
            Op::GatedAct { gate, up, kind } => zip(self.f32(*gate), self.f32(*up), 1, |g, u| activation(*kind, g) * u),
            Op::Concat { xs } => layout::concat(&xs.iter().map(|&x| (self.f32(x), self.last(x))).collect::<Vec<_>>()),
            Op::Reshape { x, .. } => self.f32(*x).to_vec(),
            Op::Slice { x, start, len } => layout::columns(self.f32(*x), self.last(*x), *start..*start + *len),
            Op::Rope(rope) => {
                let heads = self.dims(rope.x).first().copied().unwrap_or(1);
                let (positions, factors) = (self.index(rope.positions), self.optional(rope.factors));
                dense::rotate(rope, self.f32(rope.x), positions, factors, heads, self.last(rope.x))
            }
            Op::PositionScale { x, positions, beta, interval } => {
                dense::position_scale(self.f32(*x), self.index(*positions), *beta, *interval, self.row(*x))
            }
            Op::ExpertLinear { x, experts, weight, bias } => {
                let shape = ExpertShape {
                    top_k: self.last(*experts),
                    inputs: self.last(*x),
                    outputs: self.weight_dims(*weight)[1],
                    row_per_expert: self.dims(*x).len() == 2,
                };
                let (weight, bias) = (self.weight(*weight), self.optional(*bias));
                experts::linear(self.f32(*x), self.index(*experts), weight, bias, &shape)
            }
            Op::ExpertCombine { x, weights } => {
                experts::combine(self.f32(*x), self.f32(*weights), self.last(*weights), self.last(*x))
            }
            Op::MeanPool { x } => layout::mean_pool(self.f32(*x), self.last(*x), self.step.query_start),
            Op::LastPool { x } => layout::last_pool(self.f32(*x), self.last(*x), self.step.query_start),
            // Handled by `execute`, or replaced by its decomposition in `Interpreter::new`.
            Op::Input { .. } | Op::Embed { .. } | Op::GatherRows { .. } | Op::Split { .. } => vec![],
            Op::Attention(_) | Op::Router(_) | Op::Custom(_) => vec![],
        }
    }

    fn binary(&self, a: ValueId, b: ValueId, f: impl Fn(f64, f64) -> f64) -> Vec<f32> {
        let group = self.row(a) / self.row(b);
        zip(self.f32(a), self.f32(b), group, f)
    }
}
