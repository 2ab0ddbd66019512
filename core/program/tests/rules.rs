//! Every rule of the validator has a program that breaks it, and an error that says where.

use rocmforge_program::{
    Activation, Attention, Builder, CacheDecl, CacheId, Custom, DType, GateKind, InputSource, Lead, ModelInfo, Node,
    Op, OutputDecl, Program, Rope, RopeScaling, RopeStyle, Router, ValueId, ValueType, WeightDecl, WeightId,
};

fn info() -> ModelInfo {
    ModelInfo { architecture: "test".into(), vocab_size: 8, hidden_size: 4, layers: 2, context_length: 16 }
}

/// Values and weights of every shape that the cases need; nodes that follow are in layer 1.
struct Fixture {
    b: Builder,
    ids: ValueId,
    positions: ValueId,
    rows: ValueId,
    /// `[T, 4]`, `[T, 2, 4]`, `[T]`, `[L, 4]`.
    x: ValueId,
    heads: ValueId,
    scalar: ValueId,
    late: ValueId,
    /// `[4]`, `[8, 4]`, `[3, 2, 4]`.
    vector: WeightId,
    matrix: WeightId,
    cube: WeightId,
    /// Two heads of 4, without and with a window of 6.
    cache: CacheId,
    windowed: CacheId,
}

fn fixture() -> Fixture {
    let mut b = Builder::new(info());
    let mut named = |name: &str, ty| b.input(InputSource::Named { name: name.into(), ty }).unwrap();
    let x = named("x", ValueType::f32(Lead::T, &[4]));
    let heads = named("heads", ValueType::f32(Lead::T, &[2, 4]));
    let scalar = named("scalar", ValueType::f32(Lead::T, &[]));
    let late = named("late", ValueType::f32(Lead::L, &[4]));
    let ids = b.input(InputSource::TokenIds).unwrap();
    let positions = b.input(InputSource::Positions).unwrap();
    let rows = b.input(InputSource::LogitsRows).unwrap();
    let vector = b.weight("vector", &[4], DType::F32).unwrap();
    let matrix = b.weight("matrix", &[8, 4], DType::F32).unwrap();
    let cube = b.weight("cube", &[3, 2, 4], DType::F32).unwrap();
    b.set_layer(Some(1));
    let (cache, windowed) = (b.cache(2, 4, 4, None), b.cache(2, 4, 4, Some(6)));
    Fixture { b, ids, positions, rows, x, heads, scalar, late, vector, matrix, cube, cache, windowed }
}

fn check_text(what: &str, text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{what}: expected '{part}' in: {text}");
    }
}

/// The error names the node's number, operation and layer, and holds all parts.
fn check(op: fn(&mut Fixture) -> Op, parts: &[&str]) {
    let mut fixture = fixture();
    let op = op(&mut fixture);
    let what = format!("{op:?}");
    let place = format!("({}, layer 1)", op.name());
    let error = fixture.b.push(op).expect_err(&what).to_string();
    check_text(&what, &error, parts);
    check_text(&what, &error, &["program: node ", &place]);
}

const NONE: ValueId = ValueId(99);

fn rope(f: &Fixture) -> Rope {
    Rope {
        x: f.heads,
        positions: f.positions,
        style: RopeStyle::Half,
        rotary_dim: 4,
        base: 10000.0,
        scaling: RopeScaling::None,
        magnitude: 1.0,
        factors: None,
        sections: None,
    }
}

fn attention(f: &Fixture) -> Attention {
    let (q, k, v) = (f.heads, Some(f.heads), Some(f.heads));
    Attention { q, k, v, cache: f.cache, scale: 0.5, window: None, softcap: None, sinks: None }
}

fn router(f: &Fixture) -> Router {
    let gate = GateKind::Softmax;
    Router { logits: f.x, top_k: 2, gate, renormalize: true, scale: 1.0, selection_bias: None }
}

/// Experts `index[T, 2]` of a router over 4 experts.
fn experts(f: &mut Fixture) -> ValueId {
    let router = router(f);
    f.b.push(Op::Router(router)).unwrap()
}

fn custom(f: &Fixture, nodes: Vec<Op>, results: Vec<ValueId>) -> Op {
    Op::Custom(Custom {
        domain: "example.org".into(),
        name: "test".into(),
        version: 1,
        attrs: serde_json::json!({}),
        inputs: vec![f.x],
        outputs: vec![ValueType::f32(Lead::T, &[4])],
        decomposition: nodes.into_iter().map(|op| Node { op, layer: None }).collect(),
        results,
    })
}

