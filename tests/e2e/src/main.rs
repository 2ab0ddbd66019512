//! Prints how near every reference model is to what was recorded for it; `accuracy [DIR..]`, and `accuracy --long DIR..`
//! for long sequences.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use rocmforge_e2e::{Count, cases, far, measure, quantised};
use rocmforge_test_support::{committed_models, reference_pack};

fn main() {
    let mut folders: Vec<PathBuf> = std::env::args().skip(1).map(PathBuf::from).collect();
    if folders.first().is_some_and(|first| first.as_os_str() == "--long") {
        return print_long(folders.split_off(1));
    }
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
        println!(
            "| {} | {:.1e} | {:.1e} | {:.1e} | {} | {} | {} | {} |",
            name(&folder),
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

fn print_long(folders: Vec<PathBuf>) {
    println!("| model | tokens | below 4096 | 4096 to 32767 | from 32768 |");
    println!("|---|---|---|---|---|");
    for folder in folders {
        let differences = far(&folder);
        let worst = |range: std::ops::Range<usize>| {
            let found = differences.iter().filter(|(position, _)| range.contains(position));
            found.map(|(_, d)| *d).reduce(f32::max).map_or("-".to_owned(), |d| format!("{d:.1e}"))
        };
        let tokens = differences.last().map_or(0, |(position, _)| position + 1);
        println!(
            "| {} | {tokens} | {} | {} | {} |",
            name(&folder),
            worst(0..4096),
            worst(4096..32_768),
            worst(32_768..usize::MAX)
        );
    }
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
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
