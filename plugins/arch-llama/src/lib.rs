//! Llama 2 and 3 and the models built like them: RMS norm, interleaved rope, SwiGLU, any number of KV heads.
#![forbid(unsafe_code)]

use rocmforge_sdk::program::{Activation, RopeStyle};
use rocmforge_sdk::{
    Architecture, AttentionSpec, Bias, BuildOptions, Dims, Graph, Mlp, Model, Options, Program, Result, RopeSpec,
};

/// The architecture.
struct Llama;

impl Architecture for Llama {
    const CLAIMS: &'static [&'static str] = &["llama"];

    fn build(model: &Model<'_>, options: &Options, build: &BuildOptions) -> Result<Program> {
        options.expect_none()?;
        let dims = Dims::read(model, build)?;
        let rope = RopeSpec::read(model, &dims, RopeStyle::Interleaved)?;
        let attention = AttentionSpec {
            bias: Bias::Optional,
            output_bias: Bias::Optional,
            window: dims.window,
            ..AttentionSpec::new(&dims, rope)
        };
        let mlp = Mlp { bias: Bias::Optional, ..Mlp::new(dims.ffn, Activation::Silu) };

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

rocmforge_sdk::export_plugin! { name: "llama", architecture: Llama }
