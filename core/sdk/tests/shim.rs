//! What the SDK checks before an author's code runs, beyond what the conformance kit tries on every backend.

use rocmforge_abi::{
    BackendTableRef, CompileOptions, GroupTable, Handle, RSlice, RSliceMut, RStr, Status, StepBatch, StepExt,
    StepOutput, TensorMeta, Weight, status,
};
use rocmforge_sdk::program::{
    Builder, InputSource, Lead, ModelInfo, Op, OutputBuffer, RowSampling, Step, ValueType, output,
};
use rocmforge_sdk::{
    Backend, BoundWeight, DType, Device, Executable, MemoryNeed, Options, Program, Result, private::backend_table,
};

/// Accepts everything and answers with what it was given.
struct Echo;

struct EchoExec {
    seen: Vec<f32>,
    drawn: Vec<u32>,
}

impl Backend for Echo {
    type Exec = EchoExec;

    fn create(options: &Options) -> Result<Echo> {
        options.expect_none().map(|()| Echo)
    }

    fn devices(&self) -> Result<Vec<Device>> {
        Ok(vec![])
    }

    fn extensions(&self) -> Vec<String> {
        vec!["sample/1".into()]
    }

    fn supports(&self, _: &Op, _: &[DType]) -> bool {
        true
    }

    fn compile(&self, _: Program, _: rocmforge_sdk::CompileOptions) -> Result<EchoExec> {
        Ok(EchoExec { seen: vec![], drawn: vec![] })
    }
}

impl Executable for EchoExec {
    fn memory(&self) -> MemoryNeed {
        MemoryNeed::default()
    }

    fn bind(&mut self, _: BoundWeight) -> Result<()> {
        Ok(())
    }

    fn finalize(&mut self) -> Result<()> {
        Ok(())
    }

