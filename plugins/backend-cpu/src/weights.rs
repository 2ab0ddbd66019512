use rocmforge_kernels_cpu::{Experts, Isa, Matrix, decode};
use rocmforge_sdk::program::{Op, Program, WeightDecl, WeightId};
use rocmforge_sdk::{BoundWeight, Error, Result};

use crate::kernel_error;

/// How a program uses a weight.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    matrix: bool,
    vector: bool,
}

/// The weights of a program: matrices stay where the file is mapped, vectors are decoded once.
#[derive(Debug)]
pub(crate) struct Weights {
    decls: Vec<WeightDecl>,
    uses: Vec<Use>,
    matrices: Vec<Option<BoundWeight>>,
    vectors: Vec<Option<Vec<f32>>>,
}

impl Weights {
    pub(crate) fn new(program: &Program) -> Weights {
        let mut uses = vec![Use::default(); program.weights.len()];
        for node in &program.nodes {
            let matrix = match &node.op {
                Op::Embed { table: weight, .. } | Op::Linear { weight, .. } | Op::ExpertLinear { weight, .. } => {
                    Some(*weight)
                }
                _ => None,
            };
            for id in node.op.weights() {
                let used = &mut uses[id.index()];
                if Some(id) == matrix { used.matrix = true } else { used.vector = true }
            }
        }
        let n = program.weights.len();
        Weights { decls: program.weights.clone(), uses, matrices: vec![None; n], vectors: vec![None; n] }
    }

    /// Bytes held beside the file's mapping.
    pub(crate) fn bytes(&self) -> u64 {
        let vectors = self.decls.iter().zip(&self.uses).filter(|(_, used)| used.vector);
        vectors.map(|(decl, _)| 4 * decl.dims.iter().product::<usize>() as u64).sum()
    }

    pub(crate) fn bind(&mut self, isa: Isa, weight: BoundWeight) -> Result<()> {
        let i = weight.id.index();
        let Some(used) = self.uses.get(i) else {
            return Err(Error::invalid(format!("weight '{}': not one of the program's", weight.name)));
        };
        if used.vector {
            let mut out = vec![0.0; weight.dims.iter().product()];
            decode(isa, weight.dtype, weight.bytes(), &mut out)
                .map_err(|e| kernel_error(format_args!("weight '{}'", weight.name), e))?;
            self.vectors[i] = Some(out);
        }
        if used.matrix {
            self.matrices[i] = Some(weight);
        }
        Ok(())
    }

    fn name(&self, id: WeightId) -> &str {
        self.decls.get(id.index()).map_or("?", |d| &d.name)
    }

    fn stored(&self, id: WeightId) -> Result<&BoundWeight> {
        let bound = self.matrices.get(id.index()).and_then(Option::as_ref);
        bound.ok_or_else(|| Error::invalid(format!("weight '{}': never bound", self.name(id))))
    }

    /// A matrix `[out, in]`.
    pub(crate) fn matrix(&self, id: WeightId) -> Result<Matrix<'_>> {
        let weight = self.stored(id)?;
        let &[rows, cols] = &weight.dims[..] else {
            return Err(Error::internal(format!("weight '{}': not a matrix", weight.name)));
        };
        Matrix::as_stored(weight.dtype, rows, cols, weight.bytes())
            .map_err(|e| kernel_error(format_args!("weight '{}'", weight.name), e))
    }

    /// A stack of matrices `[experts, out, in]`.
    pub(crate) fn experts<'a>(&'a self, id: WeightId, bias: Option<&'a [f32]>) -> Result<Experts<'a>> {
        let weight = self.stored(id)?;
        let &[count, rows, cols] = &weight.dims[..] else {
            return Err(Error::internal(format!("weight '{}': not a stack of matrices", weight.name)));
        };
        Ok(Experts { dtype: weight.dtype, dims: [count, rows, cols], bytes: weight.bytes(), bias })
    }

    /// A weight that is used element by element.
    pub(crate) fn vector(&self, id: WeightId) -> Result<&[f32]> {
        let found = self.vectors.get(id.index()).and_then(Option::as_ref);
        found.map(Vec::as_slice).ok_or_else(|| Error::invalid(format!("weight '{}': never bound", self.name(id))))
    }

    /// The same for a weight that may be absent.
    pub(crate) fn optional(&self, id: Option<WeightId>) -> Result<Option<&[f32]>> {
        id.map(|id| self.vector(id)).transpose()
    }
}
