use rocmforge_program::{ModelInfo, RopeScaling};

use crate::error::{Error, Result};
use crate::model::Model;
use crate::traits::BuildOptions;

/// The sizes that every transformer of this kind has, read from the metadata under the names that GGUF gives them.
#[derive(Clone, Debug)]
pub struct Dims {
    /// `embedding_length`.
    pub hidden: usize,
    /// `block_count`.
    pub layers: u32,
    /// `attention.head_count`.
    pub heads: usize,
    /// `attention.head_count_kv`; the number of heads where the key is missing.
    pub kv_heads: usize,
    /// `attention.key_length`; `hidden / heads` where the key is missing.
    pub head_dim: usize,
    /// `attention.value_length`; `head_dim` where the key is missing.
    pub value_dim: usize,
    /// `feed_forward_length`.
    pub ffn: usize,
    /// `attention.layer_norm_rms_epsilon`.
    pub eps: f32,
    /// Rows of `token_embd.weight`.
    pub vocab: usize,
    /// `context_length`: what the model was made for.
    pub context: u32,
    /// What it will be served with.
    pub served_context: u32,
    /// `rope.dimension_count`; `head_dim` where the key is missing.
    pub rotary_dim: usize,
    /// `rope.freq_base`; 10000 where the key is missing.
    pub rope_base: f32,
    /// `attention.sliding_window`; none where the key is missing or 0.
    pub window: Option<u32>,
}

impl Dims {
    /// Reads and checks them.
    ///
    /// # Errors
    /// A key that is missing, 0, or at odds with another, by name.
    pub fn read(model: &Model<'_>, build: &BuildOptions) -> Result<Dims> {
        // None, the mean of all tokens, and the last one: the host pools. A class token and ranks need heads of their own.
        if let Some(kind) = model.optional_u32("pooling_type")?.filter(|kind| ![0, 1, 3].contains(kind)) {
            return Err(Error::unsupported(format!(
                "metadata '{}' is {kind}: the file is a classifying or reranking model, expected one that generates text or \
                 whose embeddings are a mean (1) or the last token's (3)",
                model.key("pooling_type")
            )));
        }
        let hidden = model.positive("embedding_length")?;
        let heads = model.positive("attention.head_count")?;
        let kv_heads = model.optional_positive("attention.head_count_kv")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(Error::invalid(format!(
                "metadata '{}': expected a divisor of {heads} heads, found {kv_heads}",
                model.key("attention.head_count_kv")
            )));
        }
        let head_dim = match model.optional_positive("attention.key_length")? {
            Some(dim) => dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(Error::invalid(format!(
                    "metadata '{}' is missing, and embedding_length {hidden} is no multiple of head_count {heads}",
                    model.key("attention.key_length")
                )));
            }
        };
        let rotary_dim = model.optional_positive("rope.dimension_count")?.unwrap_or(head_dim);
        if rotary_dim > head_dim || !rotary_dim.is_multiple_of(2) {
            return Err(Error::invalid(format!(
                "metadata '{}': expected an even number of at most {head_dim}, found {rotary_dim}",
                model.key("rope.dimension_count")
            )));
        }
        let vocab = match model.tensor("token_embd.weight").map(|t| t.dims) {
            Some(dims) if dims.len() == 2 => dims[0],
            Some(dims) => {
                return Err(Error::invalid(format!("tensor 'token_embd.weight': expected a matrix, found {dims:?}")));
            }
            None => return Err(Error::invalid("tensor 'token_embd.weight' is missing from the file")),
        };
        let context = model.positive("context_length")? as u32;
        Ok(Dims {
            hidden,
            layers: model.positive("block_count")? as u32,
            heads,
            kv_heads,
            head_dim,
            value_dim: model.optional_positive("attention.value_length")?.unwrap_or(head_dim),
            ffn: model.positive("feed_forward_length")?,
            eps: model.f32("attention.layer_norm_rms_epsilon")?,
            vocab,
            context,
            served_context: build.context_length.unwrap_or(context),
            rotary_dim,
            rope_base: model.optional_f32("rope.freq_base")?.unwrap_or(10_000.0),
            window: model.optional_u32("attention.sliding_window")?.filter(|&window| window > 0),
        })
    }

    /// `1 / sqrt(head_dim)`.
    pub fn attention_scale(&self) -> f32 {
        (1.0 / (self.head_dim as f64).sqrt()) as f32
    }

    /// Facts for the program.
    pub fn info(&self, model: &Model<'_>) -> ModelInfo {
        ModelInfo {
            architecture: model.architecture().to_owned(),
            vocab_size: self.vocab,
            hidden_size: self.hidden,
            layers: self.layers,
            context_length: self.context,
        }
    }
}

/// The `rope.scaling.*` keys: the scaling, and what sine and cosine are multiplied by.
///
/// `none`, `linear` (also the old key `rope.scale_linear`), `yarn` and `longrope` are known, the last of which is in
/// tensors and not in the scaling. YaRN's factor on sine and cosine is `0.1 ln(factor) + 1` (section 3.4 of the paper),
/// divided by the same with `rope.scaling.yarn_log_multiplier` where the file has one, or else
/// `rope.scaling.yarn_attn_factor`; either times `rope.scaling.attn_factor`.
pub(crate) fn rope_scaling(model: &Model<'_>) -> Result<(RopeScaling, f32)> {
    let kind = model.optional_text("rope.scaling.type")?;
    let factor = match model.optional_f32("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => model.optional_f32("rope.scale_linear")?,
    };
    let attention = model.optional_f32("rope.scaling.attn_factor")?.unwrap_or(1.0);
    match (kind, factor.filter(|&f| f != 0.0)) {
        (Some("none" | "longrope"), _) | (None | Some("linear" | "yarn"), None) => Ok((RopeScaling::None, attention)),
        (None | Some("linear"), Some(factor)) => Ok((RopeScaling::Linear { factor }, attention)),
        (Some("yarn"), Some(factor)) => {
            let original_context = model.positive("rope.scaling.original_context_length")? as u32;
            let beta_fast = model.optional_f32("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0);
            let beta_slow = model.optional_f32("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0);
            let scaling = RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow };
            Ok((scaling, attention * yarn_magnitude(model, factor)?))
        }
        (Some(other), _) => Err(Error::unsupported(format!(
            "metadata '{}': expected none, linear, yarn or longrope, found '{other}'",
            model.key("rope.scaling.type")
        ))),
    }
}

fn yarn_magnitude(model: &Model<'_>, factor: f32) -> Result<f32> {
    if let Some(given) = model.optional_f32("rope.scaling.yarn_attn_factor")? {
        return Ok(given);
    }
    let multiplier = model.optional_f32("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
    let grown = |multiplier: f32| 0.1 * multiplier * factor.ln() + 1.0;
    Ok(if factor > 1.0 { grown(1.0) / grown(multiplier) } else { 1.0 })
}
