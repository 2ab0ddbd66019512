use std::collections::HashMap;

use rocmforge_quant::DType;

use crate::error::ProgramError;
use crate::infer::{Scope, Types};
use crate::op::{CacheId, Custom, InputSource, Op, ValueId, WeightId};
use crate::program::{CacheDecl, IR_VERSION, ModelInfo, Node, OutputDecl, Program, WeightDecl};
use crate::shape::ValueType;

/// Builds a [`Program`] node by node; each node is checked as it is added, so an error points at its cause.
#[derive(Debug)]
pub struct Builder {
    program: Program,
    types: Types,
    layer: Option<u32>,
    inputs: Vec<(InputSource, ValueId)>,
    weight_ids: HashMap<String, WeightId>,
}

impl Builder {
    /// An empty program.
    pub fn new(info: ModelInfo) -> Builder {
        Builder {
            program: Program { ir: IR_VERSION, info, weights: vec![], caches: vec![], nodes: vec![], outputs: vec![] },
            types: Types::default(),
            layer: None,
            inputs: vec![],
            weight_ids: HashMap::new(),
        }
    }

    /// Tags the nodes that follow with a layer.
    pub fn set_layer(&mut self, layer: Option<u32>) {
        self.layer = layer;
    }

    /// The layer of the nodes that follow.
    pub fn layer(&self) -> Option<u32> {
        self.layer
    }

    /// The type of a value.
    pub fn type_of(&self, value: ValueId) -> Option<&ValueType> {
        self.types.get(value)
    }

    /// Facts about the model.
    pub fn info(&self) -> &ModelInfo {
        &self.program.info
    }

    /// Declares a weight; the same name again gives the same weight.
    ///
    /// # Errors
    /// The name is already declared with other dimensions or another type.
    pub fn weight(&mut self, name: &str, dims: &[usize], dtype: DType) -> Result<WeightId, ProgramError> {
        let decl = WeightDecl { name: name.to_owned(), dims: dims.to_vec(), dtype };
        if let Some(&id) = self.weight_ids.get(name) {
            let known = &self.program.weights[id.index()];
            if *known == decl {
                return Ok(id);
            }
            let place = format!("weight '{name}'");
            return Err(ProgramError::rule(place, format!("{known:?} as before"), format!("{decl:?}")));
        }
        let id = WeightId(self.program.weights.len() as u32);
        self.program.weights.push(decl);
        self.weight_ids.insert(name.to_owned(), id);
        Ok(id)
    }

    /// Declares a KV cache for the current layer. Caches with the same window share a group.
    pub fn cache(&mut self, kv_heads: usize, key_dim: usize, value_dim: usize, window: Option<u32>) -> CacheId {
        let caches = &self.program.caches;
        let group = caches
            .iter()
            .find(|c| c.window == window)
            .map_or_else(|| caches.iter().map(|c| c.group + 1).max().unwrap_or(0), |c| c.group);
        let layer = self.layer.unwrap_or(0);
        let id = CacheId(caches.len() as u32);
        self.program.caches.push(CacheDecl { layer, kv_heads, key_dim, value_dim, group, window });
        id
    }

    /// An input; the same source again gives the same value.
    ///
    /// # Errors
    /// A named input that is not f32.
    pub fn input(&mut self, source: InputSource) -> Result<ValueId, ProgramError> {
        if let Some((_, id)) = self.inputs.iter().find(|(s, _)| *s == source) {
            return Ok(*id);
        }
        let id = self.push(Op::Input { source: source.clone() })?;
        self.inputs.push((source, id));
        Ok(id)
    }

    /// Adds an operation and returns its first result; further ones follow it in number.
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn push(&mut self, op: Op) -> Result<ValueId, ProgramError> {
        let first = ValueId(self.types.len() as u32);
        // Inputs belong to no layer: they are shared by all.
        let layer = if matches!(op, Op::Input { .. }) { None } else { self.layer };
        let node = Node { op, layer };
        let mut scope = Scope {
            weights: &self.program.weights,
            caches: &self.program.caches,
            layers: self.program.info.layers,
            types: std::mem::take(&mut self.types),
        };
        let checked = scope.node(self.program.nodes.len(), &node);
        self.types = scope.types;
        checked?;
        self.program.nodes.push(node);
        Ok(first)
    }

    /// Adds an operation with several results.
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn push_many(&mut self, op: Op) -> Result<Vec<ValueId>, ProgramError> {
        let count = op.output_count() as u32;
        let first = self.push(op)?;
        Ok((first.0..first.0 + count).map(ValueId).collect())
    }

    /// Names a result of the program.
    pub fn output(&mut self, name: &str, value: ValueId) {
        self.program.outputs.push(OutputDecl { name: name.to_owned(), value });
    }

    /// The finished program.
    ///
    /// # Errors
    /// A rule about the program as a whole.
    pub fn finish(self) -> Result<Program, ProgramError> {
        self.program.validate()?;
        Ok(self.program)
    }
}

pub(crate) fn expand_custom(program: &Program, keep: &dyn Fn(&Custom) -> bool) -> Result<Program, ProgramError> {
    let mut out = Program { nodes: vec![], ..program.clone() };
    let mut renamed = Vec::new();
    let mut next = 0;
    append(&mut out.nodes, &program.nodes, &mut renamed, &mut next, keep, None);
    for output in &mut out.outputs {
        output.value = lookup(&renamed, output.value);
    }
    out.validate()?;
    Ok(out)
}

/// Appends `nodes`, whose values are renamed through `renamed`, and extends it with their results.
fn append(
    out: &mut Vec<Node>,
    nodes: &[Node],
    renamed: &mut Vec<ValueId>,
    next: &mut u32,
    keep: &dyn Fn(&Custom) -> bool,
    layer: Option<u32>,
) {
    for node in nodes {
        let layer = node.layer.or(layer);
        if let Op::Custom(custom) = &node.op
            && !keep(custom)
        {
            let mut local: Vec<ValueId> = custom.inputs.iter().map(|&v| lookup(renamed, v)).collect();
            append(out, &custom.decomposition, &mut local, next, keep, layer);
            renamed.extend(custom.results.iter().map(|&r| lookup(&local, r)));
            continue;
        }
        let mut op = node.op.clone();
        op.for_each_input(|v| *v = lookup(renamed, *v));
        for _ in 0..op.output_count() {
            renamed.push(ValueId(*next));
            *next += 1;
        }
        out.push(Node { op, layer });
    }
}

/// Out-of-range values stay as they are and are reported by validation.
fn lookup(renamed: &[ValueId], value: ValueId) -> ValueId {
    renamed.get(value.index()).copied().unwrap_or(ValueId(u32::MAX))
}
