use std::fmt;

use serde::{Deserialize, Serialize};

/// The symbolic leading dimension of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Lead {
    /// Tokens in the step.
    T,
    /// Sequences in the step.
    S,
    /// Rows of the step that need logits.
    L,
}

/// A shape: one symbolic leading dimension, then constants, outermost first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// The symbolic dimension.
    pub lead: Lead,
    /// The constant dimensions; empty for one number per row.
    pub dims: Vec<usize>,
}

impl Shape {
    /// A shape from its parts.
    pub fn new(lead: Lead, dims: &[usize]) -> Shape {
        Shape { lead, dims: dims.to_vec() }
    }

    /// Elements per leading row, or `None` on overflow.
    pub fn row_elements(&self) -> Option<usize> {
        self.dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
    }

    /// The innermost dimension; 1 when there is none.
    pub fn last(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?}", self.lead)?;
        for d in &self.dims {
            write!(f, ", {d}")?;
        }
        f.write_str("]")
    }
}

/// What a value holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Element {
    /// An activation: f32 in meaning, any precision inside a backend's tolerance in practice.
    F32,
    /// Token ids, positions, row numbers, expert numbers.
    Index,
}

/// Element and shape of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ValueType {
    /// What the value holds.
    pub element: Element,
    /// Its shape.
    pub shape: Shape,
}

impl ValueType {
    /// An activation of this shape.
    pub fn f32(lead: Lead, dims: &[usize]) -> ValueType {
        ValueType { element: Element::F32, shape: Shape::new(lead, dims) }
    }

    /// Indices of this shape.
    pub fn index(lead: Lead, dims: &[usize]) -> ValueType {
        ValueType { element: Element::Index, shape: Shape::new(lead, dims) }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.element {
            Element::F32 => write!(f, "f32{}", self.shape),
            Element::Index => write!(f, "index{}", self.shape),
        }
    }
}
