//! From the pooled hidden states of steps to those of a whole prompt.

use rocmforge_program::{Program, infer_types, output};

use crate::error::EngineError;
use crate::request::Pooling;

/// The name of the output that a pooling takes.
pub(crate) fn output_of(pooling: Pooling) -> &'static str {
    match pooling {
        Pooling::Mean => output::MEAN,
        Pooling::Last => output::LAST,
    }
}

/// Numbers in an embedding; `None`: the program tells none.
pub(crate) fn width(program: &Program) -> Option<usize> {
    let value = |name: &str| program.outputs.iter().find(|o| o.name == name).map(|o| o.value);
    let (mean, _) = value(output::MEAN).zip(value(output::LAST))?;
    infer_types(program).ok()?.get(mean)?.shape.row_elements()
}

/// What is known so far of a prompt that is computed in pieces.
#[derive(Debug)]
pub(crate) struct Embedding {
    pooling: Pooling,
    /// Sums over the tokens so far, or the states of the last one.
    sums: Vec<f64>,
    /// Tokens so far.
    tokens: usize,
}

impl Embedding {
    pub(crate) fn new(pooling: Pooling) -> Embedding {
        Embedding { pooling, sums: Vec::new(), tokens: 0 }
    }

    pub(crate) fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Adds the pooled states of the tokens `start..start + len`. One that has lost its place starts over.
    pub(crate) fn add(&mut self, start: usize, len: usize, states: &[f32]) -> Result<(), EngineError> {
        if let Some(column) = states.iter().position(|x| !x.is_finite()) {
            return Err(EngineError::Embedding { column, found: states[column] });
        }
        match self.pooling {
            Pooling::Last => self.sums = states.iter().map(|&x| f64::from(x)).collect(),
            Pooling::Mean => {
                if start == 0 {
                    (self.sums, self.tokens) = (vec![0.0; states.len()], 0);
                }
                if start != self.tokens || self.sums.len() != states.len() {
                    let expected = format!("the tokens from {} on", self.tokens);
                    return Err(EngineError::step(format!(
                        "embedding: expected {expected}, found those from {start} on"
                    )));
                }
                self.sums.iter_mut().zip(states).for_each(|(sum, &x)| *sum += f64::from(x) * len as f64);
                self.tokens += len;
            }
        }
        Ok(())
    }

    /// That of the whole prompt.
    pub(crate) fn finish(self) -> Vec<f32> {
        let divisor = match self.pooling {
            Pooling::Mean => self.tokens.max(1) as f64,
            Pooling::Last => 1.0,
        };
        self.sums.into_iter().map(|sum| (sum / divisor) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_mean_of_the_whole() {
        let mut mean = Embedding::new(Pooling::Mean);
        mean.add(0, 3, &[1.0, 2.0]).expect("a first piece");
        // Preempted: from the first token on again, in other pieces.
        mean.add(0, 2, &[3.0, -3.0]).expect("a first piece");
        mean.add(2, 1, &[0.0, 9.0]).expect("the next piece");
        assert!(mean.add(4, 1, &[0.0, 0.0]).is_err(), "a token is missing");
        assert_eq!(mean.finish(), [2.0, 1.0]);
        let mut last = Embedding::new(Pooling::Last);
        last.add(16, 4, &[1.0, 2.0]).expect("a piece after a cached prefix");
        last.add(20, 1, &[5.0, 6.0]).expect("the next piece");
        let nan = last.add(21, 1, &[0.0, f32::NAN]);
        assert!(matches!(nan, Err(EngineError::Embedding { column: 1, .. })), "{nan:?}");
        assert_eq!(last.finish(), [5.0, 6.0]);
    }
}
