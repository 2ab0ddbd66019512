use rocmforge_program::{DType, GateKind, Op, Router, ValueId};

use super::Cases;
use crate::error::Error;
use crate::net::Net;
use crate::ops::OpCase;
use crate::paging::ROWS;
use crate::tolerance::Family;

const EXPERTS: usize = 6;

pub(super) fn cases() -> Cases {
    let mut cases = vec![];
    for gate in [GateKind::Softmax, GateKind::SoftmaxTopK, GateKind::Sigmoid] {
        for (top_k, renormalize, scale, bias) in [
            (1, false, 1.0, false),
            (2, false, 1.0, false),
            (2, true, 2.5, false),
            (3, true, 1.0, true),
            (6, false, 1.0, true),
        ] {
            let parts = [(renormalize, " renormalized"), (bias, " biased")];
            let parts: String = parts.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
            cases.push(router(
                &format!("router/{gate:?}/{top_k} of {EXPERTS}{parts}"),
                gate,
                top_k,
                renormalize,
                scale,
                bias,
            )?);
        }
    }
    for &dtype in DType::ALL {
        cases.push(linear(&format!("expert_linear/{dtype}"), dtype, 256, false, false)?);
    }
    for (bias, per_expert) in [(true, false), (false, true), (true, true)] {
        let parts = [(bias, " bias"), (per_expert, " row per expert")];
        let parts: String = parts.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        cases.push(linear(&format!("expert_linear/F32{parts}"), DType::F32, 10, bias, per_expert)?);
        cases.push(linear(&format!("expert_linear/Q8_0{parts}"), DType::Q8_0, 64, bias, per_expert)?);
    }
    for (top_k, width) in [(1, 8), (3, 20)] {
        let mut net = Net::new(format!("expert_combine/{top_k} of {width}"));
        let (x, weights) = (net.rows(&[top_k, width], 1.0)?, net.rows(&[top_k], 1.0)?);
        let y = net.push(Op::ExpertCombine { x, weights })?;
        net.output(y);
        cases.push(net.finish(Family::Pointwise, ROWS)?);
    }
    Ok(cases)
}

fn route(net: &mut Net, top_k: usize) -> Result<(ValueId, ValueId), Error> {
    let logits = net.rows(&[EXPERTS], 1.0)?;
    let gate = GateKind::Softmax;
    let router = Router { logits, top_k, gate, renormalize: false, scale: 1.0, selection_bias: None };
    let results = net.push_many(Op::Router(router))?;
    Ok((results[0], results[1]))
}

/// The choice shows in which expert's bias is picked: index values are no outputs.
fn router(
    name: &str,
    gate: GateKind,
    top_k: usize,
    renormalize: bool,
    scale: f32,
    bias: bool,
) -> Result<OpCase, Error> {
    let mut net = Net::new(name);
    let logits = net.rows(&[EXPERTS], 1.5)?;
    let selection_bias = if bias { Some(net.vector(EXPERTS, 0.5, 1.0)?) } else { None };
    let router = Router { logits, top_k, gate, renormalize, scale, selection_bias };
    let results = net.push_many(Op::Router(router))?;
    let x = net.rows(&[4], 1.0)?;
    let weight = net.matrix(&[EXPERTS, 5, 4], DType::F32)?;
    let y = net.push(Op::ExpertLinear { x, experts: results[0], weight, bias: None })?;
    net.output(results[1]);
    net.output(y);
    net.finish(Family::Router, ROWS)
}

fn linear(name: &str, dtype: DType, width: usize, bias: bool, per_expert: bool) -> Result<OpCase, Error> {
    let mut net = Net::new(name);
    let (experts, _) = route(&mut net, 2)?;
    let x = if per_expert { net.rows(&[2, width], 1.0)? } else { net.rows(&[width], 1.0)? };
    let weight = net.matrix(&[EXPERTS, 9, width], dtype)?;
    let bias = if bias { Some(net.tensor(&[EXPERTS, 9], DType::F32, 0.0, 1.0)?) } else { None };
    let y = net.push(Op::ExpertLinear { x, experts, weight, bias })?;
    net.output(y);
    net.finish(Family::Matrix(dtype), ROWS)
}
