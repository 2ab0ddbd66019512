//! Plugins that misbehave, or that want the same thing: one error of one call, and the host goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocmforge_gguf::{GgufFile, GgufWriter, Value};
use rocmforge_loader::config::{Config, PluginEntry};
use rocmforge_loader::{CompileOptions, LoadOptions, LoaderError, Model, PluginErrorKind, Plugins};
use rocmforge_program::{Builder, DType, InputSource, ModelInfo, Op, OutputBuffer, Program, Step};
use rocmforge_test_support::{build_plugins, committed_models};

fn entry(path: &Path, options: &str) -> PluginEntry {
    let options = toml::from_str(options).expect("options");
    PluginEntry { name: None, path: Some(path.to_owned()), optional: false, options }
}

fn load(entries: &[PluginEntry]) -> Result<Plugins, LoaderError> {
    Plugins::load(&Config { plugins: entries.to_vec(), ..Config::default() }, None)
}

const COMPILE: CompileOptions = CompileOptions { max_tokens: 8, max_sequences: 2, block_size: 4 };

fn load_options(architecture: Option<&str>) -> LoadOptions {
    LoadOptions { architecture: architecture.map(str::to_owned), ..LoadOptions::new(COMPILE) }
}

/// A file of an architecture, with the name of the model.
fn file(architecture: &str, name: &str) -> GgufFile {
    let mut writer = GgufWriter::new();
    for (key, value) in [("general.architecture", architecture), ("general.name", name)] {
        writer.metadata(key, Value::String(value.into())).expect("metadata");
    }
    GgufFile::from_bytes(Path::new("test.gguf"), &writer.to_bytes()).expect("a file")
}

/// Token ids to rows of a table.
fn embedding() -> (Program, GgufFile) {
    let info = ModelInfo { architecture: "t".into(), vocab_size: 2, hidden_size: 1, layers: 1, context_length: 8 };
    let mut builder = Builder::new(info);
    let ids = builder.input(InputSource::TokenIds).expect("ids");
    let table = builder.weight("table", &[2, 1], DType::F32).expect("a weight");
    let rows = builder.push(Op::Embed { ids, table, scale: 1.0 }).expect("rows");
    builder.output("rows", rows);
    let mut writer = GgufWriter::new();
    writer.tensor("table", DType::F32, &[1, 2], &[0; 8]).expect("a tensor");
    let file = GgufFile::from_bytes(Path::new("test.gguf"), &writer.to_bytes()).expect("a file");
    (builder.finish().expect("a program"), file)
}

/// Everything that a host does with a backend, up to the first error.
fn life(plugin: &Path, options: &str) -> Result<(), LoaderError> {
    let plugins = load(&[entry(plugin, options)])?;
    let backend = &plugins.backends()[0];
    backend.devices()?;
    backend.extensions()?;
    let (program, file) = embedding();
    backend.supports(&program.nodes[0].op, &[])?;
    let mut executable = backend.compile(Arc::new(program), Arc::new(file), COMPILE)?;
    executable.bind_weights(&mut |_| {})?;
    executable.allocate_cache(&[])?;
    let step = Step { token_ids: &[1], positions: &[0], query_start: &[0, 1], context_lens: &[1], ..Step::default() };
    executable.submit(&step)?;
    executable.wait(&mut [OutputBuffer { name: "rows", data: &mut [1.0] }])
}

#[test]
fn a_panic_in_any_callback_of_a_backend_is_an_error_of_that_call() {
    let [panics] = build_plugins(["fixture-panics"]);
    let check = |at: &str| {
        let error = life(&panics, &format!("at = '{at}'")).expect_err(at);
        let message = error.to_string();
        assert!(message.contains(&format!("{at}: the plugin panicked: a panic in {at} at ")), "{message}");
        assert!(!message.contains('\n'), "{message:?}");
        // Creating it is part of loading, whose errors name the file.
        let kind = if at == "create" { None } else { Some(PluginErrorKind::Panic) };
        assert_eq!(error.plugin_kind(), kind, "{message}");
        // Another instance is not affected.
        life(&panics, "at = 'nowhere'").expect("a life without panic");
    };
    let calls = ["devices", "extensions", "supports", "compile", "memory", "bind", "finalize", "allocate_cache"];
    calls.into_iter().chain(["create", "submit", "wait"]).for_each(check);
    // Nobody waits for a result there; that the test goes on is the point.
    life(&panics, "at = 'destroy'").expect("a life that ends in a panic");
    life(&panics, "at = 'destroy executable'").expect("a life that ends in a panic");
}

