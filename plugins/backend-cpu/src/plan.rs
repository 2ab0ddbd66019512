//! Decided once per program: where every value lies, and how much scratch memory the kernels need.

use rocmforge_kernels_cpu::{Cpu, ExpertScratch, Needs};
use rocmforge_sdk::program::{Element, Op, Program, Types, ValueId, infer_types};
use rocmforge_sdk::{CompileOptions, Error, Result};

use crate::fusion::{Item, firsts, schedule};
use crate::regions::{Intervals, Place, lead_index};

/// Sizes of the scratch memory for experts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ExpertSizes {
    pub(crate) rows: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) experts: usize,
}

/// A compiled program.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) program: Program,
    pub(crate) types: Types,
    /// What runs, in order.
    pub(crate) items: Vec<Item>,
    /// The first value of each node.
    pub(crate) firsts: Vec<ValueId>,
    places: Vec<Place>,
    /// Elements per row of the f32 regions, by leading dimension.
    pub(crate) f32_widths: [usize; 3],
    /// The same for indices.
    pub(crate) index_widths: [usize; 3],
    /// Rows that memory is set aside for. Steps with more rows that need logits than sequences make the last grow.
    pub(crate) rows: [usize; 3],
    pub(crate) needs: Needs,
    pub(crate) experts: ExpertSizes,
    pub(crate) block_size: usize,
}

impl Plan {
    pub(crate) fn new(program: Program, options: CompileOptions, threads: usize) -> Result<Plan> {
        let types = infer_types(&program)?;
        let firsts = firsts(&program);
        let items = schedule(&program, &types, &firsts);
        let (places, f32_widths, index_widths) = place_values(&program, &types, &items, &firsts)?;
        let rows = [options.max_tokens, options.max_sequences, options.max_sequences.min(options.max_tokens)];
        let mut plan = Plan {
            program,
            types,
            items,
            firsts,
            places,
            f32_widths,
            index_widths,
            rows,
            needs: Needs::default(),
            experts: ExpertSizes::default(),
            block_size: options.block_size,
        };
        for i in 0..plan.program.nodes.len() {
            plan.add_needs(i, threads)?;
        }
        Ok(plan)
    }

    /// For messages: a node by number, operation and layer.
    pub(crate) fn place_of_node(&self, i: usize) -> String {
        let node = &self.program.nodes[i];
        let layer = node.layer.map(|l| format!(", layer {l}")).unwrap_or_default();
        format!("node {i} ({}{layer})", node.op.name())
    }

    /// Where a value lies.
    pub(crate) fn place(&self, value: ValueId) -> Result<Place> {
        let place = self.places.get(value.index()).copied();
        place.ok_or_else(|| Error::internal(format!("value {value} has no place")))
    }

    /// The number of the leading dimension of what an item makes.
    pub(crate) fn lead(&self, item: &Item) -> Result<usize> {
        match item {
            Item::Node(node) => Ok(self.place(self.firsts[*node])?.lead),
            Item::Linears(x, ..) => Ok(self.place(*x)?.lead),
        }
    }

    /// Constant dimensions of a value.
    pub(crate) fn dims(&self, value: ValueId) -> &[usize] {
        self.types.get(value).map_or(&[], |t| &t.shape.dims)
    }

    /// The innermost dimension of a value.
    pub(crate) fn last(&self, value: ValueId) -> usize {
        self.dims(value).last().copied().unwrap_or(1)
    }

    /// Bytes of all regions.
    pub(crate) fn region_bytes(&self) -> u64 {
        (0..3).map(|l| 4 * (self.f32_widths[l] + self.index_widths[l]) as u64 * self.rows[l] as u64).sum()
    }

    /// Bytes of the buffers for experts.
    pub(crate) fn expert_bytes(&self) -> u64 {
        let e = self.experts;
        ExpertScratch::bytes(e.rows, e.inputs, e.outputs) + 4 * e.experts as u64
    }

