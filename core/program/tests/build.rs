//! The builder, the text form, and the expansion of custom operations.

use rocmforge_program::{
    Activation, Attention, Builder, Custom, DType, GateKind, InputSource, Lead, ModelInfo, Node, Op, Program, Rope,
    RopeScaling, RopeStyle, Router, ValueId, ValueType, output,
};

fn builder() -> Builder {
    Builder::new(ModelInfo {
        architecture: "test".into(),
        vocab_size: 8,
        hidden_size: 4,
        layers: 2,
        context_length: 16,
    })
}

#[test]
fn weights_inputs_and_cache_groups_are_shared() {
    let mut b = builder();
    let w = b.weight("w", &[2, 4], DType::F32).unwrap();
    assert_eq!(b.weight("w", &[2, 4], DType::F32).unwrap(), w);
    assert_ne!(b.weight("v", &[2, 4], DType::F32).unwrap(), w);
    for (dims, dtype) in [([4, 2], DType::F32), ([2, 4], DType::F16)] {
        let error = b.weight("w", &dims, dtype).unwrap_err().to_string();
        assert!(error.contains("weight 'w'") && error.contains("as before"), "{error}");
    }
    let ids = b.input(InputSource::TokenIds).unwrap();
    assert_ne!(b.input(InputSource::Positions).unwrap(), ids);
    assert_eq!(b.input(InputSource::TokenIds).unwrap(), ids);
    let windows = [None, Some(4), None, Some(8), Some(4)];
    let caches = windows.map(|window| b.cache(1, 4, 4, window));
    assert_eq!(caches.map(|c| c.0), [0, 1, 2, 3, 4]);
    b.set_layer(Some(1));
    let named = |name: &str, n| InputSource::Named { name: name.into(), ty: ValueType::f32(Lead::T, &[n]) };
    let x = b.input(named("x", 4)).unwrap();
    assert_eq!(b.input(named("x", 4)).unwrap(), x);
    b.output("x", x);
    let program = b.finish().unwrap();
    assert_eq!(program.caches.iter().map(|c| c.group).collect::<Vec<_>>(), [0, 1, 0, 2, 1]);
    assert_eq!((program.group_count(), program.group_window(2), program.group_window(0)), (3, Some(8), None));
    assert!(program.nodes.iter().all(|n| n.layer.is_none()), "inputs belong to no layer");
}

#[test]
fn a_refused_operation_leaves_the_builder_as_it_was() {
    let mut b = builder();
    let x = b.input(InputSource::Named { name: "x".into(), ty: ValueType::f32(Lead::T, &[4]) }).unwrap();
    assert!(b.push(Op::Slice { x, start: 4, len: 1 }).is_err());
    let parts = b.push_many(Op::Split { x, sizes: vec![1, 3] }).unwrap();
    assert_eq!(parts, [ValueId(1), ValueId(2)]);
    assert_eq!(b.type_of(parts[1]), Some(&ValueType::f32(Lead::T, &[3])));
    assert_eq!(b.type_of(ValueId(3)), None);
}

/// One of everything that has a notation of its own.
fn varied() -> Program {
    let mut b = builder();
    let ids = b.input(InputSource::TokenIds).unwrap();
    let positions = b.input(InputSource::Positions).unwrap();
    let rows = b.input(InputSource::LogitsRows).unwrap();
    let table = b.weight("token_embd.weight", &[8, 32], DType::Q4_0).unwrap();
    let x = b.push(Op::Embed { ids, table, scale: 2.0 }).unwrap();
    b.set_layer(Some(0));
    let weight = b.weight("norm", &[32], DType::F32).unwrap();
    let x = b.push(Op::RmsNorm { x, weight: Some(weight), eps: 1e-5 }).unwrap();
    let q = b.push(Op::Reshape { x, dims: vec![4, 8] }).unwrap();
    let scaling = RopeScaling::Linear { factor: 2.0 };
    let (style, base) = (RopeStyle::Half, 10000.0);
    let (factors, sections) = (None, None);
    let rope = Rope { x: q, positions, style, rotary_dim: 8, base, scaling, magnitude: 1.0, factors, sections };
    let q = b.push(Op::Rope(rope)).unwrap();
    let cache = b.cache(4, 8, 8, Some(16));
    let (k, v, window) = (Some(q), Some(q), Some(16));
    let attention = Attention { q, k, v, cache, scale: 0.5, window, softcap: Some(50.0), sinks: None };
    let a = b.push(Op::Attention(attention)).unwrap();
    let a = b.push(Op::Reshape { x: a, dims: vec![32] }).unwrap();
    b.set_layer(Some(1));
    let parts = b.push_many(Op::Split { x: a, sizes: vec![4, 28] }).unwrap();
    let (gate, renormalize) = (GateKind::SoftmaxTopK, true);
    let router = Router { logits: parts[0], top_k: 2, gate, renormalize, scale: 1.0, selection_bias: None };
    b.push(Op::Router(router)).unwrap();
    b.set_layer(None);
    let last = b.push(Op::GatherRows { x: a, rows }).unwrap();
    let logits = b.push(Op::Linear { x: last, weight: table, bias: None }).unwrap();
    b.output(output::LOGITS, logits);
    b.finish().unwrap()
}

