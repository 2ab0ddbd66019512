//! What products multiply. Norms and gates are made as they are rounded, so that their results are never written.

use std::ops::Range;

use crate::elementwise::{Activation, gate};
use crate::error::{KernelError, exact};
use crate::isa::Isa;
use crate::norm::{Norm, Rows};

/// Rows of as many elements as a matrix has columns.
#[derive(Clone, Copy, Debug)]
pub enum Inputs<'a> {
    /// As they are. Those of calls in a row with the same key have the same elements, so that they are rounded once.
    Values(&'a [f32], Option<u64>),
    /// Each row normalised, with `true` as by [`Cpu::layer_norm`](crate::Cpu::layer_norm).
    Norm(Norm<'a>, bool, &'a [f32]),
    /// `f(gate) up`.
    Gated(Activation, &'a [f32], &'a [f32]),
}

impl Inputs<'_> {
    /// Elements.
    pub(crate) fn len(&self) -> usize {
        match self {
            Inputs::Values(x, _) | Inputs::Norm(_, _, x) | Inputs::Gated(_, x, _) => x.len(),
        }
    }

    pub(crate) fn key(&self) -> Option<u64> {
        match self {
            Inputs::Values(_, key) => *key,
            _ => None,
        }
    }

    /// Rows `range` of rows of `cols`, without a key.
    pub(crate) fn rows(self, range: Range<usize>, cols: usize) -> Self {
        let range = range.start * cols..range.end * cols;
        match self {
            Inputs::Values(x, _) => Inputs::Values(&x[range], None),
            Inputs::Norm(norm, centre, x) => Inputs::Norm(norm, centre, &x[range]),
            Inputs::Gated(kind, gate, up) => Inputs::Gated(kind, &gate[range.clone()], &up[range]),
        }
    }

    /// Whether they are rows of `cols`.
    pub(crate) fn check(&self, cols: usize) -> Result<(), KernelError> {
        match self {
            Inputs::Values(..) => Ok(()),
            Inputs::Norm(norm, _, x) => norm.check(x).and_then(|()| exact("width of a norm", norm.width, cols)),
            Inputs::Gated(_, gate, up) => exact("second operand of a gate", up.len(), gate.len()),
        }
    }

    /// Makes elements `range`, whole rows, in as many of `out`; gives values as they are.
    pub(crate) fn make<'o>(&'o self, isa: Isa, range: Range<usize>, out: &'o mut [f32]) -> &'o [f32] {
        match *self {
            Inputs::Values(x, _) => return &x[range],
            Inputs::Norm(norm, centre, x) => isa.run(Rows { norm, centre, x: &x[range], out: &mut *out }),
            Inputs::Gated(kind, first, second) => gate(isa, kind, [first, second], range, &mut *out),
        }
        out
    }
}
