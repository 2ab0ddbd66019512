//! Launches of the other stages.

use rocmforge_kernels_hip::{
    RfAttentionArgs, RfBinaryArgs, RfCache, RfCopyArgs, RfDecodeArgs, RfEmbedArgs, RfExpertCombineArgs, RfPoolArgs,
    RfPositionScaleArgs, RfRopeArgs, RfRouterArgs, RfUnaryArgs, launch,
};
use rocmforge_sdk::Result;
use rocmforge_sdk::program::{GateKind, RopeStyle};

use super::products::activation;
use super::{Run, word};
use crate::plan::{Attention, Binary, Map, MatrixId, Rotate, Router, Stage, View};

/// The most rows of a launch whose second dimension counts them.
const MOST_ROWS: usize = 65_535;

/// Parameters of the kernel for functions that have some.
const SOFTCAP: u32 = 8;
const SCALE: u32 = 9;

impl Run<'_> {
    pub(super) fn stage(&mut self, stage: &Stage) -> Result<()> {
        match stage {
            // Copied before the first launch, or done by another stage.
            Stage::Input { .. } | Stage::Nothing => Ok(()),
            Stage::Embed { ids, table, scale, out } => self.embed(*ids, *table, *scale, *out),
            Stage::Gather { x, rows, out } => {
                let index = self.at(*rows)?;
                let args = RfCopyArgs {
                    x: self.at(*x)?,
                    index,
                    out: self.at(*out)?,
                    rows: word(self.rows(*out))?,
                    n: word(out.width)?,
                    x_stride: word(x.stride)?,
                    out_stride: word(out.stride)?,
                };
                self.launch(&launch::copy(&args, self.facts.wave))
            }
            Stage::Norm(norm) => self.norm(norm),
            Stage::Linear(linear) => self.linear(linear),
            Stage::Binary { kind, a, b, broadcast, parts, out } => self.binary(*kind, *a, *b, *broadcast, *parts, *out),
            Stage::Map { kind, x, out } => self.map(*kind, *x, *out),
            Stage::Gated { kind, gate, up, out, rounded } => self.gated(*kind, *gate, *up, *out, *rounded),
            Stage::Copy { x, from, out, to, width, parts } => {
                let view = |v: &View, (start, stride): (usize, usize)| {
                    let stride = if *parts > 1 { stride } else { v.stride };
                    (v.columns(start, *width), stride)
                };
                self.copy(view(x, *from), view(out, *to), *width, *parts)
            }
            Stage::Rotate(rotate) => self.rotate(rotate),
            Stage::PositionScale { x, positions, beta, interval, out } => {
                let args = RfPositionScaleArgs {
                    x: self.at(*x)?,
                    positions: self.at(*positions)?,
                    out: self.at(*out)?,
                    rows: word(self.rows(*out))?,
                    n: word(out.width)?,
                    x_stride: word(x.stride)?,
                    out_stride: word(out.stride)?,
                    beta: *beta,
                    interval: (*interval).max(1),
                };
                self.launch(&launch::position_scale(&args, self.facts.wave))
            }
            Stage::Attention(attention) => self.attention(attention),
            Stage::Pool { x, mean, out } => {
                let args = RfPoolArgs {
                    x: self.at(*x)?,
                    query_start: self.table(self.layout.query_start),
                    out: self.at(*out)?,
                    sequences: word(self.rows(*out))?,
                    n: word(out.width)?,
                    x_stride: word(x.stride)?,
                    kind: u32::from(!mean),
                };
                self.launch(&launch::pool(&args, self.facts.wave))
            }
            Stage::Router(router) => self.router(router),
            Stage::Combine { x, weights, top_k, out } => {
                let args = RfExpertCombineArgs {
                    x: self.at(*x)?,
                    weights: self.at(*weights)?,
                    out: self.at(*out)?,
                    residual: 0,
                    tokens: word(self.rows(*out))?,
                    n: word(out.width)?,
                    slots: word(*top_k)?,
                    x_stride: word(out.width)?,
                    out_stride: word(out.stride)?,
                    residual_stride: 0,
                };
                self.launch(&launch::expert_combine(&args, self.facts.wave))
            }
        }
    }

    fn embed(&mut self, ids: View, table: MatrixId, scale: f32, out: View) -> Result<()> {
        let planes = self.weights.planes(table)?;
        let args = RfEmbedArgs {
            table: planes.planes,
            ids: self.at(ids)?,
            out: self.at(out)?,
            fault: self.memory.fault.address(),
            format: planes.dtype as u32,
            rows: word(self.plan.matrices.get(table.0).map_or(0, |m| m.rows))?,
            columns: word(out.width)?,
            tokens: word(self.rows(out))?,
            scale,
            reserved: 0,
        };
        self.launch(&launch::embed(&args, self.facts.wave))
    }

    fn binary(&mut self, kind: Binary, a: View, b: View, broadcast: bool, parts: usize, out: View) -> Result<()> {
        let (width, rows) = (a.width / parts.max(1), self.rows(out) * parts);
        let b_width = if broadcast { 1 } else { width };
        let stride = |v: View, own: usize| if parts > 1 { own } else { v.stride };
        let (a_stride, b_stride, out_stride) = (stride(a, width), stride(b, b_width), stride(out, width));
        for first in (0..rows).step_by(MOST_ROWS) {
            let from = |address: u64, stride: usize| address + 4 * (first * stride) as u64;
            let args = RfBinaryArgs {
                a: from(self.at(a)?, a_stride),
                b: from(self.at(b)?, b_stride),
                out: from(self.at(out)?, out_stride),
                rows: word((rows - first).min(MOST_ROWS))?,
                n: word(width)?,
                a_stride: word(a_stride)?,
                b_stride: word(b_stride)?,
                out_stride: word(out_stride)?,
                op: match kind {
                    Binary::Add => 0,
                    Binary::Sub => 1,
                    Binary::Mul => 2,
                },
                broadcast: u32::from(broadcast),
                reserved: 0,
            };
            self.launch(&launch::binary(&args, self.facts.wave))?;
        }
        Ok(())
    }

    fn map(&mut self, kind: Map, x: View, out: View) -> Result<()> {
        let (kind, a, b) = match kind {
            Map::Activation(kind) => (activation(kind), 0.0, 0.0),
            Map::Softcap(cap) => (SOFTCAP, cap, 0.0),
            Map::Scale(mul, add) => (SCALE, mul, add),
        };
        let args = RfUnaryArgs {
            x: self.at(x)?,
            out: self.at(out)?,
            rows: word(self.rows(out))?,
            n: word(out.width)?,
            x_stride: word(x.stride)?,
            out_stride: word(out.stride)?,
            kind,
            a,
            b,
            reserved: 0,
        };
        self.launch(&launch::unary(&args, self.facts.wave))
    }

    /// `parts` pieces per row, each with the elements between two pieces of the source and of the target.
    fn copy(&mut self, from: (View, usize), to: (View, usize), width: usize, parts: usize) -> Result<()> {
        let rows = self.rows(to.0) * parts;
        for first in (0..rows).step_by(MOST_ROWS) {
            let args = RfCopyArgs {
                x: self.at(from.0)? + 4 * (first * from.1) as u64,
                index: 0,
                out: self.at(to.0)? + 4 * (first * to.1) as u64,
                rows: word((rows - first).min(MOST_ROWS))?,
                n: word(width)?,
                x_stride: word(from.1)?,
                out_stride: word(to.1)?,
            };
            self.launch(&launch::copy(&args, self.facts.wave))?;
        }
        Ok(())
    }

    fn rotate(&mut self, r: &Rotate) -> Result<()> {
        let args = self.rotation(r)?;
        self.launch(&launch::rope(&args, self.facts.wave))
    }

    fn rotation(&self, r: &Rotate) -> Result<RfRopeArgs> {
        let x = |heads: &Option<crate::plan::Heads>| self.maybe(heads.as_ref().map(|h| h.x));
        let count = |heads: &Option<crate::plan::Heads>| word(heads.as_ref().map_or(0, |h| h.heads));
        let stride = |heads: &Option<crate::plan::Heads>| word(heads.as_ref().map_or(0, |h| h.x.stride));
        let weight = |heads: &Option<crate::plan::Heads>| self.weights.optional(heads.as_ref().and_then(|h| h.weight));
        let (cache, slots) = match r.cache {
            Some((cache, group)) => (self.caches.cache(cache)?, self.table(self.layout.slots[group])),
            None => (RfCache::default(), 0),
        };
        let rotation = r.rotation.as_ref();
        Ok(RfRopeArgs {
            q: x(&r.q)?,
            k: x(&r.k)?,
            v: x(&r.v)?,
            q_out: self.maybe(r.q_out)?,
            k_out: 0,
            q_weight: weight(&r.q),
            k_weight: weight(&r.k),
            positions: self.maybe(rotation.map(|r| r.positions))?,
            frequencies: rotation.map_or(0, |r| self.weights.frequencies(r.frequencies)),
            slots,
            cache,
            tokens: word(self.layout.rows.tokens)?,
            q_heads: count(&r.q)?,
            k_heads: count(&r.k)?,
            v_heads: count(&r.v)?,
            q_stride: stride(&r.q)?,
            k_stride: stride(&r.k)?,
            v_stride: stride(&r.v)?,
            q_out_stride: word(r.q_out.map_or(0, |o| o.stride))?,
            k_out_stride: 0,
            key_dim: word(r.key_dim)?,
            value_dim: word(r.value_dim)?,
            rotary_dim: word(rotation.map_or(0, |r| r.rotary_dim))?,
            interleaved: u32::from(rotation.is_some_and(|r| r.style == RopeStyle::Interleaved)),
            norm: u32::from(r.norm.is_some()),
            magnitude: rotation.map_or(1.0, |r| r.magnitude),
            eps: r.norm.unwrap_or(0.0),
        })
    }

    fn router(&mut self, r: &Router) -> Result<()> {
        let args = RfRouterArgs {
            logits: self.at(r.logits)?,
            bias: self.weights.optional(r.bias),
            chosen: self.at(r.experts)?,
            weights: self.at(r.weights)?,
            tokens: word(self.rows(r.logits))?,
            experts: word(r.logits.width)?,
            top_k: word(r.top_k)?,
            gate: match r.gate {
                GateKind::Softmax => 0,
                GateKind::SoftmaxTopK => 1,
                GateKind::Sigmoid => 2,
            },
            renormalize: u32::from(r.renormalize),
            stride: word(r.logits.stride)?,
            scale: r.scale,
            reserved: 0,
        };
        self.launch(&launch::router(&args, self.facts.wave))
    }

    fn attention(&mut self, a: &Attention) -> Result<()> {
        let (args, at_once) = self.attending(a)?;
        for launch in launch::attention(&args, self.facts.wave) {
            self.launch(&launch)?;
        }
        match a.rounded {
            Some(rounded) if !at_once => self.round(a.out, rounded),
            _ => Ok(()),
        }
    }

    /// A [rotation and the attention that reads it](crate::plan::Plan::rotated_attention) in one launch, where the step has one
    /// token per sequence and the kernel takes it; false where not.
    pub(super) fn rotate_and_attend(&mut self, r: &Rotate, a: &Attention) -> Result<bool> {
        if !self.single {
            return Ok(false);
        }
        let (attention, at_once) = self.attending(a)?;
        let args = RfDecodeArgs { attention, rope: self.rotation(r)? };
        let Some(launch) = launch::decode(&args, self.facts.wave).filter(|_| at_once || a.rounded.is_none()) else {
            return Ok(false);
        };
        self.launch(&launch)?;
        Ok(true)
    }

    /// What attention is launched with, and whether it makes all that is wanted of its result.
    fn attending(&self, a: &Attention) -> Result<(RfAttentionArgs, bool)> {
        let layout = self.layout;
        let mut args = RfAttentionArgs {
            q: self.at(a.q)?,
            out: self.at(a.out)?,
            sinks: self.weights.optional(a.sinks),
            positions: self.table(layout.positions),
            sequence_of: self.table(layout.sequence_of),
            query_start: self.table(layout.query_start),
            context_lens: self.table(layout.context_lens),
            block_tables: self.table(layout.tables[a.group]),
            partial: self.memory.scratch.address(),
            cache: self.caches.cache(a.cache)?,
            tokens: word(layout.rows.tokens)?,
            sequences: word(layout.rows.sequences)?,
            heads: word(a.heads)?,
            q_stride: word(a.q.stride)?,
            out_stride: word(a.out.stride)?,
            max_blocks: word(layout.blocks)?,
            splits: 1,
            window: a.window.unwrap_or(0),
            scale: a.scale,
            softcap: a.softcap.unwrap_or(0.0),
            ..RfAttentionArgs::default()
        };
        let parts = launch::attention_splits(&args, self.facts.compute_units, self.context);
        let room = |parts: u32| {
            let bytes = launch::attention_partial_bytes(args.tokens, args.heads, parts, args.cache.value_dim);
            parts == 1 || bytes <= self.memory.scratch.bytes()
        };
        args.splits = (1..=parts).rev().find(|&parts| room(parts)).unwrap_or(1);
        let counters = 4 * (u64::from(args.tokens) + u64::from(args.sequences)) * u64::from(args.cache.kv_heads);
        if counters <= self.memory.arrived.bytes() {
            args.arrived = self.memory.arrived.address();
        }
        let forms = self.forms(a.rounded, layout.rows.tokens)?;
        let at_once = launch::attention_fuses(&args);
        if at_once {
            (args.codes, args.scales) = (forms.codes, forms.scales);
            (args.half, args.powers) = (forms.half, forms.powers);
        }
        Ok((args, at_once))
    }
}
