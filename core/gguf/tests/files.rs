//! Opening whole files: real models, split models, large and empty ones.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rocmforge_gguf::{ArrayValue, GgufError, GgufFile, GgufWriter, Strings, Value};
use rocmforge_quant::DType;

fn text(result: Result<GgufFile, GgufError>) -> String {
    result.expect_err("expected an error").to_string()
}

/// A part of a split model with one tensor, named after it.
fn part(dir: &Path, name: &str, tensor: &str, number: u16, count: u16, tensors: i32) -> PathBuf {
    let mut w = GgufWriter::new();
    w.metadata("split.no", Value::U16(number)).unwrap();
    w.metadata("split.count", Value::U16(count)).unwrap();
    w.metadata("split.tensors.count", Value::I32(tensors)).unwrap();
    w.tensor(tensor, DType::F32, &[2], [number as u8; 8].to_vec()).unwrap();
    let path = dir.join(name);
    w.write(&path).unwrap();
    path
}

#[test]
fn split_model_opens_with_all_its_parts() {
    let dir = tempfile::tempdir().unwrap();
    let first = part(dir.path(), "m-00001-of-00003.gguf", "a", 0, 3, 3);
    part(dir.path(), "m-00002-of-00003.gguf", "b", 1, 3, 3);
    part(dir.path(), "m-00003-of-00003.gguf", "c", 2, 3, 3);
    let file = GgufFile::open(&first).unwrap();
    let names: Vec<_> = file.tensors().iter().map(|t| (t.name.as_str(), t.shard)).collect();
    assert_eq!(names, [("a", 0), ("b", 1), ("c", 2)]);
    assert_eq!(file.shards().len(), 3);
    assert_eq!(file.total_bytes(), file.shards().iter().map(|s| fs::metadata(s.path()).unwrap().len()).sum::<u64>());
    for (view, expected) in file.views().zip(0u8..) {
        assert_eq!(view.bytes(), [expected; 8]);
    }
    let data = file.tensor("c").unwrap().data();
    drop(file);
    assert_eq!(&*data, [2; 8]);
}

#[test]
fn split_model_that_does_not_fit_together_is_refused() {
    // (parts as (file name, tensor, split.no, split.count, split.tensors.count), file to open, expected in the error)
    type Part = (&'static str, &'static str, u16, u16, i32);
    let cases: &[(&[Part], &str, &[&str])] = &[
        (
            &[("m-00001-of-00002.gguf", "a", 0, 2, 2), ("m-00002-of-00002.gguf", "b", 1, 2, 2)],
            "m-00002-of-00002.gguf",
            &["not the first part", "m-00001-of-00002.gguf instead"],
        ),
        (
            &[("m-00001-of-00002.gguf", "a", 0, 2, 2)],
            "m-00001-of-00002.gguf",
            &["m-00002-of-00002.gguf", "no such file"],
        ),
        (
            &[("m-00001-of-00002.gguf", "a", 0, 2, 2), ("m-00002-of-00002.gguf", "a", 1, 2, 2)],
            "m-00001-of-00002.gguf",
            &["m-00002-of-00002.gguf", "tensor \"a\"", "already used in", "m-00001-of-00002.gguf"],
        ),
        (
            &[("m-00001-of-00002.gguf", "a", 0, 2, 2), ("m-00002-of-00002.gguf", "b", 2, 3, 2)],
            "m-00001-of-00002.gguf",
            &["m-00002-of-00002.gguf", "split.no is 2, expected 1"],
        ),
        (
            &[("m-00001-of-00002.gguf", "a", 0, 2, 5), ("m-00002-of-00002.gguf", "b", 1, 2, 5)],
            "m-00001-of-00002.gguf",
            &["split.tensors.count is 5", "2 tensors"],
        ),
        (&[("model.gguf", "a", 0, 2, 2)], "model.gguf", &["expected NAME-00001-of-00002.gguf"]),
        (
            &[("m-00002-of-00002.gguf", "a", 0, 2, 2)],
            "m-00002-of-00002.gguf",
            &["expected it to be named m-00001-of-00002.gguf"],
        ),
        (&[("m-00001-of-00001.gguf", "a", 0, 0, 1)], "m-00001-of-00001.gguf", &["split.count is 0, expected 1"]),
    ];
    for (parts, open, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        for &(name, tensor, number, count, tensors) in *parts {
            part(dir.path(), name, tensor, number, count, tensors);
        }
        let message = text(GgufFile::open(&dir.path().join(open)));
        for e in *expected {
            assert!(message.contains(e), "expected {e:?} in {message:?}");
        }
    }
}

