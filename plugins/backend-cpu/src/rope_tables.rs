//! Sines and cosines of a step, once for all layers that rotate alike.

use rocmforge_sdk::program::{Program, Rope, ValueId, WeightId, rope};
use rocmforge_sdk::{Error, Result};

use crate::weights::Weights;

/// One way of rotating.
#[derive(Debug)]
struct Table {
    rope: Rope,
    frequencies: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// Whether the table is that of the step under way.
    ready: bool,
}

/// All ways of rotating in a program.
#[derive(Debug)]
pub(crate) struct RopeTables(Vec<Table>);

/// What angles depend on.
fn same(a: &Rope, b: &Rope) -> bool {
    let facts = |r: &Rope| -> (usize, f32, f32, Option<WeightId>, ValueId) {
        (r.rotary_dim, r.base, r.magnitude, r.factors, r.positions)
    };
    facts(a) == facts(b) && a.scaling == b.scaling
}

impl RopeTables {
    /// The tables that a program needs, still empty.
    pub(crate) fn new(program: &Program) -> RopeTables {
        let mut tables: Vec<Table> = vec![];
        for node in &program.nodes {
            if let rocmforge_sdk::program::Op::Rope(rope) = &node.op
                && !tables.iter().any(|t| same(&t.rope, rope))
            {
                let rope = rope.clone();
                tables.push(Table { rope, frequencies: vec![], cos: vec![], sin: vec![], ready: false });
            }
        }
        RopeTables(tables)
    }

    /// Bytes of the tables for this many tokens.
    pub(crate) fn bytes(&self, max_tokens: usize) -> u64 {
        self.0.iter().map(|t| 4 * t.rope.rotary_dim as u64 * max_tokens as u64).sum()
    }

    /// Once the weights are there; for at most `max_tokens` tokens.
    pub(crate) fn finalize(&mut self, weights: &Weights, max_tokens: usize) -> Result<()> {
        for table in &mut self.0 {
            let n = max_tokens * (table.rope.rotary_dim / 2);
            (table.cos, table.sin) = (vec![0.0; n], vec![0.0; n]);
            table.frequencies = rope::frequencies(&table.rope, weights.optional(table.rope.factors)?);
        }
        Ok(())
    }

    /// The tables of the step before no longer hold.
    pub(crate) fn new_step(&mut self) {
        self.0.iter_mut().for_each(|t| t.ready = false);
    }

    /// Cosines and sines `[T, rotary_dim / 2]`.
    pub(crate) fn get(&mut self, rope: &Rope, positions: &[u32]) -> Result<(&[f32], &[f32])> {
        let Some(table) = self.0.iter_mut().find(|t| same(&t.rope, rope)) else {
            return Err(Error::internal("a rope that was not there at compilation"));
        };
        let n = positions.len() * table.frequencies.len();
        if n > table.cos.len() {
            return Err(Error::internal("a step with more tokens than compiled for"));
        }
        if !table.ready {
            let Table { frequencies, cos, sin, rope, .. } = table;
            for (row, &position) in positions.iter().enumerate() {
                for (i, frequency) in frequencies.iter().enumerate() {
                    // In f32, as the models were trained.
                    let (s, c) = (position as f32 * frequency).sin_cos();
                    cos[row * frequencies.len() + i] = c * rope.magnitude;
                    sin[row * frequencies.len() + i] = s * rope.magnitude;
                }
            }
            table.ready = true;
        }
        Ok((&table.cos[..n], &table.sin[..n]))
    }
}
