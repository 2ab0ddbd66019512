//! Real vocabularies with llama.cpp's recorded ids: `ggml-vocab-*.gguf` with `.inp` and `.out` beside them.

mod common;

use common::*;
use rocmforge_tokenizer::EncodeOptions;

/// Set to a folder with such files (llama.cpp's `models`) to run this; they are too large for the repository.
const FOLDER: &str = "ROCMFORGE_VOCABULARIES";

#[test]
fn real_vocabularies_tokenize_as_recorded() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return println!("skipped: {FOLDER} is not set");
    };
    let options = EncodeOptions { add_special: false, parse_special: false };
    let (mut failures, mut files) = (Vec::new(), 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let beside = |ending: &str| std::fs::read_to_string(format!("{}{ending}", path.display()));
        let (Ok(inputs), Ok(outputs)) = (beside(".inp"), beside(".out")) else {
            continue;
        };
        let file = rocmforge_gguf::GgufFile::open(&path).unwrap();
        let tokenizer = match rocmforge_tokenizer::Tokenizer::from_metadata(file.metadata()) {
            Ok(tokenizer) => tokenizer,
            Err(e) => {
                failures.push(format!("{}: {e}", path.display()));
                continue;
            }
        };
        files += 1;
        for (text, ids) in inputs.split("\n__ggml_vocab_test__\n").zip(outputs.lines()) {
            let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let found = tokenizer.encode(text, options);
            if found != ids {
                let file = path.file_name().unwrap().to_string_lossy();
                failures.push(format!("{file}: {text:?}\n expected {ids:?}\n found    {found:?}"));
            }
            check_stream(&tokenizer, &found, true);
        }
    }
    println!("{files} vocabularies");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
