//! The cases of every operation. Sizes are small and odd; parameters are chosen so that ignoring one of them changes
//! the result far beyond the tolerance.

mod attention;
mod dense;
mod experts;
mod layout;
mod models;
mod pointwise;
mod rope;

use std::sync::OnceLock;

use crate::error::Error;
use crate::ops::OpCase;

type Cases = Result<Vec<OpCase>, Error>;

/// All of them, made once.
///
/// # Errors
/// A fault of the kit.
pub fn all() -> Result<&'static [OpCase], Error> {
    static CASES: OnceLock<Result<Vec<OpCase>, String>> = OnceLock::new();
    match CASES.get_or_init(|| make().map_err(|e| e.to_string())) {
        Ok(cases) => Ok(cases),
        Err(e) => Err(Error::Kit(e.clone())),
    }
}

fn make() -> Cases {
    let groups: [fn() -> Cases; 7] =
        [dense::cases, pointwise::cases, layout::cases, rope::cases, attention::cases, experts::cases, models::cases];
    Ok(groups.into_iter().map(|cases| cases()).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rocmforge_program::{DType, Op};

    #[test]
    fn every_operation_and_every_type_has_a_case() {
        let cases = super::all().expect("cases");
        let nodes = || cases.iter().flat_map(|c| &c.program.nodes);
        let ops: HashSet<&str> = nodes().map(|n| n.op.name()).collect();
        // Listed by hand: an operation that is added must be added here, and then fails until it has a case.
        let expected = [
            "input",
            "embed",
            "gather_rows",
            "linear",
            "rms_norm",
            "layer_norm",
            "add",
            "sub",
            "mul",
            "scale",
            "unary",
            "softcap",
            "gated_act",
            "split",
            "concat",
            "reshape",
            "slice",
            "rope",
            "position_scale",
            "attention",
            "router",
            "expert_linear",
            "expert_combine",
            "mean_pool",
            "last_pool",
            "custom",
        ];
        assert_eq!(ops, HashSet::from(expected));
        for op in ["embed", "linear", "expert_linear"] {
            let of_case = |c: &crate::ops::OpCase| {
                let weights = c.program.nodes.iter().filter(|n| n.op.name() == op).flat_map(|n| n.op.weights());
                weights.map(|w| c.program.weights[w.index()].dtype).collect::<Vec<_>>()
            };
            let types: HashSet<DType> = cases.iter().flat_map(of_case).collect();
            assert_eq!(types, DType::ALL.iter().copied().collect(), "{op}");
        }
        let names: HashSet<&str> = cases.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names.len(), cases.len(), "names are unique");
        assert!(nodes().any(|n| matches!(&n.op, Op::Attention(a) if a.k.is_none())));
    }
}
