//! What the SDK checks of a step beside the Program's own rules.

use rocmforge_abi::{SAMPLE_EXTENSION, StepBatch};
use rocmforge_program::{InputSource, Lead, NamedInput, Op, Program, RowSampling, Shape, Step, output};

use crate::error::{Error, Result};

/// Leading sizes of a step.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    tokens: usize,
    sequences: usize,
    rows: usize,
    /// Of the rows with logits, those that the backend draws from.
    pub(crate) sampled: usize,
}

impl Sizes {
    pub(crate) fn of(step: &Step<'_>, sampled: usize) -> Sizes {
        Sizes { tokens: step.tokens(), sequences: step.sequences(), rows: step.logits_rows.len(), sampled }
    }

    /// Elements of a shape.
    pub(crate) fn elements(&self, shape: &Shape) -> usize {
        let lead = match shape.lead {
            Lead::T => self.tokens,
            Lead::S => self.sequences,
            Lead::L => self.rows,
        };
        shape.row_elements().unwrap_or(0).saturating_mul(lead)
    }

    /// Elements of an output, which of logits are those of rows that the backend does not draw from.
    pub(crate) fn elements_of(&self, name: &str, shape: &Shape) -> usize {
        let sampled = if name == output::LOGITS { self.sampled } else { 0 };
        Sizes { rows: self.rows - sampled, ..*self }.elements(shape)
    }
}

/// How tokens are to be drawn, by the extension `sample/1`.
pub(crate) fn row_samplings(batch: &StepBatch<'_>) -> Result<Vec<RowSampling>> {
    match batch.ext.as_slice().iter().find(|ext| ext.name.as_str() == SAMPLE_EXTENSION) {
        Some(ext) => Ok(RowSampling::read(ext.data.as_slice(), batch.logits_rows.len())?),
        None => Ok(vec![]),
    }
}

/// What a program looks up by the numbers of a step, beside its caches.
pub(crate) struct Tables {
    /// Rows of the smallest table that token ids look up.
    pub(crate) tokens: usize,
    /// Rows of the smallest table that positions look up; `usize::MAX` without one.
    positions: usize,
    /// Named inputs.
    inputs: Vec<(String, Shape)>,
}

impl Tables {
    pub(crate) fn of(program: &Program) -> Result<Tables> {
        // An operation inside a decomposition looks up as well.
        let program = program.expand_custom(|_| false)?;
        let mut tables = Tables { tokens: program.info.vocab_size, positions: usize::MAX, inputs: vec![] };
        let mut positions = vec![];
        let mut next = 0;
        for node in &program.nodes {
            match &node.op {
                Op::Input { source: InputSource::Positions } => positions.push(next),
                Op::Input { source: InputSource::Named { name, ty } } => {
                    tables.inputs.push((name.clone(), ty.shape.clone()));
                }
                Op::Embed { ids, table, .. } => {
                    let rows = program.weights.get(table.index()).map_or(0, |w| w.dims[0]);
                    let limit =
                        if positions.contains(&ids.index()) { &mut tables.positions } else { &mut tables.tokens };
                    *limit = rows.min(*limit);
                }
                _ => {}
            }
            next += node.op.output_count();
        }
        Ok(tables)
    }

    pub(crate) fn check(&self, step: &Step<'_>) -> Result<()> {
        if let Some(position) = step.positions.iter().find(|&&p| p as usize >= self.positions) {
            return Err(Error::invalid(format!(
                "submit: positions: expected below {}, the rows of the program's position table, found {position}",
                self.positions
            )));
        }
        let sizes = Sizes::of(step, 0);
        for (name, shape) in &self.inputs {
            let expected = sizes.elements(shape);
            let found = step.inputs.iter().find(|i| i.name == name).map(|i| i.data.len());
            if found != Some(expected) {
                let found = found.map_or("none".into(), |n| n.to_string());
                return Err(Error::invalid(format!(
                    "submit: input '{name}': expected {expected} elements, found {found}"
                )));
            }
        }
        Ok(())
    }
}

/// Extensions named `input/NAME` as the program's inputs.
pub(crate) fn named_inputs<'a>(batch: &StepBatch<'a>) -> Result<Vec<NamedInput<'a>>> {
    let mut inputs = vec![];
    for ext in batch.ext.as_slice() {
        let Some(name) = ext.name.as_str().strip_prefix("input/") else { continue };
        let bytes = ext.data.as_slice();
        // SAFETY: every bit pattern is an f32; `align_to` keeps to alignment and length.
        let (before, data, after) = unsafe { bytes.align_to::<f32>() };
        if !before.is_empty() || !after.is_empty() {
            return Err(Error::invalid(format!("submit: input '{name}': expected aligned f32 elements")));
        }
        inputs.push(NamedInput { name, data });
    }
    Ok(inputs)
}
