//! The bytes of a Program: what is read back, what is tolerated, what is refused.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use rocmforge_program::{
    Activation, Attention, Builder, CacheDecl, Custom, DType, GateKind, IR_VERSION, InputSource, Lead, ModelInfo, Node,
    Op, Program, Rope, RopeScaling, RopeStyle, Router, ValueId, ValueType, output,
};
use serde_json::{Value, json};

fn info() -> ModelInfo {
    ModelInfo { architecture: "test".into(), vocab_size: 8, hidden_size: 4, layers: 2, context_length: 16 }
}

fn small() -> Program {
    let mut b = Builder::new(info());
    let ids = b.input(InputSource::TokenIds).unwrap();
    let table = b.weight("table", &[8, 4], DType::F16).unwrap();
    let x = b.push(Op::Embed { ids, table, scale: 0.1 }).unwrap();
    b.set_layer(Some(0));
    let x = b.push(Op::Unary { x, kind: Activation::GeluTanh }).unwrap();
    b.output(output::HIDDEN, x);
    b.finish().unwrap()
}

/// The bytes of `small` after a change to their JSON.
fn read(change: impl FnOnce(&mut Value)) -> Result<Program, String> {
    let mut value: Value = serde_json::from_slice(&small().to_bytes()).unwrap();
    change(&mut value);
    Program::from_bytes(value.to_string().as_bytes()).map_err(|e| e.to_string())
}

#[test]
fn newer_minor_versions_and_unknown_fields_are_read() {
    let newer = format!("{}.{}.3", IR_VERSION.major, IR_VERSION.minor + 7);
    let program = read(|p| {
        p["ir"] = json!(newer);
        p["comment"] = json!({ "by": ["someone"] });
        p["info"]["released"] = json!(2031);
        p["weights"][0]["checksum"] = json!("abc");
        p["nodes"][1]["hint"] = json!([1, 2]);
        p["nodes"][2]["stream"] = json!(null);
        p["outputs"][0]["precision"] = json!("f16");
    });
    let expected = Program { ir: newer.parse().unwrap(), ..small() };
    assert_eq!(program, Ok(expected));
}

#[test]
fn what_is_not_understood_is_refused_with_a_reason() {
    type Change = fn(&mut Value);
    let table: &[(Change, &[&str])] = &[
        (|p| p["ir"] = json!("2.0.0"), &["version 2.0.0", "expected 1.x", "rebuild the plugin"]),
        (|p| p["ir"] = json!("0.9.0"), &["version 0.9.0", "expected 1.x"]),
        (|p| p["ir"] = json!("one"), &["another version of the program crate?"]),
        (|p| p["nodes"][2]["op"] = json!("fourier"), &["unknown variant `fourier`", "another version"]),
        (|p| p["nodes"][2]["kind"] = json!("mish"), &["unknown variant `mish`"]),
        (|p| p["weights"][0]["dtype"] = json!("Q9_Z"), &["unknown variant `Q9_Z`"]),
        (|p| drop(p["nodes"][2].as_object_mut().unwrap().remove("kind")), &["missing field `kind`"]),
        (|p| p["nodes"][1]["scale"] = json!(null), &["null", "expected f32"]),
        (|p| p["nodes"][1]["ids"] = json!(-1), &["-1", "expected u32"]),
        (|p| p["nodes"][2]["x"] = json!(2), &["node 2 (unary, layer 0)", "a value defined before", "%2"]),
        (|p| p["outputs"] = json!([]), &["at least one output"]),
        (|p| *p = json!([]), &["another version"]),
    ];
    for (i, (change, parts)) in table.iter().enumerate() {
        let error = read(change).expect_err(&format!("row {i}: {parts:?}"));
        for part in *parts {
            assert!(error.contains(part), "row {i}: expected '{part}' in: {error}");
        }
    }
}

