//! Qwen2, Qwen2.5 (biases on q, k, v) and Qwen3 (norms on q and k), dense and mixture of experts.
#![forbid(unsafe_code)]

use rocmforge_sdk::program::{Activation, GateKind, RopeStyle};
use rocmforge_sdk::{
    Architecture, AttentionSpec, Bias, BuildOptions, Dims, Graph, Mlp, Model, MoeSpec, Options, Program, Result,
    RopeSpec, SharedExpert, log,
};

struct Qwen;

impl Architecture for Qwen {
    const CLAIMS: &'static [&'static str] = &["qwen2", "qwen2moe", "qwen3", "qwen3moe"];

    fn build(model: &Model<'_>, options: &Options, build: &BuildOptions) -> Result<Program> {
        options.expect_none()?;
        let third = model.architecture().starts_with("qwen3");
        let dims = Dims::read(model, build)?;
        if dims.window.is_some() {
            // The models have it switched off, and files do not say in which layers it would hold.
            log!(
                Warn,
                "metadata '{}' is not used: every layer sees the whole context",
                model.key("attention.sliding_window")
            );
        }
        let plain = AttentionSpec::new(&dims, RopeSpec::read(model, &dims, RopeStyle::Half)?);
        let attention = if third {
            AttentionSpec { qk_norm: Some(dims.eps), ..plain }
        } else {
            AttentionSpec { bias: Bias::Required, ..plain }
        };
        let mlp = Mlp::new(dims.ffn, Activation::Silu);
        let moe = if model.architecture().ends_with("moe") { Some(experts(model, third)?) } else { None };

        let mut g = Graph::new(model, dims.info(model));
        let mut x = g.embed(1.0)?;
        for layer in 0..dims.layers {
            g.layer(layer);
            let h = g.rms_norm(x, "attn_norm", dims.eps)?;
            let h = g.attention(h, &attention)?;
            x = g.add(x, h)?;
            let h = g.rms_norm(x, "ffn_norm", dims.eps)?;
            let h = match &moe {
                Some(moe) => g.moe(h, moe)?,
                None => g.gated_mlp(h, &mlp)?,
            };
            x = g.add(x, h)?;
        }
        g.head(x, dims.eps, None)
    }
}

/// Qwen2 has an expert that every token takes and keeps the routed weights as they are; Qwen3 has none and divides the
/// weights by their sum.
fn experts(model: &Model<'_>, third: bool) -> Result<MoeSpec> {
    let shared = match third {
        true => None,
        false => Some(SharedExpert { width: model.positive("expert_shared_feed_forward_length")?, gated: true }),
    };
    Ok(MoeSpec {
        experts: model.positive("expert_count")?,
        top_k: model.positive("expert_used_count")?,
        width: model.positive("expert_feed_forward_length")?,
        activation: Activation::Silu,
        gate: GateKind::Softmax,
        renormalize: third,
        scale: 1.0,
        shared,
    })
}

rocmforge_sdk::export_plugin! { name: "qwen2", architecture: Qwen }
