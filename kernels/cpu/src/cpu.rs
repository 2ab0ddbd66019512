use std::sync::Arc;

use crate::columns::{self, Groups};
use crate::dots::{self, Arrange, Dots, PANEL_ROWS};
use crate::error::{KernelError, exact};
use crate::gemm::{MOST_TILE_ROWS, PER_THREAD, Panel, TileShape, pack_tile};
use crate::gemv::Gemv;
use crate::inputs::Inputs;
use crate::int8;
use crate::isa::Isa;
use crate::linear::Linear;
use crate::long::{FEWEST, Runs};
use crate::matrix::{Layout, Matrix, can_decode};
use crate::pool::Pool;
use crate::shared::SharedMut;
use crate::workspace::{Needs, Workspace, floats};

/// Most activation rows for which weights are decoded per row instead of per panel.
const FEW_ROWS: usize = 8;
/// Bytes of weights per task, so that sharing out costs little and an even share is possible.
const TASK_BYTES: usize = 32 << 10;

/// Elements per task that copies them.
const ARRANGED: usize = 32 << 10;

/// Threads, instruction set and scratch memory: what every kernel runs with.
#[derive(Debug)]
pub struct Cpu {
    pub(crate) pool: Arc<Pool>,
    pub(crate) isa: Isa,
    pub(crate) workspace: Workspace,
    pub(crate) rounds: bool,
    pub(crate) runs: Runs,
}

impl Cpu {
    /// Without scratch memory; it grows with the calls.
    pub fn new(pool: Arc<Pool>, isa: Isa) -> Cpu {
        let workspace = Workspace::new(pool.threads());
        Cpu { pool, isa, workspace, rounds: false, runs: Runs::default() }
    }

    /// The same, where products of many rows with weights of half precision may round both to whole numbers with a scale
    /// per row and 64 columns, which is twice as fast: activations to 13 bits beside their sign, weights to 12.
    /// Attention of 65 tokens of a sequence and more is rounded to 16 bits likewise.
    pub fn rounding(self, rounds: bool) -> Cpu {
        Cpu { rounds, ..self }
    }

    /// Makes the scratch memory large enough for calls that need at most `needs` in steps of at most `sequences`, so that
    /// none allocates.
    ///
    /// # Errors
    /// The system has no memory for it.
    pub fn reserve(&mut self, needs: Needs, sequences: usize) -> Result<(), KernelError> {
        self.runs.reserve(sequences)?;
        self.workspace.reserve(needs)
    }

    /// Says how many tokens each sequence of the next step has. Where a sequence has 65 and more, products of all tokens
    /// of the step may compute its rows in ways that are faster for many, as attention does.
    pub fn begin(&mut self, lengths: impl Iterator<Item = usize>) {
        self.runs.set(lengths);
    }

    /// The threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// What [`matmul`](Cpu::matmul) needs for `rows` rows of `cols` inputs.
    pub fn matmul_needs(rows: usize, cols: usize) -> Needs {
        let quantized = int8::scratch(rows, cols).max(int8::half_scratch(rows, cols));
        let made = int8::made(rows, cols);
        if rows <= FEW_ROWS {
            let per_thread = if rows > 1 { PER_THREAD } else { 0 };
            return Needs { packed: quantized, per_thread: per_thread.max(made) };
        }
        let tiles = rows.next_multiple_of(MOST_TILE_ROWS).saturating_mul(cols);
        let long = if rows >= FEWEST { int8::LONG_PER_THREAD } else { 0 };
        // Rows of prompts as bfloat16 take half of the room that there is for floats.
        Needs { packed: tiles.max(quantized), per_thread: PER_THREAD.max(made).max(long) }
    }

    /// `out = x Wᵀ + bias`: `x` `[n, cols]`, `weight` `[rows, cols]`, `bias` `[rows]`, `out` `[n, rows]`.
    ///
    /// # Errors
    /// Lengths that do not fit, weights of a type that cannot be decoded.
    pub fn matmul(
        &mut self,
        weight: &Matrix<'_>,
        x: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        self.matmul_of(weight, (x, None), bias, out)
    }

