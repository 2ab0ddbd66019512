use rocmforge_program::{Activation, Attention, DType, GateKind, Op, Rope, RopeScaling, RopeStyle, Router, ValueId};

use super::Cases;
use crate::error::Error;
use crate::net::Net;
use crate::ops::OpCase;
use crate::paging::{CROWD, LONG, MIXED, Scenario, TOGETHER};
use crate::tolerance::Family;

const HIDDEN: usize = 256;

/// Whole small models in the forms that architectures emit: what a backend fuses, it fuses here.
pub(super) fn cases() -> Cases {
    let mut cases = vec![];
    for dtype in [DType::F32, DType::Q8_0, DType::Q4_0, DType::Q4_K, DType::Q6_K] {
        cases.push(model(&format!("model/llama form, {dtype}"), dtype, Form::Llama, MIXED)?);
    }
    cases.push(model("model/llama form, long", DType::F32, Form::Llama, LONG)?);
    cases.push(model("model/gemma form", DType::F32, Form::Gemma, MIXED)?);
    cases.push(model("model/fused form", DType::F32, Form::Fused, MIXED)?);
    cases.push(model("model/experts form", DType::F32, Form::Experts, MIXED)?);
    cases.push(model("model/several types, 8 sequences", DType::Q4_K, Form::Types, TOGETHER)?);
    cases.push(crowd()?);
    Ok(cases)
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Llama,
    /// Norms per head and after each part, windows in turn, soft caps.
    Gemma,
    /// Query, key and value in one matrix with bias, gate and up in one, partial rotation of halves.
    Fused,
    Experts,
    /// As llama, with values of another type than queries and keys, and heads as wide as the hidden state, as in most files.
    Types,
}

fn model(name: &str, dtype: DType, form: Form, scenario: Scenario) -> Result<OpCase, Error> {
    let mut net = Net::new(name);
    let mut x = net.embed(HIDDEN, DType::F32, if form == Form::Gemma { 4.0 } else { 1.0 })?;
    for layer in 0..2 {
        net.builder().set_layer(Some(layer));
        let h = norm(&mut net, x)?;
        let h = attention(&mut net, h, dtype, form, layer)?;
        let h = if form == Form::Gemma { norm(&mut net, h)? } else { h };
        x = net.push(Op::Add { a: x, b: h })?;
        let h = norm(&mut net, x)?;
        let h = match form {
            Form::Experts => experts(&mut net, h, dtype)?,
            _ => feed_forward(&mut net, h, dtype, form)?,
        };
        let h = if form == Form::Gemma { norm(&mut net, h)? } else { h };
        x = net.push(Op::Add { a: x, b: h })?;
    }
    net.builder().set_layer(None);
    let x = net.gather(x)?;
    let x = norm(&mut net, x)?;
    let mut logits = net.linear(x, 61, dtype)?;
    if form == Form::Gemma {
        logits = net.push(Op::Softcap { x: logits, cap: 2.0 })?;
    }
    net.output(logits);
    net.finish(Family::Model(dtype), scenario)
}

fn norm(net: &mut Net, x: ValueId) -> Result<ValueId, Error> {
    let width = net.builder().type_of(x).map_or(1, |t| t.shape.last());
    let weight = Some(net.vector(width, 1.0, 0.1)?);
    net.push(Op::RmsNorm { x, weight, eps: 1e-5 })
}

