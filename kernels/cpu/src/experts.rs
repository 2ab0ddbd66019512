//! Mixture of experts and other operations on rows.

use crate::cpu::Cpu;
use crate::error::{KernelError, exact};
use crate::matrix::Matrix;
use crate::packed::Packed;
use crate::shared::SharedMut;
use crate::workspace::Needs;
use rocmforge_quant::DType;

/// Elements per task.
const GRAIN: usize = 8192;

/// How scores of experts become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Softmax over all experts, then the best.
    Softmax,
    /// The best, then softmax over these.
    SoftmaxTopK,
    /// Sigmoid of each, then the best.
    Sigmoid,
}

/// Parameters of [`Cpu::router`].
#[derive(Clone, Copy, Debug)]
pub struct Router<'a> {
    /// Experts to choose from.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// How scores become weights.
    pub gate: Gate,
    /// Whether the weights of a token are divided by their sum.
    pub renormalize: bool,
    /// Multiplies the weights, last.
    pub scale: f32,
    /// `[experts]`, added to the scores for the choice only.
    pub bias: Option<&'a [f32]>,
}

impl Router<'_> {
    fn route(&self, logits: &[f32], scores: &mut [f32], chosen: &mut [u32], weights: &mut [f32]) {
        scores.copy_from_slice(logits);
        match self.gate {
            Gate::Softmax => softmax(scores),
            Gate::SoftmaxTopK => {}
            Gate::Sigmoid => scores.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
        }
        let key = |e: usize| scores[e] + self.bias.map_or(0.0, |b| b[e]) + 0.0;
        for k in 0..self.top_k {
            // A total order, so that NaN scores still choose `top_k` different experts.
            let free = (0..self.experts).filter(|&e| !chosen[..k].contains(&(e as u32)));
            let best = free.reduce(|a, b| if key(b).total_cmp(&key(a)).is_gt() { b } else { a }).unwrap_or(0);
            (chosen[k], weights[k]) = (best as u32, scores[best]);
        }
        if self.gate == Gate::SoftmaxTopK {
            softmax(weights);
        }
        let sum: f32 = if self.renormalize { weights.iter().sum() } else { 1.0 };
        weights.iter_mut().for_each(|w| *w = *w / sum * self.scale);
    }
}

fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in &mut *x {
        *x = (*x - max).exp();
        sum += *x;
    }
    x.iter_mut().for_each(|x| *x /= sum);
}

/// The matrices of a layer of experts, `[experts, outputs, inputs]`.
#[derive(Clone, Copy, Debug)]
pub enum Stack<'a> {
    /// In the layout of the file.
    AsStored {
        /// Element type.
        dtype: DType,
        /// Experts, outputs, inputs.
        dims: [usize; 3],
        /// The matrices, one after the other.
        bytes: &'a [u8],
    },
    /// With rows interleaved by [`Packed::write`].
    Packed {
        /// Element type.
        dtype: DType,
        /// Experts, outputs, inputs.
        dims: [usize; 3],
        /// The whole stack.
        bytes: &'a [u8],
    },
}

/// The weights of a layer of experts.
#[derive(Clone, Copy, Debug)]
pub struct Experts<'a> {
    /// The matrices.
    pub stack: Stack<'a>,
    /// `[experts, outputs]`
    pub bias: Option<&'a [f32]>,
}

impl<'a> Experts<'a> {
    fn dims(&self) -> [usize; 3] {
        match self.stack {
            Stack::AsStored { dims, .. } | Stack::Packed { dims, .. } => dims,
        }
    }

    fn matrix(&self, expert: usize) -> Result<Matrix<'a>, KernelError> {
        match self.stack {
            Stack::AsStored { dtype, dims, bytes } => Matrix::of_stack(dtype, dims, bytes, expert),
            Stack::Packed { dtype, dims, bytes } => Packed::matrix_of(dtype, dims, bytes, expert),
        }
    }
}

/// Buffers of [`Cpu::expert_linear`].
#[derive(Debug, Default)]
pub struct ExpertScratch {
    order: Vec<u32>,
    x: Vec<f32>,
    out: Vec<f32>,
}

impl ExpertScratch {
    /// Makes it large enough for `rows` pairs of token and expert with these sizes.
    ///
    /// # Errors
    /// The system has no memory for it.
    pub fn reserve(&mut self, rows: usize, inputs: usize, outputs: usize) -> Result<(), KernelError> {
        grow(&mut self.order, rows)?;
        grow(&mut self.x, rows.saturating_mul(inputs))?;
        grow(&mut self.out, rows.saturating_mul(outputs))
    }

    /// Bytes that `reserve` takes.
    pub fn bytes(rows: usize, inputs: usize, outputs: usize) -> u64 {
        let each = (1 + inputs as u64).saturating_add(outputs as u64);
        (rows as u64).saturating_mul(each).saturating_mul(4)
    }
}

fn grow<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> Result<(), KernelError> {
    let more = len.saturating_sub(buffer.len());
    buffer.try_reserve_exact(more).map_err(|_| KernelError::Memory { bytes: (len as u64).saturating_mul(4) })?;
    buffer.resize(buffer.len() + more, T::default());
    Ok(())
}

