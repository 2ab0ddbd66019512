use crate::error::ProgramError;
use crate::op::{Attention, Custom, InputSource, Op, Rope, RopeScaling, Router, ValueId, WeightId};
use crate::program::{CacheDecl, Node, Program, WeightDecl};
use crate::shape::{Element, Lead, ValueType};

/// The type of every value, by number.
#[derive(Clone, Debug, Default)]
pub struct Types {
    types: Vec<ValueType>,
}

impl Types {
    /// The type of a value, if it is defined.
    pub fn get(&self, value: ValueId) -> Option<&ValueType> {
        self.types.get(value.index())
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }
}

/// Types of all values of a program, in order.
///
/// # Errors
/// The first node whose operands do not fit, with its number, operation and layer.
pub fn infer_types(program: &Program) -> Result<Types, ProgramError> {
    let mut scope = Scope {
        weights: &program.weights,
        caches: &program.caches,
        layers: program.info.layers,
        types: Types::default(),
    };
    for (i, node) in program.nodes.iter().enumerate() {
        scope.node(i, node)?;
    }
    Ok(scope.types)
}

/// What a node may refer to.
pub(crate) struct Scope<'a> {
    pub(crate) weights: &'a [WeightDecl],
    pub(crate) caches: &'a [CacheDecl],
    pub(crate) layers: u32,
    pub(crate) types: Types,
}

type Outs = Vec<ValueType>;

impl Scope<'_> {
    /// Checks a node and appends the types of its results.
    pub(crate) fn node(&mut self, index: usize, node: &Node) -> Result<(), ProgramError> {
        let layer = node.layer.map(|l| format!(", layer {l}")).unwrap_or_default();
        let place = format!("node {index} ({}{layer})", node.op.name());
        if node.layer.is_some_and(|l| l >= self.layers) {
            return Err(ProgramError::rule(place, format!("a layer below {}", self.layers), "that layer"));
        }
        let outs = Check { scope: self, place: &place }.op(&node.op)?;
        if let Some(bad) = outs.iter().find(|t| t.shape.row_elements().is_none_or(|n| n == 0)) {
            return Err(ProgramError::rule(place, "a result with elements that can be counted", bad));
        }
        self.types.types.extend(outs);
        Ok(())
    }
}

struct Check<'a> {
    scope: &'a Scope<'a>,
    place: &'a str,
}

impl<'a> Check<'a> {
    fn fail<T>(&self, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Result<T, ProgramError> {
        Err(ProgramError::rule(self.place, expected, found))
    }

    fn require(
        &self,
        holds: bool,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Result<(), ProgramError> {
        if holds { Ok(()) } else { self.fail(expected, found) }
    }

    fn value(&self, id: ValueId) -> Result<&'a ValueType, ProgramError> {
        match self.scope.types.get(id) {
            Some(t) => Ok(t),
            None => self.fail("a value defined before", id),
        }
    }

    fn f32(&self, id: ValueId) -> Result<&'a ValueType, ProgramError> {
        let t = self.value(id)?;
        self.require(t.element == Element::F32, "an f32 operand", format!("{id}: {t}"))?;
        Ok(t)
    }

    fn index(&self, id: ValueId, lead: Lead, dims: &[usize]) -> Result<(), ProgramError> {
        let (want, t) = (ValueType::index(lead, dims), self.value(id)?);
        self.require(*t == want, &want, format!("{id}: {t}"))
    }

    fn typed(&self, id: ValueId, want: &ValueType) -> Result<(), ProgramError> {
        let t = self.value(id)?;
        self.require(t == want, want, format!("{id}: {t}"))
    }

