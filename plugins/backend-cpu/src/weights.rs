use std::ops::Range;

use rocmforge_kernels_cpu::{Experts, Isa, KernelError, Matrix, Packed, Pool, Stack, decode, large_zeros};
use rocmforge_sdk::program::{Op, Program, WeightDecl, WeightId};
use rocmforge_sdk::{BoundWeight, DType, Error, Result};

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

/// The weights of a program. Matrices of products are interleaved where there is such a layout, except that quantised
/// types stay as stored if their products are not to round activations. All interleaved weights lie in one piece of
/// memory, so that it is of large pages even where matrices are small. Other matrices and embeddings stay where the file
/// is mapped. Vectors are decoded once.
#[derive(Debug)]
pub(crate) struct Weights {
    decls: Vec<WeightDecl>,
    uses: Vec<Use>,
    matrices: Vec<Option<BoundWeight>>,
    isa: Isa,
    /// Where each weight that is interleaved lies in `memory`.
    places: Vec<Option<Interleaved>>,
    /// Bytes of all of them.
    size: usize,
    /// Begins with as many bytes that are not used as make the next one the first of a cache line.
    memory: Vec<u8>,
    bound: Vec<bool>,
    vectors: Vec<Option<Vec<f32>>>,
}

/// A weight that is interleaved.
#[derive(Clone, Debug)]
struct Interleaved {
    dims: [usize; 3],
    /// Of the memory of all, from its first cache line on.
    range: Range<usize>,
}

/// Bytes for the alignment.
const LINE: usize = 64;

impl Weights {
    /// With `rounded`, products with weights of quantised types round their activations to 8 bits where they can.
    pub(crate) fn new(program: &Program, isa: Isa, rounded: bool) -> Weights {
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
        let (n, mut size) = (program.weights.len(), 0usize);
        let mut place = |(decl, used): (&WeightDecl, &Use)| {
            let dims = match decl.dims[..] {
                [rows, cols] => [1, rows, cols],
                [count, rows, cols] => [count, rows, cols],
                _ => return None,
            };
            let wanted = used.product && Packed::supports(decl.dtype, isa) && (rounded || !Packed::rounds(decl.dtype));
            let bytes = usize::try_from(Packed::bytes(decl.dtype, dims).filter(|_| wanted)?).ok()?;
            let start = size;
            size = size.saturating_add(bytes);
            Some(Interleaved { dims, range: start..size })
        };
        let places = program.weights.iter().zip(&uses).map(&mut place).collect();
        let (matrices, vectors, bound) = (vec![None; n], vec![None; n], vec![false; n]);
        Weights { decls: program.weights.clone(), uses, matrices, isa, places, size, memory: vec![], bound, vectors }
    }

    /// Bytes held beside the file's mapping.
    pub(crate) fn bytes(&self) -> u64 {
        let vectors = self.decls.iter().zip(&self.uses).filter(|(_, used)| used.vector);
        let vectors = vectors.map(|(decl, _)| 4 * decl.dims.iter().product::<usize>() as u64);
        let packed = if self.size > 0 { self.size.saturating_add(LINE) } else { 0 };
        vectors.fold(packed as u64, u64::saturating_add)
    }

    /// The bytes of an interleaved weight.
    fn interleaved(&self, place: &Interleaved) -> &[u8] {
        let first = self.memory.as_ptr().align_offset(LINE).min(LINE);
        &self.memory[first + place.range.start..first + place.range.end]
    }

    /// Interleaves a weight, which is then not needed any more where it was.
    fn interleave(&mut self, pool: &Pool, place: &Interleaved, weight: &BoundWeight) -> Result<(), KernelError> {
        if self.memory.is_empty() {
            self.memory = large_zeros(self.size.saturating_add(LINE))?;
        }
        let first = self.memory.as_ptr().align_offset(LINE).min(LINE);
        let out = &mut self.memory[first + place.range.start..first + place.range.end];
        // Groups that are written once more begin as zeros.
        if self.bound[weight.id.index()] {
            out.fill(0);
        }
        Packed::write(pool, weight.dtype, place.dims, weight.bytes(), out)
    }

    pub(crate) fn bind(&mut self, pool: &Pool, weight: BoundWeight) -> Result<()> {
        let i = weight.id.index();
        let Some(&used) = self.uses.get(i) else {
            return Err(Error::invalid(format!("weight '{}': not one of the program's", weight.name)));
        };
        if used.vector {
            let mut out = vec![0.0; weight.dims.iter().product()];
            decode(self.isa, weight.dtype, weight.bytes(), &mut out)
                .map_err(|e| kernel_error(format_args!("weight '{}'", weight.name), e))?;
            self.vectors[i] = Some(out);
        }
        let place = self.places[i].clone();
        if let Some(place) = &place {
            self.interleave(pool, place, &weight)
                .map_err(|e| kernel_error(format_args!("weight '{}'", weight.name), e))?;
        }
        self.bound[i] = true;
        if used.table || used.product && place.is_none() {
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

    /// The place and type of a weight that has been interleaved.
    fn packed(&self, id: WeightId) -> Option<(DType, &Interleaved)> {
        let place = self.places.get(id.index())?.as_ref().filter(|_| self.bound[id.index()])?;
        Some((self.decls[id.index()].dtype, place))
    }

    /// A matrix `[out, in]` for products.
    pub(crate) fn matrix(&self, id: WeightId) -> Result<Matrix<'_>> {
        let Some((dtype, place)) = self.packed(id) else { return self.table(id) };
        Packed::matrix_of(dtype, place.dims, self.interleaved(place), 0)
            .map_err(|e| kernel_error(format_args!("weight '{}'", self.name(id)), e))
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
        if let Some((dtype, place)) = self.packed(id) {
            let stack = Stack::Packed { dtype, dims: place.dims, bytes: self.interleaved(place) };
            return Ok(Experts { stack, bias });
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
