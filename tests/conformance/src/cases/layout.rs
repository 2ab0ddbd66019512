use rocmforge_program::{DType, Op};

use super::Cases;
use crate::net::Net;
use crate::paging::{MIXED, ROWS};
use crate::tolerance::Family;

pub(super) fn cases() -> Cases {
    let mut cases = vec![];
    for (dims, sizes) in [(vec![12], vec![12]), (vec![20], vec![1, 16, 3]), (vec![3, 8], vec![5, 3])] {
        let mut net = Net::new(format!("split/{dims:?} into {sizes:?}"));
        let x = net.rows(&dims, 1.0)?;
        for part in net.push_many(Op::Split { x, sizes })? {
            // A part that only a layout says must still be readable by what comes next.
            let y = net.push(Op::Scale { x: part, mul: 2.0, add: 0.0 })?;
            net.output(part);
            net.output(y);
        }
        cases.push(net.finish(Family::Exact, ROWS)?);
    }
    for widths in [vec![vec![7]], vec![vec![4], vec![1], vec![9]], vec![vec![2, 3], vec![2, 8]]] {
        let mut net = Net::new(format!("concat/{widths:?}"));
        let xs = widths.iter().map(|w| net.rows(w, 1.0)).collect::<Result<_, _>>()?;
        let y = net.push(Op::Concat { xs })?;
        net.output(y);
        cases.push(net.finish(Family::Exact, ROWS)?);
    }
    for (dims, start, len) in [(vec![12], 0, 5), (vec![12], 7, 5), (vec![12], 0, 12), (vec![3, 8], 2, 4)] {
        let mut net = Net::new(format!("slice/{dims:?} {len} from {start}"));
        let x = net.rows(&dims, 1.0)?;
        let y = net.push(Op::Slice { x, start, len })?;
        let z = net.push(Op::Scale { x: y, mul: 2.0, add: 0.0 })?;
        net.output(y);
        net.output(z);
        cases.push(net.finish(Family::Exact, ROWS)?);
    }
    for (from, to) in [(vec![24], vec![2, 3, 4]), (vec![2, 12], vec![24]), (vec![1], vec![])] {
        let mut net = Net::new(format!("reshape/{from:?} to {to:?}"));
        let x = net.rows(&from, 1.0)?;
        let y = net.reshape(x, &to)?;
        net.output(y);
        cases.push(net.finish(Family::Exact, ROWS)?);
    }
    let mut net = Net::new("concat/twice the same, then split elsewhere");
    let x = net.rows(&[6], 1.0)?;
    let both = net.push(Op::Concat { xs: vec![x, x] })?;
    for part in net.push_many(Op::Split { x: both, sizes: vec![4, 5, 3] })? {
        net.output(part);
    }
    cases.push(net.finish(Family::Exact, ROWS)?);
    for width in [1, 24] {
        let mut net = Net::new(format!("mean_pool/{width}"));
        let x = net.rows(&[width], 1.0)?;
        let y = net.push(Op::MeanPool { x })?;
        net.output(y);
        cases.push(net.finish(Family::Pointwise, MIXED)?);
        let mut net = Net::new(format!("last_pool/{width}"));
        let x = net.rows(&[width], 1.0)?;
        let y = net.push(Op::LastPool { x })?;
        net.output(y);
        cases.push(net.finish(Family::Exact, MIXED)?);
    }
    let mut net = Net::new("mean_pool/then a matrix");
    let x = net.rows(&[24], 1.0)?;
    let x = net.push(Op::MeanPool { x })?;
    let y = net.linear(x, 5, DType::F32)?;
    net.output(y);
    cases.push(net.finish(Family::Matrix(DType::F32), MIXED)?);
    Ok(cases)
}
