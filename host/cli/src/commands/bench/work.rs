//! What a token costs at least: bytes of weights that are read and products with them.

use rocmforge_program::{DType, Lead, Op, Program, infer_types};

/// Of one token, without attention over the context.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Bytes of the matrices that it is multiplied with; of experts those that it chooses.
    pub bytes: f64,
    /// Products with them, in products of quantised weights: with weights of 16 bits processors do half as many at most,
    /// with floats a quarter.
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
            let each = match decl.dtype {
                DType::F16 | DType::BF16 => 2.0,
                DType::F32 | DType::F64 => 4.0,
                _ => 1.0,
            };
            let products = elements as f64 * share * each;
            work.bytes += decl.dtype.row_bytes(elements).unwrap_or(0) as f64 * share;
            work.products += products;
            work.head_products += if of_tokens(*x) { 0.0 } else { products };
        }
        work
    }
}
