use rocmforge_kernels_cpu::{Cpu, Experts, Isa, Matrix, Packed, Stack, decode};
use rocmforge_sdk::program::{Op, Program, WeightDecl, WeightId};
use rocmforge_sdk::{BoundWeight, Error, Result};

use crate::kernel_error;

/// How a program uses a weight.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    /// In products.
    product: bool,
    /// Row by row.
    table: bool,
    vector: bool,
}

/// The weights of a program. Matrices of quantised types are interleaved for products of 8-bit integers, if these are
/// wanted and there is such a layout; other matrices and embeddings stay where the file is mapped. Vectors are decoded
/// once.
#[derive(Debug)]
pub(crate) struct Weights {
    decls: Vec<WeightDecl>,
    uses: Vec<Use>,
    matrices: Vec<Option<BoundWeight>>,
    /// Whether products use 8-bit activations where they can.
    interleave: Option<Isa>,
    packed: Vec<Option<Packed>>,
    vectors: Vec<Option<Vec<f32>>>,
}

impl Weights {
    /// With `interleave`, products use 8-bit activations where that instruction set can.
    pub(crate) fn new(program: &Program, interleave: Option<Isa>) -> Weights {
        let mut uses = vec![Use::default(); program.weights.len()];
        for node in &program.nodes {
            let (product, table) = match &node.op {
                Op::Linear { weight, .. } | Op::ExpertLinear { weight, .. } => (Some(*weight), None),
                Op::Embed { table, .. } => (None, Some(*table)),
                _ => (None, None),
            };
            for id in node.op.weights() {
                let used = &mut uses[id.index()];
                used.product |= Some(id) == product;
                used.table |= Some(id) == table;
                used.vector |= Some(id) != product && Some(id) != table;
            }
        }
        let n = program.weights.len();
        let (decls, packed) = (program.weights.clone(), (0..n).map(|_| None).collect());
        Weights { decls, uses, matrices: vec![None; n], interleave, packed, vectors: vec![None; n] }
    }

    /// The dimensions of a weight as a stack of matrices that is interleaved.
    fn interleaved(&self, i: usize) -> Option<[usize; 3]> {
        let (decl, isa) = (self.decls.get(i)?, self.interleave?);
        let dims = match decl.dims[..] {
            [rows, cols] => [1, rows, cols],
            [count, rows, cols] => [count, rows, cols],
            _ => return None,
        };
        (self.uses[i].product && Packed::supports(decl.dtype, isa)).then_some(dims)
    }

    /// Bytes held beside the file's mapping.
    pub(crate) fn bytes(&self) -> u64 {
        let each = self.decls.iter().zip(&self.uses).enumerate().map(|(i, (decl, used))| {
            let vector = if used.vector { 4 * decl.dims.iter().product::<usize>() as u64 } else { 0 };
            let packed = self.interleaved(i).and_then(|dims| Packed::bytes(decl.dtype, dims));
            vector.saturating_add(packed.unwrap_or(0))
        });
        each.fold(0, u64::saturating_add)
    }

    /// Interleaves what has been bound.
    pub(crate) fn finalize(&mut self, cpu: &Cpu) -> Result<()> {
        for i in 0..self.matrices.len() {
            if let (Some(dims), Some(weight)) = (self.interleaved(i), &self.matrices[i]) {
                let packed = Packed::new(cpu.pool(), weight.dtype, dims, weight.bytes());
                let packed = packed.map_err(|e| kernel_error(format_args!("weight '{}'", weight.name), e))?;
                self.packed[i] = Some(packed);
            }
        }
        Ok(())
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
        if used.product || used.table {
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

    /// A matrix `[out, in]` for products.
    pub(crate) fn matrix(&self, id: WeightId) -> Result<Matrix<'_>> {
        match self.packed.get(id.index()) {
            Some(Some(packed)) => {
                packed.matrix(0).map_err(|e| kernel_error(format_args!("weight '{}'", self.name(id)), e))
            }
            _ => self.table(id),
        }
    }

    /// A matrix whose rows are read.
    pub(crate) fn table(&self, id: WeightId) -> Result<Matrix<'_>> {
        let weight = self.stored(id)?;
        let &[rows, cols] = &weight.dims[..] else {
            return Err(Error::internal(format!("weight '{}': not a matrix", weight.name)));
        };
        Matrix::as_stored(weight.dtype, rows, cols, weight.bytes())
            .map_err(|e| kernel_error(format_args!("weight '{}'", weight.name), e))
    }

    /// A stack of matrices `[experts, out, in]`.
    pub(crate) fn experts<'a>(&'a self, id: WeightId, bias: Option<&'a [f32]>) -> Result<Experts<'a>> {
        if let Some(Some(packed)) = self.packed.get(id.index()) {
            return Ok(Experts { stack: Stack::Packed(packed), bias });
        }
        let weight = self.stored(id)?;
        let &[count, rows, cols] = &weight.dims[..] else {
            return Err(Error::internal(format!("weight '{}': not a stack of matrices", weight.name)));
        };
        let stack = Stack::AsStored { dtype: weight.dtype, dims: [count, rows, cols], bytes: weight.bytes() };
        Ok(Experts { stack, bias })
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
