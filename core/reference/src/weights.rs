use std::collections::HashMap;
use std::hash::BuildHasher;

use rocmforge_program::{DType, WeightDecl};

use crate::error::ReferenceError;

/// Where the interpreter finds the bytes of a weight.
pub trait WeightSource {
    /// Element type and bytes of a weight, rows in order and outermost dimension first, as in a GGUF file.
    fn weight(&self, name: &str) -> Option<(DType, &[u8])>;
}

impl<S: BuildHasher> WeightSource for HashMap<String, (DType, Vec<u8>), S> {
    fn weight(&self, name: &str) -> Option<(DType, &[u8])> {
        self.get(name).map(|(dtype, bytes)| (*dtype, bytes.as_slice()))
    }
}

/// All elements of a declared weight as f32.
pub(crate) fn load(decl: &WeightDecl, source: &dyn WeightSource) -> Result<Vec<f32>, ReferenceError> {
    let name = || decl.name.clone();
    let (dtype, bytes) = source.weight(&decl.name).ok_or_else(|| ReferenceError::MissingWeight { name: name() })?;
    if dtype != decl.dtype {
        return Err(ReferenceError::WeightType { name: name(), expected: decl.dtype, found: dtype });
    }
    // Validation has checked that neither product overflows in elements; bytes can still overflow.
    let row = decl.dims.last().copied().unwrap_or(0);
    let elements: usize = decl.dims.iter().product();
    let expected = dtype.row_bytes(row).and_then(|b| b.checked_mul(elements / row.max(1))).unwrap_or(usize::MAX);
    if bytes.len() != expected {
        return Err(ReferenceError::WeightSize { name: name(), expected, found: bytes.len() });
    }
    let mut out = vec![0.0; elements];
    rocmforge_quant::dequantize(dtype, bytes, &mut out)
        .map_err(|source| ReferenceError::Dequantize { name: name(), source })?;
    Ok(out)
}