    /// The same for inputs that several products in a row may share: those with the same key have the same elements, so
    /// that they are rounded once.
    ///
    /// # Errors
    /// As [`matmul`](Cpu::matmul).
    pub fn matmul_of(
        &mut self,
        weight: &Matrix<'_>,
        (x, key): (&[f32], Option<u64>),
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let (rows, cols) = (weight.rows, weight.cols);
        if rows == 0 || cols == 0 || !x.len().is_multiple_of(cols) {
            let expected = format!("rows of {cols}, for a matrix that is not empty");
            return Err(KernelError::mismatch("inputs of a matrix product", expected, x.len()));
        }
        let n = x.len() / cols;
        exact("outputs of a matrix product", out.len(), n.saturating_mul(rows))?;
        exact("bias of a matrix product", bias.map_or(rows, <[f32]>::len), rows)?;
        if !can_decode(weight.dtype) {
            return Err(KernelError::Weights { dtype: weight.dtype, reason: "no decoder".to_owned() });
        }
        match weight.layout {
            Layout::AsStored if n <= FEW_ROWS => self.gemv(weight, x, bias, out),
            Layout::Columns if n <= columns::FEW_ROWS => self.columns(weight, x, bias, out),
            Layout::Columns if self.rounds && self.isa.int8().is_some() => {
                self.half_products(weight, (x, key), bias, out)
            }
            Layout::AsStored if n <= dots::FEW_ROWS => self.dots(weight, x, bias, out),
            Layout::AsStored | Layout::Columns => self.gemm(weight, x, bias, out),
            Layout::Interleaved if n == 0 => Ok(()),
            Layout::Interleaved => {
                let linear = Linear { weight: *weight, bias, add: None, out };
                self.linears(Inputs::Values(x, key), [Some(linear), None, None, None])
            }
        }
    }

    fn gemv(
        &mut self,
        weight: &Matrix<'_>,
        x: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let (isa, out) = (self.isa, SharedMut::new(out));
        let grain = TASK_BYTES.div_ceil(weight.row_bytes.max(1));
        self.pool.parallel_for(weight.rows, grain, |_, range| isa.run(Gemv { weight, range, x, bias, out: &out }))
    }

    fn columns(
        &mut self,
        weight: &Matrix<'_>,
        x: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let (isa, out) = (self.isa, SharedMut::new(out));
        let groups = weight.rows.div_ceil(columns::ROWS);
        let grain = TASK_BYTES.div_ceil(weight.row_bytes * columns::ROWS);
        self.pool.parallel_for(groups, grain, |_, range| isa.run(Groups { weight, range, x, bias, out: &out }))
    }

    /// More rows than `gemv` takes with a matrix in the layout of its file, added up as there.
    fn dots(
        &mut self,
        weight: &Matrix<'_>,
        x: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        const { assert!(dots::PER_THREAD <= PER_THREAD) }
        let (isa, cols, dtype) = (self.isa, weight.cols, weight.dtype);
        let (packed, scratch) = self.workspace.parts(Cpu::matmul_needs(x.len() / cols, cols))?;
        let x = if dots::arranges(dtype) {
            let arranged = &mut packed[..x.len()];
            let rows = SharedMut::new(arranged);
            self.pool.parallel_for(x.len() / cols, ARRANGED.div_ceil(cols), |_, range| {
                let elements = range.start * cols..range.end * cols;
                // SAFETY: the ranges of a loop do not overlap.
                let out = unsafe { rows.part(elements.clone()) };
                isa.run(Arrange { dtype, x: &x[elements], cols, out });
            })?;
            &*arranged
        } else {
            x
        };
        let out = SharedMut::new(out);
        self.pool.parallel_for(weight.rows.div_ceil(PANEL_ROWS), 1, |thread, range| {
            let mut scratch = scratch.lock(thread);
            for panel in range {
                let scratch = floats(&mut scratch);
                isa.run(Dots { weight, first: panel * PANEL_ROWS, x, bias, out: &out, scratch });
            }
        })
    }

    /// Many rows, as floats.
    fn gemm(
        &mut self,
        weight: &Matrix<'_>,
        x: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let (isa, cols, n) = (self.isa, weight.cols, x.len() / weight.cols);
        let (width, height) = isa.run(TileShape);
        let (packed, scratch) = self.workspace.parts(Cpu::matmul_needs(n, cols))?;
        let packed = &mut packed[..n.next_multiple_of(height) * cols];
        let tiles = SharedMut::new(packed);
        self.pool.parallel_for(n.div_ceil(height), 1, |_, range| {
            for tile in range {
                // SAFETY: each tile is visited once.
                let to = unsafe { tiles.part(tile * height * cols..(tile + 1) * height * cols) };
                pack_tile(&x[tile * height * cols..n.min((tile + 1) * height) * cols], cols, height, weight.layout, to);
            }
        })?;
        let (packed, out) = (&*packed, SharedMut::new(out));
        self.pool.parallel_for(weight.rows.div_ceil(width), 1, |thread, range| {
            let mut scratch = scratch.lock(thread);
            for panel in range {
                let scratch = floats(&mut scratch);
                isa.run(Panel { weight, first: panel * width, packed, n, bias, out: &out, scratch });
            }
        })
    }
}
