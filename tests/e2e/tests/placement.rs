//! A model divided between two backends gives what it gives on one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocmforge_e2e::{TOLERANCE, build_folder, load_options, logits, max_difference, plugins};
use rocmforge_loader::config::PluginEntry;
use rocmforge_loader::{Config, GpuLayers, LibraryInfo, LoadOptions, LoaderError, Model, Plugins};
use rocmforge_test_support::{build_plugins, committed_models, expected_json, npy_f32, token_ids};

fn entry(path: &Path) -> PluginEntry {
    PluginEntry { name: None, path: Some(path.to_owned()), optional: false, options: toml::Table::new() }
}

/// The reference interpreter as the preferred backend, then the processor.
fn two_backends() -> Arc<Plugins> {
    let [reference] = build_plugins(["fixture-reference"]);
    let others = plugins();
    let wanted = |l: &&LibraryInfo| l.backends.is_empty() || l.backends.iter().any(|b| b == "cpu");
    let entries = others.libraries().iter().filter(wanted).map(|l| entry(&l.path));
    let config = Config { plugins: [entry(&reference)].into_iter().chain(entries).collect(), ..Config::default() };
    Arc::new(Plugins::load(&config, None).expect("the plugins load"))
}

fn models() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(committed_models()).expect("the committed models").flatten().map(|e| e.path());
    let mut folders: Vec<PathBuf> = entries.filter(|d| d.join("logits.npy").is_file()).collect();
    folders.sort();
    assert!(folders.len() >= 5, "{folders:?}");
    folders
}

fn load(plugins: &Arc<Plugins>, folder: &Path, gpu_layers: GpuLayers, fallback: bool) -> Result<Model, LoaderError> {
    let options = LoadOptions { gpu_layers, fallback, ..load_options(64, 1) };
    Model::load(plugins, &folder.join("model.gguf"), &options, &mut |_| {})
}

#[test]
fn a_model_cut_before_its_last_layer_gives_the_recorded_logits() {
    assert!(build_folder().is_dir());
    let plugins = two_backends();
    for folder in models() {
        let mut model = load(&plugins, &folder, GpuLayers::Count(vec![1]), true).expect("a model");
        let layers = model.executable.program().info.layers;
        let rows: Vec<_> = model.placement.rows.iter().map(|r| (r.backend.as_str(), r.layers.clone())).collect();
        assert_eq!(rows, [("cpu", 0..layers - 1), ("reference", layers - 1..layers)], "{}", folder.display());
        let ids = token_ids(&expected_json(&folder)["sequences"]["random48"]["ids"]);
        let (_, expected) = npy_f32(folder.join("logits.npy"));
        for chunk in [ids.len(), 5] {
            let worst = max_difference(&logits(&mut model, &ids, chunk), &expected);
            assert!(worst <= TOLERANCE, "{}: {worst}", folder.display());
        }
    }
}

#[test]
fn the_table_says_where_layers_run_and_why() {
    let plugins = two_backends();
    let folder = committed_models().join("llama3-gqa");
    let check = |layers: GpuLayers, fallback: bool, expected: &[&str], note: &str| {
        let model = load(&plugins, &folder, layers, fallback).expect("a model");
        let rows: Vec<_> = model.placement.rows.iter().map(|r| r.backend.as_str()).collect();
        assert_eq!(rows, expected);
        assert!(model.placement.rows[0].note.contains(note), "{}", model.placement);
        assert!(model.placement.rows.iter().all(|r| r.weight_bytes > 0 && r.cache_bytes_per_token > 0));
        let text = model.placement.to_string();
        for heading in ["layers", "weights MiB", "copies MiB", "buffers MiB", "KV KiB/token", "free MiB", "note"] {
            assert!(text.contains(heading), "{text}");
        }
    };
    check(GpuLayers::Auto, true, &["reference"], "");
    check(GpuLayers::Auto, false, &["reference"], "");
    check(GpuLayers::Count(vec![99]), false, &["reference"], "");
    check(GpuLayers::Count(vec![1]), false, &["cpu", "reference"], "");
    check(GpuLayers::Count(vec![0]), true, &["cpu"], "reference: gpu_layers leaves it no layer");
    let refused = load(&plugins, &folder, GpuLayers::Count(vec![0]), false).err().expect("a refusal").to_string();
    assert!(refused.contains("fallback to other backends is off"), "{refused}");
}
