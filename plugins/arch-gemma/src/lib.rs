//! Gemma 1, 2 and 3. The files hold norm weights with the `+ 1` of these models already added.
#![forbid(unsafe_code)]

use rocmforge_sdk::program::{Activation, RopeScaling, RopeStyle};
use rocmforge_sdk::{
    Architecture, AttentionSpec, BuildOptions, Dims, Graph, Mlp, Model, Options, Program, Result, RopeSpec,
};

struct Gemma;

/// What differs between the generations.
struct Generation {
    /// Norms on the results of attention and feed-forward, before they are added.
    post_norms: bool,
    /// Every how many layers one sees the whole context; the others see a window.
    full_every: Option<u32>,
    /// Layers of the size whose attention scale is `1/sqrt(hidden / heads)` instead of `1/sqrt(head_dim)`.
    odd_scale_layers: u32,
}

fn generation(architecture: &str) -> Generation {
    match architecture {
        "gemma2" => Generation { post_norms: true, full_every: Some(2), odd_scale_layers: 46 },
        "gemma3" => Generation { post_norms: true, full_every: Some(6), odd_scale_layers: 62 },
        _ => Generation { post_norms: false, full_every: None, odd_scale_layers: 0 },
    }
}

impl Architecture for Gemma {
    const CLAIMS: &'static [&'static str] = &["gemma", "gemma2", "gemma3"];

    fn build(model: &Model<'_>, options: &Options, build: &BuildOptions) -> Result<Program> {
        options.expect_none()?;
        let generation = generation(model.architecture());
        let dims = Dims::read(model, build)?;
        let (full, sliding) = attention(model, &dims, &generation)?;
        let mlp = Mlp::new(dims.ffn, Activation::GeluTanh);

        let mut g = Graph::new(model, dims.info(model));
        let mut x = g.embed((dims.hidden as f32).sqrt())?;
        for layer in 0..dims.layers {
            g.layer(layer);
            let slides = generation.full_every.is_some_and(|every| (layer + 1) % every != 0);
            let h = g.rms_norm(x, "attn_norm", dims.eps)?;
            let h = g.attention(h, if slides { &sliding } else { &full })?;
            x = g.add_normed(x, h, generation.post_norms.then_some("post_attention_norm"), dims.eps)?;
            let h = g.rms_norm(x, "ffn_norm", dims.eps)?;
            let h = g.gated_mlp(h, &mlp)?;
            x = g.add_normed(x, h, generation.post_norms.then_some("post_ffw_norm"), dims.eps)?;
        }
        g.head(x, dims.eps, soft_cap(model, "final_logit_softcapping", 30.0)?)
    }
}

/// A soft cap. The first files of Gemma 2 do not say it; `second` is what all its sizes have.
fn soft_cap(model: &Model<'_>, key: &str, second: f32) -> Result<Option<f32>> {
    Ok(model.optional_f32(key)?.or((model.architecture() == "gemma2").then_some(second)))
}

/// Attention of the layers that see everything, and of those with a window. In Gemma 3 the latter have a rope base of
/// their own and no rope scaling.
fn attention(model: &Model<'_>, dims: &Dims, generation: &Generation) -> Result<(AttentionSpec, AttentionSpec)> {
    let third = model.architecture() == "gemma3";
    let rope = RopeSpec::read(model, dims, RopeStyle::Half)?;
    let mut full = AttentionSpec {
        qk_norm: third.then_some(dims.eps),
        softcap: soft_cap(model, "attn_logit_softcapping", 50.0)?,
        ..AttentionSpec::new(dims, rope.clone())
    };
    if dims.layers == generation.odd_scale_layers {
        full.scale = (dims.hidden as f32 / dims.heads as f32).sqrt().recip();
    }
    let window = match model.optional_positive("attention.sliding_window")? {
        Some(window) => Some(window as u32),
        // As with the soft caps. A Gemma 3 without a window has none in any layer.
        None => (!third).then_some(4096),
    };
    if generation.full_every.is_none() || window.is_none() {
        return Ok((full.clone(), full));
    }
    let mut sliding = AttentionSpec { window, ..full.clone() };
    if third {
        let base = model.optional_f32("rope.freq_base_swa")?.unwrap_or(10_000.0);
        sliding.rope = Some(RopeSpec { base, scaling: RopeScaling::None, magnitude: 1.0, ..rope });
    }
    Ok((full, sliding))
}

rocmforge_sdk::export_plugin! { name: "gemma", architecture: Gemma }
