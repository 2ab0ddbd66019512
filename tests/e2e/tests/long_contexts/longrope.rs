//! Phi-3's two sets of rope factors: which one holds follows from the length of each sequence.

use std::path::PathBuf;
use std::sync::Arc;

use rocmforge_e2e::{
    NoVocabulary, Specification, TOLERANCE, Variant, greedy, load, logits, logits_of, max_difference, together,
};
use rocmforge_gguf::Value;
use rocmforge_test_support::{committed_models, expected_json, token_ids};

/// The committed model's original context here.
const ORIGINAL: u32 = 30;

/// Every 56th logit after so many tokens of the recorded sequence, from transformers 4.57.6 with this original context and
/// the file's attention factor.
const RECORDED: [(usize, [f32; 8]); 3] = [
    (30, [3.11468, 0.10619, -4.49791, 6.5655, 0.6836, 0.29988, 1.50436, 0.47543]),
    (31, [1.35456, 3.02438, 1.75133, -2.98356, 1.1414, 0.28094, 2.93422, 0.39253]),
    (48, [0.32755, -2.44654, -0.40752, 1.93436, 2.11312, -1.27052, -3.59191, -3.06944]),
];

/// The greedy continuation of the first 20 tokens, each token from a pass over the whole sequence.
const ANSWER: [u32; 24] =
    [76, 59, 417, 85, 76, 365, 319, 269, 6, 365, 423, 20, 198, 260, 141, 391, 150, 211, 6, 423, 270, 115, 303, 232];

fn phi() -> Variant {
    Variant::of("phi3").set("rope.scaling.original_context_length", Value::U32(ORIGINAL))
}

fn written(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("phi3.gguf");
    std::fs::write(&path, phi().bytes()).expect("the file is written");
    path
}

fn tokens() -> Vec<u32> {
    token_ids(&expected_json(&committed_models().join("phi3"))["sequences"]["random48"]["ids"])
}

#[test]
fn a_sequence_has_the_factors_of_its_length_from_its_first_token_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut model = load(&written(&folder), 64, 1);
    let mut specification = Specification::new(&phi().file(), 64, 1);
    for (count, expected) in RECORDED {
        let tokens = &tokens()[..count];
        let check = |what: &str, all: &[f32]| {
            let found: Vec<f32> = all[all.len() - 448..].iter().step_by(56).copied().collect();
            let difference = max_difference(&found, &expected);
            assert!(difference <= TOLERANCE, "{count} tokens, {what}: {difference:e}");
        };
        for chunk in [count, 7, 1] {
            check(&format!("steps of {chunk}"), &logits(&mut model, tokens, chunk));
        }
        check("the specification", &logits_of(&mut specification, tokens, 7));
    }
}

#[test]
fn a_sequence_that_grows_past_the_original_context_changes_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = written(&folder);
    let prompt = &tokens()[..20];
    assert_eq!(greedy(&mut load(&path, 64, 1), prompt, ANSWER.len()), ANSWER);
    // Beside sequences that stay short, that are long from the start, and that change at another time.
    let lengths = [(20, 24), (3, 5), (40, 4), (20, 24), (27, 8), (20, 3)];
    let asked: Vec<(Vec<u32>, usize)> = lengths.iter().map(|&(n, more)| (tokens()[..n].to_vec(), more)).collect();
    let answers = together(load(&path, 64, 8), &asked, Arc::new(NoVocabulary), 13);
    let mut alone = load(&path, 64, 1);
    for ((prompt, count), answer) in asked.iter().zip(&answers) {
        assert_eq!(*answer, greedy(&mut alone, prompt, *count), "{} tokens and {count} more", prompt.len());
    }
    assert_eq!(answers[0], ANSWER);
    assert_eq!(answers[5], ANSWER[..3]);
}
