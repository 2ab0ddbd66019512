//! An architecture plugin to start from: a decoder-only transformer with RMS norm, rotary embedding, grouped-query
//! attention and a gated feed-forward layer, for files whose `general.architecture` is "template".
//!
//! An architecture is a pure function from a model file to a Program. It sees metadata and the list of tensors, never
//! their data; it computes nothing and knows no backend. It writes each layer in its plain form: joining matrices and
//! operations is what backends do.
#![forbid(unsafe_code)]

use rocmforge_sdk::program::{Activation, RopeStyle};
use rocmforge_sdk::{
    Architecture, AttentionSpec, Bias, BuildOptions, Dims, Graph, Mlp, Model, Options, Program, Result, RopeSpec,
};

/// The type is only a name for the functions below; nothing is ever stored in it.
struct Template;

impl Architecture for Template {
    // Values of `general.architecture` that this plugin takes. Where two plugins claim one value, `Architecture::fit`
    // says which one suits a file better; without it, every file of these values suits.
    const CLAIMS: &'static [&'static str] = &["template"];

    fn build(model: &Model<'_>, options: &Options, build: &BuildOptions) -> Result<Program> {
        // `options = { .. }` of the plugin's entry in plugins.toml. With settings of your own: add serde to Cargo.toml,
        // derive its `Deserialize` on a struct with `#[serde(default, deny_unknown_fields)]` and call
        // `options.parse::<Settings>()?`.
        options.expect_none()?;

        // Sizes under their usual keys. A key without prefix belongs to the architecture: "block_count" is
        // "template.block_count" in the file. A key that is missing or makes no sense is an error that names it.
        // For keys that `Dims` does not know there are `model.u32("key")?`, `model.optional_f32("key")?` and so on.
        let dims = Dims::read(model, build)?;

        // Rotary embedding from the `rope.*` keys. `Interleaved` pairs components 2i and 2i+1, `Half` pairs i and
        // i + n/2 (NORM and NEOX in llama.cpp): no key says which, it is the most common mistake in a new architecture,
        // and its symptom is fluent nonsense.
        let rope = RopeSpec::read(model, &dims, RopeStyle::Interleaved)?;

        // What deviates from plain attention is set here: `qkv: Qkv::Fused`, `qk_norm: Some(eps)`,
        // `window: dims.window` (ignored otherwise), `softcap: Some(50.0)`, `scale`, `temperature`.
        let attention = AttentionSpec { bias: Bias::Optional, ..AttentionSpec::new(&dims, rope) };
        let mlp = Mlp::new(dims.ffn, Activation::Silu);

        // From here on each call adds operations and checks them. Tensors go by their name without layer and suffix:
        // "attn_norm" is "blk.3.attn_norm.weight" in layer 3. Dimensions are compared with the file's.
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
        // Anything that has no helper: `g.builder().push(Op::Softcap { x, cap: 30.0 })?`; docs/IR.md has the operations.
        // Another end than this one: name the output with `g.builder().output(..)`, then `g.finish()`.

        // Final norm, the rows that need logits, and the head (the embedding where the file has no "output.weight").
        g.head(x, dims.eps, None)
    }
}

// Once per library. `name` is what `architecture = ".."` of a model in plugins.toml refers to.
rocmforge_sdk::export_plugin! { name: "template", architecture: Template }
