//! Decided once per program: where every value lies, and how much scratch memory the kernels need.

use rocmforge_kernels_cpu::{Cpu, ExpertScratch, Needs};
use rocmforge_sdk::program::{Element, Op, Program, Types, ValueId, infer_types};
use rocmforge_sdk::{CompileOptions, Error, Result};

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
        let (places, f32_widths, index_widths) = place_values(&program, &types)?;
        let rows = [options.max_tokens, options.max_sequences, options.max_sequences.min(options.max_tokens)];
        let mut plan = Plan {
            program,
            types,
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
                let (heads, kv_heads, value_dim) = (self.dims(a.q)[0], cache.kv_heads, cache.value_dim);
                let needs = Cpu::attention_needs(heads, kv_heads, self.block_size, value_dim, threads);
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

/// Gives every value a place that no other value uses while it is needed.
fn place_values(program: &Program, types: &Types) -> Result<Placed> {
    let roots = roots(program, types.len());
    let last_use = last_uses(program, &roots);
    let mut places: Vec<Place> = Vec::with_capacity(types.len());
    let mut intervals: [[Intervals; 3]; 2] = Default::default();
    let mut ends: Vec<Vec<usize>> = vec![vec![]; program.nodes.len()];
    for (root, &last) in last_use.iter().enumerate() {
        if roots[root] == root && last < ends.len() {
            ends[last].push(root);
        }
    }
    for (i, node) in program.nodes.iter().enumerate() {
        for _ in 0..node.op.output_count() {
            let value = places.len();
            let ty = types.get(ValueId(value as u32)).ok_or_else(|| Error::internal("a value without a type"))?;
            let width = ty.shape.row_elements().ok_or_else(|| Error::invalid("a value too large to count"))?;
            let lead = lead_index(ty.shape.lead);
            let offset = match roots[value] == value {
                true => intervals[usize::from(ty.element == Element::Index)][lead].take(width),
                false => places[roots[value]].offset,
            };
            places.push(Place { lead, offset, width });
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

/// The node after which each root is no longer needed; `usize::MAX` for outputs.
fn last_uses(program: &Program, roots: &[usize]) -> Vec<usize> {
    let mut last = vec![0; roots.len()];
    let mut value = 0;
    for (i, node) in program.nodes.iter().enumerate() {
        for input in node.op.inputs() {
            last[roots[input.index()]] = i;
        }
        for _ in 0..node.op.output_count() {
            last[roots[value]] = i;
            value += 1;
        }
    }
    for output in &program.outputs {
        last[roots[output.value.index()]] = usize::MAX;
    }
    last
}
