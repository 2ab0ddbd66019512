use rocmforge_sdk::DType;
use rocmforge_sdk::program::{
    Attention, Builder, InputSource, ModelInfo, Op, Program, Rope, RopeScaling, RopeStyle, ValueId,
};

use crate::arena::BufferId;
use crate::plan::{Plan, Stage};

const HIDDEN: usize = 256;
const HEADS: [usize; 3] = [8, 2, 32];

fn rotated(b: &mut Builder, x: ValueId, heads: usize) -> ValueId {
    let x = b.push(Op::Reshape { x, dims: vec![heads, HEADS[2]] }).expect("a reshape");
    let positions = b.input(InputSource::Positions).expect("an input");
    let rope = Rope {
        x,
        positions,
        style: RopeStyle::Half,
        rotary_dim: HEADS[2],
        base: 10_000.0,
        scaling: RopeScaling::None,
        magnitude: 1.0,
        factors: None,
        sections: None,
    };
    b.push(Op::Rope(rope)).expect("a rotation")
}

/// Layers of attention whose matrices have these types: queries, keys, values.
fn program(types: [DType; 3]) -> Program {
    let [heads, kv_heads, dim] = HEADS;
    let info =
        ModelInfo { architecture: "test".into(), vocab_size: 61, hidden_size: HIDDEN, layers: 2, context_length: 64 };
    let mut b = Builder::new(info);
    let table = b.weight("table", &[61, HIDDEN], DType::F32).expect("a weight");
    let ids = b.input(InputSource::TokenIds).expect("an input");
    let mut x = b.push(Op::Embed { ids, table, scale: 1.0 }).expect("rows of a table");
    for layer in 0..2 {
        b.set_layer(Some(layer));
        let h = b.push(Op::RmsNorm { x, weight: None, eps: 1e-5 }).expect("a norm");
        let linear = |b: &mut Builder, name: &str, x: ValueId, rows: usize, dtype: DType| {
            let weight = b.weight(&format!("{name}.{layer}"), &[rows, HIDDEN], dtype).expect("a weight");
            b.push(Op::Linear { x, weight, bias: None }).expect("a product")
        };
        let q = linear(&mut b, "q", h, heads * dim, types[0]);
        let k = linear(&mut b, "k", h, kv_heads * dim, types[1]);
        let v = linear(&mut b, "v", h, kv_heads * dim, types[2]);
        let (q, k) = (rotated(&mut b, q, heads), rotated(&mut b, k, kv_heads));
        let v = b.push(Op::Reshape { x: v, dims: vec![kv_heads, dim] }).expect("a reshape");
        let cache = b.cache(kv_heads, dim, dim, None);
        let (k, v, scale) = (Some(k), Some(v), 0.2);
        let attention = Attention { q, k, v, cache, scale, window: None, softcap: None, sinks: None };
        let y = b.push(Op::Attention(attention)).expect("attention");
        let y = b.push(Op::Reshape { x: y, dims: vec![heads * dim] }).expect("a reshape");
        let y = linear(&mut b, "o", y, HIDDEN, types[0]);
        x = b.push(Op::Add { a: x, b: y }).expect("a sum");
    }
    b.output("rows", x);
    b.finish().expect("a program")
}

/// Whether two buffers of a plan share bytes.
fn share(plan: &Plan, a: BufferId, b: BufferId) -> bool {
    let [a, b] = [a, b].map(|id| plan.buffers[id.0 as usize]);
    a.lead == b.lead && a.before < b.before + b.row_bytes && b.before < a.before + a.row_bytes
}

#[test]
fn attention_writes_nowhere_that_its_rotation_reads() {
    let [a, b, c] = [DType::Q4_K, DType::Q6_K, DType::Q8_0];
    // Matrices of one type are one result, others are results of their own.
    for types in [[a, a, a], [a, a, b], [a, b, b], [a, b, a], [a, b, c]] {
        let plan = super::plan(&program(types), false).expect("a plan");
        let mut together = 0;
        for i in 0..plan.stages.len() {
            let Some((rotate, attention)) = plan.rotated_attention(i) else { continue };
            together += 1;
            let read = Stage::Rotate(rotate.clone()).buffers(&plan);
            let own = attention.q.buffer();
            let written = Stage::Attention(attention.clone()).buffers(&plan);
            for w in written.into_iter().filter(|w| Some(*w) != own) {
                for r in &read {
                    assert!(!share(&plan, w, *r), "{types:?}, stage {i}: {w:?} is written where {r:?} is read");
                }
            }
        }
        assert_eq!(together, 2, "{types:?}: every layer has its rotation in front of its attention");
    }
}