#[test]
fn things_that_are_not_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(text(GgufFile::open(dir.path())).contains("expected a regular file"));
    let absent = dir.path().join("absent.gguf");
    let message = text(GgufFile::open(&absent));
    assert!(message.contains("absent.gguf: cannot open"), "{message}");
    let empty = dir.path().join("empty.gguf");
    File::create(&empty).unwrap();
    assert!(text(GgufFile::open(&empty)).contains("file header at byte 0: expected 4 more bytes, found 0"));
}

#[test]
fn vocabulary_only_file_opens() {
    let mut w = GgufWriter::new();
    let tokens = Strings::from_iter(["a", "", "b"]);
    w.metadata("tokenizer.ggml.tokens", Value::Array(ArrayValue::String(tokens.clone()))).unwrap();
    let file = GgufFile::from_bytes("vocab".as_ref(), &w.to_bytes()).unwrap();
    assert!(file.tensors().is_empty());
    assert_eq!(file.metadata().strings("tokenizer.ggml.tokens"), Some(&tokens));
}

/// Kilobytes of this process that lie in memory.
#[cfg(target_os = "linux")]
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn opening_a_large_file_reads_no_tensor_data() {
    const TENSORS: u64 = 250;
    const ROWS: u64 = 2560;
    let mut w = GgufWriter::new();
    let tokens = (0..50_000).map(|i| format!("token{i}")).collect();
    w.metadata("tokenizer.ggml.tokens", Value::Array(ArrayValue::String(tokens))).unwrap();
    // One small tensor per large one, then the header is patched to say what a 2.6 GB file would.
    for i in 0..TENSORS {
        w.tensor(&format!("blk.{i}.weight"), DType::F32, &[1024, 1], vec![0; 4096]).unwrap();
    }
    let mut bytes = w.to_bytes();
    let header_len = bytes.len() - (TENSORS * 4096) as usize;
    for i in 0..TENSORS {
        let name = format!("blk.{i}.weight");
        let at = bytes.windows(name.len()).position(|w| w == name.as_bytes()).unwrap() + name.len() + 4 + 8;
        bytes[at..at + 8].copy_from_slice(&ROWS.to_le_bytes());
        bytes[at + 12..at + 20].copy_from_slice(&(i * ROWS * 4096).to_le_bytes());
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.gguf");
    fs::write(&path, &bytes[..header_len]).unwrap();
    let total = header_len as u64 + TENSORS * ROWS * 4096;
    File::options().write(true).open(&path).unwrap().set_len(total).unwrap();
    drop(bytes);

    let before = resident_kib();
    let file = GgufFile::open(&path).unwrap();
    let grown = resident_kib().saturating_sub(before);
    assert_eq!(file.total_bytes(), total);
    assert!(total > 2_500_000_000);
    assert_eq!(file.tensors().len() as u64, TENSORS);
    assert!(grown < 32 << 10, "opening took {grown} KiB of memory");
    let last = file.tensor("blk.249.weight").unwrap();
    assert_eq!(last.bytes().len() as u64, ROWS * 4096);
    assert_eq!(last.bytes().last(), Some(&0));
}

#[test]
fn reference_models_open_and_write_back_identically() {
    let pack = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference");
    if !pack.is_dir() {
        println!("skipped: {} is not there", pack.display());
        return;
    }
    let mut models = 0;
    let mut folders = vec![pack];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "gguf") {
                models += 1;
                check_rewrite(&path);
            }
        }
    }
    assert!(models > 0, "the pack holds no model");
}

fn check_rewrite(path: &Path) {
    let file = GgufFile::open(path).unwrap();
    let mut w = GgufWriter::new();
    for (key, value) in file.metadata().iter() {
        w.metadata(key, value.clone()).unwrap();
    }
    for view in file.views() {
        w.tensor(&view.info.name, view.info.dtype, &view.info.dims, view.bytes()).unwrap();
    }
    assert!(w.to_bytes() == fs::read(path).unwrap(), "{}", path.display());
}
