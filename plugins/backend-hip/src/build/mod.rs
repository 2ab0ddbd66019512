//! From a program to a plan: every operation becomes a stage, or part of one where several can be done at once.

mod fuse;
mod operations;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use rocmforge_kernels_hip::stored_as;
use rocmforge_sdk::program::{Element, Op, Program, Rope, Types, ValueId, WeightId, infer_types};
use rocmforge_sdk::{Error, Result};

use crate::arena::{Buffer, BufferId, lead_index, place};
use crate::plan::{
    Attention, Home, Linear, Matrix, MatrixId, Norm, NormKind, Output, Pair, Plan, Rounded, RoundedId, Stage, Vector,
    VectorId, View,
};

/// Compiles a program. With `exact`, products take floats, whatever the type of their weights.
pub(crate) fn plan(program: &Program, exact: bool) -> Result<Plan> {
    let mut builder = Builder::new(program)?;
    builder.plan.exact = exact;
    for node in 0..program.nodes.len() {
        if !builder.done[node] {
            builder
                .node(node)
                .map_err(|e| Error { message: format!("{}: {}", describe(program, node), e.message), ..e })?;
        }
    }
    builder.finish()
}

/// For messages: a node by number, operation and layer.
fn describe(program: &Program, node: usize) -> String {
    let n = &program.nodes[node];
    let layer = n.layer.map(|l| format!(", layer {l}")).unwrap_or_default();
    format!("node {node} ({}{layer})", n.op.name())
}

struct Builder<'a> {
    program: &'a Program,
    types: Types,
    /// The value whose memory each value is: another one for reshapes.
    roots: Vec<usize>,
    /// First value of each node.
    first: Vec<u32>,
    /// Nodes that read a root, each as often as it does, reshapes left out.
    users: Vec<Vec<usize>>,
    /// Roots that leave the program.
    leaves: Vec<bool>,
    /// Roots that share their bytes with another value, so that nothing may be written in their place.
    lent: Vec<bool>,
    /// How often each weight is read.
    weight_uses: Vec<usize>,
    /// Nodes that a stage covers.
    done: Vec<bool>,
    views: Vec<Option<View>>,
    plan: Plan,
    /// Rounded activations by the view that they are made from.
    rounded: HashMap<(BufferId, usize, usize), RoundedId>,
    /// The norm, gated activation, gated product or attention that made a root, so that it can round it as well.
    normed: HashMap<usize, usize>,
    /// The product that made a root.
    multiplied: HashMap<usize, usize>,
    /// The rotation that made a root.
    rotated: HashMap<usize, usize>,
    at: usize,
}

