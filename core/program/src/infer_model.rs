//! Rules of the operations that only models have: rope, attention, experts, custom operations.

use crate::error::ProgramError;
use crate::infer::{Check, Outs, Range, Scope, Types};
use crate::op::{Attention, Custom, Op, Rope, RopeScaling, Router, ValueId, WeightId};
use crate::shape::{Lead, ValueType};

impl<'a> Check<'a> {
    pub(crate) fn rope(&self, rope: &Rope) -> Result<Outs, ProgramError> {
        let t = self.ranked(rope.x, 2)?;
        self.index(rope.positions, Lead::T, &[])?;
        self.require(t.shape.lead == Lead::T, "a value with one row per token", t)?;
        let dim = rope.rotary_dim;
        let even = dim > 0 && dim.is_multiple_of(2) && dim <= t.shape.last();
        self.require(even, format!("an even rotary_dim of at most {}", t.shape.last()), dim)?;
        self.positive("base", rope.base)?;
        self.finite(&[("magnitude", rope.magnitude)])?;
        self.scaling(&rope.scaling)?;
        self.optional_vector(rope.factors, dim / 2)?;
        Ok(vec![t.clone()])
    }

    fn scaling(&self, scaling: &RopeScaling) -> Result<(), ProgramError> {
        let (factor, context) = match *scaling {
            RopeScaling::None => return Ok(()),
            RopeScaling::Linear { factor } => (factor, 1),
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow } => {
                self.positive("beta_fast", beta_fast)?;
                self.positive("beta_slow", beta_slow)?;
                (factor, original_context)
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                self.positive("low_freq_factor", low_freq_factor)?;
                self.positive("high_freq_factor", high_freq_factor)?;
                (factor, original_context)
            }
        };
        self.positive("scaling factor", factor)?;
        self.require(context > 0, "an original_context above 0", context)
    }

    pub(crate) fn attention(&self, a: &Attention) -> Result<Outs, ProgramError> {
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
        self.finite(&[("scale", a.scale)])?;
        a.softcap.map_or(Ok(()), |cap| self.positive("softcap", cap))?;
        let held = match (a.window, cache.window) {
            (_, None) => true,
            (Some(w), Some(kept)) => w <= kept,
            (None, Some(_)) => false,
        };
        self.require(a.window != Some(0) && held, "a window that the cache keeps", format!("{:?}", a.window))?;
        self.optional_vector(a.sinks, heads)?;
        Ok(vec![ValueType::f32(Lead::T, &[heads, cache.value_dim])])
    }

    pub(crate) fn router(&self, r: &Router) -> Result<Outs, ProgramError> {
        let t = self.ranked(r.logits, 1)?;
        let experts = t.shape.last();
        self.require((1..=experts).contains(&r.top_k), format!("1 to {experts} experts per token"), r.top_k)?;
        self.finite(&[("scale", r.scale)])?;
        self.optional_vector(r.selection_bias, experts)?;
        Ok(vec![ValueType::index(t.shape.lead, &[r.top_k]), ValueType::f32(t.shape.lead, &[r.top_k])])
    }

    pub(crate) fn expert_linear(
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
        let inside = matches!(self.range(experts), Range::Below(n) if n <= w.dims[0]);
        self.require(inside, format!("experts of a router over at most {}", w.dims[0]), experts)?;
        if let Some(bias) = bias {
            self.weight_dims(bias, &w.dims[..2])?;
        }
        Ok(vec![ValueType::f32(t.shape.lead, &[top_k, w.dims[1]])])
    }

    pub(crate) fn custom(&self, c: &Custom) -> Result<(Outs, Vec<Range>), ProgramError> {
        let local = self.custom_scope(c)?;
        let results: Option<Vec<_>> = c.results.iter().map(|&r| local.types.get(r).cloned()).collect();
        self.require(
            results.as_ref() == Some(&c.outputs),
            format!("a decomposition that yields {}", list(&c.outputs)),
            results.map_or_else(|| format!("results {:?}", c.results), |r| list(&r)),
        )?;
        let ranges = c.results.iter().map(|&r| local.types.range(r)).collect();
        Ok((c.outputs.clone(), ranges))
    }

    /// The local values of a decomposition.
    fn custom_scope(&self, c: &Custom) -> Result<Scope<'a>, ProgramError> {
        let mut local = Scope { types: Types::default(), ..*self.scope };
        for &input in &c.inputs {
            local.types.push(self.value(input)?.clone(), self.range(input));
        }
        self.require(!c.decomposition.is_empty(), "a decomposition", "none")?;
        for (i, node) in c.decomposition.iter().enumerate() {
            self.require(!matches!(node.op, Op::Input { .. }), "no input inside a decomposition", node.op.name())?;
            local.node(i, node).map_err(|e| e.inside(self.place))?;
        }
        Ok(local)
    }
}

fn list(types: &[ValueType]) -> String {
    let types: Vec<_> = types.iter().map(ToString::to_string).collect();
    format!("({})", types.join(", "))
}
