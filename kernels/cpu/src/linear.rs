//! Products of the same rows with several matrices, as one loop.

use std::ops::Range;

use crate::cpu::Cpu;
use crate::error::{KernelError, exact};
use crate::inputs::Inputs;
use crate::int8;
use crate::matrix::{Layout, Matrix, can_decode};
use crate::shared::SharedMut;

/// The most products in one loop.
pub const TOGETHER: usize = 4;

/// One of the products.
#[derive(Debug)]
pub struct Linear<'a> {
    /// `[rows, cols]`
    pub weight: Matrix<'a>,
    /// `[rows]`
    pub bias: Option<&'a [f32]>,
    /// Added to the result, `[n, rows]`.
    pub add: Option<&'a [f32]>,
    /// `[n, rows]`
    pub out: &'a mut [f32],
}

impl Linear<'_> {
    /// The same for rows `range`.
    fn part(&mut self, range: Range<usize>) -> Linear<'_> {
        let range = range.start * self.weight.rows..range.end * self.weight.rows;
        let add = self.add.map(|add| &add[range.clone()]);
        Linear { weight: self.weight, bias: self.bias, add, out: &mut self.out[range] }
    }

    fn check(&self, x: usize) -> Result<(), KernelError> {
        let Matrix { rows, cols, dtype, .. } = self.weight;
        if rows == 0 || cols == 0 || !x.is_multiple_of(cols) {
            let expected = format!("rows of {cols}, for a matrix that is not empty");
            return Err(KernelError::mismatch("inputs of a matrix product", expected, x));
        }
        let results = (x / cols).saturating_mul(rows);
        exact("outputs of a matrix product", self.out.len(), results)?;
        exact("what is added to a matrix product", self.add.map_or(results, <[f32]>::len), results)?;
        exact("bias of a matrix product", self.bias.map_or(rows, <[f32]>::len), rows)?;
        if !can_decode(dtype) {
            return Err(KernelError::Weights { dtype, reason: "no decoder".to_owned() });
        }
        Ok(())
    }
}

/// Adds to columns of all rows of a result.
pub(crate) fn add_columns(add: &[f32], stride: usize, columns: Range<usize>, out: &SharedMut<'_, f32>) {
    for (row, add) in add.chunks_exact(stride).enumerate() {
        let at = row * stride;
        // SAFETY: these columns of the output belong to the task that calls this.
        let out = unsafe { out.part(at + columns.start..at + columns.end) };
        out.iter_mut().zip(&add[columns.clone()]).for_each(|(y, a)| *y += a);
    }
}

impl Cpu {
    /// Products with interleaved weights, each run of rows in its way.
    fn packed_runs(
        &mut self,
        inputs: Inputs<'_>,
        cols: usize,
        rounding: (i32, bool),
        linears: &mut [Option<Linear<'_>>; TOGETHER],
    ) -> Result<(), KernelError> {
        let n = inputs.len() / cols;
        let runs = std::mem::take(&mut self.runs);
        let result = match runs.of(n).filter(|_| self.isa.has_tiles()) {
            None => self.packed_products(inputs, cols, (rounding, false), linears),
            Some([(_, long)]) => self.packed_products(inputs, cols, (rounding, *long), linears),
            Some(several) => several.iter().try_for_each(|(rows, long)| {
                let mut part = linears.each_mut().map(|l| l.as_mut().map(|l| l.part(rows.clone())));
                self.packed_products(inputs.rows(rows.clone(), cols), cols, (rounding, *long), &mut part)
            }),
        };
        self.runs = runs;
        result
    }

    /// Whether products of the same rows with these matrices round the rows all in the same way: only then may
    /// [`linears`](Cpu::linears) make their inputs.
    pub fn rounds<'m>(mut weights: impl Iterator<Item = &'m Matrix<'m>> + Clone) -> bool {
        let dtypes = weights.clone().map(|weight| weight.dtype);
        weights.all(|weight| weight.layout == Layout::Interleaved) && int8::rounding(dtypes).is_some()
    }

    /// `out = x Wᵀ + bias + add` for each of the products, whose matrices have as many columns.
    ///
    /// # Errors
    /// Lengths that do not fit, weights of a type that cannot be decoded, inputs that would have to be made for matrices
    /// that do not [`round`](Cpu::rounds) them.
    pub fn linears(
        &mut self,
        inputs: Inputs<'_>,
        mut linears: [Option<Linear<'_>>; TOGETHER],
    ) -> Result<(), KernelError> {
        let each = || linears.iter().flatten();
        each().try_for_each(|linear| linear.check(inputs.len()))?;
        let Some(cols) = each().next().map(|linear| linear.weight.cols) else { return Ok(()) };
        each().try_for_each(|linear| exact("columns of matrices", linear.weight.cols, cols))?;
        inputs.check(cols)?;
        if inputs.len() == 0 {
            return Ok(());
        }
        let interleaved = each().all(|linear| linear.weight.layout == Layout::Interleaved);
        let rounding = int8::rounding(each().map(|linear| linear.weight.dtype)).filter(|_| interleaved);
        if let Some(rounding) = rounding {
            return self.packed_runs(inputs, cols, rounding, &mut linears);
        }
        let Inputs::Values(x, key) = inputs else {
            return Err(KernelError::mismatch(
                "inputs of products that round differently",
                "values",
                "a norm or a gate",
            ));
        };
        for linear in linears.iter_mut().flatten() {
            self.matmul_of(&linear.weight, (x, key), linear.bias, linear.out)?;
            if let Some(add) = linear.add {
                let stride = linear.weight.rows;
                add_columns(add, stride, 0..stride, &SharedMut::new(linear.out));
            }
        }
        Ok(())
    }
}