#[test]
fn the_text_form_is_one_line_per_item() {
    let expected = "\
program test ir 1.0.0: hidden 4, vocab 8, layers 2, context 16
@0 = weight token_embd.weight Q4_0[8, 32]
@1 = weight norm F32[32]
$0 = cache layer 0 group 0: 4 x (8 + 8) window 16
%0 = input source=token_ids : index[T]
%1 = input source=positions : index[T]
%2 = input source=logits_rows : index[L]
%3 = embed %0 @0 scale=2.0 : f32[T, 32]
%4 = rms_norm %3 @1 eps=1e-5 : f32[T, 32] #0
%5 = reshape %4 dims=[4,8] : f32[T, 4, 8] #0
%6 = rope %5 %1 style=half rotary_dim=8 base=10000.0 scaling={\"kind\":\"linear\",\"factor\":2.0} magnitude=1.0 : f32[T, 4, 8] #0
%7 = attention %6 %6 %6 $0 scale=0.5 window=16 softcap=50.0 : f32[T, 4, 8] #0
%8 = reshape %7 dims=[32] : f32[T, 32] #0
%9, %10 = split %8 sizes=[4,28] : f32[T, 4], f32[T, 28] #1
%11, %12 = router %9 top_k=2 gate=softmax_top_k renormalize=true scale=1.0 : index[T, 2], f32[T, 2] #1
%13 = gather_rows %8 %2 : f32[L, 32]
%14 = linear %13 @0 : f32[L, 8]
output logits = %14
";
    assert_eq!(varied().to_string(), expected, "\n{}", varied());
}

fn custom(name: &str, inputs: &[u32], nodes: Vec<Node>, results: &[u32]) -> Op {
    let ids = |ids: &[u32]| ids.iter().map(|&i| ValueId(i)).collect();
    Op::Custom(Custom {
        domain: "example.org".into(),
        name: name.into(),
        version: 1,
        attrs: serde_json::Value::Null,
        inputs: ids(inputs),
        outputs: vec![ValueType::f32(Lead::T, &[4]); results.len()],
        decomposition: nodes,
        results: ids(results),
    })
}

fn node(op: Op, layer: Option<u32>) -> Node {
    Node { op, layer }
}

/// `outer` holds `inner`; a plain operation before and after shows that numbering stays right.
fn with_custom() -> Program {
    let (a, x) = (ValueId(0), ValueId(0));
    let inner =
        vec![node(Op::Scale { x, mul: 2.0, add: 0.0 }, None), node(Op::Sub { a: ValueId(2), b: ValueId(1) }, Some(0))];
    // In: %0, %1. Inner on (%1, %0) yields %2 and %3; the sum of all is %4.
    let outer = vec![node(custom("inner", &[1, 0], inner, &[3, 2]), None), node(Op::Add { a, b: ValueId(2) }, None)];
    let mut b = builder();
    let mut named =
        |name: &str| b.input(InputSource::Named { name: name.into(), ty: ValueType::f32(Lead::T, &[4]) }).unwrap();
    let (x, y) = (named("x"), named("y"));
    b.set_layer(Some(1));
    let z = b.push(Op::Unary { x: y, kind: Activation::Relu }).unwrap();
    let results = b.push_many(custom("outer", &[x.0, z.0], outer, &[4, 3, 0])).unwrap();
    let sum = b.push(Op::Add { a: results[1], b: results[2] }).unwrap();
    b.output("sum", sum);
    b.output("first", results[0]);
    b.finish().unwrap()
}

#[test]
fn custom_operations_are_replaced_by_their_decomposition() {
    let none_kept = with_custom().expand_custom(|_| false).unwrap();
    let at = |i: usize| (&none_kept.nodes[i].op, none_kept.nodes[i].layer);
    let (v0, v2, v3, v4) = (ValueId(0), ValueId(2), ValueId(3), ValueId(4));
    assert_eq!(none_kept.nodes.len(), 7);
    // %0 x, %1 y, %2 z; inner sees (z, x) and yields (%4, %3); outer yields (%5, %3, x).
    assert_eq!(at(3), (&Op::Scale { x: v2, mul: 2.0, add: 0.0 }, Some(1)));
    assert_eq!(at(4), (&Op::Sub { a: v3, b: v0 }, Some(0)), "a layer of its own is kept");
    assert_eq!(at(5), (&Op::Add { a: v0, b: v4 }, Some(1)));
    assert_eq!(at(6), (&Op::Add { a: v3, b: v0 }, Some(1)));
    assert_eq!(none_kept.outputs.iter().map(|o| o.value.0).collect::<Vec<_>>(), [6, 5]);

    let all_kept = with_custom().expand_custom(|_| true).unwrap();
    assert_eq!(all_kept, with_custom());
    let inner_kept = with_custom().expand_custom(|c| c.name == "inner").unwrap();
    let names: Vec<_> = inner_kept.nodes.iter().map(|n| n.op.name()).collect();
    assert_eq!(names, ["input", "input", "unary", "custom", "add", "add"]);
}

#[test]
fn an_expansion_of_an_invalid_program_is_an_error() {
    let mut program = with_custom();
    let Op::Custom(outer) = &mut program.nodes[3].op else { panic!("the custom operation is node 3") };
    outer.results = vec![ValueId(77), ValueId(3), ValueId(0)];
    assert!(program.expand_custom(|_| false).is_err());
}

/// A model with a head on gathered rows, and what is done before and after them.
fn with_head(rows: bool) -> Program {
    let mut b = builder();
    let ids = b.input(InputSource::TokenIds).unwrap();
    let table = b.weight("table", &[8, 4], DType::F32).unwrap();
    let x = b.push(Op::Embed { ids, table, scale: 1.0 }).unwrap();
    let x = match rows {
        true => {
            let rows = b.input(InputSource::LogitsRows).unwrap();
            b.push(Op::GatherRows { x, rows }).unwrap()
        }
        false => x,
    };
    let x = b.push(Op::RmsNorm { x, weight: None, eps: 1e-5 }).unwrap();
    let x = b.push(Op::Scale { x, mul: 0.5, add: 0.0 }).unwrap();
    let logits = b.push(Op::Linear { x, weight: table, bias: None }).unwrap();
    let logits = b.push(Op::Softcap { x: logits, cap: 30.0 }).unwrap();
    b.output(output::LOGITS, logits);
    b.finish().unwrap()
}

#[test]
fn embeddings_are_what_the_head_works_on() {
    let base = with_head(true);
    let more = base.with_embeddings().unwrap().unwrap();
    assert_eq!(more.nodes[..base.nodes.len()], base.nodes, "what there was stays as it is");
    let names: Vec<_> = more.nodes[base.nodes.len()..].iter().map(|n| n.op.name()).collect();
    assert_eq!(names, ["rms_norm", "scale", "mean_pool", "last_pool"]);
    assert_eq!(more.nodes[base.nodes.len()].op, Op::RmsNorm { x: ValueId(1), weight: None, eps: 1e-5 });
    let types = rocmforge_program::infer_types(&more).unwrap();
    for name in [output::MEAN, output::LAST] {
        let value = more.outputs.iter().find(|o| o.name == name).unwrap().value;
        assert_eq!(types.get(value), Some(&ValueType::f32(Lead::S, &[4])), "{name}");
    }
    assert_eq!(more.outputs[0], base.outputs[0]);
    assert_eq!(with_head(false).with_embeddings().unwrap(), None, "no rows are gathered");
    assert_eq!(with_custom().with_embeddings().unwrap(), None, "no logits");
}