#[test]
fn the_valid_forms_of_the_cases_below_pass() {
    let mut f = fixture();
    let ops = [Op::Rope(rope(&f)), Op::Attention(attention(&f)), Op::Router(router(&f))];
    ops.into_iter().for_each(|op| assert!(f.b.push(op).is_ok()));
    let custom = custom(&f, vec![Op::Unary { x: ValueId(0), kind: Activation::Relu }], vec![ValueId(1)]);
    f.b.push(custom).unwrap();
    let logits = f.b.push(Op::Slice { x: f.x, start: 0, len: 3 }).unwrap();
    let experts = f.b.push(Op::Router(Router { logits, ..router(&f) })).unwrap();
    f.b.push(Op::ExpertLinear { x: f.x, experts, weight: f.cube, bias: None }).unwrap();
    f.b.push(Op::GatherRows { x: f.x, rows: f.rows }).unwrap();
}

#[test]
fn operands_must_be_defined_and_of_the_right_element() {
    check(|_| Op::Unary { x: NONE, kind: Activation::Relu }, &["a value defined before", "%99"]);
    check(|f| Op::Unary { x: f.ids, kind: Activation::Relu }, &["an f32 operand", "%4: index[T]"]);
    check(|f| Op::Linear { x: f.x, weight: WeightId(9), bias: None }, &["a declared weight", "@9"]);
    check(|f| Op::Attention(Attention { cache: CacheId(7), ..attention(f) }), &["a declared cache", "$7"]);
    // Inputs belong to no layer.
    let source = InputSource::Named { name: "n".into(), ty: ValueType::index(Lead::T, &[]) };
    let error = fixture().b.input(source).unwrap_err().to_string();
    check_text("input", &error, &["node 7 (input)", "input 'n' of f32", "index[T]"]);
}

#[test]
fn lookups_take_checked_indices() {
    check(|f| Op::Embed { ids: f.x, table: f.matrix, scale: 1.0 }, &["index[T]", "f32[T, 4]"]);
    check(|f| Op::Embed { ids: f.rows, table: f.matrix, scale: 1.0 }, &["index[T]", "index[L]"]);
    check(|f| Op::Embed { ids: f.ids, table: f.vector, scale: 1.0 }, &["a matrix", "[4]"]);
    check(|f| Op::Embed { ids: f.ids, table: f.matrix, scale: f32::NAN }, &["a finite scale", "NaN"]);
    check(|f| Op::GatherRows { x: f.x, rows: f.ids }, &["index[L]", "index[T]"]);
    check(|f| Op::GatherRows { x: f.late, rows: f.rows }, &["one row per token", "f32[L, 4]"]);
    // Token ids are no row numbers, even where the shape fits.
    check(
        |f| {
            let rows = f.b.push(Op::GatherRows { x: f.ids, rows: f.rows }).unwrap();
            Op::GatherRows { x: f.x, rows }
        },
        &["the input logits_rows", "%7"],
    );
}

#[test]
fn dense_operations_fit_their_weights() {
    check(|f| Op::Linear { x: f.x, weight: f.cube, bias: None }, &["'cube' of [out, 4]", "[3, 2, 4]"]);
    check(|f| Op::Linear { x: f.scalar, weight: f.matrix, bias: None }, &["'matrix' of [out, 1]", "[8, 4]"]);
    check(|f| Op::Linear { x: f.x, weight: f.matrix, bias: Some(f.vector) }, &["'vector' of [8]", "[4]"]);
    check(|f| Op::RmsNorm { x: f.x, weight: Some(f.matrix), eps: 0.0 }, &["'matrix' of [4]", "[8, 4]"]);
    check(|f| Op::RmsNorm { x: f.x, weight: None, eps: -1.0 }, &["epsilon of at least 0", "-1"]);
    check(|f| Op::RmsNorm { x: f.scalar, weight: None, eps: 0.0 }, &["a dimension to normalise", "f32[T]"]);
    check(|f| Op::LayerNorm { x: f.x, weight: None, bias: Some(f.matrix), eps: 0.0 }, &["'matrix' of [4]"]);
    check(|f| Op::LayerNorm { x: f.x, weight: None, bias: None, eps: f32::INFINITY }, &["epsilon", "inf"]);
}