fn attention(net: &mut Net, x: ValueId, dtype: DType, form: Form, layer: u32) -> Result<ValueId, Error> {
    let (heads, kv_heads, dim) = if form == Form::Types { (8, 2, 32) } else { (4, 2, 32) };
    let sizes = [heads * dim, kv_heads * dim, kv_heads * dim];
    let parts = if form == Form::Fused {
        let weight = net.matrix(&[sizes.iter().sum(), HIDDEN], dtype)?;
        let bias = Some(net.vector(sizes.iter().sum(), 0.1, 1.0)?);
        let all = net.push(Op::Linear { x, weight, bias })?;
        net.push_many(Op::Split { x: all, sizes: sizes.to_vec() })?
    } else {
        let values = if form == Form::Types { DType::Q6_K } else { dtype };
        let types = [dtype, dtype, values];
        sizes.iter().zip(types).map(|(&n, dtype)| net.linear(x, n, dtype)).collect::<Result<Vec<_>, _>>()?
    };
    let mut q = net.reshape(parts[0], &[heads, dim])?;
    let mut k = net.reshape(parts[1], &[kv_heads, dim])?;
    let v = net.reshape(parts[2], &[kv_heads, dim])?;
    if form == Form::Gemma {
        (q, k) = (norm(net, q)?, norm(net, k)?);
    }
    let (q, k) = (rotate(net, q, form)?, rotate(net, k, form)?);
    let window = (form == Form::Gemma && layer == 0).then_some(4);
    let softcap = (form == Form::Gemma).then_some(3.0);
    let cache = net.cache(layer, [kv_heads, dim, dim], window);
    // With many sequences some row sees two keys of nearly the same score, where a rounding of the query decides between them.
    let sharpness = if form == Form::Types { 0.5 } else { 1.0 };
    let scale = sharpness / (dim as f32).sqrt();
    let (k, v) = (Some(k), Some(v));
    let y = net.push(Op::Attention(Attention { q, k, v, cache, scale, window, softcap, sinks: None }))?;
    let y = net.reshape(y, &[heads * dim])?;
    // Rows of 128 are no whole blocks of the types with blocks of 256.
    let output = if dtype.row_bytes(heads * dim).is_some() { dtype } else { DType::Q8_0 };
    net.linear(y, HIDDEN, output)
}

/// Layers of attention alone, of 64 sequences: each writes to its cache what others must not read, and the other way round.
fn crowd() -> Result<OpCase, Error> {
    let mut net = Net::new("model/attention of 64 sequences");
    let (heads, kv_heads, dim) = (8, 2, 32);
    for layer in 0..3 {
        let [q, k, v] = [heads, kv_heads, kv_heads].map(|n| net.rows(&[n, dim], 1.0));
        let (q, k) = (rotate(&mut net, q?, Form::Llama)?, rotate(&mut net, k?, Form::Llama)?);
        let cache = net.cache(layer, [kv_heads, dim, dim], None);
        let (k, v, scale) = (Some(k), Some(v?), 0.2);
        let attention = Attention { q, k, v, cache, scale, window: None, softcap: None, sinks: None };
        let y = net.push(Op::Attention(attention))?;
        net.output(y);
    }
    net.finish(Family::Attention, CROWD)
}

fn rotate(net: &mut Net, x: ValueId, form: Form) -> Result<ValueId, Error> {
    let (style, rotary_dim) = match form {
        Form::Llama | Form::Types => (RopeStyle::Interleaved, 32),
        Form::Fused => (RopeStyle::Half, 16),
        Form::Gemma | Form::Experts => (RopeStyle::Half, 32),
    };
    let positions = net.positions()?;
    net.push(Op::Rope(Rope {
        x,
        positions,
        style,
        rotary_dim,
        base: 10_000.0,
        scaling: RopeScaling::None,
        magnitude: 1.0,
        factors: None,
        sections: None,
    }))
}

fn feed_forward(net: &mut Net, x: ValueId, dtype: DType, form: Form) -> Result<ValueId, Error> {
    let width = 512;
    let (gate, up) = if form == Form::Fused {
        let both = net.linear(x, 2 * width, dtype)?;
        let parts = net.push_many(Op::Split { x: both, sizes: vec![width; 2] })?;
        (parts[0], parts[1])
    } else {
        (net.linear(x, width, dtype)?, net.linear(x, width, dtype)?)
    };
    let kind = if form == Form::Gemma { Activation::GeluTanh } else { Activation::Silu };
    let y = net.push(Op::GatedAct { gate, up, kind })?;
    net.linear(y, HIDDEN, dtype)
}

fn experts(net: &mut Net, x: ValueId, dtype: DType) -> Result<ValueId, Error> {
    let (count, width) = (4, 64);
    let logits = net.linear(x, count, DType::F32)?;
    let gate = GateKind::Softmax;
    let router = Router { logits, top_k: 2, gate, renormalize: true, scale: 1.0, selection_bias: None };
    let chosen = net.push_many(Op::Router(router))?;
    let through = |net: &mut Net, x: ValueId, out: usize, inputs: usize| {
        let weight = net.matrix(&[count, out, inputs], dtype)?;
        net.push(Op::ExpertLinear { x, experts: chosen[0], weight, bias: None })
    };
    let gate = through(net, x, width, HIDDEN)?;
    let up = through(net, x, width, HIDDEN)?;
    let y = net.push(Op::GatedAct { gate, up, kind: Activation::Silu })?;
    let y = through(net, y, HIDDEN, width)?;
    net.push(Op::ExpertCombine { x: y, weights: chosen[1] })
}