#[test]
fn an_executable_that_panicked_takes_no_further_call() {
    let [panics] = build_plugins(["fixture-panics"]);
    let plugins = load(&[entry(&panics, "at = 'finalize'")]).expect("a plugin");
    let (program, file) = embedding();
    let backend = &plugins.backends()[0];
    let mut executable = backend.compile(Arc::new(program), Arc::new(file), COMPILE).expect("an executable");
    executable.bind_weights(&mut |_| {}).expect_err("a panic in finalize");
    let message = executable.allocate_cache(&[]).expect_err("a refusal").to_string();
    assert!(message.contains("this executable panicked before and takes no further call"), "{message}");
}

#[test]
fn a_panic_in_an_architecture_is_an_error_that_names_file_and_plugin() {
    let [panics] = build_plugins(["fixture-panics"]);
    let plugins = load(&[entry(&panics, "at = 'nowhere'")]).expect("a plugin");
    let check = |architecture: &str, parts: &[&str]| {
        let file = file(architecture, "m");
        let message = Model::program(&plugins, &file, &load_options(None)).expect_err("a panic").to_string();
        assert!(!message.contains('\n'), "{message:?}");
        parts.iter().for_each(|part| assert!(message.contains(part), "expected {part:?} in {message:?}"));
    };
    check(
        "panics-in-fit",
        &["architecture 'panics'", "fit", "the plugin panicked", "a panic in fit, | with a second line"],
    );
    check("panics-in-build", &["test.gguf", "architecture 'panics'", "the plugin panicked: a panic in build"]);
}

#[test]
fn an_unknown_or_wrong_option_is_refused_by_name() {
    let [panics, llama] = build_plugins(["fixture-panics", "rocmforge-arch-llama"]);
    let check = |options: &str, parts: &[&str]| {
        let message = load(&[entry(&panics, options)]).map(drop).expect_err(options).to_string();
        parts.iter().for_each(|part| assert!(message.contains(part), "expected {part:?} in {message:?}"));
    };
    check("att = 'x'", &["libfixture_panics.so", "plugin options", "unknown field `att`", "`at`"]);
    check("at = 1", &["libfixture_panics.so", "plugin options", "invalid type", "string"]);
    // An architecture gets its options with the file.
    let plugins = load(&[entry(&llama, "speed = 1")]).expect("a plugin");
    let message = Model::program(&plugins, &file("llama", "m"), &load_options(None)).expect_err("options").to_string();
    assert!(message.contains("plugin options: expected none, found speed"), "{message}");
}

#[test]
fn one_name_is_one_plugin() {
    let [llama, panics] = build_plugins(["rocmforge-arch-llama", "fixture-panics"]);
    let folder = tempfile::tempdir().expect("a folder");
    let check = |library: &PathBuf, parts: &[&str]| {
        let copy = folder.path().join(library.file_name().expect("a name"));
        std::fs::copy(library, &copy).expect("a copy");
        let entries = [entry(library, "at = 'nowhere'"), entry(&copy, "at = 'nowhere'")];
        let message = load(&entries).map(drop).expect_err("the same name twice").to_string();
        parts.iter().for_each(|part| assert!(message.contains(part), "expected {part:?} in {message:?}"));
    };
    check(
        &llama,
        &["librocmforge_arch_llama.so", "architecture 'llama' is already loaded from another plugin", "remove one"],
    );
    check(&panics, &["libfixture_panics.so", "backend 'panics' is already loaded from another plugin", "remove one"]);
}

