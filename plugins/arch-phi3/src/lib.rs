//! Phi-3: q, k, v in one matrix, gate and up in another, and LongRoPE (Ding et al., arXiv:2402.13753).
#![forbid(unsafe_code)]

use rocmforge_sdk::program::{Activation, RopeStyle};
use rocmforge_sdk::{
    Architecture, AttentionSpec, BuildOptions, Dims, Graph, Mlp, Model, Options, Program, Qkv, Result, RopeSpec,
};
use serde::Deserialize;

struct Phi3;

/// The plugin's table in `plugins.toml`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    long_factors: When,
}

/// When the long rope factors are used, of a model that is served beyond its original context.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum When {
    /// For sequences that are longer than the original context, as transformers does it.
    #[default]
    Longer,
    /// For every sequence, as llama.cpp does it.
    Always,
}

impl Architecture for Phi3 {
    const CLAIMS: &'static [&'static str] = &["phi3"];

    fn build(model: &Model<'_>, options: &Options, build: &BuildOptions) -> Result<Program> {
        let settings: Settings = options.parse()?;
        let dims = Dims::read(model, build)?;
        let mut rope = RopeSpec::read(model, &dims, RopeStyle::Half)?;
        if settings.long_factors == When::Always {
            rope.factors = rope.long.take().map(|long| long.factors).or(rope.factors);
        }
        let attention = AttentionSpec { qkv: Qkv::Fused, window: dims.window, ..AttentionSpec::new(&dims, rope) };
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
