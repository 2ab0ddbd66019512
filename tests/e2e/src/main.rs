//! Prints how far every reference model's logits are from transformers'; `accuracy [DIR..]`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use rocmforge_e2e::measure;
use rocmforge_test_support::{committed_models, reference_pack};

fn main() {
    let mut folders: Vec<PathBuf> = std::env::args().skip(1).map(PathBuf::from).collect();
    if folders.is_empty() {
        let pack = reference_pack().unwrap_or_else(committed_models);
        let entries = std::fs::read_dir(&pack).into_iter().flatten().flatten().map(|e| e.path());
        folders = entries.filter(|d| d.join("model.gguf").is_file()).collect();
        folders.sort();
    }
    println!("| model | prefill | chunked | token by token | greedy | batched |\n|---|---|---|---|---|---|");
    for folder in folders {
        let m = measure(&folder);
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let equal = |yes: bool| if yes { "equal" } else { "DIFFERENT" };
        println!(
            "| {name} | {:.1e} | {:.1e} | {:.1e} | {} | {} |",
            m.prefill,
            m.chunked,
            m.stepwise,
            equal(m.greedy),
            equal(m.batched)
        );
    }
}
