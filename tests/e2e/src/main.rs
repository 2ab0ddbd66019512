//! Prints how near every reference model is to what was recorded for it; `accuracy [DIR..]`.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use rocmforge_e2e::{Count, cases, measure, quantised};
use rocmforge_test_support::{committed_models, reference_pack};

fn main() {
    let folders: Vec<PathBuf> = std::env::args().skip(1).map(PathBuf::from).collect();
    if !folders.is_empty() {
        return print_models(folders);
    }
    let pack = reference_pack().unwrap_or_else(committed_models);
    let entries = std::fs::read_dir(&pack).into_iter().flatten().flatten().map(|e| e.path());
    let mut folders: Vec<PathBuf> = entries.filter(|d| d.join("model.gguf").is_file()).collect();
    folders.sort();
    print_models(folders);
    println!();
    print_quantised(&pack);
}

fn print_models(folders: Vec<PathBuf>) {
    println!("| model | prefill | chunked | token by token | greedy | batched | tokenizer | chat |");
    println!("|---|---|---|---|---|---|---|---|");
    for folder in folders {
        let (m, texts) = (measure(&folder), cases(&folder));
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        println!(
            "| {name} | {:.1e} | {:.1e} | {:.1e} | {} | {} | {} | {} |",
            m.prefill,
            m.chunked,
            m.stepwise,
            equal(m.greedy),
            equal(m.batched),
            share(&texts.tokenizer),
            share(&texts.chat)
        );
    }
}

fn print_quantised(pack: &Path) {
    println!("| llama-q as | types in the file | rms | token by token | llama.cpp's rms | greedy |");
    println!("|---|---|---|---|---|---|");
    for q in quantised(pack) {
        let recorded = q.recorded_rms.map_or("not recorded".to_owned(), |rms| format!("{rms:.1e}"));
        let types = q.types.join(", ");
        println!(
            "| {} | {types} | {:.1e} | {:.1e} | {recorded} | {} |",
            q.name,
            q.rms,
            q.stepwise_rms,
            equal(q.greedy)
        );
    }
}

fn equal(yes: bool) -> &'static str {
    if yes { "equal" } else { "DIFFERENT" }
}

fn share(count: &Count) -> String {
    if count.all == 0 { "none recorded".to_owned() } else { format!("{}/{}", count.right, count.all) }
}