#[test]
fn elementwise_operations_fit_their_operands() {
    check(|f| Op::Add { a: f.x, b: f.heads }, &["f32[T, 4], or that with a last dimension of 1", "f32[T, 2, 4]"]);
    check(|f| Op::Sub { a: f.x, b: f.late }, &["f32[T, 4]", "f32[L, 4]"]);
    check(|f| Op::Mul { a: f.x, b: f.scalar }, &["f32[T, 4]", "%2: f32[T]"]);
    check(|f| Op::Scale { x: f.x, mul: f32::INFINITY, add: 0.0 }, &["a finite mul", "inf"]);
    check(|f| Op::Scale { x: f.x, mul: 0.0, add: f32::NAN }, &["a finite add", "NaN"]);
    check(|f| Op::Softcap { x: f.x, cap: 0.0 }, &["a cap above 0", "found 0"]);
    check(|f| Op::Softcap { x: f.x, cap: f32::NAN }, &["a cap above 0", "NaN"]);
    check(|f| Op::GatedAct { gate: f.x, up: f.heads, kind: Activation::Silu }, &["f32[T, 4]", "%1: f32[T, 2, 4]"]);
}

#[test]
fn layout_operations_keep_every_element() {
    check(|f| Op::Split { x: f.x, sizes: vec![1, 2] }, &["sizes that add up to 4", "[1, 2]"]);
    check(|f| Op::Split { x: f.x, sizes: vec![4, 0] }, &["sizes that add up to 4", "[4, 0]"]);
    check(|f| Op::Split { x: f.x, sizes: vec![usize::MAX, 5] }, &["sizes that add up to 4"]);
    check(|_| Op::Concat { xs: vec![] }, &["something to join", "nothing"]);
    check(|f| Op::Concat { xs: vec![f.x, f.heads] }, &["f32[T, 4]", "%1: f32[T, 2, 4]"]);
    check(|f| Op::Reshape { x: f.x, dims: vec![3] }, &["as many elements as f32[T, 4]", "f32[T, 3]"]);
    check(|f| Op::Reshape { x: f.x, dims: vec![usize::MAX, 2] }, &["as many elements as f32[T, 4]"]);
    check(|f| Op::Slice { x: f.x, start: 3, len: 2 }, &["a part of f32[T, 4]", "2 elements from 3"]);
    check(|f| Op::Slice { x: f.x, start: usize::MAX, len: 2 }, &["a part of f32[T, 4]"]);
    check(|f| Op::Slice { x: f.x, start: 0, len: 0 }, &["a part of f32[T, 4]", "0 elements"]);
    check(|f| Op::Slice { x: f.scalar, start: 0, len: 1 }, &["a dimension to take a part of", "f32[T]"]);
}

#[test]
fn rope_parameters_make_sense() {
    check(|f| Op::Rope(Rope { x: f.x, ..rope(f) }), &["2 dimensions after", "%0: f32[T, 4]"]);
    check(|f| Op::Rope(Rope { positions: f.rows, ..rope(f) }), &["index[T]", "index[L]"]);
    check(|f| Op::Rope(Rope { rotary_dim: 3, ..rope(f) }), &["an even rotary_dim of at most 4", "3"]);
    check(|f| Op::Rope(Rope { rotary_dim: 6, ..rope(f) }), &["an even rotary_dim of at most 4", "6"]);
    check(|f| Op::Rope(Rope { rotary_dim: 0, ..rope(f) }), &["an even rotary_dim", "0"]);
    check(|f| Op::Rope(Rope { base: 0.0, ..rope(f) }), &["a base above 0"]);
    check(|f| Op::Rope(Rope { magnitude: f32::NAN, ..rope(f) }), &["a finite magnitude"]);
    check(|f| Op::Rope(Rope { factors: Some(f.vector), ..rope(f) }), &["'vector' of [2]", "[4]"]);
    let scaled = |scaling| Op::Rope(Rope { scaling, ..rope(&fixture()) });
    let (factor, beta_fast, beta_slow, original_context) = (4.0, 32.0, 1.0, 64);
    let (low_freq_factor, high_freq_factor) = (1.0, 4.0);
    let llama3 = |factor, low_freq_factor, high_freq_factor, original_context| {
        scaled(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context })
    };
    let yarn = |factor, original_context, beta_fast, beta_slow| {
        scaled(RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow })
    };
    for (op, part) in [
        (scaled(RopeScaling::Linear { factor: 0.0 }), "a scaling factor above 0"),
        (yarn(f32::INFINITY, original_context, beta_fast, beta_slow), "a scaling factor above 0"),
        (yarn(factor, 0, beta_fast, beta_slow), "an original_context above 0"),
        (yarn(factor, original_context, 0.0, beta_slow), "a beta_fast above 0"),
        (yarn(factor, original_context, beta_fast, f32::NAN), "a beta_slow above 0"),
        (llama3(-1.0, low_freq_factor, high_freq_factor, original_context), "a scaling factor above 0"),
        (llama3(factor, 0.0, high_freq_factor, original_context), "a low_freq_factor above 0"),
        (llama3(factor, low_freq_factor, 0.0, original_context), "a high_freq_factor above 0"),
        (llama3(factor, low_freq_factor, high_freq_factor, 0), "an original_context above 0"),
    ] {
        let error = fixture().b.push(op).expect_err(part).to_string();
        check_text(part, &error, &["node 7 (rope, layer 1)", part]);
    }
    check(
        |f| Op::PositionScale { x: f.x, positions: f.positions, beta: 0.1, interval: 0 },
        &["an interval above 0", "found 0"],
    );
    check(|f| Op::PositionScale { x: f.x, positions: f.positions, beta: f32::NAN, interval: 1 }, &["a finite beta"]);
    check(
        |f| Op::PositionScale { x: f.late, positions: f.positions, beta: 0.1, interval: 1 },
        &["one row per token", "f32[L, 4]"],
    );
}

