//! The crate that a stranger copies builds outside the repository, with the SDK as its only dependency, and the stock
//! host runs a model with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rocmforge_conformance::{Outcome, Settings, Subject};
use rocmforge_gguf::{GgufFile, GgufWriter, Value};
use rocmforge_loader::config::{Config, PluginEntry};
use rocmforge_loader::{CompileOptions, LoadOptions, Model, Plugins};
use rocmforge_program::{GroupTables, OutputBuffer, Step, output};
use rocmforge_test_support::{build_folder, build_plugins, committed_models, expected_json, npy_f32, token_ids};

/// Copies the template to a folder and builds it there, as its README says.
fn build_copy(folder: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository");
    let template = root.join("plugins/template-arch");
    std::fs::create_dir(folder.join("src")).expect("a folder");
    std::fs::copy(template.join("src/lib.rs"), folder.join("src/lib.rs")).expect("the source");
    // The versions that are at hand, so that nothing is downloaded.
    std::fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).expect("the lock file");
    let manifest = std::fs::read_to_string(template.join("Cargo.toml")).expect("the manifest");
    assert_eq!(manifest.matches("path = \"../../core/sdk\"").count(), 1);
    let manifest = manifest.replace("../../core/sdk", root.join("core/sdk").to_str().expect("a path in UTF-8"));
    std::fs::write(folder.join("Cargo.toml"), manifest).expect("the manifest");
    let target = build_folder().parent().expect("a target folder").to_owned();
    // Settings as the repository has them for dependencies, so that those need not be compiled again.
    let settings = ["DEBUG=false", "STRIP=debuginfo", "OVERFLOW_CHECKS=false", "INCREMENTAL=false", "CODEGEN_UNITS=16"];
    let settings = settings.iter().filter_map(|s| s.split_once('='));
    let status = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["build", "--release", "--quiet", "--offline", "--target-dir"])
        .arg(&target)
        .envs(settings.map(|(key, value)| (format!("CARGO_PROFILE_RELEASE_{key}"), value)))
        .current_dir(folder)
        .status()
        .expect("cargo");
    assert!(status.success(), "the template does not build outside the repository");
    target.join("release").join(format!("libtemplate_arch{}", std::env::consts::DLL_SUFFIX))
}

/// A LLaMA model under the template's name.
fn renamed_model(from: &Path, to: &Path) {
    let file = GgufFile::open(from).expect("a model");
    let mut writer = GgufWriter::new();
    for (key, value) in file.metadata().iter() {
        match (key, key.strip_prefix("llama.")) {
            ("general.architecture", _) => writer.metadata(key, Value::String("template".into())),
            (_, Some(rest)) => writer.metadata(&format!("template.{rest}"), value.clone()),
            _ => writer.metadata(key, value.clone()),
        }
        .expect("metadata");
    }
    for tensor in file.views() {
        writer.tensor(&tensor.info.name, tensor.info.dtype, &tensor.info.dims, tensor.bytes()).expect("a tensor");
    }
    writer.write(to).expect("a copy of the model");
}

/// Logits of all tokens in one step.
fn logits(model: &mut Model, ids: &[u32]) -> Vec<f32> {
    let blocks = 16;
    let groups = model.executable.program().group_count();
    model.executable.allocate_cache(&vec![blocks; groups]).expect("a cache");
    let slots: Vec<u32> = (0..ids.len() as u32).collect();
    let tables: Vec<u32> = (0..blocks as u32).collect();
    let tables = GroupTables { block_tables: &tables, max_blocks: tables.len(), slot_mapping: &slots };
    let step = Step {
        token_ids: ids,
        positions: &slots,
        query_start: &[0, ids.len() as u32],
        context_lens: &[ids.len() as u32],
        groups: &vec![tables; groups],
        logits_rows: &slots,
        inputs: &[],
    };
    model.executable.submit(&step).expect("a step");
    let mut data = vec![f32::NAN; ids.len() * model.executable.program().info.vocab_size];
    model.executable.wait(&mut [OutputBuffer { name: output::LOGITS, data: &mut data }]).expect("logits");
    data
}

#[test]
fn a_copy_of_the_template_builds_elsewhere_passes_the_kit_and_runs_a_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = build_copy(folder.path());
    let source = committed_models().join("llama3-gqa");
    let path = folder.path().join("model.gguf");
    renamed_model(&source.join("model.gguf"), &path);

    let settings = Settings { models: vec![path.clone()], ..Settings::default() };
    let subject = Subject::load(&library, settings).expect("a plugin");
    for case in subject.cases() {
        assert_eq!((case.run)(), Outcome::Passed, "{}", case.name);
    }

    let [backend] = build_plugins(["fixture-reference"]);
    let entry = |path: &Path| PluginEntry {
        name: None,
        path: Some(path.to_owned()),
        optional: false,
        options: Default::default(),
    };
    let config = Config { plugins: vec![entry(&library), entry(&backend)], ..Config::default() };
    let plugins = Arc::new(Plugins::load(&config, None).expect("plugins"));
    let compile = CompileOptions { max_tokens: 64, max_sequences: 1, block_size: 8 };
    let options = LoadOptions { fallback: false, ..LoadOptions::new(compile) };
    let mut model = Model::load(&plugins, &path, &options, &mut |_| {}).expect("a model");
    assert_eq!(model.architecture, "template");
    assert!(model.unused_tensors.is_empty(), "{:?}", model.unused_tensors);
    let ids = token_ids(&expected_json(&source)["sequences"]["random48"]["ids"]);
    let (_, expected) = npy_f32(source.join("logits.npy"));
    let found = logits(&mut model, &ids);
    assert_eq!(found.len(), expected.len());
    let worst = std::iter::zip(&expected, &found).map(|(e, f)| (e - f).abs()).fold(0.0, f32::max);
    assert!(worst <= 5e-4 && found.iter().all(|f| f.is_finite()), "logits differ by {worst}");
}