impl Cpu {
    /// Chosen experts `[T, top_k]`, best first, of equal ones the lower number, and their weights `[T, top_k]`, from
    /// `logits` `[T, experts]`. `scores` is scratch of `experts` elements.
    ///
    /// # Errors
    /// Lengths that do not fit.
    pub fn router(
        &self,
        router: Router<'_>,
        logits: &[f32],
        scores: &mut [f32],
        chosen: &mut [u32],
        weights: &mut [f32],
    ) -> Result<(), KernelError> {
        let Router { experts, top_k, .. } = router;
        if experts == 0 || !(1..=experts).contains(&top_k) || !logits.len().is_multiple_of(experts) {
            let expected = format!("rows of {experts} experts, of which {top_k} are chosen");
            return Err(KernelError::mismatch("logits of a router", expected, logits.len()));
        }
        let rows = logits.len() / experts;
        exact("scratch of a router", scores.len(), experts)?;
        exact("experts chosen by a router", chosen.len(), rows * top_k)?;
        exact("weights given by a router", weights.len(), rows * top_k)?;
        exact("bias of a router", router.bias.map_or(experts, <[f32]>::len), experts)?;
        let outs = chosen.chunks_exact_mut(top_k).zip(weights.chunks_exact_mut(top_k));
        for (logits, (chosen, weights)) in logits.chunks_exact(experts).zip(outs) {
            router.route(logits, scores, chosen, weights);
        }
        Ok(())
    }

    /// What [`expert_linear`](Cpu::expert_linear) needs for `rows` pairs of token and expert.
    pub fn expert_needs(rows: usize, inputs: usize) -> Needs {
        Cpu::matmul_needs(rows, inputs)
    }

    /// `out[i] = W[chosen[i]] x[i / share] + bias[chosen[i]]` for each pair of token and expert; `share` pairs in a
    /// row use the same row of x.
    ///
    /// # Errors
    /// Lengths or expert numbers that do not fit, weights of a type that cannot be decoded.
    pub fn expert_linear(
        &mut self,
        experts: &Experts<'_>,
        chosen: &[u32],
        x: &[f32],
        share: usize,
        scratch: &mut ExpertScratch,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let [count, outputs, inputs] = experts.dims();
        let rows = chosen.len();
        exact("inputs of experts", x.len().saturating_mul(share), rows.saturating_mul(inputs))?;
        exact("outputs of experts", out.len(), rows.saturating_mul(outputs))?;
        exact("bias of experts", experts.bias.map_or(count * outputs, <[f32]>::len), count * outputs)?;
        if let Some(bad) = chosen.iter().find(|&&e| e as usize >= count) {
            return Err(KernelError::mismatch("number of an expert", format!("below {count}"), bad));
        }
        scratch.reserve(rows, inputs, outputs)?;
        // Pairs of the same expert become neighbours, so that its weights are read once.
        let order = &mut scratch.order[..rows];
        order.iter_mut().zip(0..).for_each(|(o, i)| *o = i);
        order.sort_unstable_by_key(|&i| (chosen[i as usize], i));
        for group in order.chunk_by(|&a, &b| chosen[a as usize] == chosen[b as usize]) {
            let expert = chosen[group[0] as usize] as usize;
            let weight = experts.matrix(expert)?;
            let (x_in, y) = (&mut scratch.x[..group.len() * inputs], &mut scratch.out[..group.len() * outputs]);
            for (&i, to) in group.iter().zip(x_in.chunks_exact_mut(inputs)) {
                let row = i as usize / share;
                to.copy_from_slice(&x[row * inputs..(row + 1) * inputs]);
            }
            let bias = experts.bias.map(|b| &b[expert * outputs..(expert + 1) * outputs]);
            self.matmul(&weight, x_in, bias, y)?;
            for (&i, from) in group.iter().zip(y.chunks_exact(outputs)) {
                out[i as usize * outputs..(i as usize + 1) * outputs].copy_from_slice(from);
            }
        }
        Ok(())
    }

    /// Sum over the experts of `x` `[T, top_k, width]` times `weights` `[T, top_k]`: `[T, width]`.
    ///
    /// # Errors
    /// Lengths that do not fit.
    pub fn expert_combine(
        &self,
        x: &[f32],
        weights: &[f32],
        top_k: usize,
        width: usize,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        if top_k == 0 || width == 0 || !weights.len().is_multiple_of(top_k) {
            return Err(KernelError::mismatch("weights of experts", format!("rows of {top_k}"), weights.len()));
        }
        let rows = weights.len() / top_k;
        exact("outputs of experts to combine", x.len(), weights.len().saturating_mul(width))?;
        exact("combined outputs of experts", out.len(), rows.saturating_mul(width))?;
        let out = SharedMut::new(out);
        self.pool.parallel_for(rows, GRAIN.div_ceil(width * top_k), |_, range| {
            for row in range {
                // SAFETY: each row is visited once.
                let out = unsafe { out.part(row * width..(row + 1) * width) };
                out.fill(0.0);
                for (x, w) in x[row * top_k * width..(row + 1) * top_k * width]
                    .chunks_exact(width)
                    .zip(&weights[row * top_k..(row + 1) * top_k])
                {
                    out.iter_mut().zip(x).for_each(|(o, x)| *o += w * x);
                }
            }
        })
    }

    /// Rows `ids` of a matrix as f32, times `scale`.
    ///
    /// # Errors
    /// Lengths or ids that do not fit, a type that cannot be decoded.
    pub fn embed(&self, table: &Matrix<'_>, ids: &[u32], scale: f32, out: &mut [f32]) -> Result<(), KernelError> {
        exact("embedded rows", out.len(), ids.len().saturating_mul(table.cols()))?;
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(table.cols().max(1))) {
            table.decode_row(self.isa, id as usize, out)?;
            if scale != 1.0 {
                out.iter_mut().for_each(|x| *x *= scale);
            }
        }
        Ok(())
    }
}
