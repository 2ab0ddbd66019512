//! Cuts a program between layers, where nothing but the residual stream passes from one part to the next.

use std::collections::HashMap;
use std::ops::Range;

use rocmforge_program::{
    CacheId, Element, InputSource, Lead, Node, Op, OutputDecl, Program, ProgramError, ValueId, ValueType, WeightId,
    infer_types, output,
};

/// Consecutive layers of a program, as a program of its own.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// Reads the input `hidden` unless it is the first, and writes the output `hidden` unless it is the last.
    pub(crate) program: Program,
    /// The whole program's number of each of its cache groups.
    pub(crate) groups: Vec<usize>,
    /// Its layers. The first piece has what comes before the layers, the last what comes after.
    pub(crate) layers: Range<u32>,
}

/// A place between two layers.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// The first node behind it.
    node: usize,
    /// The value that crosses it.
    value: ValueId,
}

/// A program with the places where it can be cut.
#[derive(Debug)]
pub(crate) struct Cuts<'a> {
    program: &'a Program,
    types: Vec<ValueType>,
    /// Node of each value.
    producers: Vec<usize>,
    /// By the first layer behind the cut.
    cuts: HashMap<u32, Cut>,
}

impl<'a> Cuts<'a> {
    pub(crate) fn of(program: &'a Program) -> Result<Cuts<'a>, ProgramError> {
        let inferred = infer_types(program)?;
        let types: Vec<ValueType> =
            (0..inferred.len()).filter_map(|v| inferred.get(ValueId(v as u32)).cloned()).collect();
        let producers: Vec<usize> = (program.nodes.iter().enumerate())
            .flat_map(|(i, node)| std::iter::repeat_n(i, node.op.output_count()))
            .collect();
        let mut cuts = Cuts { program, types, producers, cuts: HashMap::new() };
        for layer in 1..program.info.layers {
            if let Some(cut) = cuts.before(layer) {
                cuts.cuts.insert(layer, cut);
            }
        }
        Ok(cuts)
    }

    /// Whether the program can be cut before a layer.
    pub(crate) fn possible(&self, layer: u32) -> bool {
        self.cuts.contains_key(&layer)
    }

    fn before(&self, layer: u32) -> Option<Cut> {
        let nodes = &self.program.nodes;
        let node = nodes.iter().position(|n| n.layer.is_some_and(|l| l >= layer))?;
        let in_order = nodes[..node].iter().all(|n| n.layer.is_none_or(|l| l < layer))
            && nodes[node..].iter().all(|n| n.layer.is_none_or(|l| l >= layer));
        let crosses = |v: ValueId| self.producers[v.index()] < node && !self.is_input(v);
        let mut crossing: Vec<ValueId> =
            nodes[node..].iter().flat_map(|n| n.op.inputs()).filter(|&v| crosses(v)).collect();
        crossing.sort_unstable();
        crossing.dedup();
        let outputs_behind = self.program.outputs.iter().all(|o| self.producers[o.value.index()] >= node);
        let shared_cache = caches(&nodes[..node]).iter().any(|c| caches(&nodes[node..]).contains(c));
        let &[value] = &crossing[..] else { return None };
        let ty = &self.types[value.index()];
        let residual = ty.element == Element::F32 && ty.shape.lead == Lead::T;
        let name_free =
            self.program.outputs.iter().all(|o| o.name != output::HIDDEN) && !self.has_input(output::HIDDEN);
        (in_order && outputs_behind && !shared_cache && residual && name_free).then_some(Cut { node, value })
    }

    fn is_input(&self, value: ValueId) -> bool {
        matches!(self.program.nodes[self.producers[value.index()]].op, Op::Input { .. })
    }

    fn has_input(&self, wanted: &str) -> bool {
        let named = |n: &Node| matches!(&n.op, Op::Input { source: InputSource::Named { name, .. } } if name == wanted);
        self.program.nodes.iter().any(named)
    }

    /// The layers of a range. Its ends must be [possible](Cuts::possible), or those of the program.
    pub(crate) fn piece(&self, layers: Range<u32>) -> Result<Piece, ProgramError> {
        let (start, end) = (self.cuts.get(&layers.start), self.cuts.get(&layers.end));
        let nodes = start.map_or(0, |c| c.node)..end.map_or(self.program.nodes.len(), |c| c.node);
        let mut copy = Copy {
            source: self,
            program: Program {
                nodes: vec![],
                outputs: vec![],
                weights: vec![],
                caches: vec![],
                ..self.program.clone()
            },
            values: HashMap::new(),
            next: 0,
            weights: HashMap::new(),
            caches: HashMap::new(),
            groups: vec![],
        };
        if let Some(cut) = start {
            let ty = self.types[cut.value.index()].clone();
            let source = InputSource::Named { name: output::HIDDEN.to_owned(), ty };
            copy.push(Node { op: Op::Input { source }, layer: None }, &[cut.value]);
        }
        for i in nodes {
            copy.node(i);
        }
        match end {
            Some(cut) => copy.output(output::HIDDEN, cut.value),
            None => self.program.outputs.iter().for_each(|o| copy.output(&o.name, o.value)),
        }
        let Copy { program, groups, .. } = copy;
        program.validate()?;
        Ok(Piece { program, groups, layers })
    }
}

/// The caches that nodes use, those of decompositions included.
fn caches(nodes: &[Node]) -> Vec<CacheId> {
    let cache = |n: &Node| match &n.op {
        Op::Attention(a) => vec![a.cache],
        Op::Custom(c) => caches(&c.decomposition),
        _ => vec![],
    };
    nodes.iter().flat_map(cache).collect()
}

/// A piece under construction, with new numbers for what it takes over.
struct Copy<'a> {
    source: &'a Cuts<'a>,
    program: Program,
    values: HashMap<ValueId, ValueId>,
    next: u32,
    weights: HashMap<WeightId, WeightId>,
    caches: HashMap<CacheId, CacheId>,
    groups: Vec<usize>,
}

