//! The commands of the built host, and what it says when something is wrong.

use std::path::{Path, PathBuf};
use std::process::Command;

use rocmforge_e2e::server::{repository, run};
use rocmforge_e2e::{TOLERANCE, build_folder, max_difference};
use rocmforge_gguf::{GgufFile, GgufWriter, Value};
use rocmforge_test_support::{committed_models, expected_json, npy_f32, token_ids};

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn demo() -> PathBuf {
    repository().join("tests/models/llama-demo-Q4_K_M.gguf")
}

/// Runs the host; it must fail, with one line on standard error that has all the parts.
fn fails(args: &[&str], parts: &[&str]) {
    let output = run(&[&["--log", "error"], args].concat(), "");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{args:?}: {message}");
    parts.iter().for_each(|part| assert!(message.contains(part), "{args:?}: no '{part}' in: {message}"));
}

#[test]
fn the_host_is_linked_with_no_plugin() {
    let output = Command::new("ldd").arg(build_folder().join("rocmforge-host")).output().expect("ldd runs");
    let libraries = String::from_utf8_lossy(&output.stdout);
    assert!(libraries.contains("libc.so"), "{libraries}");
    assert!(!libraries.contains("rocmforge"), "{libraries}");
}

/// Copies a file into a folder. In another process: while this one has a program open for writing, a child that another
/// test starts at that moment inherits the descriptor, and the program cannot be run.
fn copy(file: &Path, folder: &Path) {
    let status = Command::new("cp").arg(file).arg(folder).status().expect("cp runs");
    assert!(status.success(), "{}", file.display());
}

#[test]
fn without_a_backend_the_host_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["rocmforge-host", "librocmforge_arch_llama.so"] {
        copy(&build_folder().join(file), folder.path());
    }
    let model = demo();
    let output = Command::new(folder.path().join("rocmforge-host"))
        .args(["serve", "--port", "0", "--model", text(&model)])
        .output()
        .expect("the host starts");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("no backend plugin") && message.contains("librocmforge_backend_cpu.so"), "{message}");
}