    /// An f32 operand `[lead, dims; rank]`.
    fn ranked(&self, id: ValueId, rank: usize) -> Result<&'a ValueType, ProgramError> {
        let t = self.f32(id)?;
        self.require(
            t.shape.dims.len() == rank,
            format!("{rank} dimensions after the leading one"),
            format!("{id}: {t}"),
        )?;
        Ok(t)
    }

    fn weight(&self, id: WeightId) -> Result<&'a WeightDecl, ProgramError> {
        match self.scope.weights.get(id.index()) {
            Some(w) => Ok(w),
            None => self.fail("a declared weight", id),
        }
    }

    fn weight_dims(&self, id: WeightId, dims: &[usize]) -> Result<(), ProgramError> {
        let w = self.weight(id)?;
        self.require(w.dims == dims, format!("'{}' of {dims:?}", w.name), format!("{:?}", w.dims))
    }

    fn optional_vector(&self, id: Option<WeightId>, n: usize) -> Result<(), ProgramError> {
        id.map_or(Ok(()), |id| self.weight_dims(id, &[n]))
    }

    fn with_last(t: &ValueType, last: usize) -> ValueType {
        let mut t = t.clone();
        match t.shape.dims.last_mut() {
            Some(d) => *d = last,
            None => t.shape.dims.push(last),
        }
        t
    }

    fn op(&self, op: &Op) -> Result<Outs, ProgramError> {
        match op {
            Op::Input { source } => self.input(source),
            Op::Embed { ids, table, .. } => {
                self.index(*ids, Lead::T, &[])?;
                let w = self.weight(*table)?;
                self.require(w.dims.len() == 2, "a matrix", format!("{:?}", w.dims))?;
                Ok(vec![ValueType::f32(Lead::T, &w.dims[1..])])
            }
            Op::GatherRows { x, rows } => {
                self.index(*rows, Lead::L, &[])?;
                let t = self.value(*x)?;
                self.require(t.shape.lead == Lead::T, "a value with one row per token", t)?;
                let mut out = t.clone();
                out.shape.lead = Lead::L;
                Ok(vec![out])
            }
            Op::Linear { x, weight, bias } => self.linear(*x, *weight, *bias),
            Op::RmsNorm { x, weight, eps } => self.norm(*x, *weight, None, *eps),
            Op::LayerNorm { x, weight, bias, eps } => self.norm(*x, *weight, *bias, *eps),
            Op::Add { a, b } | Op::Sub { a, b } | Op::Mul { a, b } => self.binary(*a, *b),
            Op::Scale { x, .. } | Op::Unary { x, .. } => Ok(vec![self.f32(*x)?.clone()]),
            Op::Softcap { x, cap } => {
                self.require(*cap > 0.0, "a cap above 0", cap)?;
                Ok(vec![self.f32(*x)?.clone()])
            }
            Op::GatedAct { gate, up, .. } => {
                self.typed(*up, self.f32(*gate)?)?;
                Ok(vec![self.f32(*gate)?.clone()])
            }
            Op::Split { .. } | Op::Concat { .. } | Op::Reshape { .. } | Op::Slice { .. } => self.layout(op),
            Op::Rope(rope) => self.rope(rope),
            Op::PositionScale { x, positions, interval, .. } => {
                self.index(*positions, Lead::T, &[])?;
                self.require(*interval > 0, "an interval above 0", interval)?;
                let t = self.f32(*x)?;
                self.require(t.shape.lead == Lead::T, "a value with one row per token", t)?;
                Ok(vec![t.clone()])
            }
            Op::Attention(attention) => self.attention(attention),
            Op::Router(router) => self.router(router),
            Op::ExpertLinear { x, experts, weight, bias } => self.expert_linear(*x, *experts, *weight, *bias),
            Op::ExpertCombine { x, weights } => {
                let t = self.ranked(*x, 2)?;
                self.typed(*weights, &ValueType::f32(t.shape.lead, &t.shape.dims[..1]))?;
                Ok(vec![ValueType::f32(t.shape.lead, &t.shape.dims[1..])])
            }
            Op::MeanPool { x } | Op::LastPool { x } => {
                let t = self.ranked(*x, 1)?;
                self.require(t.shape.lead == Lead::T, "a value with one row per token", t)?;
                Ok(vec![ValueType::f32(Lead::S, &t.shape.dims)])
            }
            Op::Custom(custom) => self.custom(custom),
        }
    }

    fn input(&self, source: &InputSource) -> Result<Outs, ProgramError> {
        Ok(vec![match source {
            InputSource::TokenIds | InputSource::Positions => ValueType::index(Lead::T, &[]),
            InputSource::LogitsRows => ValueType::index(Lead::L, &[]),
            InputSource::Named { name, ty } => {
                self.require(ty.element == Element::F32, format!("input '{name}' of f32"), ty)?;
                ty.clone()
            }
        }])
    }

    fn linear(&self, x: ValueId, weight: WeightId, bias: Option<WeightId>) -> Result<Outs, ProgramError> {
        let (t, w) = (self.f32(x)?, self.weight(weight)?);
        self.require(
            w.dims.len() == 2 && !t.shape.dims.is_empty() && w.dims[1] == t.shape.last(),
            format!("'{}' of [out, {}]", w.name, t.shape.last()),
            format!("{:?}", w.dims),
        )?;
        self.optional_vector(bias, w.dims[0])?;
        Ok(vec![Self::with_last(t, w.dims[0])])
    }

    fn norm(
        &self,
        x: ValueId,
        weight: Option<WeightId>,
        bias: Option<WeightId>,
        eps: f32,
    ) -> Result<Outs, ProgramError> {
        let t = self.f32(x)?;
        self.require(eps >= 0.0 && eps.is_finite(), "an epsilon of at least 0", eps)?;
        self.require(!t.shape.dims.is_empty(), "a dimension to normalise over", t)?;
        self.optional_vector(weight, t.shape.last())?;
        self.optional_vector(bias, t.shape.last())?;
        Ok(vec![t.clone()])
    }

    fn binary(&self, a: ValueId, b: ValueId) -> Result<Outs, ProgramError> {
        let (ta, tb) = (self.f32(a)?, self.f32(b)?);
        let repeats = !ta.shape.dims.is_empty() && *tb == Self::with_last(ta, 1);
        self.require(ta == tb || repeats, format!("{ta}, or that with a last dimension of 1"), format!("{b}: {tb}"))?;
        Ok(vec![ta.clone()])
    }

    fn layout(&self, op: &Op) -> Result<Outs, ProgramError> {
        match op {
            Op::Split { x, sizes } => {
                let t = self.f32(*x)?;
                let total = sizes.iter().try_fold(0usize, |n, &s| n.checked_add(s));
                let whole = !t.shape.dims.is_empty() && total == Some(t.shape.last()) && !sizes.contains(&0);
                self.require(whole, format!("sizes that add up to {}", t.shape.last()), format!("{sizes:?}"))?;
                Ok(sizes.iter().map(|&s| Self::with_last(t, s)).collect())
            }
            Op::Concat { xs } => {
                let Some(&first) = xs.first() else { return self.fail("something to join", "nothing") };
                let first = self.f32(first)?;
                let mut last = 0usize;
                for &x in xs {
                    let t = self.f32(x)?;
                    self.typed(x, &Self::with_last(first, t.shape.last()))?;
                    last = last.saturating_add(t.shape.last());
                }
                Ok(vec![Self::with_last(first, last)])
            }
            Op::Reshape { x, dims } => {
                let t = self.f32(*x)?;
                let out = ValueType::f32(t.shape.lead, dims);
                let same = out.shape.row_elements() == t.shape.row_elements();
                self.require(same, format!("as many elements as {t}"), &out)?;
                Ok(vec![out])
            }
            Op::Slice { x, start, len } => {
                let t = self.f32(*x)?;
                let inside = *len > 0 && start.checked_add(*len).is_some_and(|end| end <= t.shape.last());
                self.require(inside, format!("a part of {t}"), format!("{len} elements from {start}"))?;
                Ok(vec![Self::with_last(t, *len)])
            }
            _ => self.fail("a layout operation", op.name()),
        }
    }

    fn rope(&self, rope: &Rope) -> Result<Outs, ProgramError> {
        let t = self.ranked(rope.x, 2)?;
        self.index(rope.positions, Lead::T, &[])?;
        self.require(t.shape.lead == Lead::T, "a value with one row per token", t)?;
        let dim = rope.rotary_dim;
        let even = dim > 0 && dim.is_multiple_of(2) && dim <= t.shape.last();
        self.require(even, format!("an even rotary_dim of at most {}", t.shape.last()), dim)?;
        self.require(rope.base > 0.0 && rope.base.is_finite(), "a base above 0", rope.base)?;
        let factor = match rope.scaling {
            RopeScaling::None => 1.0,
            RopeScaling::Linear { factor } | RopeScaling::Yarn { factor, .. } | RopeScaling::Llama3 { factor, .. } => {
                factor
            }
        };
        self.require(factor > 0.0 && factor.is_finite(), "a scaling factor above 0", factor)?;
        self.optional_vector(rope.factors, dim / 2)?;
        Ok(vec![t.clone()])
    }

    fn attention(&self, a: &Attention) -> Result<Outs, ProgramError> {
        let Some(cache) = self.scope.caches.get(a.cache.index()) else {
            return self.fail("a declared cache", a.cache);
        };
        let q = self.ranked(a.q, 2)?;
        let heads = q.shape.dims[0];
        let fits = q.shape.lead == Lead::T && heads.is_multiple_of(cache.kv_heads) && q.shape.dims[1] == cache.key_dim;
        self.require(
            fits,
            format!("queries [T, multiple of {}, {}]", cache.kv_heads, cache.key_dim),
            format!("{}: {q}", a.q),
        )?;
        match (a.k, a.v) {
            (Some(k), Some(v)) => {
                self.typed(k, &ValueType::f32(Lead::T, &[cache.kv_heads, cache.key_dim]))?;
                self.typed(v, &ValueType::f32(Lead::T, &[cache.kv_heads, cache.value_dim]))?;
            }
            (None, None) => {}
            _ => return self.fail("both keys and values, or neither", "one of them"),
        }
        self.require(a.softcap.is_none_or(|c| c > 0.0), "a soft cap above 0", format!("{:?}", a.softcap))?;
        let held = match (a.window, cache.window) {
            (_, None) => true,
            (Some(w), Some(kept)) => w <= kept,
            (None, Some(_)) => false,
        };
        self.require(a.window != Some(0) && held, "a window that the cache keeps", format!("{:?}", a.window))?;
        self.optional_vector(a.sinks, heads)?;
        Ok(vec![ValueType::f32(Lead::T, &[heads, cache.value_dim])])
    }

    fn router(&self, r: &Router) -> Result<Outs, ProgramError> {
        let t = self.ranked(r.logits, 1)?;
        let experts = t.shape.last();
        self.require((1..=experts).contains(&r.top_k), format!("1 to {experts} experts per token"), r.top_k)?;
        self.optional_vector(r.selection_bias, experts)?;
        Ok(vec![ValueType::index(t.shape.lead, &[r.top_k]), ValueType::f32(t.shape.lead, &[r.top_k])])
    }

    fn expert_linear(
        &self,
        x: ValueId,
        experts: ValueId,
        weight: WeightId,
        bias: Option<WeightId>,
    ) -> Result<Outs, ProgramError> {
        let (t, w, chosen) = (self.f32(x)?, self.weight(weight)?, self.value(experts)?);
        self.require(chosen.shape.dims.len() == 1, "index[T, top_k]", chosen)?;
        let top_k = chosen.shape.dims[0];
        self.index(experts, t.shape.lead, &[top_k])?;
        let dims = &t.shape.dims;
        let fits = w.dims.len() == 3
            && w.dims[2] == t.shape.last()
            && (dims.len() == 1 || (dims.len() == 2 && dims[0] == top_k));
        self.require(
            fits,
            format!("x [T, in] or [T, {top_k}, in] and '{}' [experts, out, in]", w.name),
            format!("{t} and {:?}", w.dims),
        )?;
        if let Some(bias) = bias {
            self.weight_dims(bias, &w.dims[..2])?;
        }
        Ok(vec![ValueType::f32(t.shape.lead, &[top_k, w.dims[1]])])
    }

    fn custom(&self, c: &Custom) -> Result<Outs, ProgramError> {
        let mut local = Scope {
            weights: self.scope.weights,
            caches: self.scope.caches,
            layers: self.scope.layers,
            types: Types::default(),
        };
        for &input in &c.inputs {
            local.types.types.push(self.value(input)?.clone());
        }
        self.require(!c.decomposition.is_empty(), "a decomposition", "none")?;
        for (i, node) in c.decomposition.iter().enumerate() {
            self.require(!matches!(node.op, Op::Input { .. }), "no input inside a decomposition", node.op.name())?;
            local.node(i, node)?;
        }
        let results: Option<Vec<_>> = c.results.iter().map(|&r| local.types.get(r).cloned()).collect();
        self.require(
            results.as_ref() == Some(&c.outputs),
            format!("a decomposition that yields {:?}", c.outputs),
            format!("{results:?}"),
        )?;
        Ok(c.outputs.clone())
    }
}
