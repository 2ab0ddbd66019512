use rocmforge_program::{
    Activation, Attention, GateKind, Op, Rope, RopeScaling, RopeStyle, Router, ValueId, WeightId, input,
};

use crate::dims::{Dims, rope_scaling};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::model::Model;

/// Whether projections have biases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bias {
    /// They have none.
    #[default]
    None,
    /// Where the file has one.
    Optional,
    /// Always; a missing one is an error.
    Required,
}

/// How the query, key and value projections are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Qkv {
    /// `attn_q`, `attn_k`, `attn_v`.
    #[default]
    Separate,
    /// `attn_qkv`: rows of q, k, v in this order.
    Fused,
    /// Fused where the file has `attn_qkv`, else separate.
    Either,
}

/// Frequency divisors for long sequences (LongRoPE, Ding et al., arXiv:2402.13753). [`Graph::rope`] reads the input
/// `longer_than/N` to choose; see `docs/IR.md`.
#[derive(Clone, Debug)]
pub struct LongFactors {
    /// Full name of the tensor `[rotary_dim / 2]` that replaces [`RopeSpec::factors`].
    pub factors: String,
    /// It does so for sequences of more tokens than this.
    pub longer_than: u32,
}

/// Rotary embedding of one kind of layer.
#[derive(Clone, Debug)]
pub struct RopeSpec {
    /// Which components form a pair.
    pub style: RopeStyle,
    /// Components that are rotated.
    pub rotary_dim: usize,
    /// Base of the wavelengths.
    pub base: f32,
    /// Context extension.
    pub scaling: RopeScaling,
    /// Multiplies sine and cosine.
    pub magnitude: f32,
    /// Full name of the tensor of frequency divisors `[rotary_dim / 2]`.
    pub factors: Option<String>,
    /// Other divisors for long sequences.
    pub long: Option<LongFactors>,
}

impl RopeSpec {
    /// What the file's `rope.*` keys say, and its tensors `rope_freqs.weight` or `rope_factors_short.weight` and
    /// `rope_factors_long.weight` where it has them. Long factors are left out where no sequence can get that long:
    /// where `dims.served_context` is at most `rope.scaling.original_context_length`. The magnitude is
    /// `rope.scaling.attn_factor`, or with YaRN `rope.scaling.yarn_attn_factor` or its formula, else 1. The style is
    /// in no key; see [`RopeStyle`].
    ///
    /// # Errors
    /// A key with a value that makes no sense, or a tensor that is missing.
    pub fn read(model: &Model<'_>, dims: &Dims, style: RopeStyle) -> Result<RopeSpec> {
        let (scaling, magnitude) = rope_scaling(model)?;
        let (factors, long) = match long_factors(model, dims)? {
            Some((short, long)) => (Some(short), Some(long).filter(|l| dims.served_context > l.longer_than)),
            None => (model.tensor("rope_freqs.weight").map(|t| t.name), None),
        };
        let (rotary_dim, base) = (dims.rotary_dim, dims.rope_base);
        Ok(RopeSpec { style, rotary_dim, base, scaling, magnitude, factors, long })
    }
}

/// The two tensors of LongRoPE, if the file has them.
fn long_factors(model: &Model<'_>, dims: &Dims) -> Result<Option<(String, LongFactors)>> {
    let names = ["short", "long"].map(|kind| format!("rope_factors_{kind}.weight"));
    let there = names.each_ref().map(|name| model.tensor(name).is_some());
    let announced = model.optional_text("rope.scaling.type")? == Some("longrope");
    let [short, long] = names;
    let missing = |name| Err(Error::invalid(format!("tensor '{name}' of the rope scaling is missing from the file")));
    match there {
        [false, false] if !announced => Ok(None),
        [false, _] => missing(short),
        [true, false] => missing(long),
        [true, true] => {
            let key = "rope.scaling.original_context_length";
            let longer_than = model.optional_positive(key)?.map_or(dims.context, |n| n as u32);
            Ok(Some((short, LongFactors { factors: long, longer_than })))
        }
    }
}