    fn add_needs(&mut self, i: usize, threads: usize) -> Result<()> {
        let op = self.program.nodes[i].op.clone();
        match &op {
            Op::Custom(c) => {
                let place = self.place_of_node(i);
                return Err(Error::unsupported(format!(
                    "{place}: custom operation {}.{}: expected its decomposition in its place",
                    c.domain, c.name
                )));
            }
            Op::Linear { x, .. } => {
                let (place, last) = (self.place(*x)?, self.last(*x));
                let rows = self.rows[place.lead].saturating_mul(place.width / last.max(1));
                self.needs = self.needs.include(Cpu::matmul_needs(rows, last));
            }
            Op::Attention(a) => {
                let cache = &self.program.caches[a.cache.index()];
                let (heads, dims) = (self.dims(a.q)[0], (cache.key_dim, cache.value_dim));
                let needs = Cpu::attention_needs(heads, cache.kv_heads, self.block_size, dims, threads);
                self.needs = self.needs.include(needs);
            }
            Op::Router(r) => self.experts.experts = self.experts.experts.max(self.last(r.logits)),
            Op::ExpertLinear { x, experts, weight, .. } => {
                let chosen = self.place(*experts)?;
                let rows = self.rows[chosen.lead].saturating_mul(chosen.width);
                let (inputs, outputs) = (self.last(*x), self.program.weights[weight.index()].dims[1]);
                self.needs = self.needs.include(Cpu::expert_needs(rows, inputs));
                self.experts.rows = self.experts.rows.max(rows);
                self.experts.inputs = self.experts.inputs.max(inputs);
                self.experts.outputs = self.experts.outputs.max(outputs);
            }
            _ => {}
        }
        Ok(())
    }
}

type Placed = (Vec<Place>, [usize; 3], [usize; 3]);

/// Gives every value that is made a place that no other value uses while it is needed.
fn place_values(program: &Program, types: &Types, items: &[Item], firsts: &[ValueId]) -> Result<Placed> {
    let roots = roots(program, types.len());
    let last_use = last_uses(program, &roots, items, firsts);
    let mut places = vec![Place::NONE; types.len()];
    let mut intervals: [[Intervals; 3]; 2] = Default::default();
    let mut ends: Vec<Vec<usize>> = vec![vec![]; items.len()];
    for (root, &last) in last_use.iter().enumerate() {
        if let Some(last) = last.filter(|&last| roots[root] == root && last < items.len()) {
            ends[last].push(root);
        }
    }
    for (i, item) in items.iter().enumerate() {
        for value in item.outputs(program, firsts) {
            let ty = types.get(value).ok_or_else(|| Error::internal("a value without a type"))?;
            let width = ty.shape.row_elements().ok_or_else(|| Error::invalid("a value too large to count"))?;
            let (lead, value) = (lead_index(ty.shape.lead), value.index());
            let offset = match roots[value] == value {
                true => intervals[usize::from(ty.element == Element::Index)][lead].take(width),
                false => places[roots[value]].offset,
            };
            places[value] = Place { lead, offset, width };
        }
        for &root in &ends[i] {
            let place = places[root];
            let index = types.get(ValueId(root as u32)).is_some_and(|t| t.element == Element::Index);
            intervals[usize::from(index)][place.lead].free(place.offset);
        }
    }
    let widths = |kind: usize| [0, 1, 2].map(|lead| intervals[kind][lead].width());
    Ok((places, widths(0), widths(1)))
}

/// The value whose memory each value is: another one for reshapes.
fn roots(program: &Program, values: usize) -> Vec<usize> {
    let mut roots: Vec<usize> = Vec::with_capacity(values);
    for node in &program.nodes {
        for _ in 0..node.op.output_count() {
            let root = match &node.op {
                Op::Reshape { x, .. } => roots[x.index()],
                _ => roots.len(),
            };
            roots.push(root);
        }
    }
    roots
}

/// The item after which each root is no longer needed: `usize::MAX` for outputs, none for values that are not made.
fn last_uses(program: &Program, roots: &[usize], items: &[Item], firsts: &[ValueId]) -> Vec<Option<usize>> {
    let mut last = vec![None; roots.len()];
    for (i, item) in items.iter().enumerate() {
        for value in item.inputs(program).into_iter().chain(item.outputs(program, firsts)) {
            last[roots[value.index()]] = Some(i);
        }
    }
    for output in &program.outputs {
        last[roots[output.value.index()]] = Some(usize::MAX);
    }
    last
}