#[test]
fn deep_nesting_is_an_error_not_a_stack_overflow() {
    let nested = |depth: usize| {
        let mut node = json!({ "op": "unary", "x": 0, "kind": "relu" });
        for _ in 0..depth {
            let ty = json!({ "element": "f32", "shape": { "lead": "T", "dims": [4] } });
            node = json!({
                "op": "custom", "domain": "d", "name": "n", "version": 1, "inputs": [0],
                "outputs": [ty], "decomposition": [node], "results": [1],
            });
        }
        read(move |p| {
            node["inputs"] = json!([1]);
            p["nodes"][2] = node;
        })
    };
    // Work that doubled with each level would not end.
    let program = nested(50).expect("fifty levels");
    assert_eq!(program.expand_custom(|_| false).expect("an expansion").nodes.len(), 3);
    let error = nested(100).expect_err("a hundred levels");
    assert!(error.contains("recursion limit"), "{error}");
    let brackets = "[".repeat(100_000);
    assert!(Program::from_bytes(format!("{{\"ir\":\"1.0.0\",\"nodes\":{brackets}").as_bytes()).is_err());
}

/// A number that an operation of a random program may carry.
fn number() -> impl Strategy<Value = f32> {
    use proptest::num::f32::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
    prop_oneof![POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO, 0.001f32..1000.0]
}

/// Tries to add one operation; those that do not fit are left out.
fn push(b: &mut Builder, (kind, a, c, f): (u8, u32, u32, f32)) {
    let values = (0..).find(|&v| b.type_of(ValueId(v)).is_none()).unwrap_or(1);
    let (x, y) = (ValueId(a % values), ValueId(c % values));
    let positions = b.input(InputSource::Positions).unwrap();
    let rows = b.input(InputSource::LogitsRows).unwrap();
    let table = b.weight("table", &[8, 4], DType::F16).unwrap();
    let square = b.weight("square", &[4, 4], DType::F32).unwrap();
    let vector = b.weight("vector", &[4], DType::BF16).unwrap();
    let cube = b.weight("cube", &[4, 4, 4], DType::F32).unwrap();
    let bias = (a % 2 == 0).then_some(vector);
    let scaling = match c % 3 {
        0 => RopeScaling::None,
        1 => RopeScaling::Yarn { factor: f, original_context: c, beta_fast: 32.0, beta_slow: 1.0 },
        _ => RopeScaling::Llama3 { factor: f, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: c },
    };
    let local = Node { op: Op::Scale { x: ValueId(0), mul: f, add: -f }, layer: Some(a % 2) };
    let ids = b.input(InputSource::TokenIds).unwrap();
    let op = match kind % 16 {
        0 => Op::Embed { ids, table, scale: f },
        1 => Op::Linear { x, weight: square, bias },
        2 => Op::RmsNorm { x, weight: bias, eps: f.abs() },
        3 => Op::LayerNorm { x, weight: None, bias, eps: f.abs() },
        4 => Op::Add { a: x, b: y },
        5 => Op::Softcap { x, cap: f.abs() },
        6 => Op::GatedAct { gate: x, up: y, kind: Activation::GeluErf },
        7 => Op::Split { x, sizes: vec![1, 3] },
        8 => Op::Concat { xs: vec![x, y] },
        9 => Op::Reshape { x, dims: vec![2, 2] },
        10 => Op::Rope(Rope {
            x,
            positions,
            style: RopeStyle::Half,
            rotary_dim: 2,
            base: f.abs(),
            scaling,
            magnitude: f,
            factors: None,
            sections: (a % 2 == 0).then_some([a, c, 0, 1]),
        }),
        11 => {
            let cache = b.cache(2, 2, 2, (c % 2 == 0).then_some(c.max(1)));
            let window = (c % 2 == 0).then_some(1);
            let softcap = (a % 2 == 0).then_some(f.abs());
            Op::Attention(Attention { q: x, k: Some(x), v: Some(x), cache, scale: f, window, softcap, sinks: None })
        }
        12 => Op::Router(Router {
            logits: x,
            top_k: 2,
            gate: GateKind::Sigmoid,
            renormalize: a % 2 == 0,
            scale: f,
            selection_bias: bias,
        }),
        13 => Op::ExpertLinear { x, experts: y, weight: cube, bias: None },
        14 => Op::GatherRows { x, rows },
        _ => Op::Custom(Custom {
            domain: "example.org".into(),
            name: format!("op \"{a}\"\n"),
            version: c,
            attrs: json!({ "a": [a, null, { "deep": f }], "z": "é", "b": false }),
            inputs: vec![x],
            outputs: vec![ValueType::f32(Lead::T, &[4])],
            decomposition: vec![local],
            results: vec![ValueId(1)],
        }),
    };
    b.set_layer((a % 3 != 0).then_some(a % 2));
    let _ = b.push(op);
}

