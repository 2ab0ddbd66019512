//! Everything that can be wrong with what the interpreter is given ends in an error that says what was expected.

mod common;

use std::collections::HashMap;

use common::op::{Case, two_sequences};
use rocmforge_program::{
    Attention, Builder, DType, GroupTables, InputSource, Lead, ModelInfo, NamedInput, Op, Program, Step, ValueType,
};
use rocmforge_reference::Interpreter;

fn check(what: &str, error: impl std::fmt::Display, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{what}: expected '{part}' in: {text}");
    }
}

fn info() -> ModelInfo {
    ModelInfo { architecture: "test".into(), vocab_size: 8, hidden_size: 2, layers: 1, context_length: 8 }
}

fn embedding() -> Program {
    let mut b = Builder::new(info());
    let ids = b.input(InputSource::TokenIds).unwrap();
    let table = b.weight("table", &[4, 2], DType::F32).unwrap();
    let x = b.push(Op::Embed { ids, table, scale: 1.0 }).unwrap();
    b.output("hidden", x);
    b.finish().unwrap()
}

#[test]
fn weights_must_be_those_that_the_program_declares() {
    let supplied = |name: &str, dtype, bytes| {
        let weights = HashMap::from([(name.to_owned(), (dtype, vec![0; bytes]))]);
        Interpreter::new(embedding(), &weights).err().expect("an error")
    };
    check("missing", supplied("tables", DType::F32, 32), &["weight 'table'", "nothing of that name"]);
    check("type", supplied("table", DType::F16, 16), &["weight 'table'", "expected F32", "found F16"]);
    check("size", supplied("table", DType::F32, 28), &["weight 'table'", "expected 32 bytes", "found 28"]);
}

#[test]
fn an_invalid_program_is_refused() {
    let mut program = embedding();
    program.outputs.clear();
    let error = Interpreter::new(program, &HashMap::<String, _>::new()).err().expect("an error");
    check("no outputs", error, &["outputs", "at least one"]);
}

#[test]
fn indices_beyond_a_table_are_reported_by_node() {
    let weights = HashMap::from([("table".to_owned(), (DType::F32, vec![0; 32]))]);
    let mut interpreter = Interpreter::new(embedding(), &weights).unwrap();
    let step = |ids: &'static [u32]| Step {
        token_ids: ids,
        positions: &[0],
        query_start: &[0, 1],
        context_lens: &[1],
        ..Step::default()
    };
    assert!(interpreter.run(&step(&[3])).is_ok());
    // The vocabulary is larger than this table.
    check("row", interpreter.run(&step(&[4])).unwrap_err(), &["node 1 (embed)", "below 4", "found 4"]);
    check("vocabulary", interpreter.run(&step(&[8])).unwrap_err(), &["token_ids", "below 8", "found 8"]);
}

fn with_cache() -> (Interpreter, common::op::Inputs) {
    let mut case = Case::new();
    let q = case.input(ValueType::f32(Lead::T, &[1, 2]), &[0.0; 8]);
    let cache = case.builder.cache(1, 2, 2, None);
    let attention =
        Attention { q, k: Some(q), v: Some(q), cache, scale: 1.0, window: None, softcap: None, sinks: None };
    let result = case.push(Op::Attention(attention));
    case.interpreter(result)
}

#[test]
fn the_cache_must_exist_and_fit() {
    let (mut interpreter, inputs) = with_cache();
    let named = inputs.named();
    let tables = GroupTables { block_tables: &[5, 2, 3, 0], max_blocks: 2, slot_mapping: &[22, 23, 8, 12] };
    let step = Step { inputs: &named, groups: &[tables], ..two_sequences() };
    check("none", interpreter.run(&step).unwrap_err(), &["allocate_cache", "found none"]);
    for (what, size, blocks, parts) in [
        ("block size", 0, &[1][..], ["at least 1 token", "found 0"]),
        ("groups", 4, &[1, 1], ["each of 1 cache groups", "found 2 numbers"]),
        ("memory", usize::MAX, &[2], ["fits into memory", "[2] blocks"]),
        ("memory, no overflow", 1 << 40, &[1 << 10], ["fits into memory", "[1024] blocks"]),
    ] {
        check(what, interpreter.allocate_cache(size, blocks).unwrap_err(), &parts);
    }
    interpreter.allocate_cache(4, &[5]).unwrap();
    check("blocks", interpreter.run(&step).unwrap_err(), &["block 0 of sequence 0", "below 5", "found 5"]);
    interpreter.allocate_cache(4, &[6]).unwrap();
    assert!(interpreter.run(&step).is_ok());
}

#[test]
fn named_inputs_must_be_there_in_full() {
    let (mut interpreter, inputs) = with_cache();
    interpreter.allocate_cache(4, &[6]).unwrap();
    let named = inputs.named();
    let short = [NamedInput { name: named[0].name, data: &named[0].data[1..] }];
    let other = [NamedInput { name: "other", data: named[0].data }];
    let tables = [GroupTables { block_tables: &[5, 2, 3, 0], max_blocks: 2, slot_mapping: &[22, 23, 8, 12] }];
    for (what, inputs, found) in
        [("short", &short[..], "found 7"), ("other", &other, "found none"), ("none", &[], "found none")]
    {
        let step = Step { inputs, groups: &tables, ..two_sequences() };
        check(what, interpreter.run(&step).unwrap_err(), &["input 'in0'", "expected 8 elements", found]);
    }
}

#[test]
fn taps_show_every_f32_value_of_the_step() {
    let weights = HashMap::from([("table".to_owned(), (DType::F32, vec![0; 32]))]);
    let mut interpreter = Interpreter::new(embedding(), &weights).unwrap();
    let step =
        Step { token_ids: &[1, 2], positions: &[0, 1], query_start: &[0, 2], context_lens: &[2], ..Step::default() };
    let mut seen = vec![];
    interpreter.run_with_taps(&step, |id, elements| seen.push((id.0, elements.len()))).unwrap();
    assert_eq!(seen, [(1, 4)]);
}

#[test]
fn an_empty_step_has_empty_outputs() {
    let (mut interpreter, _) = with_cache();
    interpreter.allocate_cache(4, &[6]).unwrap();
    let groups = [GroupTables::default()];
    let inputs = [NamedInput { name: "in0", data: &[] }];
    let step = Step { query_start: &[0], groups: &groups, inputs: &inputs, ..Step::default() };
    assert_eq!(interpreter.run(&step).unwrap()["result"], [0.0f32; 0]);
}
