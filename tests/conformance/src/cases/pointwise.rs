use rocmforge_program::{Activation, Custom, Node, Op, ValueId, ValueType};

use super::Cases;
use crate::error::Error;
use crate::net::Net;
use crate::ops::OpCase;
use crate::paging::{FAR, ROWS};
use crate::tolerance::Family;

const ACTIVATIONS: [Activation; 8] = [
    Activation::Silu,
    Activation::GeluTanh,
    Activation::GeluErf,
    Activation::GeluQuick,
    Activation::Relu,
    Activation::ReluSquared,
    Activation::Sigmoid,
    Activation::Tanh,
];

type Binary = fn(ValueId, ValueId) -> Op;

pub(super) fn cases() -> Cases {
    let mut cases = vec![];
    let binaries: [(&str, Binary); 3] =
        [("add", |a, b| Op::Add { a, b }), ("sub", |a, b| Op::Sub { a, b }), ("mul", |a, b| Op::Mul { a, b })];
    for (name, op) in binaries {
        for (a, b) in [(vec![19], vec![19]), (vec![19], vec![1]), (vec![3, 8], vec![3, 8]), (vec![3, 8], vec![3, 1])] {
            let mut net = Net::new(format!("{name}/{a:?} {b:?}"));
            let (a, b) = (net.rows(&a, 1.0)?, net.rows(&b, 1.0)?);
            let y = net.push(op(a, b))?;
            net.output(y);
            cases.push(net.finish(Family::Exact, ROWS)?);
        }
        let mut net = Net::new(format!("{name}/with itself"));
        let a = net.rows(&[19], 1.0)?;
        let y = net.push(op(a, a))?;
        net.output(y);
        cases.push(net.finish(Family::Exact, ROWS)?);
    }
    for kind in ACTIVATIONS {
        // Small, usual and saturating values.
        for size in [0.1, 3.0, 30.0] {
            let mut net = Net::new(format!("unary/{kind:?} of {size}"));
            let x = net.rows(&[37], size)?;
            let y = net.push(Op::Unary { x, kind })?;
            net.output(y);
            cases.push(net.finish(Family::Pointwise, ROWS)?);
        }
        let mut net = Net::new(format!("gated_act/{kind:?}"));
        let (gate, up) = (net.rows(&[2, 19], 3.0)?, net.rows(&[2, 19], 1.0)?);
        let y = net.push(Op::GatedAct { gate, up, kind })?;
        net.output(y);
        cases.push(net.finish(Family::Pointwise, ROWS)?);
    }
    for (mul, add) in [(0.125, 0.0), (1.0, -2.0), (-3.0, 0.5), (0.0, 1.0)] {
        let mut net = Net::new(format!("scale/{mul} {add}"));
        let x = net.rows(&[19], 1.0)?;
        let y = net.push(Op::Scale { x, mul, add })?;
        net.output(y);
        cases.push(net.finish(Family::Exact, ROWS)?);
    }
    for (cap, size) in [(30.0, 40.0), (0.5, 1.0)] {
        let mut net = Net::new(format!("softcap/{cap}"));
        let x = net.rows(&[19], size)?;
        let y = net.push(Op::Softcap { x, cap })?;
        net.output(y);
        cases.push(net.finish(Family::Pointwise, ROWS)?);
    }
    for (beta, interval, scenario) in [(0.5, 4, ROWS), (0.1, 8192, FAR)] {
        let mut net = Net::new(format!("position_scale/{beta} every {interval}"));
        let (x, positions) = (net.rows(&[3, 8], 1.0)?, net.positions()?);
        let y = net.push(Op::PositionScale { x, positions, beta, interval })?;
        net.output(y);
        cases.push(net.finish(Family::Pointwise, scenario)?);
    }
    cases.push(custom("custom/one result", 1)?);
    cases.push(custom("custom/two results", 2)?);
    cases.push(reused_values()?);
    Ok(cases)
}

/// An operation that no backend knows natively: `relu(x)^2 * w` and, asked for two results, `relu(x)^2` as well.
fn custom(name: &str, results: usize) -> Result<OpCase, Error> {
    let mut net = Net::new(name);
    let x = net.rows(&[24], 1.0)?;
    let weight = net.matrix(&[10, 24], rocmforge_program::DType::F32)?;
    let node = |op| Node { op, layer: None };
    let outputs =
        [ValueType::f32(rocmforge_program::Lead::T, &[10]), ValueType::f32(rocmforge_program::Lead::T, &[24])];
    let values = net.push_many(Op::Custom(Custom {
        domain: "conformance".into(),
        name: "squared_relu_linear".into(),
        version: 1,
        attrs: Default::default(),
        inputs: vec![x],
        outputs: outputs[..results].to_vec(),
        decomposition: vec![
            node(Op::Unary { x: ValueId(0), kind: Activation::Relu }),
            node(Op::Mul { a: ValueId(1), b: ValueId(1) }),
            node(Op::Linear { x: ValueId(2), weight, bias: None }),
        ],
        results: [ValueId(3), ValueId(2)][..results].to_vec(),
    }))?;
    values.into_iter().for_each(|v| net.output(v));
    // Values after it are numbered anew where it is expanded.
    let y = net.push(Op::Add { a: x, b: x })?;
    net.output(y);
    net.finish(Family::Matrix(rocmforge_program::DType::F32), ROWS)
}

/// Values that are read again after they could have been overwritten in place, and outputs that are inputs of others.
fn reused_values() -> Result<OpCase, Error> {
    let mut net = Net::new("values/read more than once");
    let x = net.rows(&[16], 1.0)?;
    let a = net.push(Op::Unary { x, kind: Activation::Tanh })?;
    let b = net.push(Op::Add { a: x, b: a })?;
    let c = net.reshape(b, &[2, 8])?;
    let d = net.push(Op::Scale { x: c, mul: 2.0, add: 1.0 })?;
    let e = net.reshape(d, &[16])?;
    let f = net.push(Op::Mul { a: e, b: x })?;
    let g = net.push(Op::Sub { a: f, b })?;
    for value in [x, a, b, c, d, g, b] {
        net.output(value);
    }
    net.finish(Family::Pointwise, ROWS)
}
