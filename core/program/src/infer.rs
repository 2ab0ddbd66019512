use crate::error::ProgramError;
use crate::op::{InputSource, Op, ValueId, WeightId};
use crate::program::{CacheDecl, Node, Program, WeightDecl};
use crate::shape::{Element, Lead, ValueType};

/// The type of every value, by number.
#[derive(Clone, Debug, Default)]
pub struct Types {
    types: Vec<ValueType>,
    ranges: Vec<Range>,
}

/// What is known of the numbers in an index value, so that no lookup can leave its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Range {
    /// Nothing, or the value is not an index.
    Any,
    /// Rows of the step, as [`Step::check`](crate::Step::check) has checked.
    Rows,
    /// Numbers below this one.
    Below(usize),
}

impl Types {
    /// The type of a value, if it is defined.
    pub fn get(&self, value: ValueId) -> Option<&ValueType> {
        self.types.get(value.index())
    }

    pub(crate) fn range(&self, value: ValueId) -> Range {
        self.ranges.get(value.index()).copied().unwrap_or(Range::Any)
    }

    pub(crate) fn push(&mut self, ty: ValueType, range: Range) {
        self.types.push(ty);
        self.ranges.push(range);
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

pub(crate) type Outs = Vec<ValueType>;

impl Scope<'_> {
    /// Checks a node and appends the types of its results.
    pub(crate) fn node(&mut self, index: usize, node: &Node) -> Result<(), ProgramError> {
        let layer = node.layer.map(|l| format!(", layer {l}")).unwrap_or_default();
        let place = format!("node {index} ({}{layer})", node.op.name());
        if node.layer.is_some_and(|l| l >= self.layers) {
            return Err(ProgramError::rule(place, format!("a layer below {}", self.layers), "that layer"));
        }
        let check = Check { scope: self, place: &place };
        // Once per custom operation, not once for types and once for ranges: nesting would double the work each time.
        let (outs, ranges) = match &node.op {
            Op::Custom(custom) => check.custom(custom)?,
            op => {
                let outs = check.op(op)?;
                let ranges = check.ranges(op, outs.len())?;
                (outs, ranges)
            }
        };
        if let Some(bad) = outs.iter().find(|t| t.shape.row_elements().is_none_or(|n| n == 0)) {
            return Err(ProgramError::rule(place, "a result with elements that can be counted", bad));
        }
        self.types.types.extend(outs);
        self.types.ranges.extend(ranges);
        Ok(())
    }
}

/// The rules of one node.
pub(crate) struct Check<'a> {
    pub(crate) scope: &'a Scope<'a>,
    pub(crate) place: &'a str,
}

impl<'a> Check<'a> {
    pub(crate) fn fail<T>(
        &self,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Result<T, ProgramError> {
        Err(ProgramError::rule(self.place, expected, found))
    }

    pub(crate) fn require(
        &self,
        holds: bool,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Result<(), ProgramError> {
        if holds { Ok(()) } else { self.fail(expected, found) }
    }

    pub(crate) fn value(&self, id: ValueId) -> Result<&'a ValueType, ProgramError> {
        match self.scope.types.get(id) {
            Some(t) => Ok(t),
            None => self.fail("a value defined before", id),
        }
    }

    pub(crate) fn f32(&self, id: ValueId) -> Result<&'a ValueType, ProgramError> {
        let t = self.value(id)?;
        self.require(t.element == Element::F32, "an f32 operand", format!("{id}: {t}"))?;
        Ok(t)
    }

    pub(crate) fn index(&self, id: ValueId, lead: Lead, dims: &[usize]) -> Result<(), ProgramError> {
        let (want, t) = (ValueType::index(lead, dims), self.value(id)?);
        self.require(*t == want, &want, format!("{id}: {t}"))
    }

    pub(crate) fn typed(&self, id: ValueId, want: &ValueType) -> Result<(), ProgramError> {
        let t = self.value(id)?;
        self.require(t == want, want, format!("{id}: {t}"))
    }