impl<'a> Builder<'a> {
    fn new(program: &'a Program) -> Result<Builder<'a>> {
        let types = infer_types(program)?;
        let (mut roots, mut first): (Vec<usize>, Vec<u32>) = (vec![], vec![]);
        for node in &program.nodes {
            first.push(roots.len() as u32);
            for _ in 0..node.op.output_count() {
                roots.push(match &node.op {
                    Op::Reshape { x, .. } => roots[x.index()],
                    _ => roots.len(),
                });
            }
        }
        let mut users = vec![vec![]; roots.len()];
        let mut weight_uses = vec![0; program.weights.len()];
        for (i, node) in program.nodes.iter().enumerate() {
            if !matches!(node.op, Op::Reshape { .. }) {
                node.op.inputs().iter().for_each(|v| users[roots[v.index()]].push(i));
            }
            node.op.weights().iter().for_each(|w| weight_uses[w.index()] += 1);
        }
        let mut leaves = vec![false; roots.len()];
        program.outputs.iter().for_each(|o| leaves[roots[o.value.index()]] = true);
        let (done, views) = (vec![false; program.nodes.len()], vec![None; roots.len()]);
        let lent = vec![false; roots.len()];
        let (plan, rounded, normed) = (Plan::default(), HashMap::new(), HashMap::new());
        let (multiplied, rotated) = (HashMap::new(), HashMap::new());
        Ok(Builder {
            program,
            types,
            roots,
            first,
            users,
            leaves,
            lent,
            weight_uses,
            done,
            views,
            plan,
            rounded,
            normed,
            multiplied,
            rotated,
            at: 0,
        })
    }

    /// The first value of a node.
    fn result(&self, node: usize) -> ValueId {
        ValueId(self.first[node])
    }

    /// Constant dimensions of a value.
    fn dims(&self, value: ValueId) -> &[usize] {
        self.types.get(value).map_or(&[], |t| &t.shape.dims)
    }

    /// Innermost dimension of a value.
    fn last(&self, value: ValueId) -> usize {
        self.dims(value).last().copied().unwrap_or(1)
    }

    fn lead(&self, value: ValueId) -> usize {
        self.types.get(value).map_or(0, |t| lead_index(t.shape.lead))
    }

    /// Elements per row of a value.
    fn width(&self, value: ValueId) -> Result<usize> {
        let width = self.types.get(value).and_then(|t| t.shape.row_elements());
        width.ok_or_else(|| Error::invalid("a value too large to count"))
    }

    /// The only node that reads a value, if there is just one and the value does not leave the program.
    fn only_user(&self, value: ValueId) -> Option<usize> {
        let root = self.roots[value.index()];
        match (&self.users[root][..], self.leaves[root]) {
            (&[user], false) => Some(user),
            _ => None,
        }
    }

    /// Whether the floats of a value are read, and not only what they are rounded to.
    fn floats_needed(&self, value: ValueId) -> bool {
        let root = self.roots[value.index()];
        let rounds = |node: &usize| match &self.program.nodes[*node].op {
            Op::Linear { weight, .. } | Op::ExpertLinear { weight, .. } => {
                self.plan.takes_codes(stored_as(self.program.weights[weight.index()].dtype))
            }
            _ => false,
        };
        self.leaves[root] || !self.users[root].iter().all(rounds)
    }

    fn view(&self, value: ValueId) -> Result<View> {
        let view = self.roots.get(value.index()).and_then(|&root| self.views[root]);
        view.ok_or_else(|| Error::internal(format!("value {value} is read before it is made")))
    }

    /// Whether a value is there for the next stage.
    fn is_made(&self, value: ValueId) -> bool {
        self.views[self.roots[value.index()]].is_some()
    }

    fn set_view(&mut self, value: ValueId, view: View) {
        self.views[self.roots[value.index()]] = Some(view);
    }

    /// A new buffer of rows.
    fn buffer(&mut self, lead: usize, row_bytes: usize) -> BufferId {
        self.plan.buffers.push(Buffer::new(lead, row_bytes as u64));
        BufferId(self.plan.buffers.len() as u32 - 1)
    }

    /// A new buffer for rows of `width` elements.
    fn rows(&mut self, lead: usize, width: usize) -> View {
        let home = Home::Buffer(self.buffer(lead, 4 * width));
        View { home, lead, column: 0, width, stride: width }
    }

    /// A new buffer for a value.
    fn make(&mut self, value: ValueId) -> Result<View> {
        let view = self.rows(self.lead(value), self.width(value)?);
        self.set_view(value, view);
        Ok(view)
    }

    /// The memory of `x` for a result that replaces it, where nothing else reads it; else a new buffer.
    fn replace(&mut self, x: ValueId, result: ValueId) -> Result<View> {
        let view = self.view(x)?;
        let lent = self.lent[self.roots[x.index()]];
        if lent || self.only_user(x).is_none() || view.buffer().is_none() {
            return self.make(result);
        }
        self.set_view(result, view);
        Ok(view)
    }

    fn push(&mut self, stage: Stage) -> usize {
        self.plan.stages.push(stage);
        self.plan.places.push(describe(self.program, self.at));
        self.plan.stages.len() - 1
    }

    /// A value whose rows follow each other, for stages that need that.
    fn dense(&mut self, view: View) -> View {
        if view.is_dense() {
            return view;
        }
        let out = self.rows(view.lead, view.width);
        let (from, to) = ((0, view.width), (0, view.width));
        self.push(Stage::Copy { x: view, from, out, to, width: view.width, parts: 1 });
        out
    }

    /// The other forms of a value, made once: by the norm that made the value, if one did.
    fn rounded(&mut self, value: ValueId) -> Result<RoundedId> {
        let (view, parts) = (self.view(value)?, self.width(value)? / self.last(value).max(1));
        let Some(buffer) = view.buffer() else { return Err(Error::internal("an index is rounded")) };
        let key = (buffer, view.column, view.width);
        if let Some(&found) = self.rounded.get(&key) {
            return Ok(found);
        }
        let forms = Rounded {
            codes: self.buffer(view.lead, view.width),
            scales: self.buffer(view.lead, view.width.div_ceil(32) * 8),
            half: self.buffer(view.lead, 2 * view.width),
            powers: self.buffer(view.lead, 4 * parts),
            parts,
            few_as_codes: false,
            always_codes: false,
            many_as_half: false,
        };
        self.plan.rounded.push(forms);
        let id = RoundedId(self.plan.rounded.len() - 1);
        let normed = self.normed.get(&self.roots[value.index()]).copied();
        match normed.and_then(|stage| self.plan.stages.get_mut(stage)) {
            Some(Stage::Norm(norm)) if norm.heads == 1 => norm.rounded = Some(id),
            Some(
                Stage::Gated { rounded, .. }
                | Stage::Attention(Attention { rounded, .. })
                | Stage::Linear(Linear { pair: Some(Pair { rounded, .. }), .. }),
            ) => {
                *rounded = Some(id);
            }
            Some(Stage::Linear(Linear { next: Some(norm), .. })) => norm.rounded = Some(id),
            _ => {
                let (kind, x) = (NormKind::None, view);
                let (addend, sum, weight, bias, out) = (None, None, None, None, None);
                let rounded = Some(id);
                self.push(Stage::Norm(Norm {
                    kind,
                    x,
                    addend,
                    sum,
                    weight,
                    bias,
                    eps: 0.0,
                    heads: parts,
                    out,
                    rounded,
                }));
            }
        }
        self.rounded.insert(key, id);
        Ok(id)
    }

    /// A matrix of weights whose rows lie below each other.
    fn matrix(&mut self, weights: &[WeightId]) -> Result<MatrixId> {
        if let &[weight] = weights {
            let same = |m: &Matrix| m.parts.len() == 1 && m.parts[0].0 == weight;
            if let Some(found) = self.plan.matrices.iter().position(same) {
                return Ok(MatrixId(found));
            }
        }
        let mut matrix: Option<Matrix> = None;
        for &weight in weights {
            let decl = &self.program.weights[weight.index()];
            let (experts, rows, columns) = match decl.dims[..] {
                [rows, columns] => (1, rows, columns),
                [experts, rows, columns] => (experts, rows, columns),
                _ => return Err(Error::invalid(format!("weight '{}': expected a matrix", decl.name))),
            };
            let empty = Matrix { dtype: stored_as(decl.dtype), experts, rows: 0, columns, parts: vec![] };
            let matrix = matrix.get_or_insert(empty);
            matrix.rows += rows;
            matrix.parts.push((weight, rows));
        }
        self.plan.matrices.push(matrix.ok_or_else(|| Error::internal("a matrix without weights"))?);
        Ok(MatrixId(self.plan.matrices.len() - 1))
    }

    /// Floats of weights after another, expert by expert; a part without a weight is zeros.
    fn vector(&mut self, groups: usize, parts: Vec<(Option<WeightId>, usize)>) -> VectorId {
        let vector = Vector { groups, parts };
        let found = self.plan.vectors.iter().position(|v| *v == vector);
        VectorId(found.unwrap_or_else(|| {
            self.plan.vectors.push(vector);
            self.plan.vectors.len() - 1
        }))
    }

    /// The floats of one weight.
    fn floats(&mut self, weight: WeightId) -> VectorId {
        let len = self.program.weights[weight.index()].dims.iter().product();
        self.vector(1, vec![(Some(weight), len)])
    }

    /// The number of a way of rotating.
    fn frequencies(&mut self, rope: &Rope) -> usize {
        let facts = |r: &Rope| (r.rotary_dim, r.base, r.factors);
        let same = |r: &Rope| facts(r) == facts(rope) && r.scaling == rope.scaling;
        self.plan.frequencies.iter().position(same).unwrap_or_else(|| {
            self.plan.frequencies.push(rope.clone());
            self.plan.frequencies.len() - 1
        })
    }

    fn finish(mut self) -> Result<Plan> {
        for output in &self.program.outputs {
            self.at = self.program.nodes.len() - 1;
            let mut view = self.view(output.value)?;
            if self.types.get(output.value).is_some_and(|t| t.element == Element::Index) {
                return Err(Error::unsupported(format!("output '{}' of indices", output.name)));
            }
            if !view.is_dense() {
                view = self.dense(view);
            }
            self.plan.outputs.push(Output { name: output.name.clone(), view });
        }
        let kept: Vec<BufferId> = self.plan.outputs.iter().filter_map(|o| o.view.buffer()).collect();
        let uses: Vec<Vec<BufferId>> = (0..self.plan.stages.len()).map(|i| self.plan.buffers_at(i)).collect();
        self.plan.row_bytes = place(&mut self.plan.buffers, &uses, &kept);
        Ok(self.plan)
    }
}
