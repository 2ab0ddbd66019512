//! Prints how near reference models are to what was recorded for them; see [`USAGE`].
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use rocmforge_e2e::{Count, cases, far, measure_with, plugins, plugins_with, quantised};
use rocmforge_loader::Plugins;
use rocmforge_test_support::{committed_models, reference_pack};

const USAGE: &str =
    "usage: accuracy [DIR..]                  models as in tests/models/reference; none: all that there are
       accuracy --plugin FILE.so DIR..   the same through an architecture plugin of your own
       accuracy --long DIR..             long sequences";

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        None => print_all(),
        Some("--long") => print_long(folders(args.split_off(1))),
        Some("--plugin") if args.len() > 2 => match plugins_with(Path::new(&args[1])) {
            Ok(plugins) => print_models(&plugins, folders(args.split_off(2))),
            Err(e) => {
                eprintln!("{e}");
                return ExitCode::FAILURE;
            }
        },
        Some(option) if option.starts_with('-') => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
        Some(_) => print_models(&plugins(), folders(args)),
    }
    ExitCode::SUCCESS
}

fn folders(args: Vec<String>) -> Vec<PathBuf> {
    args.into_iter().map(PathBuf::from).collect()
}

fn print_all() {
    let pack = reference_pack().unwrap_or_else(committed_models);
    let entries = std::fs::read_dir(&pack).into_iter().flatten().flatten().map(|e| e.path());
    let mut folders: Vec<PathBuf> = entries.filter(|d| d.join("model.gguf").is_file()).collect();
    folders.sort();
    print_models(&plugins(), folders);
    println!();
    print_quantised(&pack);
}

fn print_models(plugins: &Arc<Plugins>, folders: Vec<PathBuf>) {
    println!("| model | prefill | chunked | token by token | greedy | batched | tokenizer | chat |");
    println!("|---|---|---|---|---|---|---|---|");
    for folder in folders {
        let (m, texts) = (measure_with(plugins, &folder), cases(&folder));
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