/// One attention layer. Tensors: `attn_q`, `attn_k`, `attn_v` or `attn_qkv`, `attn_output`, and with `qk_norm`
/// `attn_q_norm` and `attn_k_norm`. Made by [`new`](AttentionSpec::new), with what deviates set after it: the window
/// of the file is not used unless `window` says so.
///
/// ```no_run
/// use rocmforge_sdk::{AttentionSpec, Dims, Qkv, RopeSpec};
///
/// fn fused_with_window(dims: &Dims, rope: RopeSpec) -> AttentionSpec {
///     AttentionSpec { qkv: Qkv::Fused, window: dims.window, ..AttentionSpec::new(dims, rope) }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a query or key head.
    pub head_dim: usize,
    /// Elements of a value head.
    pub value_dim: usize,
    /// Multiplies `q . k`.
    pub scale: f32,
    /// Storage of the projections.
    pub qkv: Qkv,
    /// Biases of the q, k, v projections.
    pub bias: Bias,
    /// Bias of the output projection.
    pub output_bias: Bias,
    /// Epsilon of a per-head RMS norm on q and k before the rope.
    pub qk_norm: Option<f32>,
    /// Rotary embedding.
    pub rope: Option<RopeSpec>,
    /// `(beta, interval)`: q is multiplied by `1 + beta ln(1 + floor(position / interval))` after the rope.
    pub temperature: Option<(f32, u32)>,
    /// Sliding window.
    pub window: Option<u32>,
    /// Soft cap of the scores.
    pub softcap: Option<f32>,
}

impl AttentionSpec {
    /// Plain attention with these sizes: scale `1/sqrt(head_dim)`, separate projections, no bias, no window.
    pub fn new(dims: &Dims, rope: RopeSpec) -> AttentionSpec {
        AttentionSpec {
            heads: dims.heads,
            kv_heads: dims.kv_heads,
            head_dim: dims.head_dim,
            value_dim: dims.value_dim,
            scale: dims.attention_scale(),
            qkv: Qkv::Separate,
            bias: Bias::None,
            output_bias: Bias::None,
            qk_norm: None,
            rope: Some(rope),
            temperature: None,
            window: None,
            softcap: None,
        }
    }
}

/// One gated feed-forward layer: `down(act(gate(x)) * up(x))`. Tensors: `ffn_gate`, `ffn_up`, `ffn_down`.
#[derive(Clone, Copy, Debug)]
pub struct Mlp {
    /// Width inside.
    pub width: usize,
    /// Applied to the gate.
    pub activation: Activation,
    /// Whether `ffn_up` holds the rows of gate and up, in this order.
    pub fused: bool,
    /// Biases of the three.
    pub bias: Bias,
}

impl Mlp {
    /// Separate matrices without biases.
    pub fn new(width: usize, activation: Activation) -> Mlp {
        Mlp { width, activation, fused: false, bias: Bias::None }
    }
}

/// An expert that every token takes. Tensors: `ffn_gate_shexp`, `ffn_up_shexp`, `ffn_down_shexp`.
#[derive(Clone, Copy, Debug)]
pub struct SharedExpert {
    /// Width inside.
    pub width: usize,
    /// Whether its result is multiplied by `sigmoid(x . ffn_gate_inp_shexp)`.
    pub gated: bool,
}

/// One mixture-of-experts layer. Tensors: `ffn_gate_inp`, `ffn_gate_exps`, `ffn_up_exps`, `ffn_down_exps`.
#[derive(Clone, Copy, Debug)]
pub struct MoeSpec {
    /// Experts in all.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// Width inside an expert.
    pub width: usize,
    /// Applied to the gate.
    pub activation: Activation,
    /// How router logits become weights.
    pub gate: GateKind,
    /// Whether the chosen weights are divided by their sum.
    pub renormalize: bool,
    /// Multiplies the chosen weights.
    pub scale: f32,
    /// An expert for every token.
    pub shared: Option<SharedExpert>,
}