    /// An f32 operand `[lead, dims; rank]`.
    pub(crate) fn ranked(&self, id: ValueId, rank: usize) -> Result<&'a ValueType, ProgramError> {
        let t = self.f32(id)?;
        self.require(
            t.shape.dims.len() == rank,
            format!("{rank} dimensions after the leading one"),
            format!("{id}: {t}"),
        )?;
        Ok(t)
    }

    pub(crate) fn weight(&self, id: WeightId) -> Result<&'a WeightDecl, ProgramError> {
        match self.scope.weights.get(id.index()) {
            Some(w) => Ok(w),
            None => self.fail("a declared weight", id),
        }
    }

    pub(crate) fn weight_dims(&self, id: WeightId, dims: &[usize]) -> Result<(), ProgramError> {
        let w = self.weight(id)?;
        self.require(w.dims == dims, format!("'{}' of {dims:?}", w.name), format!("{:?}", w.dims))
    }

    pub(crate) fn optional_vector(&self, id: Option<WeightId>, n: usize) -> Result<(), ProgramError> {
        id.map_or(Ok(()), |id| self.weight_dims(id, &[n]))
    }

    pub(crate) fn with_last(t: &ValueType, last: usize) -> ValueType {
        let mut t = t.clone();
        match t.shape.dims.last_mut() {
            Some(d) => *d = last,
            None => t.shape.dims.push(last),
        }
        t
    }

    /// Numbers must survive the wire form, which has no infinity.
    pub(crate) fn finite(&self, numbers: &[(&str, f32)]) -> Result<(), ProgramError> {
        match numbers.iter().find(|(_, x)| !x.is_finite()) {
            Some((name, x)) => self.fail(format!("a finite {name}"), x),
            None => Ok(()),
        }
    }

    pub(crate) fn positive(&self, name: &str, x: f32) -> Result<(), ProgramError> {
        self.require(x > 0.0 && x.is_finite(), format!("a {name} above 0"), x)
    }

    pub(crate) fn range(&self, id: ValueId) -> Range {
        self.scope.types.range(id)
    }

    /// What is known of the numbers in the results of an operation whose types have been checked.
    fn ranges(&self, op: &Op, outputs: usize) -> Result<Vec<Range>, ProgramError> {
        let first = match op {
            Op::Input { source: InputSource::LogitsRows } => Range::Rows,
            Op::Router(r) => Range::Below(self.f32(r.logits)?.shape.last()),
            Op::GatherRows { x, .. } => match self.range(*x) {
                Range::Rows => Range::Any,
                range => range,
            },
            _ => Range::Any,
        };
        Ok((0..outputs).map(|i| if i == 0 { first } else { Range::Any }).collect())
    }

    fn op(&self, op: &Op) -> Result<Outs, ProgramError> {
        match op {
            Op::Input { source } => self.input(source),
            Op::Embed { ids, table, scale } => {
                self.finite(&[("scale", *scale)])?;
                self.index(*ids, Lead::T, &[])?;
                let w = self.weight(*table)?;
                self.require(w.dims.len() == 2, "a matrix", format!("{:?}", w.dims))?;
                Ok(vec![ValueType::f32(Lead::T, &w.dims[1..])])
            }
            Op::GatherRows { x, rows } => {
                self.index(*rows, Lead::L, &[])?;
                self.require(self.range(*rows) == Range::Rows, "rows that are the input logits_rows", rows)?;
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
            Op::Unary { x, .. } => Ok(vec![self.f32(*x)?.clone()]),
            Op::Scale { x, mul, add } => {
                self.finite(&[("mul", *mul), ("add", *add)])?;
                Ok(vec![self.f32(*x)?.clone()])
            }
            Op::Softcap { x, cap } => {
                self.positive("cap", *cap)?;
                Ok(vec![self.f32(*x)?.clone()])
            }
            Op::GatedAct { gate, up, .. } => {
                self.typed(*up, self.f32(*gate)?)?;
                Ok(vec![self.f32(*gate)?.clone()])
            }
            Op::Split { .. } | Op::Concat { .. } | Op::Reshape { .. } | Op::Slice { .. } => self.layout(op),
            Op::Rope(rope) => self.rope(rope),
            Op::PositionScale { x, positions, beta, interval } => {
                self.finite(&[("beta", *beta)])?;
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
            Op::Custom(custom) => self.custom(custom).map(|(outs, _)| outs),
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
                self.require(!t.shape.dims.is_empty(), "a dimension to take a part of", t)?;
                let inside = *len > 0 && start.checked_add(*len).is_some_and(|end| end <= t.shape.last());
                self.require(inside, format!("a part of {t}"), format!("{len} elements from {start}"))?;
                Ok(vec![Self::with_last(t, *len)])
            }
            _ => self.fail("a layout operation", op.name()),
        }
    }
}