#[test]
fn attention_fits_its_cache() {
    check(|f| Op::Attention(Attention { q: f.x, ..attention(f) }), &["2 dimensions after"]);
    check(
        |f| {
            let q = f.b.push(Op::Reshape { x: f.heads, dims: vec![1, 8] }).unwrap();
            Op::Attention(Attention { q, ..attention(f) })
        },
        &["queries [T, multiple of 2, 4]", "f32[T, 1, 8]"],
    );
    check(|f| Op::Attention(Attention { k: Some(f.x), ..attention(f) }), &["f32[T, 2, 4]", "%0: f32[T, 4]"]);
    check(|f| Op::Attention(Attention { v: Some(f.x), ..attention(f) }), &["f32[T, 2, 4]", "%0: f32[T, 4]"]);
    check(|f| Op::Attention(Attention { v: None, ..attention(f) }), &["both keys and values, or neither"]);
    check(|f| Op::Attention(Attention { scale: f32::NAN, ..attention(f) }), &["a finite scale"]);
    check(|f| Op::Attention(Attention { softcap: Some(0.0), ..attention(f) }), &["a softcap above 0"]);
    check(|f| Op::Attention(Attention { window: Some(0), ..attention(f) }), &["a window that the cache keeps", "0"]);
    check(
        |f| Op::Attention(Attention { cache: f.windowed, ..attention(f) }),
        &["a window that the cache keeps", "None"],
    );
    check(
        |f| Op::Attention(Attention { cache: f.windowed, window: Some(7), ..attention(f) }),
        &["a window that the cache keeps", "7"],
    );
    check(|f| Op::Attention(Attention { sinks: Some(f.vector), ..attention(f) }), &["'vector' of [2]", "[4]"]);
}

#[test]
fn experts_are_chosen_before_they_are_used() {
    check(|f| Op::Router(Router { logits: f.heads, ..router(f) }), &["1 dimensions after", "f32[T, 2, 4]"]);
    check(|f| Op::Router(Router { top_k: 5, ..router(f) }), &["1 to 4 experts per token", "5"]);
    check(|f| Op::Router(Router { top_k: 0, ..router(f) }), &["1 to 4 experts per token", "0"]);
    check(|f| Op::Router(Router { scale: f32::NAN, ..router(f) }), &["a finite scale"]);
    check(|f| Op::Router(Router { selection_bias: Some(f.matrix), ..router(f) }), &["'matrix' of [4]"]);
    check(
        |f| Op::ExpertLinear { x: f.x, experts: experts(f), weight: f.matrix, bias: None },
        &["x [T, in] or [T, 2, in] and 'matrix' [experts, out, in]", "f32[T, 4] and [8, 4]"],
    );
    check(
        |f| Op::ExpertLinear { x: f.x, experts: f.ids, weight: f.cube, bias: None },
        &["index[T, top_k]", "index[T]"],
    );
    // The router chooses among 4 experts, the weight has 3.
    check(
        |f| Op::ExpertLinear { x: f.x, experts: experts(f), weight: f.cube, bias: None },
        &["a router over at most 3"],
    );
    check(
        |f| {
            let experts = experts(f);
            let weight = f.b.weight("wide", &[4, 2, 4], DType::F32).unwrap();
            Op::ExpertLinear { x: f.x, experts, weight, bias: Some(f.vector) }
        },
        &["'vector' of [4, 2]", "[4]"],
    );
    check(|f| Op::ExpertCombine { x: f.heads, weights: f.x }, &["f32[T, 2]", "%0: f32[T, 4]"]);
}

#[test]
fn pools_take_one_row_per_token() {
    check(|f| Op::MeanPool { x: f.late }, &["one row per token", "f32[L, 4]"]);
    check(|f| Op::LastPool { x: f.heads }, &["1 dimensions after", "f32[T, 2, 4]"]);
}

