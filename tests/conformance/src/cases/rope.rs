use rocmforge_program::{Op, Rope, RopeScaling, RopeStyle};

use super::Cases;
use crate::error::Error;
use crate::net::Net;
use crate::ops::OpCase;
use crate::paging::{FAR, ROWS, Scenario};
use crate::tolerance::Family;

#[derive(Clone, Copy)]
struct Variant {
    dims: [usize; 2],
    rotary_dim: usize,
    base: f32,
    scaling: RopeScaling,
    magnitude: f32,
    factors: bool,
    scenario: Scenario,
}

const PLAIN: Variant = Variant {
    dims: [3, 16],
    rotary_dim: 16,
    base: 10_000.0,
    scaling: RopeScaling::None,
    magnitude: 1.0,
    factors: false,
    scenario: ROWS,
};

pub(super) fn cases() -> Cases {
    let yarn = RopeScaling::Yarn { factor: 4.0, original_context: 64, beta_fast: 32.0, beta_slow: 1.0 };
    let llama3 =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 128 };
    let variants = [
        ("plain", PLAIN),
        ("one head of two", Variant { dims: [1, 2], rotary_dim: 2, ..PLAIN }),
        ("head of 128", Variant { dims: [2, 128], rotary_dim: 128, ..PLAIN }),
        ("partial", Variant { rotary_dim: 10, ..PLAIN }),
        ("base 500000", Variant { base: 500_000.0, ..PLAIN }),
        ("magnitude", Variant { magnitude: 1.3, ..PLAIN }),
        ("factors", Variant { factors: true, ..PLAIN }),
        ("partial with factors", Variant { factors: true, rotary_dim: 8, ..PLAIN }),
        ("linear", Variant { scaling: RopeScaling::Linear { factor: 4.0 }, ..PLAIN }),
        ("yarn", Variant { scaling: yarn, magnitude: 1.14, ..PLAIN }),
        ("llama3", Variant { scaling: llama3, dims: [2, 64], rotary_dim: 64, ..PLAIN }),
        ("far", Variant { scenario: FAR, ..PLAIN }),
        ("far with yarn", Variant { scaling: yarn, dims: [2, 64], rotary_dim: 64, scenario: FAR, ..PLAIN }),
        ("far with llama3", Variant { scaling: llama3, scenario: FAR, ..PLAIN }),
    ];
    let mut cases = vec![];
    for style in [RopeStyle::Interleaved, RopeStyle::Half] {
        for (name, variant) in &variants {
            cases.push(case(&format!("rope/{style:?}/{name}"), style, variant)?);
        }
    }
    Ok(cases)
}

fn case(name: &str, style: RopeStyle, v: &Variant) -> Result<OpCase, Error> {
    let mut net = Net::new(name);
    let (x, positions) = (net.rows(&v.dims, 1.0)?, net.positions()?);
    let factors = if v.factors { Some(net.vector(v.rotary_dim / 2, 8.0, 1.0)?) } else { None };
    let y = net.push(Op::Rope(Rope {
        x,
        positions,
        style,
        rotary_dim: v.rotary_dim,
        base: v.base,
        scaling: v.scaling,
        magnitude: v.magnitude,
        factors,
        sections: None,
    }))?;
    net.output(y);
    // Read again: a rotation in place would show.
    let z = net.push(Op::Add { a: x, b: y })?;
    net.output(z);
    net.finish(Family::Rope, v.scenario)
}
