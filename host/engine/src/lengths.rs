use std::sync::Arc;

use rocmforge_program::{InputSource, Op, Program, input};

use crate::error::EngineError;

/// Lengths at which a model changes to another way of computing a whole sequence, as its inputs `longer_than/N` say.
///
/// A sequence is of class `n` when it is longer than `n` of them. What the cache holds of one class is of no use to
/// another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// Names and limits, the shortest limit first.
    inputs: Arc<[(String, usize)]>,
}

impl Lengths {
    /// Those of a program.
    ///
    /// # Errors
    /// The program has an input that this engine does not supply.
    pub fn of(program: &Program) -> Result<Lengths, EngineError> {
        let mut inputs = Vec::new();
        for node in &program.nodes {
            let Op::Input { source: InputSource::Named { name, .. } } = &node.op else { continue };
            match input::longer_than_limit(name) {
                Some(limit) => inputs.push((name.clone(), limit as usize)),
                None => return Err(EngineError::config("inputs of the program", "longer_than/N", name)),
            }
        }
        inputs.sort_by_key(|(_, limit)| *limit);
        Ok(Lengths { inputs: inputs.into() })
    }

    /// The class of a sequence of so many tokens.
    pub fn class(&self, tokens: usize) -> usize {
        self.inputs.partition_point(|(_, limit)| *limit < tokens)
    }

    /// The longest that a sequence of so many tokens can get without a change of class; `None`: any length.
    pub(crate) fn next(&self, tokens: usize) -> Option<usize> {
        self.inputs.get(self.class(tokens)).map(|(_, limit)| *limit)
    }

    /// Names of the inputs, the shortest limit first: the first `n` of them are 1 for a sequence of class `n`.
    pub(crate) fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.inputs.iter().map(|(name, _)| name.as_str())
    }
}