#[test]
fn decompositions_produce_what_they_promise() {
    check(|f| custom(f, vec![], vec![ValueId(0)]), &["a decomposition", "none"]);
    check(
        |f| custom(f, vec![Op::Input { source: InputSource::TokenIds }], vec![ValueId(0)]),
        &["no input inside a decomposition"],
    );
    check(
        |f| custom(f, vec![Op::Unary { x: ValueId(5), kind: Activation::Relu }], vec![ValueId(1)]),
        &["node 7 (custom, layer 1): node 0 (unary)", "a value defined before", "%5"],
    );
    check(
        |f| custom(f, vec![Op::Slice { x: ValueId(0), start: 0, len: 2 }], vec![ValueId(1)]),
        &["yields (f32[T, 4])", "(f32[T, 2])"],
    );
    check(
        |f| custom(f, vec![Op::Slice { x: ValueId(0), start: 0, len: 2 }], vec![ValueId(3)]),
        &["yields (f32[T, 4])", "ValueId(3)"],
    );
}

/// A small program that passes, to be broken.
fn program() -> Program {
    let mut f = fixture();
    let op = Op::Attention(attention(&f));
    let value = f.b.push(op).unwrap();
    f.b.output("hidden", value);
    f.b.finish().unwrap()
}

#[test]
fn tables_are_consistent() {
    let check = |what: &str, change: &dyn Fn(&mut Program), parts: &[&str]| {
        let mut program = program();
        change(&mut program);
        check_text(what, &program.validate().expect_err(what).to_string(), parts);
    };
    let weight = |name: &str, dims: &[usize], dtype| WeightDecl { name: name.into(), dims: dims.to_vec(), dtype };
    let output = |name: &str, value| OutputDecl { name: name.into(), value };
    let cache = |group, window| CacheDecl { layer: 0, kv_heads: 1, key_dim: 1, value_dim: 1, group, window };
    let add = |w: WeightDecl| move |p: &mut Program| p.weights.push(w.clone());
    check("same name", &add(weight("cube", &[1], DType::F32)), &["weight 'cube'", "one declaration", "two"]);
    check("no dims", &add(weight("w", &[], DType::F32)), &["weight 'w'", "1 to 3 dimensions"]);
    check("4 dims", &add(weight("w", &[1; 4], DType::F32)), &["weight 'w'", "1 to 3 dimensions"]);
    check("dim 0", &add(weight("w", &[2, 0], DType::F32)), &["weight 'w'", "none 0", "[2, 0]"]);
    check("blocks", &add(weight("w", &[2, 48], DType::Q4_0)), &["rows of whole Q4_0 blocks (32 elements)", "[2, 48]"]);
    check("overflow", &add(weight("w", &[usize::MAX, 2], DType::F32)), &["weight 'w'", "whole F32 blocks"]);

    check("empty cache", &|p| p.caches[0].key_dim = 0, &["cache $0", "no dimension 0"]);
    check("cache layer", &|p| p.caches[0].layer = 2, &["cache $0", "a layer below 2", "found 2"]);
    check("window 0", &|p| p.caches[1].window = Some(0), &["cache $1", "a window of at least 1"]);
    check("group number", &|p| p.caches[1].group = 2, &["cache $1", "groups numbered from 0", "2"]);
    check("group window", &|p| p.caches.push(cache(0, Some(3))), &["cache $2", "the window of its group", "3"]);
    check("group gap", &|p| p.caches[0].group = 1, &["cache $1", "the window of its group"]);
    let gap = |p: &mut Program| p.caches.iter_mut().for_each(|c| (c.group, c.window) = (1, None));
    check("group unused", &gap, &["a cache in group 0", "none"]);

    check("no output", &|p| p.outputs.clear(), &["at least one output"]);
    check("undefined", &|p| p.outputs.push(output("o", NONE)), &["output 'o'", "a defined f32 value", "%99"]);
    check("index", &|p| p.outputs.push(output("o", ValueId(4))), &["output 'o'", "f32 value", "%4: index[T]"]);
    check("twice", &|p| p.outputs.push(output("hidden", ValueId(0))), &["unique names", "two named 'hidden'"]);
    check("layer", &|p| p.nodes[7].layer = Some(2), &["node 7 (attention, layer 2)", "a layer below 2"]);
    check(
        "no elements",
        &|p| {
            p.nodes[0].op =
                Op::Input { source: InputSource::Named { name: "x".into(), ty: ValueType::f32(Lead::T, &[0]) } }
        },
        &["node 0 (input)", "elements that can be counted", "f32[T, 0]"],
    );
}