    fn allocate_cache(&mut self, _: &[u64]) -> Result<()> {
        Ok(())
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<()> {
        self.seen = step.inputs.iter().flat_map(|i| i.data).copied().collect();
        Ok(())
    }

    fn submit_sampling(&mut self, step: &Step<'_>, rows: &[RowSampling]) -> Result<()> {
        self.drawn = rows.iter().map(|r| 100 + r.row).collect();
        self.submit(step)
    }

    fn sampled(&mut self, tokens: &mut [u32]) -> Result<()> {
        tokens.copy_from_slice(&self.drawn);
        Ok(())
    }

    fn wait(&mut self, outputs: &mut [OutputBuffer<'_>]) -> Result<()> {
        for output in outputs {
            output.data.fill(self.seen.iter().sum());
        }
        Ok(())
    }
}

/// A compiled program, with weights of zeros bound.
struct Running {
    table: BackendTableRef,
    exec: Handle,
    _weights: Vec<Vec<u8>>,
}

fn ok(status: Status) {
    assert_eq!(status.code, status::OK, "{}", status.message);
}

impl Running {
    fn new(program: &Program) -> Running {
        let table = backend_table::<Echo>("echo");
        let (mut backend, mut exec) = (Handle(std::ptr::null_mut()), Handle(std::ptr::null_mut()));
        ok((table.create())(RStr::from_str("{}"), &mut backend));
        let options = CompileOptions { max_tokens: 16, max_sequences: 4, block_size: 4 };
        ok((table.compile())(backend, RSlice::from_slice(&program.to_bytes()), options, &mut exec));
        let mut weights = vec![];
        for (i, w) in program.weights.iter().enumerate() {
            weights.push(vec![0u8; 4 * w.dims.iter().product::<usize>()]);
            let dims: Vec<u64> = w.dims.iter().map(|&d| d as u64).collect();
            let tensor =
                TensorMeta { name: RStr::from_str(&w.name), dtype: w.dtype as u32, dims: RSlice::from_slice(&dims) };
            let weight = Weight { index: i as u32, tensor, data: RSlice::from_slice(&weights[i]) };
            ok((table.executable().bind())(exec, &weight));
        }
        ok((table.executable().finalize())(exec));
        Running { table, exec, _weights: weights }
    }

    /// One sequence of these tokens, whose first is at this position.
    fn submit(&self, tokens: &[u32], first: u32, ext: &[StepExt<'_>]) -> Status {
        self.submit_rows(tokens, first, &[], ext)
    }

    /// The same with logits of these rows.
    fn submit_rows(&self, tokens: &[u32], first: u32, rows: &[u32], ext: &[StepExt<'_>]) -> Status {
        let n = tokens.len() as u32;
        let positions: Vec<u32> = (first..first + n).collect();
        let (query_start, context_lens) = ([0, n], [first + n]);
        let groups: [GroupTable<'_>; 0] = [];
        let batch = StepBatch {
            token_ids: RSlice::from_slice(tokens),
            positions: RSlice::from_slice(&positions),
            query_start: RSlice::from_slice(&query_start),
            context_lens: RSlice::from_slice(&context_lens),
            groups: RSlice::from_slice(&groups),
            logits_rows: RSlice::from_slice(rows),
            ext: RSlice::from_slice(ext),
        };
        (self.table.executable().submit())(self.exec, &batch)
    }

    fn wait(&self, name: &str, data: &mut [f32]) -> Status {
        let mut outputs = [StepOutput { name: RStr::from_str(name), data: RSliceMut::from_mut_slice(data) }];
        (self.table.executable().wait())(self.exec, RSliceMut::from_mut_slice(&mut outputs))
    }
}

fn builder(vocab_size: usize) -> Builder {
    Builder::new(ModelInfo { architecture: "t".into(), vocab_size, hidden_size: 2, layers: 1, context_length: 64 })
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

#[test]
fn a_step_without_a_whole_input_is_refused_by_its_name() {
    let mut b = builder(10);
    let ty = ValueType::f32(Lead::T, &[2]);
    let x = b.input(InputSource::Named { name: "hidden".into(), ty }).expect("an input");
    b.output("rows", x);
    let running = Running::new(&b.finish().expect("a program"));
    let ext = |data| [StepExt { name: RStr::from_str("input/hidden"), data: RSlice::from_slice(data) }];
    let check = |ext: &[StepExt<'_>], parts: &[&str]| {
        let status = running.submit(&[1, 2], 0, ext);
        assert_eq!(status.code, status::INVALID, "{}", status.message);
        parts.iter().for_each(|p| assert!(status.message.contains(p), "expected {p:?} in {}", status.message));
    };
    // Aligned by way of the numbers themselves, and one byte into them.
    let numbers = [1.0f32, 2.0, 3.0, 4.0, 5.0];
    let mut raw = [0; 24];
    let start = raw.as_ptr().align_offset(4);
    raw[start..start + 20].copy_from_slice(&bytes(&numbers));
    let aligned = |n: usize| &raw[start..start + 4 * n];
    check(&[], &["input 'hidden'", "expected 4 elements", "found none"]);
    check(&ext(&[]), &["input 'hidden'", "expected 4 elements", "found 0"]);
    check(&ext(aligned(3)), &["input 'hidden'", "expected 4 elements", "found 3"]);
    check(&ext(&aligned(4)[..15]), &["input 'hidden'", "expected aligned f32"]);
    check(&ext(&raw[start + 1..start + 17]), &["input 'hidden'", "expected aligned f32"]);
    let other = [StepExt { name: RStr::from_str("input/other"), data: RSlice::from_slice(aligned(4)) }];
    check(&other, &["input 'hidden'", "found none"]);

    ok(running.submit(&[1, 2], 0, &ext(aligned(4))));
    let mut rows = [0.0; 4];
    ok(running.wait("rows", &mut rows));
    assert_eq!(rows, [10.0; 4], "the elements arrive as they are");
}

#[test]
fn a_table_of_positions_limits_positions_and_not_tokens() {
    let mut b = builder(10);
    let tokens = b.weight("token_embd.weight", &[10, 2], DType::F32).expect("a table");
    let places = b.weight("position_embd.weight", &[4, 2], DType::F32).expect("a table");
    let ids = b.input(InputSource::TokenIds).expect("ids");
    let positions = b.input(InputSource::Positions).expect("positions");
    let x = b.push(Op::Embed { ids, table: tokens, scale: 1.0 }).expect("rows");
    let y = b.push(Op::Embed { ids: positions, table: places, scale: 1.0 }).expect("rows");
    let z = b.push(Op::Add { a: x, b: y }).expect("a sum");
    b.output("rows", z);
    let running = Running::new(&b.finish().expect("a program"));
    let check = |tokens: &[u32], first: u32, expected: Option<&str>| {
        let status = running.submit(tokens, first, &[]);
        match expected {
            None => {
                ok(status);
                ok(running.wait("rows", &mut vec![0.0; 2 * tokens.len()]));
            }
            Some(part) => {
                assert!(status.code == status::INVALID && status.message.contains(part), "{}", status.message)
            }
        }
    };
    check(&[9, 0, 9, 5], 0, None);
    check(&[9], 3, None);
    check(&[9], 4, Some("positions: expected below 4"));
    check(&[1, 1], 3, Some("positions: expected below 4"));
    check(&[10], 0, Some("token_ids"));
}

#[test]
fn a_smaller_embedding_than_the_vocabulary_limits_tokens() {
    let mut b = builder(10);
    let table = b.weight("token_embd.weight", &[6, 2], DType::F32).expect("a table");
    let ids = b.input(InputSource::TokenIds).expect("ids");
    let x = b.push(Op::Embed { ids, table, scale: 1.0 }).expect("rows");
    b.output("rows", x);
    let running = Running::new(&b.finish().expect("a program"));
    ok(running.submit(&[5], 0, &[]));
    ok(running.wait("rows", &mut [0.0; 2]));
    let status = running.submit(&[6], 0, &[]);
    assert!(status.code == status::INVALID && status.message.contains("ids below 6"), "{}", status.message);
}

#[test]
fn rows_are_drawn_from_only_where_they_and_their_numbers_are_right() {
    let mut b = builder(10);
    let ids = b.input(InputSource::TokenIds).expect("ids");
    let rows = b.input(InputSource::LogitsRows).expect("rows");
    let table = b.weight("token_embd.weight", &[10, 2], DType::F32).expect("a table");
    let x = b.push(Op::Embed { ids, table, scale: 1.0 }).expect("embeddings");
    let x = b.push(Op::GatherRows { x, rows }).expect("rows");
    b.output(output::LOGITS, x);
    let running = Running::new(&b.finish().expect("a program"));
    let good = RowSampling { row: 1, temperature: 1.0, top_p: 1.0, ..RowSampling::default() };
    let bytes = |rows: &[RowSampling]| {
        let mut bytes = vec![];
        rows.iter().for_each(|r| r.write(&mut bytes));
        bytes
    };
    let submit = |data: &[u8]| {
        let ext = [StepExt { name: RStr::from_str("sample/1"), data: RSlice::from_slice(data) }];
        running.submit_rows(&[1, 2, 3], 0, &[0, 1, 2], &ext)
    };
    let sampled = |n: usize| {
        let mut tokens = vec![0u32; n];
        let status = (running.table.executable().sampled().expect("it is there"))(
            running.exec,
            RSliceMut::from_mut_slice(&mut tokens),
        );
        (status, tokens)
    };
    for (wrong, part) in [
        (bytes(&[RowSampling { row: 3, ..good }]), "rising rows below 3"),
        (bytes(&[good, RowSampling { row: 0, ..good }]), "rising rows below 3"),
        (bytes(&[RowSampling { top_p: 0.0, ..good }]), "in range"),
        (vec![0; 31], "32 bytes per row"),
    ] {
        let status = submit(&wrong);
        assert!(status.code == status::INVALID && status.message.contains(part), "{}", status.message);
    }
    ok(submit(&bytes(&[RowSampling { row: 0, ..good }, RowSampling { row: 2, ..good }])));
    assert!(sampled(2).0.message.contains("that was waited for"));
    // Logits of one row are left.
    assert!(running.wait(output::LOGITS, &mut [0.0; 6]).message.contains("expected 2 elements, found 6"));
    ok(running.wait(output::LOGITS, &mut [0.0; 2]));
    assert!(sampled(3).0.message.contains("expected 2 tokens"));
    let (status, tokens) = sampled(2);
    ok(status);
    assert_eq!(tokens, [100, 102]);
    // A step without draws gives all rows, and no token.
    ok(running.submit_rows(&[1], 3, &[0], &[]));
    ok(running.wait(output::LOGITS, &mut [0.0; 2]));
    assert!(sampled(2).0.message.contains("expected 0 tokens"));
}
