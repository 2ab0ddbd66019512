//! GLM-4 (`glm4`) and ChatGLM (`chatglm`): interleaved rope on a part of each head, gate and up in one matrix.
#![forbid(unsafe_code)]

use rocmforge_sdk::program::{Activation, RopeStyle};
use rocmforge_sdk::{
    Architecture, AttentionSpec, Bias, BuildOptions, Dims, Graph, Mlp, Model, Options, Program, Qkv, Result, RopeSpec,
};

struct Glm;

impl Architecture for Glm {
    const CLAIMS: &'static [&'static str] = &["glm4", "chatglm"];

    fn build(model: &Model<'_>, options: &Options, build: &BuildOptions) -> Result<Program> {
        options.expect_none()?;
        let post_norms = model.architecture() == "glm4";
        let dims = Dims::read(model, build)?;
        // Some sizes have biases on q, k and v and some have none; a file that has one must have all.
        let projections = ["attn_q", "attn_k", "attn_v", "attn_qkv"];
        let biased = projections.into_iter().any(|n| model.tensor(&format!("blk.0.{n}.bias")).is_some());
        let mut rope = RopeSpec::read(model, &dims, RopeStyle::Interleaved)?;
        // All sizes rotate half of a head; some files do not say so.
        if model.get("rope.dimension_count").is_none() {
            rope.rotary_dim = dims.head_dim / 2;
        }
        let attention = AttentionSpec {
            qkv: Qkv::Either,
            bias: if biased { Bias::Required } else { Bias::None },
            ..AttentionSpec::new(&dims, rope)
        };
        let mlp = Mlp { fused: true, ..Mlp::new(dims.ffn, Activation::Silu) };

        let mut g = Graph::new(model, dims.info(model));
        let mut x = g.embed(1.0)?;
        for layer in 0..dims.layers {
            g.layer(layer);
            let h = g.rms_norm(x, "attn_norm", dims.eps)?;
            let h = g.attention(h, &attention)?;
            x = g.add_normed(x, h, post_norms.then_some("post_attention_norm"), dims.eps)?;
            let h = g.rms_norm(x, "ffn_norm", dims.eps)?;
            let h = g.gated_mlp(h, &mlp)?;
            x = g.add_normed(x, h, post_norms.then_some("post_ffw_norm"), dims.eps)?;
        }
        g.head(x, dims.eps, None)
    }
}

rocmforge_sdk::export_plugin! { name: "glm", architecture: Glm }