#[test]
fn an_optional_plugin_that_fails_is_skipped_whole() {
    let [panics, llama] = build_plugins(["fixture-panics", "rocmforge-arch-llama"]);
    let optional = |path: &Path, options: &str| PluginEntry { optional: true, ..entry(path, options) };
    let missing = PluginEntry { name: Some("backend-none".into()), path: None, ..optional(&panics, "") };
    let plugins = load(&[missing, optional(&panics, ""), entry(&llama, "")]).expect("what is left");
    let reasons: Vec<_> = plugins.skipped().iter().map(|s| (s.name.as_str(), s.reason.as_str())).collect();
    assert_eq!(reasons.len(), 2);
    assert_eq!(reasons[0].0, "backend-none");
    assert!(reasons[0].1.contains("not found; looked for") && reasons[0].1.contains("librocmforge_backend_none.so"));
    assert!(reasons[1].0.ends_with("libfixture_panics.so") && reasons[1].1.contains("a panic in create"));
    let names: Vec<_> = plugins.architectures().iter().map(|a| a.info().name.as_str()).collect();
    assert_eq!(names, ["llama"], "a plugin that is left out leaves nothing behind");
    let message = plugins.require_backend().expect_err("no backend").to_string();
    for part in ["no backend plugin is loaded", "a panic in create", "hint: build the CPU backend"] {
        assert!(message.contains(part), "expected {part:?} in {message:?}");
    }
    assert!(load(&[entry(&panics, "")]).is_err(), "without `optional` it is an error");
}

#[test]
fn backends_are_ordered_by_name_and_a_wrong_name_is_an_error() {
    let [panics] = build_plugins(["fixture-panics"]);
    let with = |order: &[&str]| {
        let mut config = Config { plugins: vec![entry(&panics, "at = 'nowhere'")], ..Config::default() };
        config.placement.backends = order.iter().map(|&n| n.to_owned()).collect();
        Plugins::load(&config, None).map(|p| p.backends().iter().map(|b| b.name().to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(with(&["panics"]).expect("that backend"), ["panics"]);
    let message = with(&["cpu"]).expect_err("a wrong name").to_string();
    assert_eq!(message, "placement: backends: expected names of loaded backends (panics), found 'cpu'");
}

#[test]
fn the_architecture_is_the_one_that_fits_best_or_the_one_named() {
    let [rival, llama] = build_plugins(["fixture-rival", "rocmforge-arch-llama"]);
    let both = load(&[entry(&llama, ""), entry(&rival, "")]).expect("plugins");
    let check = |file: &GgufFile, name: Option<&str>, expected: Result<&str, &[&str]>| match (
        both.architecture_for(file, name).map(|a| a.info().name.as_str()),
        expected,
    ) {
        (Ok(found), Ok(expected)) => assert_eq!(found, expected),
        (Err(e), Err(parts)) => {
            let message = e.to_string();
            parts.iter().for_each(|part| assert!(message.contains(part), "expected {part:?} in {message:?}"));
        }
        (found, expected) => panic!("expected {expected:?}, found {found:?}"),
    };
    let equal =
        ["test.gguf", "several plugins take architecture 'llama' equally well", "llama, rival", "--architecture"];
    check(&file("llama", "any"), None, Err(&equal));
    check(&file("llama", "special"), None, Ok("rival"));
    check(&file("llama", "foreign"), None, Ok("llama"));
    check(&file("llama", "any"), Some("rival"), Ok("rival"));
    check(&file("llama", "any"), Some("lama"), Err(&["expected one of llama (llama), rival (llama), found 'lama'"]));
    check(&file("mamba", "any"), None, Err(&["no loaded plugin takes architecture 'mamba'", "llama (llama)"]));
    let empty = GgufFile::from_bytes(Path::new("empty.gguf"), &GgufWriter::new().to_bytes()).expect("a file");
    check(&empty, None, Err(&["empty.gguf", "'general.architecture' is missing"]));
}

#[test]
fn a_real_model_becomes_a_program() {
    let [llama] = build_plugins(["rocmforge-arch-llama"]);
    let plugins = load(&[entry(&llama, "")]).expect("a plugin");
    let file = GgufFile::open(&committed_models().join("llama3-gqa/model.gguf")).expect("a model");
    let program = Model::program(&plugins, &file, &load_options(None)).expect("a program");
    assert_eq!(program.info.architecture, "llama");
    assert_eq!(program.weights.len(), file.tensors().len(), "every tensor of the file is used");
    assert_eq!(program.caches.len(), program.info.layers as usize);
}
