//! Every rule of `Step::check` has a step that breaks it.

use rocmforge_program::{
    Attention, Builder, GroupTables, InputSource, Lead, ModelInfo, NO_BLOCK, Op, Program, Step, StepLimits, ValueType,
};

/// One cache that keeps everything (group 0) and one with a window of 3 (group 1).
fn program() -> Program {
    let info = ModelInfo { architecture: "test".into(), vocab_size: 8, hidden_size: 1, layers: 1, context_length: 16 };
    let mut b = Builder::new(info);
    let ty = ValueType::f32(Lead::T, &[1, 1]);
    let x = b.input(InputSource::Named { name: "x".into(), ty }).unwrap();
    for window in [None, Some(3)] {
        let cache = b.cache(1, 1, 1, window);
        let (k, v) = (Some(x), Some(x));
        let out =
            b.push(Op::Attention(Attention { q: x, k, v, cache, scale: 1.0, window, softcap: None, sinks: None }));
        b.output(if window.is_some() { "windowed" } else { "full" }, out.unwrap());
    }
    b.finish().unwrap()
}

/// A step that owns its arrays, to be broken one at a time.
struct Owned {
    token_ids: Vec<u32>,
    positions: Vec<u32>,
    query_start: Vec<u32>,
    context_lens: Vec<u32>,
    logits_rows: Vec<u32>,
    /// Block tables, columns, slots.
    groups: Vec<(Vec<u32>, usize, Vec<u32>)>,
    limits: (usize, usize, usize, usize, Vec<usize>),
}

/// Positions 5 and 6 of a first sequence and 0 of a second, in blocks of 2.
fn valid() -> Owned {
    Owned {
        token_ids: vec![1, 7, 0],
        positions: vec![5, 6, 0],
        query_start: vec![0, 2, 3],
        context_lens: vec![7, 1],
        logits_rows: vec![1, 2],
        groups: vec![
            (vec![4, 0, 2, 1, 3, NO_BLOCK, NO_BLOCK, NO_BLOCK], 4, vec![5, 2, 6]),
            // The query at 5 sees 3, 4 and 5, so block 0 (positions 0 and 1) is gone.
            (vec![NO_BLOCK, 1, 0, 4, 2, NO_BLOCK, NO_BLOCK, NO_BLOCK], 4, vec![1, 8, 4]),
        ],
        limits: (8, 3, 2, 2, vec![5, 5]),
    }
}

fn run(owned: &Owned) -> Result<(), String> {
    let tables = owned.groups.iter().map(|(tables, max_blocks, slots)| GroupTables {
        block_tables: tables,
        max_blocks: *max_blocks,
        slot_mapping: slots,
    });
    let groups: Vec<_> = tables.collect();
    let step = Step {
        token_ids: &owned.token_ids,
        positions: &owned.positions,
        query_start: &owned.query_start,
        context_lens: &owned.context_lens,
        groups: &groups,
        logits_rows: &owned.logits_rows,
        inputs: &[],
    };
    let (vocab_size, max_tokens, max_sequences, block_size, ref num_blocks) = owned.limits;
    let limits = StepLimits { vocab_size, max_tokens, max_sequences, block_size, num_blocks };
    step.check(&program(), &limits).map_err(|e| e.to_string())
}

#[test]
fn a_step_that_fits_passes() {
    assert_eq!(run(&valid()), Ok(()));
    // With nothing to do there is nothing wrong.
    let empty = Owned {
        token_ids: vec![],
        positions: vec![],
        query_start: vec![0],
        context_lens: vec![],
        logits_rows: vec![],
        groups: vec![(vec![], 0, vec![]), (vec![], 9, vec![])],
        ..valid()
    };
    assert_eq!(run(&empty), Ok(()));
}

#[test]
fn every_broken_rule_is_named() {
    type Change = fn(&mut Owned);
    let table: &[(Change, [&str; 3])] = &[
        (|s| s.limits.1 = 2, ["tokens", "at most 2", "found 3"]),
        (|s| s.limits.2 = 1, ["sequences", "at most 1", "found 2"]),
        (|s| s.positions.truncate(2), ["positions", "3 entries", "found 2"]),
        (|s| s.query_start.truncate(2), ["query_start", "3 entries", "found 2"]),
        (|s| s.query_start = vec![0, 3, 3], ["query_start", "0 < .. < 3", "[0, 3, 3]"]),
        (|s| s.query_start = vec![1, 2, 3], ["query_start", "0 < .. < 3", "[1, 2, 3]"]),
        (|s| s.query_start = vec![0, 2, 4], ["query_start", "0 < .. < 3", "[0, 2, 4]"]),
        (|s| s.query_start = vec![0, u32::MAX, 3], ["query_start", "0 < .. < 3", "[0, 4294967295, 3]"]),
        (|s| s.token_ids[1] = 8, ["token_ids", "below 8", "found 8"]),
        (|s| s.logits_rows[0] = 3, ["logits_rows", "rows below 3", "found 3"]),
        (|s| s.positions[1] = 5, ["positions of sequence 0", "2 consecutive, ending at 6", "[5, 5]"]),
        (|s| s.positions[2] = 1, ["positions of sequence 1", "1 consecutive, ending at 0", "[1]"]),
        (|s| s.context_lens[0] = 1, ["positions of sequence 0", "ending at 0", "[5, 6]"]),
        (|s| s.context_lens[1] = 0, ["positions of sequence 1", "ending at -1", "[0]"]),
        (|s| s.groups.truncate(1), ["groups", "2 entries", "found 1"]),
        (|s| s.groups[1].2.truncate(2), ["slot_mapping of cache group 1", "3 entries", "found 2"]),
        (|s| s.groups[0].0.truncate(7), ["block_tables of cache group 0", "8 entries", "found 7"]),
        (|s| s.groups[0].1 = usize::MAX, ["block_tables of cache group 0", "entries", "found 8"]),
        (
            |s| (s.groups[0].0, s.groups[0].1) = (vec![4, 0, 2, 3, NO_BLOCK, NO_BLOCK], 3),
            ["max_blocks of cache group 0", "expected 4", "found 3"],
        ),
        (|s| s.groups[0].0[2] = 5, ["block 2 of sequence 0 in cache group 0", "below 5", "found 5"]),
        (|s| s.groups[0].0[0] = NO_BLOCK, ["block 0 of sequence 0 in cache group 0", "below 5", "4294967295"]),
        (|s| s.groups[1].0[1] = NO_BLOCK, ["block 1 of sequence 0 in cache group 1", "below 5", "4294967295"]),
        (|s| s.groups[1].0[4] = NO_BLOCK, ["block 0 of sequence 1 in cache group 1", "below 5", "4294967295"]),
        (|s| s.groups[0].2[1] = 3, ["slot of token 1 in cache group 0", "expected 2", "found 3"]),
        (|s| s.groups[1].2[2] = 2, ["slot of token 2 in cache group 1", "expected 4", "found 2"]),
        (|s| s.limits.4.truncate(1), ["block 1 of sequence 0 in cache group 1", "below 0", "found 1"]),
    ];
    for (i, (change, parts)) in table.iter().enumerate() {
        let mut step = valid();
        change(&mut step);
        let error = run(&step).expect_err(&format!("row {i}: {parts:?}"));
        for part in parts {
            assert!(error.contains(part), "row {i}: expected '{part}' in: {error}");
        }
    }
}
