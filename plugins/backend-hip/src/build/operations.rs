//! One operation, one stage.

use rocmforge_kernels_hip::launch::{MOST_CHOSEN, MOST_EXPERTS, MOST_HEAD_DIM, gemm_takes};
use rocmforge_sdk::program::{Activation, Attention, InputSource, Op, Rope, Router, ValueId, WeightId};
use rocmforge_sdk::{Error, Result};

use super::Builder;
use crate::plan::{self, Binary, Heads, Home, Linear, Map, Norm, NormKind, Rotate, Rotation, Stage, View};

impl Builder<'_> {
    /// Adds the stages of a node.
    pub(super) fn node(&mut self, node: usize) -> Result<()> {
        self.at = node;
        self.done[node] = true;
        let program = self.program;
        let out = self.result(node);
        match &program.nodes[node].op {
            Op::Input { source } => self.input(source, out),
            Op::Embed { ids, table, scale } => {
                let (ids, table, view) = (self.view(*ids)?, self.matrix(&[*table])?, self.make(out)?);
                self.push(Stage::Embed { ids, table, scale: *scale, out: view });
                Ok(())
            }
            Op::GatherRows { x, rows } => {
                let (x, rows, view) = (self.view(*x)?, self.view(*rows)?, self.make(out)?);
                self.push(Stage::Gather { x, rows, out: view });
                Ok(())
            }
            Op::Linear { .. } => self.linear(node),
            Op::RmsNorm { x, weight, eps } => match self.product_and_norm(*x, *weight, *eps, out)? {
                true => Ok(()),
                false => self.norm(NormKind::Rms, *x, *weight, None, *eps, out),
            },
            Op::LayerNorm { x, weight, bias, eps } => self.norm(NormKind::Layer, *x, *weight, *bias, *eps, out),
            Op::Add { a, b } => match self.add_and_norm(node, *a, *b)? {
                true => Ok(()),
                false => self.binary(Binary::Add, *a, *b, out),
            },
            Op::Sub { a, b } => self.binary(Binary::Sub, *a, *b, out),
            Op::Mul { a, b } => self.binary(Binary::Mul, *a, *b, out),
            Op::Scale { x, mul, add } => self.map(Map::Scale(*mul, *add), *x, out),
            Op::Unary { x, kind } => self.map(Map::Activation(*kind), *x, out),
            Op::Softcap { x, cap } => self.map(Map::Softcap(*cap), *x, out),
            Op::GatedAct { gate, up, kind } => self.gated(*kind, *gate, *up, out),
            Op::Split { x, sizes } => self.split(*x, sizes, out),
            Op::Concat { xs } => self.concat(xs, out),
            Op::Reshape { .. } => Ok(()),
            Op::Slice { x, start, .. } => self.columns(*x, *start, out),
            Op::Rope(rope) => self.rope(rope, out),
            Op::PositionScale { x, positions, beta, interval } => {
                let (view, positions) = (self.view(*x)?, self.view(*positions)?);
                let to = self.replace(*x, out)?;
                self.push(Stage::PositionScale { x: view, positions, beta: *beta, interval: *interval, out: to });
                Ok(())
            }
            Op::Attention(attention) => self.attention(attention, out),
            Op::Router(router) => self.router(router, out),
            Op::ExpertLinear { .. } => self.expert_linear(node),
            Op::ExpertCombine { x, weights } => {
                let top_k = self.last(*weights);
                let (x, weights) = (self.view(*x)?, self.view(*weights)?);
                let (x, weights) = (self.dense(x), self.dense(weights));
                let view = self.make(out)?;
                self.push(Stage::Combine { x, weights, top_k, out: view });
                Ok(())
            }
            Op::MeanPool { x } | Op::LastPool { x } => {
                let mean = matches!(program.nodes[node].op, Op::MeanPool { .. });
                let (x, view) = (self.view(*x)?, self.make(out)?);
                self.push(Stage::Pool { x, mean, out: view });
                Ok(())
            }
            Op::Custom(c) => Err(Error::unsupported(format!(
                "custom operation {}.{}: expected its decomposition in its place",
                c.domain, c.name
            ))),
        }
    }

    fn input(&mut self, source: &InputSource, out: ValueId) -> Result<()> {
        let lead = self.lead(out);
        let index = |home| View { home, lead, column: 0, width: 1, stride: 1 };
        match source {
            InputSource::TokenIds => self.set_view(out, index(Home::TokenIds)),
            InputSource::Positions => self.set_view(out, index(Home::Positions)),
            InputSource::LogitsRows => self.set_view(out, index(Home::LogitsRows)),
            InputSource::Named { name, .. } => {
                let view = self.make(out)?;
                self.plan.inputs.push((name.clone(), view));
                self.push(Stage::Input { out: view });
            }
        }
        Ok(())
    }

    /// A norm of rows or of their heads. Without the floats, where only rounded values are read.
    pub(super) fn norm(
        &mut self,
        kind: NormKind,
        x: ValueId,
        weight: Option<WeightId>,
        bias: Option<WeightId>,
        eps: f32,
        out: ValueId,
    ) -> Result<()> {
        let (view, heads) = (self.view(x)?, self.width(x)? / self.last(x).max(1));
        let to = match heads > 1 {
            true => self.replace(x, out)?,
            false => self.make(out)?,
        };
        let weight = weight.map(|w| self.floats(w));
        let bias = bias.map(|b| self.floats(b));
        let floats = self.floats_needed(out) || heads > 1;
        let out_view = floats.then_some(to);
        let (addend, sum, rounded) = (None, None, None);
        let stage = Stage::Norm(Norm { kind, x: view, addend, sum, weight, bias, eps, heads, out: out_view, rounded });
        let stage = self.push(stage);
        self.normed.insert(self.roots[out.index()], stage);
        Ok(())
    }

    fn binary(&mut self, kind: Binary, a: ValueId, b: ValueId, out: ValueId) -> Result<()> {
        let broadcast = self.last(b) == 1 && self.last(a) > 1;
        let parts = if broadcast { self.width(a)? / self.last(a) } else { 1 };
        let (mut a_view, mut b_view) = (self.view(a)?, self.view(b)?);
        if parts > 1 {
            (a_view, b_view) = (self.dense(a_view), self.dense(b_view));
        }
        let out = self.make(out)?;
        self.push(Stage::Binary { kind, a: a_view, b: b_view, broadcast, parts, out });
        Ok(())
    }

    fn map(&mut self, kind: Map, x: ValueId, out: ValueId) -> Result<()> {
        let view = self.view(x)?;
        let out = self.replace(x, out)?;
        self.push(Stage::Map { kind, x: view, out });
        Ok(())
    }

    fn gated(&mut self, kind: Activation, gate: ValueId, up: ValueId, out: ValueId) -> Result<()> {
        let (gate, up) = (self.view(gate)?, self.view(up)?);
        let to = self.make(out)?;
        let floats = self.floats_needed(out).then_some(to);
        let stage = self.push(Stage::Gated { kind, gate, up, out: floats, rounded: None });
        self.normed.insert(self.roots[out.index()], stage);
        Ok(())
    }

    fn split(&mut self, x: ValueId, sizes: &[usize], out: ValueId) -> Result<()> {
        let mut start = 0;
        for (i, size) in sizes.iter().enumerate() {
            let part = ValueId(out.0 + i as u32);
            self.columns(x, start, part)?;
            // Parts of a value that nothing else reads do not overlap.
            let root = self.roots[x.index()];
            self.lent[self.roots[part.index()]] = self.lent[root] || self.only_user(x).is_none();
            start += size;
        }
        Ok(())
    }

    /// Columns of the last dimension: a view of whole rows, else copies.
    fn columns(&mut self, x: ValueId, start: usize, out: ValueId) -> Result<()> {
        let (view, width, last) = (self.view(x)?, self.last(out), self.last(x));
        let parts = self.width(x)? / last.max(1);
        if parts == 1 && view.buffer().is_some() {
            self.set_view(out, view.columns(start, width));
            self.lent[self.roots[out.index()]] = true;
            return Ok(());
        }
        let to = self.make(out)?;
        self.push(Stage::Copy { x: view, from: (start, last), out: to, to: (0, width), width, parts });
        Ok(())
    }

    fn concat(&mut self, xs: &[ValueId], out: ValueId) -> Result<()> {
        let (view, last) = (self.make(out)?, self.last(out));
        let parts = self.width(out)? / last.max(1);
        let mut start = 0;
        for &x in xs {
            let (from, width) = (self.view(x)?, self.last(x));
            self.push(Stage::Copy { x: from, from: (0, width), out: view, to: (start, last), width, parts });
            start += width;
        }
        Ok(())
    }

    /// A rotation, with the norm of heads before it.
    fn rope(&mut self, rope: &Rope, out: ValueId) -> Result<()> {
        let (view, positions) = (self.view(rope.x)?, self.view(rope.positions)?);
        let key_dim = self.last(rope.x);
        head_fits(key_dim)?;
        let heads = self.width(rope.x)? / key_dim.max(1);
        let to = self.replace(rope.x, out)?;
        let frequencies = self.frequencies(rope);
        let (style, rotary_dim, magnitude) = (rope.style, rope.rotary_dim, rope.magnitude);
        let rotation = Rotation { positions, style, rotary_dim, magnitude, frequencies };
        let mut q = Heads { x: view, heads, weight: None };
        let mut norm = None;
        if let Some((before, stage)) = self.norm_of_heads(rope.x, heads) {
            (q.x, q.weight, norm) = (before.x, before.weight, Some(before.eps));
            self.plan.stages[stage] = Stage::Nothing;
        }
        let (k, v, cache) = (None, None, None);
        let rotate = Rotate {
            q: Some(q),
            q_out: Some(to),
            k,
            v,
            norm,
            rotation: Some(rotation),
            key_dim,
            value_dim: key_dim,
            cache,
        };
        let stage = self.push(Stage::Rotate(rotate));
        self.rotated.insert(self.roots[out.index()], stage);
        Ok(())
    }

    /// The norm per head that made a value which nothing else reads.
    fn norm_of_heads(&self, value: ValueId, heads: usize) -> Option<(Norm, usize)> {
        self.only_user(value)?;
        let stage = *self.normed.get(&self.roots[value.index()])?;
        match &self.plan.stages[stage] {
            Stage::Norm(n)
                if n.kind == NormKind::Rms && n.bias.is_none() && n.heads == heads && n.rounded.is_none() =>
            {
                n.addend.is_none().then(|| (n.clone(), stage))
            }
            _ => None,
        }
    }

    /// The rotation that made a value which only this node reads.
    fn rotation_of(&self, value: ValueId) -> Option<(Rotate, usize)> {
        self.only_user(value)?;
        let stage = *self.rotated.get(&self.roots[value.index()])?;
        match &self.plan.stages[stage] {
            Stage::Rotate(rotate) => Some((rotate.clone(), stage)),
            _ => None,
        }
    }

    /// The write of keys and values to the cache, with the rotations before it where they are alike.
    fn append(&mut self, a: &Attention, k: ValueId, v: ValueId) -> Result<()> {
        let cache = &self.program.caches[a.cache.index()];
        let (key_dim, value_dim, heads) = (cache.key_dim, cache.value_dim, cache.kv_heads);
        let v = Some(Heads { x: self.view(v)?, heads, weight: None });
        let cache = Some((a.cache.index(), cache.group as usize));
        let both = self.rotation_of(a.q).zip(self.rotation_of(k));
        let both =
            both.filter(|((q, _), (k, _))| q.rotation == k.rotation && q.norm == k.norm && q.key_dim == k.key_dim);
        let rotate = match both {
            Some(((q, q_stage), (k, k_stage))) => {
                self.plan.stages[q_stage] = Stage::Nothing;
                self.plan.stages[k_stage] = Stage::Nothing;
                Rotate { k: k.q, v, value_dim, cache, ..q }
            }
            None => {
                let k = Some(Heads { x: self.view(k)?, heads, weight: None });
                let (q, q_out, norm, rotation) = (None, None, None, None);
                Rotate { q, q_out, k, v, norm, rotation, key_dim, value_dim, cache }
            }
        };
        self.push(Stage::Rotate(rotate));
        Ok(())
    }

    fn attention(&mut self, a: &Attention, out: ValueId) -> Result<()> {
        let cache = &self.program.caches[a.cache.index()];
        head_fits(cache.key_dim.max(cache.value_dim))?;
        if let (Some(k), Some(v)) = (a.k, a.v) {
            self.append(a, k, v)?;
        }
        let q = self.view(a.q)?;
        let heads = self.dims(a.q).first().copied().unwrap_or(1);
        let sinks = a.sinks.map(|s| self.floats(s));
        let view = self.make(out)?;
        let stage = self.push(Stage::Attention(plan::Attention {
            q,
            cache: a.cache.index(),
            group: cache.group as usize,
            heads,
            scale: a.scale,
            window: a.window,
            softcap: a.softcap,
            sinks,
            out: view,
            rounded: None,
        }));
        self.normed.insert(self.roots[out.index()], stage);
        Ok(())
    }

    fn router(&mut self, r: &Router, out: ValueId) -> Result<()> {
        let logits = self.view(r.logits)?;
        if logits.width > MOST_EXPERTS as usize || r.top_k > MOST_CHOSEN as usize {
            return Err(Error::unsupported(format!(
                "expected at most {MOST_EXPERTS} experts and {MOST_CHOSEN} chosen, found {} and {}",
                logits.width, r.top_k
            )));
        }
        let (experts, weights) = (self.make(out)?, self.make(ValueId(out.0 + 1))?);
        let bias = r.selection_bias.map(|b| self.floats(b));
        self.push(Stage::Router(plan::Router {
            logits,
            experts,
            weights,
            top_k: r.top_k,
            gate: r.gate,
            renormalize: r.renormalize,
            scale: r.scale,
            bias,
        }));
        Ok(())
    }

    /// Adds a product, with the forms of its activations that it may read.
    pub(super) fn product(&mut self, mut linear: Linear, x: ValueId) -> Result<usize> {
        let matrix = &self.plan.matrices[linear.matrix.0];
        let (dtype, columns) = (matrix.dtype, matrix.columns);
        let codes = self.plan.takes_codes(dtype);
        linear.gemm = !self.plan.exact && linear.vectors == 1 && gemm_takes(dtype, columns as u32);
        if codes || linear.gemm {
            let id = self.rounded(x)?;
            let forms = &mut self.plan.rounded[id.0];
            forms.few_as_codes |= codes && linear.gemm;
            forms.always_codes |= codes && !linear.gemm;
            forms.many_as_half |= linear.gemm;
            linear.rounded = Some(id);
        }
        if let (true, Some((_, top_k))) = (linear.gemm, &linear.experts) {
            let (lead, items) = (linear.out.lead, *top_k);
            linear.order = Some((self.buffer(lead, 4 * items), self.buffer(lead, 12 * (2 * items + 1))));
        }
        if !codes && (linear.vectors > 1 || (linear.experts.is_some() && !linear.shared)) {
            linear.x = self.dense(linear.x);
        }
        Ok(self.push(Stage::Linear(linear)))
    }
}

/// The kernels hold a head in shared memory.
fn head_fits(dim: usize) -> Result<()> {
    if dim <= MOST_HEAD_DIM as usize {
        return Ok(());
    }
    Err(Error::unsupported(format!("expected heads of at most {MOST_HEAD_DIM} elements, found {dim}")))
}
