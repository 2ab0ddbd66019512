//! Mistral 7B, Nemo and Mixtral, whose files say `llama`, and Ministral 3, whose files say `mistral3`.
#![forbid(unsafe_code)]

use rocmforge_sdk::program::{Activation, GateKind, RopeStyle};
use rocmforge_sdk::{
    Architecture, AttentionSpec, BuildOptions, Dims, Error, Fit, Graph, Mlp, Model, MoeSpec, Options, Program, Result,
    RopeSpec,
};

struct Mistral;

impl Architecture for Mistral {
    const CLAIMS: &'static [&'static str] = &["llama", "mistral3"];

    /// A file of `llama` is one of Mistral's if it has experts, Mistral's Tekken vocabulary, or a name that says so.
    fn fit(model: &Model<'_>) -> Fit {
        let text = |key| model.optional_text(key).ok().flatten().unwrap_or_default().to_lowercase();
        let named = ["general.name", "general.basename", "general.base_model.0.name"]
            .into_iter()
            .any(|key| ["mistral", "ministral", "mixtral"].into_iter().any(|name| text(key).contains(name)));
        let experts = matches!(model.optional_u32("expert_count"), Ok(Some(1..)));
        let tekken = text("tokenizer.ggml.pre") == "tekken";
        if model.architecture() == "mistral3" || named || experts || tekken { Fit::Specific } else { Fit::No }
    }

    fn build(model: &Model<'_>, options: &Options, build: &BuildOptions) -> Result<Program> {
        options.expect_none()?;
        let dims = Dims::read(model, build)?;
        let rope = RopeSpec::read(model, &dims, RopeStyle::Interleaved)?;
        let mut attention = AttentionSpec { window: dims.window, ..AttentionSpec::new(&dims, rope) };
        // Ministral 3 sharpens attention as the position passes multiples of the original context.
        if let Some(beta) = model.optional_f32("attention.temperature_scale")?.filter(|&beta| beta != 0.0) {
            attention.temperature = Some((beta, model.positive("rope.scaling.original_context_length")? as u32));
        }
        let mlp = Mlp::new(dims.ffn, Activation::Silu);
        let moe = match model.optional_u32("expert_count")? {
            None | Some(0) => None,
            // The way of files from before April 2024.
            Some(_) if model.tensor("blk.0.ffn_gate.0.weight").is_some() => {
                return Err(Error::unsupported(
                    "tensor 'blk.0.ffn_gate.0.weight': expected all experts of a layer in 'blk.0.ffn_gate_exps.weight', \
                     found one tensor for each; convert the model again",
                ));
            }
            Some(experts) => Some(MoeSpec {
                experts: experts as usize,
                top_k: model.positive("expert_used_count")?,
                width: dims.ffn,
                activation: Activation::Silu,
                gate: GateKind::Softmax,
                renormalize: true,
                scale: 1.0,
                shared: None,
            }),
        };

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

rocmforge_sdk::export_plugin! { name: "mistral", architecture: Mistral }