impl Graph<'_> {
    /// Self-attention with its own KV cache, output projection included.
    ///
    /// # Errors
    /// A tensor is missing or has other dimensions.
    pub fn attention(&mut self, x: ValueId, spec: &AttentionSpec) -> Result<ValueId> {
        let (q, k, v) = self.projections(x, spec)?;
        let q = self.reshape(q, &[spec.heads, spec.head_dim])?;
        let k = self.reshape(k, &[spec.kv_heads, spec.head_dim])?;
        let v = self.reshape(v, &[spec.kv_heads, spec.value_dim])?;
        let (q, k) = match spec.qk_norm {
            Some(eps) => (self.rms_norm(q, "attn_q_norm", eps)?, self.rms_norm(k, "attn_k_norm", eps)?),
            None => (q, k),
        };
        let (mut q, k) = match &spec.rope {
            Some(rope) => (self.rope(q, rope)?, self.rope(k, rope)?),
            None => (q, k),
        };
        if let Some((beta, interval)) = spec.temperature {
            let positions = self.positions()?;
            q = self.builder.push(Op::PositionScale { x: q, positions, beta, interval })?;
        }
        let cache = self.builder.cache(spec.kv_heads, spec.head_dim, spec.value_dim, spec.window);
        let y = self.builder.push(Op::Attention(Attention {
            q,
            k: Some(k),
            v: Some(v),
            cache,
            scale: spec.scale,
            window: spec.window,
            softcap: spec.softcap,
            sinks: None,
        }))?;
        let y = self.reshape(y, &[spec.heads * spec.value_dim])?;
        let hidden = self.builder.info().hidden_size;
        let bias = self.bias_of("attn_output", hidden, spec.output_bias)?;
        self.linear_with_bias(y, "attn_output", hidden, bias)
    }

    /// Rotary embedding of `x` `[T, heads, head_dim]`.
    ///
    /// # Errors
    /// The tensor of factors is missing or has other dimensions.
    pub fn rope(&mut self, x: ValueId, spec: &RopeSpec) -> Result<ValueId> {
        let Some(LongFactors { factors, longer_than }) = &spec.long else { return self.one_rope(x, spec) };
        let dims = self.builder.type_of(x).map_or(vec![], |t| t.shape.dims.clone());
        let short = self.one_rope(x, spec)?;
        let long = self.one_rope(x, &RopeSpec { factors: Some(factors.clone()), ..spec.clone() })?;
        // One of the two products is the rotated value itself, the other 0.
        let is_long = self.builder.input(input::longer_than(*longer_than))?;
        let is_short = self.builder.push(Op::Scale { x: is_long, mul: -1.0, add: 1.0 })?;
        let flat = [dims.iter().product()];
        let [mut short, mut long] = [short, long];
        for (value, chosen) in [(&mut short, is_short), (&mut long, is_long)] {
            let row = self.reshape(*value, &flat)?;
            *value = self.builder.push(Op::Mul { a: row, b: chosen })?;
        }
        let both = self.add(short, long)?;
        self.reshape(both, &dims)
    }

    fn one_rope(&mut self, x: ValueId, spec: &RopeSpec) -> Result<ValueId> {
        let factors = match &spec.factors {
            Some(name) => Some(self.tensor(name, &[spec.rotary_dim / 2])?),
            None => None,
        };
        let positions = self.positions()?;
        Ok(self.builder.push(Op::Rope(Rope {
            x,
            positions,
            style: spec.style,
            rotary_dim: spec.rotary_dim,
            base: spec.base,
            scaling: spec.scaling,
            magnitude: spec.magnitude,
            factors,
            sections: None,
        }))?)
    }

    /// A gated feed-forward layer.
    ///
    /// # Errors
    /// A tensor is missing or has other dimensions.
    pub fn gated_mlp(&mut self, x: ValueId, spec: &Mlp) -> Result<ValueId> {
        let (gate, up) = if spec.fused {
            let bias = self.bias_of("ffn_up", 2 * spec.width, spec.bias)?;
            let both = self.linear_with_bias(x, "ffn_up", 2 * spec.width, bias)?;
            let parts = self.builder.push_many(Op::Split { x: both, sizes: vec![spec.width; 2] })?;
            (parts[0], parts[1])
        } else {
            let bias = self.bias_of("ffn_gate", spec.width, spec.bias)?;
            let gate = self.linear_with_bias(x, "ffn_gate", spec.width, bias)?;
            let bias = self.bias_of("ffn_up", spec.width, spec.bias)?;
            (gate, self.linear_with_bias(x, "ffn_up", spec.width, bias)?)
        };
        let y = self.builder.push(Op::GatedAct { gate, up, kind: spec.activation })?;
        let hidden = self.width(x);
        let bias = self.bias_of("ffn_down", hidden, spec.bias)?;
        self.linear_with_bias(y, "ffn_down", hidden, bias)
    }

    /// A mixture-of-experts layer.
    ///
    /// # Errors
    /// A tensor is missing or has other dimensions.
    pub fn moe(&mut self, x: ValueId, spec: &MoeSpec) -> Result<ValueId> {
        let hidden = self.width(x);
        let logits = self.linear(x, "ffn_gate_inp", spec.experts)?;
        let chosen = self.builder.push_many(Op::Router(Router {
            logits,
            top_k: spec.top_k,
            gate: spec.gate,
            renormalize: spec.renormalize,
            scale: spec.scale,
            selection_bias: None,
        }))?;
        let (experts, weights) = (chosen[0], chosen[1]);
        let gate = self.expert_linear(x, experts, "ffn_gate_exps", [spec.experts, spec.width, hidden])?;
        let up = self.expert_linear(x, experts, "ffn_up_exps", [spec.experts, spec.width, hidden])?;
        let y = self.builder.push(Op::GatedAct { gate, up, kind: spec.activation })?;
        let y = self.expert_linear(y, experts, "ffn_down_exps", [spec.experts, hidden, spec.width])?;
        let y = self.builder.push(Op::ExpertCombine { x: y, weights })?;
        match spec.shared {
            Some(shared) => {
                let z = self.shared_expert(x, shared, spec.activation)?;
                self.add(y, z)
            }
            None => Ok(y),
        }
    }

    fn shared_expert(&mut self, x: ValueId, spec: SharedExpert, kind: Activation) -> Result<ValueId> {
        let hidden = self.width(x);
        let gate = self.linear(x, "ffn_gate_shexp", spec.width)?;
        let up = self.linear(x, "ffn_up_shexp", spec.width)?;
        let y = self.builder.push(Op::GatedAct { gate, up, kind })?;
        let y = self.linear(y, "ffn_down_shexp", hidden)?;
        if !spec.gated {
            return Ok(y);
        }
        // The file stores this one-row matrix as a vector.
        let name = self.tensor_name("ffn_gate_inp_shexp", "weight");
        let row = match self.model.tensor(&name) {
            Some(t) if t.dims.len() == 1 => self.row_weight(&name, hidden)?,
            _ => self.tensor(&name, &[1, hidden])?,
        };
        let open = self.builder.push(Op::Linear { x, weight: row, bias: None })?;
        let open = self.unary(open, Activation::Sigmoid)?;
        Ok(self.builder.push(Op::Mul { a: y, b: open })?)
    }

    /// A tensor `[n]` of the file as the matrix `[1, n]`, whose bytes are the same.
    fn row_weight(&mut self, name: &str, n: usize) -> Result<WeightId> {
        let dtype = match self.model.tensor(name) {
            Some(t) if t.dims == [n] => t.dtype,
            _ => return self.tensor(name, &[n]),
        };
        Ok(self.builder.weight(name, &[1, n], dtype)?)
    }

    fn expert_linear(&mut self, x: ValueId, experts: ValueId, name: &str, dims: [usize; 3]) -> Result<ValueId> {
        let weight = self.weight(name, &dims)?;
        Ok(self.builder.push(Op::ExpertLinear { x, experts, weight, bias: None })?)
    }

    fn projections(&mut self, x: ValueId, spec: &AttentionSpec) -> Result<(ValueId, ValueId, ValueId)> {
        let sizes = [spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.kv_heads * spec.value_dim];
        let fused = match spec.qkv {
            Qkv::Separate => false,
            Qkv::Fused => true,
            Qkv::Either if self.has("attn_qkv") => true,
            Qkv::Either if self.has("attn_q") => false,
            Qkv::Either => {
                let [fused, separate] = ["attn_qkv", "attn_q"].map(|name| self.tensor_name(name, "weight"));
                return Err(Error::invalid(format!("tensor '{fused}' is missing from the file, and '{separate}' too")));
            }
        };
        if fused {
            let total = sizes.iter().sum();
            let bias = self.bias_of("attn_qkv", total, spec.bias)?;
            let all = self.linear_with_bias(x, "attn_qkv", total, bias)?;
            let parts = self.builder.push_many(Op::Split { x: all, sizes: sizes.to_vec() })?;
            return Ok((parts[0], parts[1], parts[2]));
        }
        let mut project = |name: &str, size: usize| {
            let bias = self.bias_of(name, size, spec.bias)?;
            self.linear_with_bias(x, name, size, bias)
        };
        Ok((project("attn_q", sizes[0])?, project("attn_k", sizes[1])?, project("attn_v", sizes[2])?))
    }

    fn bias_of(&mut self, name: &str, n: usize, bias: Bias) -> Result<Option<WeightId>> {
        match bias {
            Bias::None => Ok(None),
            Bias::Optional => self.optional_bias(name, &[n]),
            Bias::Required => self.bias(name, &[n]).map(Some),
        }
    }

    fn reshape(&mut self, x: ValueId, dims: &[usize]) -> Result<ValueId> {
        Ok(self.builder.push(Op::Reshape { x, dims: dims.to_vec() })?)
    }
}