impl Copy<'_> {
    /// Adds a node that produces, under new numbers, these values.
    fn push(&mut self, node: Node, results: &[ValueId]) {
        for &value in results {
            self.values.insert(value, ValueId(self.next));
            self.next += 1;
        }
        self.program.nodes.push(node);
    }

    fn output(&mut self, name: &str, value: ValueId) {
        // A value that is missing is found by `validate`.
        let value = self.values.get(&value).copied().unwrap_or(ValueId(u32::MAX));
        self.program.outputs.push(OutputDecl { name: name.to_owned(), value });
    }

    /// Takes over a node, and before it the inputs of the step that it reads.
    fn node(&mut self, i: usize) {
        let source = self.source;
        let node = &source.program.nodes[i];
        if matches!(node.op, Op::Input { .. }) {
            return;
        }
        for value in node.op.inputs() {
            if source.is_input(value) && !self.values.contains_key(&value) {
                self.push(source.program.nodes[source.producers[value.index()]].clone(), &[value]);
            }
        }
        let mut op = node.op.clone();
        op.for_each_input(|v| *v = self.values.get(v).copied().unwrap_or(ValueId(u32::MAX)));
        self.renumber(&mut op);
        let first = source.producers.partition_point(|&p| p < i) as u32;
        let results: Vec<ValueId> = (first..first + node.op.output_count() as u32).map(ValueId).collect();
        self.push(Node { op, layer: node.layer }, &results);
    }

    /// Gives weights and caches their numbers in the piece.
    fn renumber(&mut self, op: &mut Op) {
        match op {
            Op::Embed { table: weight, .. } => self.weight(weight),
            Op::Linear { weight, bias, .. } | Op::ExpertLinear { weight, bias, .. } => {
                self.weight(weight);
                bias.iter_mut().for_each(|b| self.weight(b));
            }
            Op::RmsNorm { weight, .. } => weight.iter_mut().for_each(|w| self.weight(w)),
            Op::LayerNorm { weight, bias, .. } => weight.iter_mut().chain(bias).for_each(|w| self.weight(w)),
            Op::Rope(rope) => rope.factors.iter_mut().for_each(|w| self.weight(w)),
            Op::Router(router) => router.selection_bias.iter_mut().for_each(|w| self.weight(w)),
            Op::Attention(attention) => {
                attention.sinks.iter_mut().for_each(|w| self.weight(w));
                self.cache(&mut attention.cache);
            }
            Op::Custom(custom) => custom.decomposition.iter_mut().for_each(|n| self.renumber(&mut n.op)),
            Op::Input { .. }
            | Op::GatherRows { .. }
            | Op::Add { .. }
            | Op::Sub { .. }
            | Op::Mul { .. }
            | Op::Scale { .. }
            | Op::Unary { .. }
            | Op::Softcap { .. }
            | Op::GatedAct { .. }
            | Op::Split { .. }
            | Op::Concat { .. }
            | Op::Reshape { .. }
            | Op::Slice { .. }
            | Op::PositionScale { .. }
            | Op::ExpertCombine { .. }
            | Op::MeanPool { .. }
            | Op::LastPool { .. } => {}
        }
    }

    fn weight(&mut self, id: &mut WeightId) {
        let decls = &mut self.program.weights;
        *id = *self.weights.entry(*id).or_insert_with(|| {
            decls.push(self.source.program.weights[id.index()].clone());
            WeightId(decls.len() as u32 - 1)
        });
    }

    fn cache(&mut self, id: &mut CacheId) {
        let (decls, groups) = (&mut self.program.caches, &mut self.groups);
        *id = *self.caches.entry(*id).or_insert_with(|| {
            let mut decl = self.source.program.caches[id.index()].clone();
            let group = groups.iter().position(|&g| g == decl.group as usize).unwrap_or_else(|| {
                groups.push(decl.group as usize);
                groups.len() - 1
            });
            decl.group = group as u32;
            decls.push(decl);
            CacheId(decls.len() as u32 - 1)
        });
    }
}