#[test]
fn tokenize_prints_json_also_for_a_file_without_tensors() {
    let model = GgufFile::open(&demo()).expect("the demo model opens");
    let folder = tempfile::tempdir().expect("a folder");
    let vocabulary = folder.path().join("vocabulary.gguf");
    let mut writer = GgufWriter::new();
    for (key, value) in model.metadata().iter().filter(|(key, _)| *key != "general.alignment") {
        writer.metadata(key, value.clone()).expect("a key once");
    }
    writer.write(&vocabulary).expect("the file is written");
    let check = |args: &[&str], input: &str, expected: &str| {
        for file in [&demo(), &vocabulary] {
            let output = run(&[&["tokenize", "--model", text(file)], args].concat(), input);
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{args:?}");
        }
    };
    check(&["--no-bos"], "", "[]");
    check(&["--batch", "--no-bos"], "[]", "[]");
    check(&["--batch", "--no-bos"], r#"["", "88"]"#, &format!("[[],{}]", ids("88", false)));
    check(&[], "88", &ids("88", true));
}

fn ids(text: &str, bos: bool) -> String {
    let model = GgufFile::open(&demo()).expect("the demo model opens");
    let tokenizer = rocmforge_tokenizer::Tokenizer::from_metadata(model.metadata()).expect("a tokenizer");
    let options = rocmforge_tokenizer::EncodeOptions { add_special: bos, parse_special: true };
    serde_json::to_string(&tokenizer.encode(text, options)).expect("numbers are JSON")
}

#[test]
fn logits_are_written_as_numpy_reads_them() {
    let dir = committed_models().join("llama3-gqa");
    let tokens = token_ids(&expected_json(&dir)["sequences"]["random48"]["ids"]);
    let list = tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let (shape, recorded) = npy_f32(dir.join("logits.npy"));
    let folder = tempfile::tempdir().expect("a folder");
    for chunk in ["48", "5", "1"] {
        let out = folder.path().join("logits.npy");
        let model = dir.join("model.gguf");
        let args = ["logits", "--model", text(&model), "--tokens", &list, "--chunk", chunk, "--out", text(&out)];
        let output = run(&args, "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (found, logits) = npy_f32(&out);
        assert_eq!(found, shape);
        assert!(max_difference(&logits, &recorded) <= TOLERANCE, "chunk {chunk}");
    }
}

#[test]
fn bench_prints_the_json_that_tools_read() {
    let model = demo();
    let output = run(&["bench", "--model", text(&model), "-p", "16", "-n", "4", "--threads", "2", "--json"], "");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for part in ["pp", "tg"] {
        assert!(json[part]["tokens_per_second"].as_f64().is_some_and(|v| v > 0.0), "{json}");
    }
}

#[test]
fn generate_and_perplexity_work_on_the_demo_model() {
    let model = demo();
    let args = ["generate", "--model", text(&model), "--chat", "--temperature", "0", "-p", "What is 14 + 74?"];
    let output = run(&args, "");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "88");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("text");
    std::fs::write(&file, "The fox walked to the lamp in the morning. ".repeat(40)).expect("the text is written");
    let output = run(&["perplexity", "--model", text(&model), "--file", text(&file), "--window", "128"], "");
    let line = String::from_utf8_lossy(&output.stdout);
    let value: f64 = line.split(' ').nth(1).and_then(|v| v.parse().ok()).expect("a number");
    assert!(value.is_finite() && value > 1.0, "{line}");
}

/// A copy of the reference model, changed: metadata by key (`None` removes), tensors left out by name.
fn changed(to: &Path, metadata: &[(&str, Option<Value>)], without: &[&str]) {
    let model = GgufFile::open(&committed_models().join("llama3-gqa/model.gguf")).expect("the model opens");
    let mut writer = GgufWriter::new();
    for (key, value) in model.metadata().iter() {
        match metadata.iter().find(|(k, _)| *k == key) {
            Some((_, Some(new))) => writer.metadata(key, new.clone()).expect("a key once"),
            Some((_, None)) => continue,
            None => writer.metadata(key, value.clone()).expect("a key once"),
        };
    }
    for tensor in model.views().filter(|t| !without.contains(&t.info.name.as_str())) {
        writer.tensor(&tensor.info.name, tensor.info.dtype, &tensor.info.dims, tensor.bytes()).expect("a tensor once");
    }
    writer.write(to).expect("the file is written");
}

#[test]
fn broken_model_files_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = std::fs::read(committed_models().join("llama3-gqa/model.gguf")).expect("the model is read");
    let file = folder.path().join("m.gguf");
    let check = |parts: &[&str]| fails(&["generate", "--model", text(&file), "-p", "x", "-n", "1"], parts);

    std::fs::write(&file, &whole[..whole.len() / 2]).expect("written");
    check(&["m.gguf"]);
    let mut absurd = whole.clone();
    absurd[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&file, &absurd).expect("written");
    check(&["m.gguf", "tensor"]);
    std::fs::write(&file, b"no model").expect("written");
    check(&["m.gguf"]);

    changed(&file, &[("general.architecture", Some(Value::String("mamba".into())))], &[]);
    check(&["m.gguf", "'mamba'", "loaded:", "llama"]);
    changed(&file, &[], &["blk.1.ffn_up.weight"]);
    check(&["m.gguf", "'blk.1.ffn_up.weight'", "missing"]);
    changed(&file, &[("llama.attention.head_count", Some(Value::U32(0)))], &[]);
    check(&["m.gguf", "'llama.attention.head_count'", "at least 1", "found 0"]);
    changed(&file, &[("llama.embedding_length", Some(Value::U32(0)))], &[]);
    check(&["m.gguf", "'llama.embedding_length'", "at least 1"]);
    changed(&file, &[("llama.attention.head_count_kv", Some(Value::U32(3)))], &[]);
    check(&["m.gguf", "'llama.attention.head_count_kv'", "divisor of 4"]);
    changed(&file, &[("llama.feed_forward_length", Some(Value::U32(150)))], &[]);
    check(&["m.gguf", "'blk.0.ffn_gate.weight'", "[150, 64]", "[144, 64]"]);
    changed(&file, &[("llama.block_count", None)], &[]);
    check(&["m.gguf", "'llama.block_count'", "missing"]);
}

#[test]
fn wrong_commands_are_refused_with_a_hint() {
    fails(&["generate", "--model", "/no/such.gguf", "-p", "x"], &["/no/such.gguf", "no such file"]);
    fails(&["--config", "/no/such.toml", "plugins", "list"], &["/no/such.toml", "cannot be read"]);
    fails(&["plugins", "check", "/bin/ls"], &["/bin/ls"]);
    let model = demo();
    fails(&["logits", "--model", text(&model), "--tokens", "99999", "--out", "/dev/null"], &["99999"]);
}

#[test]
fn a_reader_that_leaves_is_no_fault() {
    let mut child = rocmforge_e2e::server::host()
        .args(["plugins", "list"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the host starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the host ends");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !message.contains("panicked"), "{message}");
}
