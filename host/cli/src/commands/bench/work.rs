//! What a token costs at least: bytes of weights that are read and products with them.

use rocmforge_program::{Lead, Op, Program, infer_types};

/// Of one token, without attention over the context.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Bytes of the matrices that it is multiplied with; of experts those that it chooses.
    pub bytes: f64,
    /// Products with them.
    pub products: f64,
    /// Of these, those that only rows with logits have.
    pub head_products: f64,
}

impl Work {
    /// What a program does.
    pub fn of(program: &Program) -> Work {
        let (mut work, types) = (Work::default(), infer_types(program).ok());
        let width = |value| types.as_ref().and_then(|t| t.get(value)).and_then(|t| t.shape.dims.last().copied());
        let of_tokens = |value| types.as_ref().and_then(|t| t.get(value)).is_none_or(|t| t.shape.lead == Lead::T);
        for node in &program.nodes {
            let (weight, x, share) = match &node.op {
                Op::Linear { weight, x, .. } => (weight, x, 1.0),
                Op::ExpertLinear { weight, x, experts, .. } => {
                    let count = program.weights[weight.index()].dims[0].max(1);
                    (weight, x, width(*experts).unwrap_or(count) as f64 / count as f64)
                }
                _ => continue,
            };
            let decl = &program.weights[weight.index()];
            let elements = decl.dims.iter().product::<usize>();
            let products = elements as f64 * share;
            work.bytes += decl.dtype.row_bytes(elements).unwrap_or(0) as f64 * share;
            work.products += products;
            work.head_products += if of_tokens(*x) { 0.0 } else { products };
        }
        work
    }
}
