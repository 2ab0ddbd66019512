//! Long sequences with the logits that were recorded at some of their positions.

use std::path::Path;

use rocmforge_engine::{Rows, SingleSequence};
use rocmforge_loader::Model;
use rocmforge_test_support::{expected_json, npy_f32, token_ids};

use crate::{load_options, max_difference, plugins};

/// Tokens in a step.
const CHUNK: usize = 512;

/// Largest difference of a logit at each recorded position of a model directory, in order.
pub fn far(dir: &Path) -> Vec<(usize, f32)> {
    let expected = &expected_json(dir)["far"];
    let ids = token_ids(&expected["ids"]);
    let positions: Vec<usize> = token_ids(&expected["positions"]).into_iter().map(|p| p as usize).collect();
    let (shape, recorded) = npy_f32(dir.join(expected["logits"].as_str().expect("a file name")));
    assert_eq!(shape[0], positions.len(), "{}: a row for each position", dir.display());

    // As long as the sequence is and no longer, so that what depends on the served context shows.
    let options = rocmforge_loader::LoadOptions { context_length: Some(ids.len() as u32), ..load_options(CHUNK, 1) };
    let path = dir.join("model.gguf");
    let mut model = Model::load(&plugins(), &path, &options, &mut |_| {}).unwrap_or_else(|e| panic!("{e}"));
    let mut sequence = SingleSequence::new(&mut model.executable, ids.len()).expect("room for the sequence");
    sequence.expect(ids.len());
    let difference = |(&position, recorded): (&usize, &[f32])| {
        let mut found = vec![];
        while sequence.len() <= position {
            let end = (sequence.len() + CHUNK).min(position + 1);
            found = sequence.feed(&ids[sequence.len()..end], Rows::Last).expect("the step runs").to_vec();
        }
        (position, max_difference(&found, recorded))
    };
    positions.iter().zip(recorded.chunks_exact(shape[1])).map(difference).collect()
}
