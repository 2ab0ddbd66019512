use rocmforge_program::{DType, Lead, Op};

use super::Cases;
use crate::error::Error;
use crate::net::Net;
use crate::ops::OpCase;
use crate::paging::{FULL, MORE, ROWS, Scenario};
use crate::tolerance::Family;

pub(super) fn cases() -> Cases {
    let mut cases = vec![];
    for &dtype in DType::ALL {
        let mut net = Net::new(format!("embed/{dtype}"));
        let x = net.embed(512, dtype, 1.0)?;
        net.output(x);
        cases.push(net.finish(Family::Exact, ROWS)?);
        for (rows, columns) in [(33, 512), (128, 256)] {
            cases.push(linear(&format!("linear/{dtype}/{rows}x{columns}"), dtype, rows, columns, false)?);
        }
    }
    // Long rows and a full batch: what is divided by columns, and what goes around shared memory in several steps.
    for dtype in [DType::F16, DType::Q8_0, DType::Q4_K, DType::Q6_K] {
        cases.push(linear_at(&format!("linear/{dtype}/40x4096, 64 rows"), dtype, [40, 4096], false, FULL)?);
        cases.push(linear_at(&format!("linear/{dtype}/40x1024, 100 and 600 rows"), dtype, [40, 1024], false, MORE)?);
    }
    let mut net = Net::new("embed/scale");
    let x = net.embed(24, DType::F32, -3.5)?;
    net.output(x);
    cases.push(net.finish(Family::Exact, ROWS)?);
    for (rows, columns) in [(1, 1), (1, 3), (7, 5), (2, 64), (130, 31)] {
        cases.push(linear(&format!("linear/F32/{rows}x{columns} bias"), DType::F32, rows, columns, true)?);
    }
    cases.push(linear("linear/F16/9x40 bias", DType::F16, 9, 40, true)?);
    cases.push(linear("linear/Q8_0/9x96 bias", DType::Q8_0, 9, 96, true)?);
    cases.push(per_head()?);
    cases.push(shared_input()?);
    cases.extend(norms()?);
    cases.extend(gather()?);
    Ok(cases)
}

fn linear(name: &str, dtype: DType, rows: usize, columns: usize, bias: bool) -> Result<OpCase, Error> {
    linear_at(name, dtype, [rows, columns], bias, ROWS)
}

fn linear_at(name: &str, dtype: DType, dims: [usize; 2], bias: bool, scenario: Scenario) -> Result<OpCase, Error> {
    let [rows, columns] = dims;
    let mut net = Net::new(name);
    let x = net.rows(&[columns], 1.0)?;
    let weight = net.matrix(&[rows, columns], dtype)?;
    let bias = if bias { Some(net.vector(rows, 0.0, 1.0)?) } else { None };
    let y = net.push(Op::Linear { x, weight, bias })?;
    net.output(y);
    net.finish(Family::Matrix(dtype), scenario)
}

fn per_head() -> Result<OpCase, Error> {
    let mut net = Net::new("linear/per head");
    let x = net.rows(&[3, 8], 1.0)?;
    let y = net.linear(x, 5, DType::F32)?;
    net.output(y);
    net.finish(Family::Matrix(DType::F32), ROWS)
}

/// Several matrices on one input, which a backend may join.
fn shared_input() -> Result<OpCase, Error> {
    let mut net = Net::new("linear/shared input");
    let x = net.rows(&[256], 1.0)?;
    for (rows, dtype) in [(48, DType::Q8_0), (16, DType::Q8_0), (16, DType::Q6_K), (20, DType::Q4_0)] {
        let y = net.linear(x, rows, dtype)?;
        net.output(y);
    }
    net.finish(Family::Matrix(DType::Q8_0), ROWS)
}

fn norms() -> Cases {
    let mut cases = vec![];
    // Small values, so that the epsilon counts.
    for (dims, size, eps) in
        [(vec![48], 1.0, 1e-5), (vec![7], 0.1, 1e-2), (vec![3, 16], 0.1, 1e-2), (vec![260], 1e-3, 1e-6)]
    {
        let n = dims[dims.len() - 1];
        for (with_weight, with_bias) in [(false, false), (true, false), (true, true), (false, true)] {
            let parts =
                format!("{dims:?}{}{}", if with_weight { " weight" } else { "" }, if with_bias { " bias" } else { "" });
            if !with_bias {
                let mut net = Net::new(format!("rms_norm/{parts} eps {eps:e}"));
                let x = net.rows(&dims, size)?;
                let weight = if with_weight { Some(net.vector(n, 1.0, 0.5)?) } else { None };
                let y = net.push(Op::RmsNorm { x, weight, eps })?;
                net.output(y);
                cases.push(net.finish(Family::Norm, ROWS)?);
            }
            let mut net = Net::new(format!("layer_norm/{parts} eps {eps:e}"));
            let x = net.rows(&dims, size)?;
            // A mean that is not 0, or subtracting it would not show.
            let x = net.push(Op::Scale { x, mul: 1.0, add: size })?;
            let weight = if with_weight { Some(net.vector(n, 1.0, 0.5)?) } else { None };
            let bias = if with_bias { Some(net.vector(n, 0.5, 0.5)?) } else { None };
            let y = net.push(Op::LayerNorm { x, weight, bias, eps })?;
            net.output(y);
            cases.push(net.finish(Family::Norm, ROWS)?);
        }
    }
    Ok(cases)
}

fn gather() -> Cases {
    let mut cases = vec![];
    for dims in [vec![1], vec![20], vec![3, 4]] {
        let mut net = Net::new(format!("gather_rows/{dims:?}"));
        let x = net.rows(&dims, 1.0)?;
        let y = net.gather(x)?;
        net.output(y);
        net.output(x);
        cases.push(net.finish(Family::Exact, ROWS)?);
    }
    let mut net = Net::new("gather_rows/then a head");
    let x = net.rows(&[32], 1.0)?;
    let x = net.gather(x)?;
    let y = net.linear(x, 61, DType::Q8_0)?;
    net.output(y);
    cases.push(net.finish(Family::Matrix(DType::Q8_0), ROWS)?);
    let mut net = Net::new("input/named");
    for (name, lead, dims) in
        [("a", Lead::T, &[5][..]), ("b", Lead::S, &[2, 3]), ("c", Lead::L, &[4]), ("hidden", Lead::T, &[])]
    {
        let x = net.named(name, lead, dims)?;
        let y = net.push(Op::Scale { x, mul: 2.0, add: 0.0 })?;
        net.output(y);
    }
    cases.push(net.finish(Family::Exact, ROWS)?);
    Ok(cases)
}