fn program() -> impl Strategy<Value = Program> {
    prop::collection::vec((any::<u8>(), any::<u32>(), any::<u32>(), number()), 0..40).prop_map(|ops| {
        let mut b = Builder::new(info());
        let x = b.input(InputSource::Named { name: "x".into(), ty: ValueType::f32(Lead::T, &[4]) }).unwrap();
        b.output("first", x);
        ops.into_iter().for_each(|op| push(&mut b, op));
        b.finish().unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn programs_survive_the_wire(program in program()) {
        let read = Program::from_bytes(&program.to_bytes()).unwrap();
        prop_assert_eq!(&read, &program);
        prop_assert_eq!(read.to_string(), program.to_string());
    }

    #[test]
    fn damaged_bytes_are_an_error_or_a_valid_program(
        program in program(),
        at in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = program.to_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = Program::from_bytes(&bytes) {
            prop_assert!(read.validate().is_ok());
            prop_assert!(read.expand_custom(|_| false).is_ok());
        }
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(Program::from_bytes(&bytes).is_err());
    }
}

#[test]
fn random_programs_hold_every_kind_of_node() {
    // The property above would be empty if the generator's operations never fitted.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..300 {
        let program = program().new_tree(&mut runner).unwrap().current();
        seen.extend(program.nodes.iter().map(|n| n.op.name()));
    }
    let generated = [
        "add",
        "attention",
        "concat",
        "custom",
        "embed",
        "expert_linear",
        "gated_act",
        "gather_rows",
        "input",
        "layer_norm",
        "linear",
        "reshape",
        "rms_norm",
        "rope",
        "router",
        "softcap",
        "split",
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), generated);
}

#[test]
fn caches_default_to_no_window() {
    let text = r#"{"layer":0,"kv_heads":1,"key_dim":2,"value_dim":3,"group":0}"#;
    let cache: CacheDecl = serde_json::from_str(text).unwrap();
    assert_eq!(cache, CacheDecl { layer: 0, kv_heads: 1, key_dim: 2, value_dim: 3, group: 0, window: None });
    assert_eq!(serde_json::to_string(&cache).unwrap(), text);
}

/// The text of the first fenced block of this language in `docs/IR.md`.
fn documented(language: &str) -> (String, String) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/IR.md");
    let doc = std::fs::read_to_string(path).unwrap();
    let (_, rest) = doc.split_once(&format!("```{language}\n")).unwrap();
    let block = rest.split_once("```").unwrap().0.to_owned();
    (doc, block)
}

#[test]
fn the_documented_example_is_a_program() {
    let (_, bytes) = documented("json");
    let program = Program::from_bytes(bytes.as_bytes()).unwrap();
    assert_eq!(program.ir, IR_VERSION);
    assert_eq!(program.to_string(), documented("text").1);
}

#[test]
fn every_operation_is_documented() {
    let error = read(|p| p["nodes"][2]["op"] = json!("?")).unwrap_err();
    let known = error.split_once("expected one of ").unwrap().1;
    // The names are in backquotes, with other text between them.
    let names: Vec<_> = known.split('`').skip(1).step_by(2).collect();
    assert!(names.len() > 20, "{error}");
    let (doc, _) = documented("json");
    let rows: Vec<_> = doc.lines().filter_map(|l| l.strip_prefix("| `")?.split(" |").next()).collect();
    for name in names {
        let found = rows.iter().any(|row| row.split('`').any(|n| n == name));
        assert!(found, "docs/IR.md has no row for `{name}`");
    }
}
