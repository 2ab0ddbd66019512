//! What tools use without an engine.

mod common;

use common::{SimulatedModel, class, expected_logits, expected_logits_of_class};
use rocmforge_engine::{EngineError, Rows, Runner, RunnerLimits, SingleSequence, plan_cache};

const WINDOWS: [Option<u32>; 2] = [None, Some(6)];
const LIMITS: RunnerLimits = RunnerLimits { max_tokens: 16, max_sequences: 4, block_size: 4 };

#[test]
fn memory_is_divided_between_cache_groups() {
    let check = |windows: &[Option<u32>], bytes: &[u64], context: usize, budget: u64, expected: Option<&[u64]>| {
        let model = SimulatedModel::new(windows, LIMITS, 100);
        let found = plan_cache(model.program(), LIMITS, bytes, context, budget);
        assert_eq!(found.as_deref().ok(), expected, "{windows:?} {bytes:?} {context} {budget}: {found:?}");
    };
    check(&[None], &[10], 100, 1000, Some(&[100])); // 4 sequences of 25 blocks
    check(&[None], &[10], 100, 5000, Some(&[100]));
    check(&[None], &[10], 100, 999, Some(&[99]));
    check(&[None, None], &[10, 30], 100, 400, Some(&[10, 10]));
    // A window of 6 and steps of 16 tokens: at most 7 blocks of 4 for each of 4 sequences.
    check(&[None, Some(6)], &[10, 10], 100, 1000, Some(&[72, 28]));
    check(&[None, Some(6)], &[10, 10], 100, 300, Some(&[15, 15]));
    check(&[None], &[10], 100, 9, None);
    check(&[], &[], 100, 0, Some(&[]));
}

#[test]
fn a_single_sequence_gives_the_same_logits_in_any_pieces() {
    let tokens = (0..50).map(|i| 1 + i * i % 40).collect::<Vec<u32>>();
    let expected: Vec<Vec<f32>> = (1..=50).map(|n| expected_logits(&WINDOWS, &tokens[..n])).collect();
    let mut model = SimulatedModel::new(&WINDOWS, LIMITS, 100);
    let mut sequence = SingleSequence::new(&mut model, 60).unwrap();
    for chunk in [1, 3, 16, 100] {
        let mut rows = Vec::new();
        let collect = |i: usize, row: &[f32]| {
            assert_eq!(i, rows.len());
            rows.push(row.to_vec());
            Ok::<_, EngineError>(())
        };
        sequence.score(&tokens, chunk, collect).unwrap();
        assert_eq!(rows, expected, "in pieces of {chunk}");
        sequence.clear();
    }
    assert!(sequence.feed(&tokens[..10], Rows::None).unwrap().is_empty());
    assert_eq!(sequence.feed(&tokens[10..20], Rows::Last).unwrap(), expected[19]);
    assert!(matches!(sequence.feed(&[1; 17], Rows::Last), Err(EngineError::Request { .. })));
    assert!(matches!(sequence.feed(&[99], Rows::Last), Err(EngineError::Request { .. })));
    assert_eq!(sequence.len(), 20);
}

#[test]
fn a_single_sequence_changes_over_at_a_length_or_from_the_start() {
    let tokens = (0..50).map(|i| 1 + i * i % 40).collect::<Vec<u32>>();
    let lengths = [8, 30];
    let mut model = SimulatedModel::new(&WINDOWS, LIMITS, 100).changing_at(&lengths);
    let mut sequence = SingleSequence::new(&mut model, 60).unwrap();
    for (end, piece) in tokens.chunks(5).enumerate().map(|(i, piece)| (5 * (i + 1), piece)) {
        let expected = expected_logits_of_class(&WINDOWS, &tokens[..end], class(&lengths, end));
        assert_eq!(sequence.feed(piece, Rows::Last).unwrap(), expected, "{end} tokens");
    }
    sequence.clear();
    sequence.expect(50);
    let expected = expected_logits_of_class(&WINDOWS, &tokens[..3], 2);
    assert_eq!(sequence.feed(&tokens[..3], Rows::Last).unwrap(), expected);
}
