//! Binaries of released ABI versions and today's, loading each other.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use lzma_rust2::XzReader;
use rocmforge_e2e::{TOLERANCE, build_folder, logits, max_difference};
use rocmforge_loader::config::PluginEntry;
use rocmforge_loader::{CompileOptions, Config, LoadOptions, Model, Plugins};
use rocmforge_test_support::{build_plugins, committed_models, expected_json, npy_f32, repository, token_ids};

/// One folder per released minor version.
fn frozen() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(repository().join("tests/frozen")).expect("the folder is there").flatten();
    let folders: Vec<_> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
    assert!(!folders.is_empty());
    folders
}

/// Unpacks a frozen file into a folder. A child writes it: a program that this process has open for writing cannot be run
/// by a child that inherits the descriptor.
fn unpack(from: &Path, file: &str, to: &Path) -> PathBuf {
    let (packed, path) = (from.join(format!("{file}.xz")), to.join(file));
    let mut unpacked = XzReader::new(File::open(&packed).expect("a frozen file"), false);
    let mut child = Command::new("sh");
    child.args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"]).arg(&path).stdin(Stdio::piped());
    let mut child = child.spawn().expect("sh runs");
    let mut input = child.stdin.take().expect("a pipe");
    std::io::copy(&mut unpacked, &mut input).unwrap_or_else(|e| panic!("{}: {e}", packed.display()));
    drop(input);
    assert!(child.wait().expect("sh ends").success(), "{}", path.display());
    path
}

/// Loads these files as plugins and compares a model's logits with the recorded ones.
fn check(files: Vec<PathBuf>) {
    let dir = committed_models().join("llama3-gqa");
    let tokens = token_ids(&expected_json(&dir)["sequences"]["random48"]["ids"]);
    let (_, recorded) = npy_f32(dir.join("logits.npy"));
    let entry = |path: &PathBuf| PluginEntry {
        name: None,
        path: Some(path.clone()),
        optional: false,
        options: toml::Table::new(),
    };
    let config = Config { plugins: files.iter().map(entry).collect(), ..Config::default() };
    let plugins = Arc::new(Plugins::load(&config, None).expect("the plugins load"));
    let compile = CompileOptions { max_tokens: 64, max_sequences: 1, block_size: 16 };
    let options = LoadOptions { fallback: false, ..LoadOptions::new(compile) };
    let model = Model::load(&plugins, &dir.join("model.gguf"), &options, &mut |_| {});
    let mut model = model.expect("the model loads");
    assert_eq!(model.placement.rows[0].backend, "reference");
    let difference = max_difference(&logits(&mut model, &tokens, 7), &recorded);
    assert!(difference <= TOLERANCE, "{files:?}: {difference}");
}

const ARCHITECTURE: &str = "librocmforge_arch_llama.so";
const BACKEND: &str = "libfixture_reference.so";

#[test]
fn old_plugins_run_in_todays_host() {
    for folder in frozen() {
        let place = tempfile::tempdir().expect("a folder");
        check([ARCHITECTURE, BACKEND].map(|file| unpack(&folder, file, place.path())).to_vec());
    }
}

#[test]
fn old_and_todays_plugins_run_side_by_side() {
    let [architecture, backend] = build_plugins(["rocmforge-arch-llama", "fixture-reference"]);
    for folder in frozen() {
        let place = tempfile::tempdir().expect("a folder");
        // Each file once: a library that is loaded must not be written again.
        let [old_architecture, old_backend] = [ARCHITECTURE, BACKEND].map(|file| unpack(&folder, file, place.path()));
        // In both orders: a check must not depend on what was loaded before.
        check(vec![old_backend.clone(), architecture.clone()]);
        check(vec![architecture.clone(), old_backend]);
        check(vec![old_architecture.clone(), backend.clone()]);
        check(vec![backend.clone(), old_architecture]);
    }
}

#[test]
fn todays_plugins_run_in_an_old_host() {
    let model = committed_models().join("llama3-gqa");
    for folder in frozen() {
        let place = tempfile::tempdir().expect("a folder");
        let copy = |from: &Path, file: &str| std::fs::copy(from.join(file), place.path().join(file)).expect("a copy");
        unpack(&folder, "accuracy", place.path());
        copy(&build_folder(), "librocmforge_arch_llama.so");
        copy(&build_folder(), "librocmforge_backend_cpu.so");
        let output = Command::new(place.path().join("accuracy"))
            .arg(&model)
            .current_dir(repository())
            .output()
            .expect("the frozen host starts");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let row = text.lines().find(|l| l.contains("llama3-gqa")).expect("a row of the table");
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert!(cells.contains(&"equal") && !cells.contains(&"DIFFERENT"), "{row}");
        let differences: Vec<f32> = cells.iter().filter_map(|c| c.parse().ok()).collect();
        assert_eq!(differences.len(), 3, "{row}");
        assert!(differences.iter().all(|&d| d <= TOLERANCE), "{row}");
    }
}
