//! The interpreter against logits of Hugging Face transformers in f32.

mod common;

use std::path::Path;

use common::models::{Model, Weights};
use common::paged::{Paged, logits_in_chunks, max_difference};
use rocmforge_gguf::GgufFile;
use rocmforge_reference::Interpreter;
use rocmforge_test_support::{expected_json, models, npy_f32, reference_pack, token_ids};

/// Logits have a standard deviation near 3; one wrong epsilon moves them by 2e-3.
const TOLERANCE: f32 = 5e-4;

fn open(path: &Path) -> Interpreter {
    let file = GgufFile::open(path).expect("a model file");
    let program = Model::program(&file).expect("a program");
    Interpreter::new(program, &Weights(&file)).expect("an interpreter")
}

fn check_logits(what: &str, found: &[f32], expected: &[f32]) {
    let difference = max_difference(found, expected);
    println!("{what}: largest difference {difference:e}");
    assert!(difference <= TOLERANCE, "{what}: expected logits within {TOLERANCE:e}, found {difference:e}");
}

fn check_model(dir: &Path) {
    let mut interpreter = open(&dir.join("model.gguf"));
    let expected = expected_json(dir);
    let ids = token_ids(&expected["sequences"]["random48"]["ids"]);
    let (_, logits) = npy_f32(dir.join("logits.npy"));
    for chunk in [ids.len(), 7, 1] {
        let found = logits_in_chunks(&mut interpreter, &ids, chunk);
        check_logits(&format!("{} in chunks of {chunk}", dir.display()), &found, &logits);
    }
}

#[test]
fn logits_are_those_of_transformers_however_the_prompt_is_cut() {
    let names = [
        "llama3-gqa",
        "llama2-spm-mha",
        "llama-linear-rope",
        "mistral7b-spm",
        "mistral-nemo",
        "mixtral",
        "qwen2",
        "qwen2-yarn",
        "qwen2moe",
        "gemma2",
    ];
    let found = models(&names);
    assert!(found.iter().any(|d| d.ends_with("llama3-gqa")), "the committed model is missing");
    found.iter().for_each(|dir| check_model(dir));
}

#[test]
fn quantised_weights_give_the_logits_of_the_dequantised_model() {
    let Some(dir) = reference_pack().map(|p| p.join("llama-q")) else {
        return println!("skipped: llama-q, not in this checkout");
    };
    let expected = expected_json(&dir);
    let ids = token_ids(&expected["sequences"]["random48"]["ids"]);
    for kind in ["F16", "Q8_0", "Q4_0", "Q5_1", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS"] {
        let mut interpreter = open(&dir.join(format!("quants/{kind}.gguf")));
        let (_, logits) = npy_f32(dir.join(format!("quants/{kind}.logits.npy")));
        check_logits(kind, &logits_in_chunks(&mut interpreter, &ids, 16), &logits);
    }
}

#[test]
fn sequences_that_share_a_step_do_not_disturb_each_other() {
    for dir in models(&["llama3-gqa", "gemma2"]) {
        let mut interpreter = open(&dir.join("model.gguf"));
        let ids = token_ids(&expected_json(&dir)["sequences"]["random48"]["ids"]);
        let (first, second) = (&ids[..], &ids[20..41]);
        let alone = [first, second].map(|ids| logits_in_chunks(&mut interpreter, ids, ids.len()));
        let vocab = interpreter.program().info.vocab_size;

        // The first sequence decodes from its 30th token on while the second is prefilled in two chunks.
        let mut paged = Paged::new(&mut interpreter, 2, 4, 40);
        let mut found = [paged.run(&mut interpreter, &[(0, &first[..30])]).expect("a step"), vec![]];
        for (i, chunk) in [(30, &second[..9]), (31, &second[9..])] {
            let logits = paged.run(&mut interpreter, &[(1, chunk), (0, &first[i..i + 1])]).expect("a step");
            let (of_second, of_first) = logits.split_at(chunk.len() * vocab);
            found[1].extend(of_second);
            found[0].extend(of_first);
        }
        // The same numbers in the same order: nothing depends on where a block lies or on who else is in the step.
        assert!(alone[0].starts_with(&found[0]), "{}", dir.display());
        assert_eq!(alone[1], found[1], "{}", dir.display());
    }
}
