//! Which nodes run as one: linear layers of the same input are one loop over the rows of all their matrices, and what is
//! added to the result of one, as the residual stream is, is added there and then. A norm or a gate that they alone read is
//! made as it is rounded for them.

use rocmforge_kernels_cpu::TOGETHER;
use rocmforge_sdk::program::{Node, Op, Program, Types, ValueId, WeightId};

/// A linear layer, perhaps with an addition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layer {
    /// Its node.
    pub(crate) node: usize,
    pub(crate) weight: WeightId,
    pub(crate) bias: Option<WeightId>,
    /// Added to the result.
    pub(crate) add: Option<ValueId>,
    /// The result, of the addition if there is one.
    pub(crate) out: ValueId,
}

/// What runs at a time.
#[derive(Debug)]
pub(crate) enum Item {
    Node(usize),
    /// Layers with the input `.0`, which node `.1` makes for them if it is there; the first layer is.
    Linears(ValueId, Option<usize>, [Option<Layer>; TOGETHER]),
}

impl Item {
    /// The first of its nodes.
    pub(crate) fn node(&self) -> usize {
        match self {
            Item::Node(node) => *node,
            Item::Linears(_, _, layers) => layers.iter().flatten().next().map_or(0, |layer| layer.node),
        }
    }

    /// The values that it reads.
    pub(crate) fn inputs(&self, program: &Program) -> Vec<ValueId> {
        match self {
            Item::Node(node) => program.nodes[*node].op.inputs(),
            Item::Linears(x, source, layers) => {
                let inputs = source.map_or_else(|| vec![*x], |node| program.nodes[node].op.inputs());
                inputs.into_iter().chain(layers.iter().flatten().filter_map(|layer| layer.add)).collect()
            }
        }
    }

    /// The values that it makes; `firsts` as of [`firsts`].
    pub(crate) fn outputs(&self, program: &Program, firsts: &[ValueId]) -> Vec<ValueId> {
        match self {
            Item::Node(node) => values(firsts[*node], &program.nodes[*node]).collect(),
            Item::Linears(x, source, layers) => {
                layers.iter().flatten().map(|layer| layer.out).chain(source.map(|_| *x)).collect()
            }
        }
    }
}

fn values(first: ValueId, node: &Node) -> impl Iterator<Item = ValueId> {
    (0..node.op.output_count() as u32).map(move |i| ValueId(first.0 + i))
}

/// The first value of each node.
pub(crate) fn firsts(program: &Program) -> Vec<ValueId> {
    let mut next = 0;
    let first = |node: &Node| {
        next += node.op.output_count() as u32;
        ValueId(next - node.op.output_count() as u32)
    };
    program.nodes.iter().map(first).collect()
}

/// All nodes, in an order in which what is read was made before.
pub(crate) fn schedule(program: &Program, types: &Types, firsts: &[ValueId]) -> Vec<Item> {
    let mut state = Schedule {
        program,
        types,
        firsts,
        readers: only_readers(program, types.len()),
        made: vec![],
        done: vec![],
        sources: vec![],
    };
    state.made.resize(types.len(), false);
    state.sources.resize(types.len(), None);
    state.done.resize(program.nodes.len(), false);
    let mut items = vec![];
    for (i, node) in program.nodes.iter().enumerate() {
        if state.done[i] {
            continue;
        }
        let item = match node.op {
            Op::Linear { x, .. } => Item::Linears(x, state.sources[x.index()], state.layers(i, x)),
            _ if state.waits(i) => continue,
            _ => Item::Node(i),
        };
        state.done[i] = true;
        item.outputs(program, firsts).iter().for_each(|value| state.made[value.index()] = true);
        items.push(item);
    }
    items
}

/// The node that reads each value, if there is one and no other, and the program does not put the value out.
fn only_readers(program: &Program, values: usize) -> Vec<Option<usize>> {
    let (mut readers, mut uses) = (vec![None; values], vec![0; values]);
    for (i, node) in program.nodes.iter().enumerate() {
        for value in node.op.inputs() {
            readers[value.index()] = Some(i);
            uses[value.index()] += 1;
        }
    }
    program.outputs.iter().for_each(|output| uses[output.value.index()] += 2);
    readers.into_iter().zip(uses).map(|(reader, uses)| reader.filter(|_| uses == 1)).collect()
}

struct Schedule<'a> {
    program: &'a Program,
    types: &'a Types,
    firsts: &'a [ValueId],
    /// As of [`only_readers`].
    readers: Vec<Option<usize>>,
    /// Values that exist by now.
    made: Vec<bool>,
    /// Nodes that are part of an item.
    done: Vec<bool>,
    /// The nodes that make values as part of the item that reads them.
    sources: Vec<Option<usize>>,
}

impl Schedule<'_> {
    /// The linear layers of x from node `from` on.
    fn layers(&mut self, from: usize, of: ValueId) -> [Option<Layer>; TOGETHER] {
        let (mut layers, mut count, program) = ([None; TOGETHER], 0, self.program);
        for (node, n) in program.nodes.iter().enumerate().skip(from) {
            let Op::Linear { x, weight, bias } = n.op else { continue };
            if x != of || self.done[node] || count == TOGETHER {
                continue;
            }
            let (add, out) = self.addition(node).map_or((None, self.firsts[node]), |(add, out)| (Some(add), out));
            layers[count] = Some(Layer { node, weight, bias, add, out });
            self.done[node] = true;
            count += 1;
        }
        layers
    }

    /// Whether a node runs only with those that read it: a norm or a gate of layers that are one item.
    fn waits(&mut self, node: usize) -> bool {
        let (program, value) = (self.program, self.firsts[node]);
        let mut readers = program.nodes.iter().filter(|n| n.op.inputs().contains(&value));
        let makes = matches!(program.nodes[node].op, Op::RmsNorm { .. } | Op::LayerNorm { .. } | Op::GatedAct { .. });
        let one_row = self.types.get(value).is_some_and(|ty| ty.shape.dims.len() == 1);
        let waits = makes
            && one_row
            && (1..=TOGETHER).contains(&readers.clone().count())
            && readers.all(|n| matches!(n.op, Op::Linear { x, .. } if x == value))
            && program.outputs.iter().all(|output| output.value != value);
        if waits {
            self.sources[value.index()] = Some(node);
        }
        waits
    }

    /// What is added to the result of a node, and the sum, if nobody else wants the result and it exists by then.
    fn addition(&mut self, node: usize) -> Option<(ValueId, ValueId)> {
        let value = self.firsts[node];
        let at = self.readers[value.index()]?;
        let Op::Add { a, b } = self.program.nodes[at].op else { return None };
        let other = if a == value { b } else { a };
        let same = self.types.get(a)? == self.types.get(b)?;
        (same && self.made[other.index()]).then(|| {
            self.done[at] = true;
            (other, self.firsts[at])
        })
    }
}
