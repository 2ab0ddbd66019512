use serde::{Deserialize, Serialize};

use crate::program::Node;
use crate::shape::ValueType;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The position in its table.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    )*};
}

ids! {
    /// A value; values are numbered in the order in which the nodes produce them.
    ValueId "%";
    /// A weight, by its place in [`Program::weights`](crate::Program::weights).
    WeightId "@";
    /// A KV cache, by its place in [`Program::caches`](crate::Program::caches).
    CacheId "$";
}

/// Where an input value comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputSource {
    /// The token ids of the step, `index[T]`.
    TokenIds,
    /// The position of each token in its sequence, `index[T]`.
    Positions,
    /// The token rows that need logits, `index[L]`, values in `0..T`.
    LogitsRows,
    /// A value that the host supplies by name, e.g. the residual stream from another backend.
    Named {
        /// The name in [`Step::inputs`](crate::Step::inputs).
        name: String,
        /// Its type; always f32.
        ty: ValueType,
    },
}

/// A pointwise function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))` (Hendrycks and Gimpel, arXiv:1606.08415), not a table.
    GeluTanh,
    /// `0.5 x (1 + erf(x / sqrt 2))`.
    GeluErf,
    /// `x * sigmoid(1.702 x)`.
    GeluQuick,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2`.
    ReluSquared,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `tanh(x)`.
    Tanh,
}

/// How the scores of experts become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateKind {
    /// Softmax over all experts, then the best `top_k`.
    Softmax,
    /// The best `top_k` logits, then softmax over these.
    SoftmaxTopK,
    /// Sigmoid of each logit, then the best `top_k`.
    Sigmoid,
}

/// Which components of a head are rotated together. No key of a GGUF file says which: it follows from the architecture,
/// and from the converter, which permutes the rows of q and k of some models (LLaMA's, from half to interleaved).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeStyle {
    /// Components `2i` and `2i+1` (Su et al., arXiv:2104.09864).
    Interleaved,
    /// Components `i` and `i + rotary_dim/2` (GPT-NeoX).
    Half,
}

/// How rope frequencies are changed for contexts longer than those trained on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions are divided by `factor`.
    Linear {
        /// Ratio of the new context to the one trained on.
        factor: f32,
    },
    /// YaRN (Peng et al., arXiv:2309.00071). The attention factor is [`Rope::magnitude`].
    Yarn {
        /// Ratio of the new context to the one trained on.
        factor: f32,
        /// Context length trained on.
        original_context: u32,
        /// Rotations above which a dimension keeps its frequency.
        beta_fast: f32,
        /// Rotations below which a dimension is interpolated fully.
        beta_slow: f32,
    },
    /// Llama 3.1's piecewise scaling by wavelength.
    Llama3 {
        /// Division of the lowest frequencies.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are divided.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// Context length trained on.
        original_context: u32,
    },
}

/// Parameters of rotary position embedding; [`crate::rope`] holds the formulas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// The value to rotate, `[T, heads, head_dim]`.
    pub x: ValueId,
    /// `index[T]`.
    pub positions: ValueId,
    /// Which components form a pair.
    pub style: RopeStyle,
    /// Leading components of each head that are rotated; the rest pass through. Even, at most `head_dim`.
    pub rotary_dim: usize,
    /// Base of the geometric series of wavelengths.
    pub base: f32,
    /// Context extension.
    pub scaling: RopeScaling,
    /// Multiplies sine and cosine (attention factor of YaRN and LongRoPE); 1 for none.
    pub magnitude: f32,
    /// `[rotary_dim / 2]`: each frequency is divided by its factor (Llama 3 files, LongRoPE).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factors: Option<WeightId>,
    /// Multi-axis rope: pairs per axis (time, height, width, extra). Text has the same position on every axis, and
    /// this IR has one position per token, so backends may ignore it; kept so that it need not be guessed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sections: Option<[u32; 4]>,
}

/// Causal attention over a paged cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// `[T, heads, key_dim]`.
    pub q: ValueId,
    /// `[T, kv_heads, key_dim]`, appended to the cache first; absent: the cache of another layer is read as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k: Option<ValueId>,
    /// `[T, kv_heads, value_dim]`; present exactly if `k` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v: Option<ValueId>,
    /// The cache.
    pub cache: CacheId,
    /// Multiplies `q . k`.
    pub scale: f32,
    /// A query at position `i` sees keys `j` with `0 <= i - j < window`; absent: all `j <= i`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// Scores become `c * tanh(s / c)`, after the scale and before the mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub softcap: Option<f32>,
    /// `[heads]`: a logit per head that takes part in the softmax and adds no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sinks: Option<WeightId>,
}

/// Choice of experts per token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Router {
    /// `[T, experts]`.
    pub logits: ValueId,
    /// Experts per token.
    pub top_k: usize,
    /// How logits become weights.
    pub gate: GateKind,
    /// Whether the chosen weights are divided by their sum.
    pub renormalize: bool,
    /// Multiplies the chosen weights, last.
    pub scale: f32,
    /// `[experts]`, added to the gated scores for the choice only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection_bias: Option<WeightId>,
}

/// An operation outside the set, with a meaning in terms of the set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Custom {
    /// Who defines it, e.g. a domain name.
    pub domain: String,
    /// Its name there.
    pub name: String,
    /// Its version there.
    pub version: u32,
    /// Anything a kernel needs to know.
    #[serde(default)]
    pub attrs: serde_json::Value,
    /// Inputs; local values `%0 .. %n` of the decomposition.
    pub inputs: Vec<ValueId>,
    /// Types of the results.
    pub outputs: Vec<ValueType>,
    /// The meaning: nodes whose value numbers are local (inputs first), weights and caches the program's.
    pub decomposition: Vec<Node>,
    /// Local values that are the results.
    pub results: Vec<ValueId>,
}

/// An operation. Shapes are checked by [`infer_types`](crate::infer_types); `[.., n]` is any shape that ends in `n`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Op {
    /// A value from outside.
    Input { source: InputSource },
    /// Rows of `table` `[vocab, n]` by `ids` `[T]`, times `scale`: `[T, n]`.
    Embed { ids: ValueId, table: WeightId, scale: f32 },
    /// Rows of `x` `[T, ..]` by `rows` `[L]`: `[L, ..]`.
    GatherRows { x: ValueId, rows: ValueId },
    /// `y = x Wᵀ + b`: `x` `[.., in]`, `weight` `[out, in]`, `bias` `[out]`: `[.., out]`.
    Linear {
        x: ValueId,
        weight: WeightId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bias: Option<WeightId>,
    },
    /// `x / sqrt(mean(x²) + eps) * w` over the last dimension (Zhang and Sennrich, arXiv:1910.07467); `weight` `[n]`.
    RmsNorm {
        x: ValueId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight: Option<WeightId>,
        eps: f32,
    },
    /// `(x - mean) / sqrt(var + eps) * w + b` over the last dimension.
    LayerNorm {
        x: ValueId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight: Option<WeightId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bias: Option<WeightId>,
        eps: f32,
    },
    /// `a + b`; `b` has the shape of `a`, or the same with a last dimension of 1, which is then repeated.
    Add { a: ValueId, b: ValueId },
    /// `a - b`, shapes as in `add`.
    Sub { a: ValueId, b: ValueId },
    /// `a * b`, shapes as in `add`.
    Mul { a: ValueId, b: ValueId },
    /// `x * mul + add`.
    Scale { x: ValueId, mul: f32, add: f32 },
    /// `f(x)`.
    Unary { x: ValueId, kind: Activation },
    /// `cap * tanh(x / cap)`.
    Softcap { x: ValueId, cap: f32 },
    /// `f(gate) * up`.
    GatedAct { gate: ValueId, up: ValueId, kind: Activation },
    /// Parts of the last dimension, in order; `sizes` add up to it.
    Split { x: ValueId, sizes: Vec<usize> },
    /// Joined along the last dimension.
    Concat { xs: Vec<ValueId> },
    /// The same elements per row under other constant dimensions.
    Reshape { x: ValueId, dims: Vec<usize> },
    /// `len` elements of the last dimension from `start`.
    Slice { x: ValueId, start: usize, len: usize },
    /// Rotary position embedding.
    Rope(Rope),
    /// `x * (1 + beta * ln(1 + floor(position / interval)))`: attention temperature that grows with the position.
    PositionScale { x: ValueId, positions: ValueId, beta: f32, interval: u32 },
    /// Attention: `[T, heads, value_dim]`.
    Attention(Attention),
    /// Results: chosen experts `index[T, top_k]`, best first, and their weights `[T, top_k]`.
    Router(Router),
    /// A linear layer per token and chosen expert: `x` `[T, in]` or `[T, top_k, in]`, `experts` `index[T, top_k]`,
    /// `weight` `[n_experts, out, in]`, `bias` `[n_experts, out]`: `[T, top_k, out]`.
    ExpertLinear {
        x: ValueId,
        experts: ValueId,
        weight: WeightId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bias: Option<WeightId>,
    },
    /// Sum over the experts of `x` `[T, top_k, n]` times `weights` `[T, top_k]`: `[T, n]`.
    ExpertCombine { x: ValueId, weights: ValueId },
    /// Mean over the rows of each sequence in the step: `[T, n]` to `[S, n]`.
    MeanPool { x: ValueId },
    /// Last row of each sequence in the step: `[T, n]` to `[S, n]`.
    LastPool { x: ValueId },
    /// An operation outside the set.
    Custom(Custom),
}

impl Op {
    /// The name in text and on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Input { .. } => "input",
            Op::Embed { .. } => "embed",
            Op::GatherRows { .. } => "gather_rows",
            Op::Linear { .. } => "linear",
            Op::RmsNorm { .. } => "rms_norm",
            Op::LayerNorm { .. } => "layer_norm",
            Op::Add { .. } => "add",
            Op::Sub { .. } => "sub",
            Op::Mul { .. } => "mul",
            Op::Scale { .. } => "scale",
            Op::Unary { .. } => "unary",
            Op::Softcap { .. } => "softcap",
            Op::GatedAct { .. } => "gated_act",
            Op::Split { .. } => "split",
            Op::Concat { .. } => "concat",
            Op::Reshape { .. } => "reshape",
            Op::Slice { .. } => "slice",
            Op::Rope(_) => "rope",
            Op::PositionScale { .. } => "position_scale",
            Op::Attention(_) => "attention",
            Op::Router(_) => "router",
            Op::ExpertLinear { .. } => "expert_linear",
            Op::ExpertCombine { .. } => "expert_combine",
            Op::MeanPool { .. } => "mean_pool",
            Op::LastPool { .. } => "last_pool",
            Op::Custom(_) => "custom",
        }
    }

    /// How many values the operation produces.
    pub fn output_count(&self) -> usize {
        match self {
            Op::Split { sizes, .. } => sizes.len(),
            Op::Router(_) => 2,
            Op::Custom(c) => c.outputs.len(),
            _ => 1,
        }
    }

    /// The values it reads.
    pub fn inputs(&self) -> Vec<ValueId> {
        let mut found = vec![];
        // A clone of an op is small next to what running it costs, and one traversal serves reading and renaming.
        self.clone().for_each_input(|v| found.push(*v));
        found
    }

    /// Calls `f` on every value it reads.
    pub fn for_each_input(&mut self, mut f: impl FnMut(&mut ValueId)) {
        match self {
            Op::Input { .. } => {}
            Op::Embed { ids, .. } => f(ids),
            Op::GatherRows { x, rows } => [x, rows].into_iter().for_each(f),
            Op::Add { a, b } | Op::Sub { a, b } | Op::Mul { a, b } => [a, b].into_iter().for_each(f),
            Op::GatedAct { gate, up, .. } => [gate, up].into_iter().for_each(f),
            Op::Concat { xs } => xs.iter_mut().for_each(f),
            Op::Rope(r) => [&mut r.x, &mut r.positions].into_iter().for_each(f),
            Op::PositionScale { x, positions, .. } => [x, positions].into_iter().for_each(f),
            Op::Attention(a) => [Some(&mut a.q), a.k.as_mut(), a.v.as_mut()].into_iter().flatten().for_each(f),
            Op::Router(r) => f(&mut r.logits),
            Op::ExpertLinear { x, experts, .. } => [x, experts].into_iter().for_each(f),
            Op::ExpertCombine { x, weights } => [x, weights].into_iter().for_each(f),
            Op::Custom(c) => c.inputs.iter_mut().for_each(f),
            Op::Linear { x, .. }
            | Op::RmsNorm { x, .. }
            | Op::LayerNorm { x, .. }
            | Op::Scale { x, .. }
            | Op::Unary { x, .. }
            | Op::Softcap { x, .. }
            | Op::Split { x, .. }
            | Op::Reshape { x, .. }
            | Op::Slice { x, .. }
            | Op::MeanPool { x }
            | Op::LastPool { x } => f(x),
        }
    }

    /// The weights it reads, those of a decomposition included.
    pub fn weights(&self) -> Vec<WeightId> {
        match self {
            Op::Embed { table, .. } => vec![*table],
            Op::Linear { weight, bias, .. } | Op::ExpertLinear { weight, bias, .. } => {
                [Some(*weight), *bias].into_iter().flatten().collect()
            }
            Op::RmsNorm { weight, .. } => weight.iter().copied().collect(),
            Op::LayerNorm { weight, bias, .. } => [*weight, *bias].into_iter().flatten().collect(),
            Op::Rope(r) => r.factors.iter().copied().collect(),
            Op::Attention(a) => a.sinks.iter().copied().collect(),
            Op::Router(r) => r.selection_bias.iter().copied().collect(),
            Op::Custom(c) => c.decomposition.iter().flat_map(|n| n.op.weights()).collect(),
            _ => vec![],
        }
    }
}
