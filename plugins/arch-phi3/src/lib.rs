//! Phi-3: q, k, v in one matrix, gate and up in another, and LongRoPE (Ding et al., arXiv:2402.13753).
#![forbid(unsafe_code)]

use rocmforge_sdk::program::{Activation, RopeStyle};
use rocmforge_sdk::{
    Architecture, AttentionSpec, BuildOptions, Dims, Graph, Mlp, Model, Options, Program, Qkv, Result, RopeSpec,
};

struct Phi3;

impl Architecture for Phi3 {
    const CLAIMS: &'static [&'static str] = &["phi3"];

    fn build(model: &Model<'_>, options: &Options, build: &BuildOptions) -> Result<Program> {
        options.expect_none()?;
        let dims = Dims::read(model, build)?;
        let mut rope = RopeSpec::read(model, &dims, RopeStyle::Half)?;
        // Short factors hold up to the original context. A cache filled with one set cannot be read with the other, so
        // the choice follows the longest context that will be served.
        let original = model.optional_u32("rope.scaling.original_context_length")?.unwrap_or(dims.context);
        let factors = match dims.served_context > original {
            true => "rope_factors_long.weight",
            false => "rope_factors_short.weight",
        };
        rope.factors = model.tensor(factors).map(|t| t.name);
        let attention = AttentionSpec {
            qkv: Qkv::Fused,
            window: model.optional_u32("attention.sliding_window")?.filter(|&window| window > 0),
            ..AttentionSpec::new(&dims, rope)
        };
        let mlp = Mlp { fused: true, ..Mlp::new(dims.ffn, Activation::Silu) };

        let mut g = Graph::new(model, dims.info(model));
        let mut x = g.embed(1.0)?;
        for layer in 0..dims.layers {
            g.layer(layer);
            let h = g.rms_norm(x, "attn_norm", dims.eps)?;
            let h = g.attention(h, &attention)?;
            x = g.add(x, h)?;
            let h = g.rms_norm(x, "ffn_norm", dims.eps)?;
            let h = g.gated_mlp(h, &mlp)?;
            x = g.add(x, h)?;
        }
        g.head(x, dims.eps, None)
    }
}

rocmforge_sdk::export_plugin! { name: "phi3", architecture: Phi3 }
