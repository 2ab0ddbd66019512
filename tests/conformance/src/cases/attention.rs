use rocmforge_program::{Attention, CacheId, Op, ValueId};

use super::Cases;
use crate::error::Error;
use crate::net::Net;
use crate::ops::OpCase;
use crate::paging::{LONG, MIXED, Scenario};
use crate::tolerance::Family;

#[derive(Clone, Copy)]
struct Variant {
    heads: usize,
    kv_heads: usize,
    key_dim: usize,
    value_dim: usize,
    scale: f32,
    window: Option<u32>,
    softcap: Option<f32>,
    sinks: bool,
    scenario: Scenario,
}

const PLAIN: Variant = Variant {
    heads: 4,
    kv_heads: 4,
    key_dim: 16,
    value_dim: 16,
    scale: 0.5,
    window: None,
    softcap: None,
    sinks: false,
    scenario: MIXED,
};

pub(super) fn cases() -> Cases {
    let wide = Variant { key_dim: 64, value_dim: 64, scale: 0.25, scenario: LONG, ..PLAIN };
    let blocks = |block_size| Variant { scenario: Scenario { block_size, ..MIXED }, ..PLAIN };
    let variants = [
        ("plain", PLAIN),
        ("blocks of 1", blocks(1)),
        ("blocks of 3", blocks(3)),
        ("blocks of 32", blocks(32)),
        ("grouped 4:2", Variant { kv_heads: 2, ..PLAIN }),
        ("grouped 8:1", Variant { heads: 8, kv_heads: 1, ..PLAIN }),
        ("grouped 6:3", Variant { heads: 6, kv_heads: 3, key_dim: 10, value_dim: 10, ..PLAIN }),
        ("values narrower than keys", Variant { value_dim: 6, ..PLAIN }),
        ("values wider than keys", Variant { key_dim: 6, scale: 1.0, ..PLAIN }),
        ("scale", Variant { scale: 1.7, ..PLAIN }),
        ("head of 64, long", wide),
        ("head of 80, long", Variant { key_dim: 80, value_dim: 80, ..wide }),
        ("head of 128, grouped, long", Variant { key_dim: 128, value_dim: 128, kv_heads: 1, scale: 0.15, ..wide }),
        ("window 1", Variant { window: Some(1), ..PLAIN }),
        ("window 3", Variant { window: Some(3), ..PLAIN }),
        ("window 4, the block size", Variant { window: Some(4), ..PLAIN }),
        ("window 1000", Variant { window: Some(1000), ..PLAIN }),
        ("window 20, long", Variant { window: Some(20), ..wide }),
        ("softcap", Variant { softcap: Some(1.0), scale: 1.0, ..PLAIN }),
        ("softcap, long", Variant { softcap: Some(2.0), ..wide }),
        ("sinks", Variant { sinks: true, ..PLAIN }),
        ("everything", Variant { kv_heads: 2, window: Some(5), softcap: Some(2.0), sinks: true, ..PLAIN }),
        ("everything, long", Variant { kv_heads: 2, window: Some(17), softcap: Some(2.0), sinks: true, ..wide }),
    ];
    let mut cases = vec![];
    for (name, variant) in variants {
        let mut net = Net::new(format!("attention/{name}"));
        let cache = net.cache(0, [variant.kv_heads, variant.key_dim, variant.value_dim], variant.window);
        let y = attend(&mut net, &variant, cache)?;
        net.output(y);
        cases.push(net.finish(Family::Attention, variant.scenario)?);
    }
    cases.push(several_caches()?);
    cases.push(borrowed_cache()?);
    cases.push(narrower_than_its_cache()?);
    Ok(cases)
}

/// Attention with its own keys and values.
fn attend(net: &mut Net, v: &Variant, cache: CacheId) -> Result<ValueId, Error> {
    let k = net.rows(&[v.kv_heads, v.key_dim], 1.0)?;
    let values = net.rows(&[v.kv_heads, v.value_dim], 1.0)?;
    attend_to(net, v, cache, Some(k), Some(values))
}

fn attend_to(
    net: &mut Net,
    a: &Variant,
    cache: CacheId,
    k: Option<ValueId>,
    v: Option<ValueId>,
) -> Result<ValueId, Error> {
    let q = net.rows(&[a.heads, a.key_dim], 1.0)?;
    let sinks = if a.sinks { Some(net.vector(a.heads, 1.0, 1.0)?) } else { None };
    let (scale, window, softcap) = (a.scale, a.window, a.softcap);
    net.push(Op::Attention(Attention { q, k, v, cache, scale, window, softcap, sinks }))
}

/// Layers with and without a window: block tables of their own.
fn several_caches() -> Result<OpCase, Error> {
    let mut net = Net::new("attention/two groups of caches");
    for (layer, window) in [None, Some(3), None, Some(3)].into_iter().enumerate() {
        let v = Variant { window, kv_heads: 2, ..PLAIN };
        let cache = net.cache(layer as u32, [2, 16, 16], window);
        let y = attend(&mut net, &v, cache)?;
        net.output(y);
    }
    net.finish(Family::Attention, MIXED)
}

/// A layer that reads what another has written in the same step.
fn borrowed_cache() -> Result<OpCase, Error> {
    let mut net = Net::new("attention/another layer's cache");
    let cache = net.cache(0, [2, 16, 16], None);
    let v = Variant { kv_heads: 2, ..PLAIN };
    let own = attend(&mut net, &v, cache)?;
    let borrowed = attend_to(&mut net, &Variant { heads: 6, ..v }, cache, None, None)?;
    net.output(own);
    net.output(borrowed);
    net.finish(Family::Attention, MIXED)
}

fn narrower_than_its_cache() -> Result<OpCase, Error> {
    let mut net = Net::new("attention/a window smaller than its cache keeps");
    let cache = net.cache(0, [4, 16, 16], Some(8));
    let y = attend(&mut net, &Variant { window: Some(2), ..PLAIN }, cache)?;
    net.output(y);
    net.finish(Family::Attention, MIXED)
}
