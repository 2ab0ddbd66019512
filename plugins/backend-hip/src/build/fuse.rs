//! Operations that are done at once:
//!
//! * matrices of one type that share their input become one matrix, whose result is cut into views: queries, keys, values;
//! * gate and up with their activation become one product;
//! * an addition to a product becomes its last step;
//! * an addition before a norm becomes its first, and rounding to 8 bits its last (`Builder::rounded`).

use rocmforge_sdk::Result;
use rocmforge_sdk::program::{Activation, Op, ValueId, WeightId};

use super::Builder;
use crate::plan::{Linear, Norm, NormKind, Pair, Stage, VectorId};

/// A linear layer of the program.
#[derive(Clone, Copy, Debug)]
struct Layer {
    node: usize,
    x: ValueId,
    weight: WeightId,
    bias: Option<WeightId>,
    out: ValueId,
    /// Rows of its weight.
    rows: usize,
    /// The chosen experts.
    experts: Option<ValueId>,
}

impl Builder<'_> {
    fn layer(&self, node: usize) -> Option<Layer> {
        let (x, weight, bias, experts) = match &self.program.nodes[node].op {
            Op::Linear { x, weight, bias } => (*x, *weight, *bias, None),
            Op::ExpertLinear { x, experts, weight, bias } => (*x, *weight, *bias, Some(*experts)),
            _ => return None,
        };
        let dims = &self.program.weights[weight.index()].dims;
        let rows = dims[dims.len() - 2];
        Some(Layer { node, x, weight, bias, out: self.result(node), rows, experts })
    }

    /// The layers that read what this one does, have weights of its type and size of rows that nothing else reads, and
    /// are not done; this one first.
    fn siblings(&self, layer: Layer) -> Vec<Layer> {
        let weight = |l: &Layer| &self.program.weights[l.weight.index()];
        let alone = |l: &Layer| self.weight_uses[l.weight.index()] == 1;
        if !alone(&layer) {
            return vec![layer];
        }
        let alike = |l: &Layer| {
            let same_rows = weight(l).dims.last() == weight(&layer).dims.last();
            let same_stack = weight(l).dims.len() < 3 || weight(l).dims[0] == weight(&layer).dims[0];
            let same_input = l.x == layer.x && l.experts == layer.experts;
            same_input && weight(l).dtype == weight(&layer).dtype && same_rows && same_stack && alone(l)
        };
        let root = self.roots[layer.x.index()];
        let mut found = vec![layer];
        let users = self.users[root].iter().filter(|&&n| n != layer.node && !self.done[n]);
        found.extend(users.filter_map(|&n| self.layer(n)).filter(alike));
        found
    }

    /// Gate and up of an activation that nothing else reads.
    fn pair(&self, layers: &[Layer]) -> Option<(Layer, Layer, usize, Activation)> {
        let first = layers.first()?;
        let user = self.only_user(first.out)?;
        let Op::GatedAct { gate, up, kind } = &self.program.nodes[user].op else { return None };
        let of =
            |value: &ValueId| layers.iter().find(|l| self.roots[l.out.index()] == self.roots[value.index()]).copied();
        let (gate, up) = (of(gate)?, of(up)?);
        let alone = |l: &Layer| self.only_user(l.out) == Some(user);
        (gate.node != up.node && alone(&gate) && alone(&up) && gate.rows == up.rows).then_some((gate, up, user, *kind))
    }

    /// The biases of layers after another, expert by expert.
    fn biases(&mut self, layers: &[Layer]) -> Option<VectorId> {
        layers.iter().any(|l| l.bias.is_some()).then(|| {
            let dims = &self.program.weights[layers[0].weight.index()].dims;
            let experts = if dims.len() == 3 { dims[0] } else { 1 };
            self.vector(experts, layers.iter().map(|l| (l.bias, experts * l.rows)).collect())
        })
    }

    pub(super) fn linear(&mut self, node: usize) -> Result<()> {
        let Some(layer) = self.layer(node) else { return Ok(()) };
        let vectors = self.width(layer.x)? / self.last(layer.x).max(1);
        let siblings = if vectors == 1 { self.siblings(layer) } else { vec![layer] };
        if let Some((gate, up, user, kind)) = self.pair(&siblings) {
            return self.gate_and_up(gate, up, user, kind);
        }
        // Half of a pair goes with the other half, not with what else shares the input.
        let siblings: Vec<Layer> = match siblings.len() > 1 {
            true => siblings.iter().filter(|l| l.node == node || !self.is_half(l, &siblings)).copied().collect(),
            false => siblings,
        };
        match siblings.len() > 1 {
            true => self.merged(&siblings),
            false => self.single(layer, vectors),
        }
    }

    fn is_half(&self, layer: &Layer, layers: &[Layer]) -> bool {
        let mut first = vec![*layer];
        first.extend(layers.iter().filter(|l| l.node != layer.node));
        self.pair(&first).is_some()
    }

    /// One product for all; each result is columns of it.
    fn merged(&mut self, layers: &[Layer]) -> Result<()> {
        let weights: Vec<WeightId> = layers.iter().map(|l| l.weight).collect();
        let (matrix, bias) = (self.matrix(&weights)?, self.biases(layers));
        let x = layers[0].x;
        let out = self.rows(self.lead(layers[0].out), layers.iter().map(|l| l.rows).sum());
        let mut column = 0;
        for layer in layers {
            self.done[layer.node] = true;
            self.set_view(layer.out, out.columns(column, layer.rows));
            column += layer.rows;
        }
        let linear = self.plain(matrix, x)?;
        self.product(Linear { bias, out, ..linear }, x).map(drop)
    }

    /// A product that takes the addition after it along.
    fn single(&mut self, layer: Layer, vectors: usize) -> Result<()> {
        let (matrix, bias) = (self.matrix(&[layer.weight])?, self.biases(&[layer]));
        let added = if vectors == 1 { self.addition(layer.out) } else { None };
        let (out, residual) = match added {
            Some((user, other)) => {
                self.done[user] = true;
                (self.make(self.result(user))?, Some(self.view(other)?))
            }
            None => (self.make(layer.out)?, None),
        };
        let linear = self.plain(matrix, layer.x)?;
        let stage = self.product(Linear { bias, out, residual, vectors, ..linear }, layer.x)?;
        if vectors == 1 {
            let result = added.map_or(layer.out, |(user, _)| self.result(user));
            self.multiplied.insert(self.roots[result.index()], stage);
        }
        Ok(())
    }

    /// An addition that is all that reads a value, and what it adds, if that is there.
    fn addition(&self, value: ValueId) -> Option<(usize, ValueId)> {
        let user = self.only_user(value)?;
        let Op::Add { a, b } = &self.program.nodes[user].op else { return None };
        let is_it = |v: &ValueId| self.roots[v.index()] == self.roots[value.index()];
        let other = if is_it(a) { b } else { a };
        let same = self.dims(*a) == self.dims(*b) && self.lead(*a) == self.lead(*b);
        (same && !is_it(other) && self.is_made(*other)).then_some((user, *other))
    }

    fn gate_and_up(&mut self, gate: Layer, up: Layer, user: usize, kind: Activation) -> Result<()> {
        let layers = [gate, up];
        let (matrix, bias) = (self.matrix(&[gate.weight, up.weight])?, self.biases(&layers));
        layers.iter().for_each(|l| self.done[l.node] = true);
        self.done[user] = true;
        let out = self.make(self.result(user))?;
        let linear = self.plain(matrix, gate.x)?;
        let (experts, shared) = self.chosen(gate)?;
        let items = experts.as_ref().map_or(1, |(_, top_k)| *top_k);
        let both = Some(self.rows(out.lead, 2 * gate.rows * items));
        let pair = Some(Pair { rows: gate.rows, activation: kind, both, rounded: None });
        let stage = self.product(Linear { bias, out, pair, experts, shared, ..linear }, gate.x)?;
        self.normed.insert(self.roots[self.result(user).index()], stage);
        Ok(())
    }

    /// The experts of a layer, and whether a row of its input serves all of a token's.
    fn chosen(&mut self, layer: Layer) -> Result<(Option<(crate::plan::View, usize)>, bool)> {
        let Some(experts) = layer.experts else { return Ok((None, false)) };
        let (view, top_k) = (self.view(experts)?, self.last(experts));
        Ok((Some((self.dense(view), top_k)), self.dims(layer.x).len() == 1))
    }

    pub(super) fn expert_linear(&mut self, node: usize) -> Result<()> {
        let Some(layer) = self.layer(node) else { return Ok(()) };
        let siblings = self.siblings(layer);
        if let Some((gate, up, user, kind)) = self.pair(&siblings) {
            return self.gate_and_up(gate, up, user, kind);
        }
        let (matrix, bias) = (self.matrix(&[layer.weight])?, self.biases(&[layer]));
        let (experts, shared) = self.chosen(layer)?;
        let out = self.make(layer.out)?;
        let linear = self.plain(matrix, layer.x)?;
        self.product(Linear { bias, out, experts, shared, ..linear }, layer.x).map(drop)
    }

    /// A product without anything; its result is still to be set.
    fn plain(&mut self, matrix: crate::plan::MatrixId, x: ValueId) -> Result<Linear> {
        let x = self.view(x)?;
        let (rounded, bias, residual, pair, experts) = (None, None, None, None, None);
        let (vectors, shared, next, gemm, order) = (1, false, None, false, None);
        Ok(Linear { matrix, x, rounded, bias, residual, pair, experts, vectors, shared, next, gemm, order, out: x })
    }

    /// Lets the product that made a value take its norm as well, where only other forms of that are read; false where
    /// there is no such product.
    pub(super) fn product_and_norm(
        &mut self,
        x: ValueId,
        weight: Option<WeightId>,
        eps: f32,
        out: ValueId,
    ) -> Result<bool> {
        let Some(&stage) = self.multiplied.get(&self.roots[x.index()]) else { return Ok(false) };
        let view = self.view(x)?;
        // A product takes one norm along.
        let taken = !matches!(&self.plan.stages[stage], Stage::Linear(l) if l.next.is_none() && l.pair.is_none());
        if taken || self.floats_needed(out) || self.dims(x).len() != 1 || !view.is_dense() {
            return Ok(false);
        }
        self.make(out)?;
        let weight = weight.map(|w| self.floats(w));
        let (kind, heads) = (NormKind::Rms, 1);
        let (addend, sum, bias, to, rounded) = (None, None, None, None, None);
        let norm = Norm { kind, x: view, addend, sum, weight, bias, eps, heads, out: to, rounded };
        let Some(Stage::Linear(linear)) = self.plan.stages.get_mut(stage) else { return Ok(false) };
        linear.next = Some(Box::new(norm));
        self.normed.insert(self.roots[out.index()], stage);
        Ok(true)
    }

    /// An addition and the norm of its result; false where that is not what follows.
    pub(super) fn add_and_norm(&mut self, node: usize, a: ValueId, b: ValueId) -> Result<bool> {
        let sum = self.result(node);
        if self.dims(a) != self.dims(b) || self.dims(a).len() != 1 {
            return Ok(false);
        }
        let root = self.roots[sum.index()];
        let norm = self.users[root].iter().copied().find(
            |&n| matches!(&self.program.nodes[n].op, Op::RmsNorm { x, .. } | Op::LayerNorm { x, .. } if *x == sum),
        );
        let Some(norm) = norm.filter(|&n| !self.done[n]) else { return Ok(false) };
        let (kind, weight, bias, eps) = match &self.program.nodes[norm].op {
            Op::RmsNorm { weight, eps, .. } => (NormKind::Rms, *weight, None, *eps),
            Op::LayerNorm { weight, bias, eps, .. } => (NormKind::Layer, *weight, *bias, *eps),
            _ => return Ok(false),
        };
        self.done[norm] = true;
        let needed = self.leaves[root] || self.users[root].len() > 1;
        let (x, addend) = (self.view(a)?, self.view(b)?);
        let sum = if needed { Some(self.make(sum)?) } else { None };
        let (weight, bias) = (weight.map(|w| self.floats(w)), bias.map(|b| self.floats(b)));
        let result = self.result(norm);
        let to = self.make(result)?;
        let out = self.floats_needed(result).then_some(to);
        let (addend, rounded) = (Some(addend), None);
        let stage = self.push(Stage::Norm(Norm { kind, x, addend, sum, weight, bias, eps, heads: 1, out, rounded }));
        self.normed.insert(self.roots[result.index()], stage);
        Ok(true)
    }
}
