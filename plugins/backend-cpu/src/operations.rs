//! Each operation of a program, as a call of its kernel.

use rocmforge_kernels_cpu::{
    self as kernels, Binary, Cpu, Gate, Inputs, KernelError, Linear, Norm, Sequences, TOGETHER,
};
use rocmforge_sdk::program::{Activation, Attention, GateKind, Op, Rope, RopeStyle, Router, ValueId, WeightId};
use rocmforge_sdk::{Error, Result};

use crate::executable::Memory;
use crate::fusion::Layer;
use crate::plan::Plan;
use crate::regions::Place;
use crate::run::Context;

/// The kernels' name of a pointwise function.
pub(crate) fn activation(kind: Activation) -> kernels::Activation {
    match kind {
        Activation::Silu => kernels::Activation::Silu,
        Activation::GeluTanh => kernels::Activation::GeluTanh,
        Activation::GeluErf => kernels::Activation::GeluErf,
        Activation::GeluQuick => kernels::Activation::GeluQuick,
        Activation::Relu => kernels::Activation::Relu,
        Activation::ReluSquared => kernels::Activation::ReluSquared,
        Activation::Sigmoid => kernels::Activation::Sigmoid,
        Activation::Tanh => kernels::Activation::Tanh,
    }
}

/// The place is added by the caller.
fn failed(error: KernelError) -> Error {
    match error {
        KernelError::Weights { .. } => Error::unsupported(error),
        KernelError::Memory { .. } => Error::out_of_memory(error),
        _ => Error::internal(error),
    }
}

impl Memory {
    /// A kernel from one value to one of the same shape.
    pub(crate) fn map(
        &mut self,
        c: &Context<'_>,
        x: ValueId,
        kernel: impl FnOnce(&Cpu, &[f32], &mut [f32]) -> Result<(), KernelError>,
    ) -> Result<()> {
        let (out, [x]) = self.values.split(c.out()?, [c.plan.place(x)?])?;
        kernel(&self.cpu, x, out).map_err(failed)
    }

    pub(crate) fn embed(&mut self, c: &Context<'_>, ids: ValueId, table: WeightId, scale: f32) -> Result<()> {
        let (table, ids) = (self.weights.table(table)?, self.indices.get(c.plan.place(ids)?));
        self.cpu.embed(&table, ids, scale, self.values.get_mut(c.out()?)).map_err(failed)
    }

    pub(crate) fn gather_rows(&mut self, c: &Context<'_>, x: ValueId, rows: ValueId) -> Result<()> {
        let (place, out, rows) = (c.plan.place(x)?, c.out()?, c.plan.place(rows)?);
        if c.is_index(x) {
            let rows = self.indices.get(rows).to_vec();
            let (out, [x]) = self.indices.split(out, [place])?;
            return gather(x, &rows, place.width, out);
        }
        let (out, [x]) = self.values.split(out, [place])?;
        gather(x, self.indices.get(rows), place.width, out)
    }

    /// Whether layers round their input all in the same way.
    pub(crate) fn rounds(&self, layers: &[Option<Layer>; TOGETHER]) -> Result<bool> {
        let mut weights = [None; TOGETHER];
        for (weight, layer) in weights.iter_mut().zip(layers) {
            *weight = layer.map(|layer| self.weights.matrix(layer.weight)).transpose()?;
        }
        Ok(Cpu::rounds(weights.iter().flatten()))
    }

