use rocmforge_program::{Builder, CacheId, DType, InputSource, Lead, ModelInfo, Op, ValueId, ValueType, WeightId};

use crate::error::Error;
use crate::ops::OpCase;
use crate::paging::Scenario;
use crate::random::Random;
use crate::tolerance::Family;
use crate::weights::{Stored, random_bytes};

/// Tokens that cases know.
const VOCAB: usize = 61;

/// Builds the program of a case together with its random weights.
pub struct Net {
    name: String,
    builder: Builder,
    weights: Vec<Stored>,
    random: Random,
    outputs: usize,
}

type Result<T, E = Error> = std::result::Result<T, E>;

impl Net {
    /// An empty program; the name seeds its numbers.
    pub fn new(name: impl Into<String>) -> Net {
        let name = name.into();
        let info = ModelInfo {
            architecture: "conformance".into(),
            vocab_size: VOCAB,
            hidden_size: 64,
            layers: 4,
            context_length: 1 << 20,
        };
        let random = Random::new(&name);
        Net { name, builder: Builder::new(info), weights: vec![], random, outputs: 0 }
    }

    /// The builder itself.
    pub fn builder(&mut self) -> &mut Builder {
        &mut self.builder
    }

    /// Adds an operation.
    pub fn push(&mut self, op: Op) -> Result<ValueId> {
        Ok(self.builder.push(op)?)
    }

    /// Adds an operation with several results.
    pub fn push_many(&mut self, op: Op) -> Result<Vec<ValueId>> {
        Ok(self.builder.push_many(op)?)
    }

    /// A tensor of normally distributed elements.
    pub fn tensor(&mut self, dims: &[usize], dtype: DType, mean: f32, spread: f32) -> Result<WeightId> {
        let name = format!("w{}", self.weights.len());
        let elements: usize = dims.iter().product();
        let bytes = match mean {
            0.0 => random_bytes(&mut self.random, dtype, elements, spread)?,
            _ => (0..elements).flat_map(|_| (mean + spread * self.random.normal()).to_le_bytes()).collect(),
        };
        let id = self.builder.weight(&name, dims, dtype)?;
        self.weights.push(Stored { name, dtype, dims: dims.to_vec(), bytes });
        Ok(id)
    }

    /// A matrix, or one per expert, that keeps the size of what it multiplies.
    pub fn matrix(&mut self, dims: &[usize], dtype: DType) -> Result<WeightId> {
        let inputs = dims.last().copied().unwrap_or(1) as f32;
        self.tensor(dims, dtype, 0.0, 1.0 / inputs.sqrt())
    }

    /// An f32 vector around a mean.
    pub fn vector(&mut self, n: usize, mean: f32, spread: f32) -> Result<WeightId> {
        self.tensor(&[n], DType::F32, mean, spread)
    }

    /// Activations `[T, dims..]` of about this size: rows of a table, looked up by the tokens.
    pub fn rows(&mut self, dims: &[usize], size: f32) -> Result<ValueId> {
        let width = dims.iter().product();
        let table = self.tensor(&[VOCAB, width], DType::F32, 0.0, size)?;
        let ids = self.builder.input(InputSource::TokenIds)?;
        let x = self.push(Op::Embed { ids, table, scale: 1.0 })?;
        match dims {
            [_] => Ok(x),
            _ => self.push(Op::Reshape { x, dims: dims.to_vec() }),
        }
    }

    /// Lookup of the tokens in a table of some type.
    pub fn embed(&mut self, width: usize, dtype: DType, scale: f32) -> Result<ValueId> {
        let table = self.tensor(&[VOCAB, width], dtype, 0.0, 1.0)?;
        let ids = self.builder.input(InputSource::TokenIds)?;
        self.push(Op::Embed { ids, table, scale })
    }

    /// An input supplied by the host.
    pub fn named(&mut self, name: &str, lead: Lead, dims: &[usize]) -> Result<ValueId> {
        let ty = ValueType::f32(lead, dims);
        Ok(self.builder.input(InputSource::Named { name: name.into(), ty })?)
    }

    /// The positions.
    pub fn positions(&mut self) -> Result<ValueId> {
        Ok(self.builder.input(InputSource::Positions)?)
    }

    /// The rows that need logits, of a value.
    pub fn gather(&mut self, x: ValueId) -> Result<ValueId> {
        let rows = self.builder.input(InputSource::LogitsRows)?;
        self.push(Op::GatherRows { x, rows })
    }

    /// A matrix applied to a value.
    pub fn linear(&mut self, x: ValueId, out: usize, dtype: DType) -> Result<ValueId> {
        let inputs = self.builder.type_of(x).map_or(1, |t| t.shape.last());
        let weight = self.matrix(&[out, inputs], dtype)?;
        self.push(Op::Linear { x, weight, bias: None })
    }

    /// The same elements under other dimensions.
    pub fn reshape(&mut self, x: ValueId, dims: &[usize]) -> Result<ValueId> {
        self.push(Op::Reshape { x, dims: dims.to_vec() })
    }

    /// A cache of a layer.
    pub fn cache(&mut self, layer: u32, heads: [usize; 3], window: Option<u32>) -> CacheId {
        self.builder.set_layer(Some(layer));
        self.builder.cache(heads[0], heads[1], heads[2], window)
    }

    /// Compares a value.
    pub fn output(&mut self, value: ValueId) {
        self.builder.output(&format!("out{}", self.outputs), value);
        self.outputs += 1;
    }

    /// The case.
    pub fn finish(self, family: Family, scenario: Scenario) -> Result<OpCase> {
        Ok(OpCase { name: self.name, program: self.builder.finish()?, weights: self.weights, family, scenario })
    }
}
