use std::collections::HashMap;

use rocmforge_program::{
    Builder, DType, GroupTables, InputSource, ModelInfo, NamedInput, Op, Step, ValueId, ValueType, WeightId,
};
use rocmforge_reference::Interpreter;

/// Two sequences: three tokens at positions 2 to 4 of the first, one token at position 0 of the second.
pub const TOKENS: [u32; 4] = [1, 0, 2, 3];
pub const POSITIONS: [u32; 4] = [2, 3, 4, 0];
pub const ROWS: [u32; 2] = [3, 1];

/// One program with the operations under test, and what it is given.
pub struct Case {
    pub builder: Builder,
    weights: HashMap<String, (DType, Vec<u8>)>,
    inputs: Vec<(String, Vec<f32>)>,
}

impl Case {
    pub fn new() -> Case {
        let info =
            ModelInfo { architecture: "test".into(), vocab_size: 4, hidden_size: 2, layers: 2, context_length: 64 };
        Case { builder: Builder::new(info), weights: HashMap::new(), inputs: vec![] }
    }

    /// A named input with these elements.
    pub fn input(&mut self, ty: ValueType, data: &[f32]) -> ValueId {
        let name = format!("in{}", self.inputs.len());
        self.inputs.push((name.clone(), data.to_vec()));
        self.builder.input(InputSource::Named { name, ty }).expect("an f32 input")
    }

    /// An f32 weight with these elements.
    pub fn weight(&mut self, dims: &[usize], data: &[f32]) -> WeightId {
        let name = format!("w{}", self.weights.len());
        let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.weights.insert(name.clone(), (DType::F32, bytes));
        self.builder.weight(&name, dims, DType::F32).expect("a new name")
    }

    pub fn positions(&mut self) -> ValueId {
        self.builder.input(InputSource::Positions).expect("an input")
    }

    pub fn push(&mut self, op: Op) -> ValueId {
        self.builder.push(op).expect("operands that fit")
    }

    /// Adds the output and prepares the program.
    pub fn interpreter(mut self, result: ValueId) -> (Interpreter, Inputs) {
        self.builder.output("result", result);
        let program = self.builder.finish().expect("a valid program");
        (Interpreter::new(program, &self.weights).expect("weights as declared"), Inputs(self.inputs))
    }

    /// The elements of `result` in a step of the two sequences. A program with caches has blocks of 4 tokens.
    pub fn run(self, result: ValueId) -> Vec<f32> {
        let (mut interpreter, inputs) = self.interpreter(result);
        let groups = allocate(&mut interpreter);
        let step = Step { inputs: &inputs.named(), groups: &groups, ..two_sequences() };
        interpreter.run(&step).expect("a step").remove("result").expect("the output")
    }
}

pub struct Inputs(Vec<(String, Vec<f32>)>);

impl Inputs {
    pub fn named(&self) -> Vec<NamedInput<'_>> {
        self.0.iter().map(|(name, data)| NamedInput { name, data }).collect()
    }
}

pub fn two_sequences<'a>() -> Step<'a> {
    Step {
        token_ids: &TOKENS,
        positions: &POSITIONS,
        query_start: &[0, 3, 4],
        context_lens: &[5, 1],
        logits_rows: &ROWS,
        ..Step::default()
    }
}

/// Six blocks per group; the first sequence has blocks 5 and 2, the second block 3.
pub fn allocate(interpreter: &mut Interpreter) -> Vec<GroupTables<'static>> {
    let groups = interpreter.program().group_count();
    interpreter.allocate_cache(4, &vec![6; groups]).expect("a cache");
    let tables = GroupTables { block_tables: &[5, 2, 3, u32::MAX], max_blocks: 2, slot_mapping: &[22, 23, 8, 12] };
    vec![tables; groups]
}

/// Numbers separated by white space.
pub fn numbers(text: &str) -> Vec<f64> {
    text.split_whitespace().map(|n| n.parse().expect("a number")).collect()
}

/// The rounding of a result computed in f64 is half a unit in the last place of f32: 6e-8 of it.
pub fn check(what: &str, found: &[f32], expected: &[f64]) {
    check_within(what, found, expected, 1.2e-7);
}

/// For what is rounded more than once on the way.
pub fn check_within(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: {found:?}");
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let close = (f64::from(found) - expected).abs() <= tolerance * expected.abs() + 1e-11;
        assert!(close, "{what}: element {i}: expected {expected}, found {found}");
    }
}