    /// Layers of x, or if `made` is there of what that operation would make of its operands, and x stays as it is.
    pub(crate) fn linears(
        &mut self,
        plan: &Plan,
        x: ValueId,
        made: Option<&Op>,
        layers: &[Option<Layer>; TOGETHER],
    ) -> Result<()> {
        // A value does not change within a step.
        let key = Some(self.steps << 32 | u64::from(x.0));
        let (mut outs, mut adds, mut linears) =
            ([Place::NONE; TOGETHER], [Place::NONE; TOGETHER], [const { None }; TOGETHER]);
        for (i, layer) in layers.iter().enumerate() {
            if let Some(layer) = layer {
                outs[i] = plan.place(layer.out)?;
                adds[i] = layer.add.map_or(Ok(Place::NONE), |add| plan.place(add))?;
            }
        }
        let [a, b, c, d] = adds;
        let [first, second] = match made {
            Some(Op::RmsNorm { x, .. } | Op::LayerNorm { x, .. }) => [plan.place(*x)?, Place::NONE],
            Some(Op::GatedAct { gate, up, .. }) => [plan.place(*gate)?, plan.place(*up)?],
            _ => [plan.place(x)?, Place::NONE],
        };
        let (outs, [first, second, adds @ ..]) = self.values.split_many(outs, [first, second, a, b, c, d])?;
        let norm = |weight, bias, eps| -> Result<Norm<'_>> {
            let (weight, bias) = (self.weights.optional(weight)?, self.weights.optional(bias)?);
            Ok(Norm { width: plan.last(x), weight, bias, eps })
        };
        let inputs = match made {
            Some(&Op::RmsNorm { weight, eps, .. }) => Inputs::Norm(norm(weight, None, eps)?, false, first),
            Some(&Op::LayerNorm { weight, bias, eps, .. }) => Inputs::Norm(norm(weight, bias, eps)?, true, first),
            Some(&Op::GatedAct { kind, .. }) => Inputs::Gated(activation(kind), first, second),
            _ => Inputs::Values(first, key),
        };
        for ((linear, layer), (out, add)) in linears.iter_mut().zip(layers).zip(outs.into_iter().zip(adds)) {
            if let Some(layer) = layer {
                let (weight, bias) = (self.weights.matrix(layer.weight)?, self.weights.optional(layer.bias)?);
                *linear = Some(Linear { weight, bias, add: layer.add.map(|_| add), out });
            }
        }
        self.cpu.linears(inputs, linears).map_err(failed)
    }

    pub(crate) fn norm(
        &mut self,
        c: &Context<'_>,
        x: ValueId,
        (weight, bias): (Option<WeightId>, Option<WeightId>),
        eps: f32,
        centre: bool,
    ) -> Result<()> {
        let width = c.plan.last(x);
        let (out, [x]) = self.values.split(c.out()?, [c.plan.place(x)?])?;
        let norm = Norm { width, weight: self.weights.optional(weight)?, bias: self.weights.optional(bias)?, eps };
        let run = if centre { Cpu::layer_norm } else { Cpu::rms_norm };
        run(&self.cpu, norm, x, out).map_err(failed)
    }

    pub(crate) fn binary(&mut self, c: &Context<'_>, op: Binary, a: ValueId, b: ValueId) -> Result<()> {
        let (place_a, place_b) = (c.plan.place(a)?, c.plan.place(b)?);
        let repeat = place_a.width / place_b.width.max(1);
        let (out, [a, b]) = self.values.split(c.out()?, [place_a, place_b])?;
        self.cpu.binary(op, a, b, repeat, out).map_err(failed)
    }

    pub(crate) fn gated(&mut self, c: &Context<'_>, gate: ValueId, up: ValueId, kind: Activation) -> Result<()> {
        let (out, [gate, up]) = self.values.split(c.out()?, [c.plan.place(gate)?, c.plan.place(up)?])?;
        self.cpu.gated(activation(kind), gate, up, out).map_err(failed)
    }

    pub(crate) fn split(&mut self, c: &Context<'_>, x: ValueId, sizes: &[usize]) -> Result<()> {
        let mut start = 0;
        for (i, size) in sizes.iter().enumerate() {
            self.columns(c, x, start, ValueId(c.first.0 + i as u32))?;
            start += size;
        }
        Ok(())
    }

    /// `out` becomes the columns of `x` from `start` on.
    pub(crate) fn columns(&mut self, c: &Context<'_>, x: ValueId, start: usize, out: ValueId) -> Result<()> {
        let (from, to) = (c.plan.last(x), c.plan.last(out));
        let (out, [x]) = self.values.split(c.plan.place(out)?, [c.plan.place(x)?])?;
        for (out, x) in out.chunks_exact_mut(to).zip(x.chunks_exact(from)) {
            out.copy_from_slice(&x[start..start + to]);
        }
        Ok(())
    }

    pub(crate) fn concat(&mut self, c: &Context<'_>, xs: &[ValueId]) -> Result<()> {
        let (place, width) = (c.out()?, c.plan.last(c.first));
        let mut start = 0;
        for &x in xs {
            let part = c.plan.last(x);
            let (out, [x]) = self.values.split(place, [c.plan.place(x)?])?;
            for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(part)) {
                out[start..start + part].copy_from_slice(x);
            }
            start += part;
        }
        Ok(())
    }

    pub(crate) fn rope(&mut self, c: &Context<'_>, rope: &Rope) -> Result<()> {
        let positions = self.indices.get(c.plan.place(rope.positions)?);
        let (cos, sin) = self.ropes.get(rope, positions)?;
        let dims = c.plan.dims(rope.x);
        let (out, [x]) = self.values.split(c.out()?, [c.plan.place(rope.x)?])?;
        let rope = kernels::Rope {
            heads: dims[0],
            head_dim: dims[1],
            interleaved: rope.style == RopeStyle::Interleaved,
            pairs: rope.rotary_dim / 2,
            cos,
            sin,
        };
        self.cpu.rope(rope, x, out).map_err(failed)
    }

    pub(crate) fn position_scale(
        &mut self,
        c: &Context<'_>,
        x: ValueId,
        positions: ValueId,
        beta: f32,
        interval: u32,
    ) -> Result<()> {
        let place = c.plan.place(x)?;
        let positions = self.indices.get(c.plan.place(positions)?);
        let factors = &mut self.factors[..positions.len()];
        for (factor, position) in factors.iter_mut().zip(positions) {
            let steps = f64::from(position / interval.max(1));
            *factor = (1.0 + f64::from(beta) * steps.ln_1p()) as f32;
        }
        let (out, [x]) = self.values.split(c.out()?, [place])?;
        self.cpu.binary(Binary::Mul, x, factors, place.width, out).map_err(failed)
    }

    pub(crate) fn attention(&mut self, c: &Context<'_>, a: &Attention) -> Result<()> {
        let group = c.plan.program.caches[a.cache.index()].group as usize;
        let tables = c.step.groups.get(group);
        let tables = tables.ok_or_else(|| Error::invalid(format!("step: no tables for cache group {group}")))?;
        let cache = &mut self.caches[a.cache.index()];
        if let (Some(k), Some(v)) = (a.k, a.v) {
            let (k, v) = (self.values.get(c.plan.place(k)?), self.values.get(c.plan.place(v)?));
            cache.write(&self.cpu, k, v, tables.slot_mapping).map_err(failed)?;
        }
        let attention = kernels::Attention {
            heads: c.plan.dims(a.q)[0],
            scale: a.scale,
            window: a.window,
            softcap: a.softcap,
            sinks: self.weights.optional(a.sinks)?,
        };
        let sequences = Sequences {
            positions: c.step.positions,
            query_start: c.step.query_start,
            block_tables: tables.block_tables,
            max_blocks: tables.max_blocks,
        };
        let (out, [q]) = self.values.split(c.out()?, [c.plan.place(a.q)?])?;
        self.cpu.attention(attention, cache, sequences, q, out).map_err(failed)
    }

    pub(crate) fn router(&mut self, c: &Context<'_>, r: &Router) -> Result<()> {
        let experts = c.plan.last(r.logits);
        let chosen = self.indices.get_mut(c.out()?);
        let (weights, [logits]) = self.values.split(c.further(1)?, [c.plan.place(r.logits)?])?;
        let router = kernels::Router {
            experts,
            top_k: r.top_k,
            gate: match r.gate {
                GateKind::Softmax => Gate::Softmax,
                GateKind::SoftmaxTopK => Gate::SoftmaxTopK,
                GateKind::Sigmoid => Gate::Sigmoid,
            },
            renormalize: r.renormalize,
            scale: r.scale,
            bias: self.weights.optional(r.selection_bias)?,
        };
        self.cpu.router(router, logits, &mut self.scores[..experts], chosen, weights).map_err(failed)
    }

    pub(crate) fn expert_linear(
        &mut self,
        c: &Context<'_>,
        x: ValueId,
        experts: ValueId,
        weight: WeightId,
        bias: Option<WeightId>,
    ) -> Result<()> {
        // Without a dimension of its own for the chosen experts, x has one row for all of a token's.
        let share = if c.plan.dims(x).len() == 1 { c.plan.last(experts) } else { 1 };
        let chosen = self.indices.get(c.plan.place(experts)?);
        let stack = self.weights.experts(weight, self.weights.optional(bias)?)?;
        let (out, [x]) = self.values.split(c.out()?, [c.plan.place(x)?])?;
        self.cpu.expert_linear(&stack, chosen, x, share, &mut self.expert_scratch, out).map_err(failed)
    }

    pub(crate) fn expert_combine(&mut self, c: &Context<'_>, x: ValueId, weights: ValueId) -> Result<()> {
        let (top_k, width) = (c.plan.last(weights), c.plan.last(x));
        let (out, [x, weights]) = self.values.split(c.out()?, [c.plan.place(x)?, c.plan.place(weights)?])?;
        self.cpu.expert_combine(x, weights, top_k, width, out).map_err(failed)
    }

    /// The mean of the rows of each sequence, or its last row.
    pub(crate) fn pool(&mut self, c: &Context<'_>, x: ValueId, mean: bool) -> Result<()> {
        let place = c.plan.place(x)?;
        let (out, [x]) = self.values.split(c.out()?, [place])?;
        for (out, bounds) in out.chunks_exact_mut(place.width).zip(c.step.query_start.windows(2)) {
            let (start, end) = (bounds[0] as usize, bounds[1] as usize);
            let start = if mean { start } else { end - 1 };
            out.fill(0.0);
            for row in x[start * place.width..end * place.width].chunks_exact(place.width) {
                out.iter_mut().zip(row).for_each(|(o, x)| *o += x);
            }
            let factor = 1.0 / (end - start) as f32;
            out.iter_mut().for_each(|o| *o *= factor);
        }
        Ok(())
    }
}

/// Rows of `width` elements by number.
fn gather<E: Copy>(x: &[E], rows: &[u32], width: usize, out: &mut [E]) -> Result<()> {
    for (out, &row) in out.chunks_exact_mut(width).zip(rows) {
        let row = row as usize;
        let found = x.get(row * width..(row + 1) * width);
        let found = found.ok_or_else(|| Error::invalid(format!("row {row} of {}", x.len() / width)))?;
        out.copy_from_slice(found);
    }
    Ok(())
}
