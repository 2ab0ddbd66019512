//! Files that are no plugin, or not one of this host's: one readable line each, and everything else goes on.

use std::path::{Path, PathBuf};
use std::process::Command;

use rocmforge_loader::Library;
use rocmforge_test_support::{build, build_plugins};

/// The error for a file that must be refused without a child process.
#[track_caller]
fn check(path: &Path, parts: &[&str]) {
    let message = Library::open(path).map(|l| l.info().clone()).expect_err("a refusal").to_string();
    assert!(message.starts_with(&format!("plugin {}: ", path.display())), "{message:?} names no file");
    assert!(!message.contains('\n') && message.len() < 900, "{message:?} is no readable line");
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in {message:?}");
    }
}

fn copy_of(library: &Path, folder: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = std::fs::read(library).expect("a library");
    change(&mut bytes);
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a copy");
    path
}

#[test]
fn plugins_of_other_versions_are_refused_with_what_was_expected_and_found() {
    let [abi, ir, layout] = build_plugins(["fixture-other-abi", "fixture-other-ir", "fixture-other-layout"]);
    check(&abi, &["plugin ABI 2.0.0", "expected 1.x", "rebuild"]);
    check(&ir, &["version 2.0.0 of the Program IR", "expected 1.x", "rebuild"]);
    check(&layout, &["its tables differ from plugin ABI 1.", "u64", "RStr", "rebuild"]);
}

#[test]
fn a_plugin_of_a_later_minor_version_loads() {
    let [newer] = build_plugins(["fixture-newer-minor"]);
    let library = Library::open(&newer).expect("a plugin of the same major version");
    assert_eq!((library.info().name.as_str(), library.info().abi_version.as_str()), ("fixture-newer-minor", "1.9.0"));
}

#[test]
fn a_library_opened_twice_is_the_same() {
    let [rival] = build_plugins(["fixture-rival"]);
    let first = Library::open(&rival).expect("a plugin");
    let roundabout = rival.parent().expect("a folder").join("deps/../libfixture_rival.so");
    for path in [&rival, &roundabout] {
        let again = Library::open(path).expect("the same plugin");
        let address = |l: &Library| l.tables().name().as_str().as_ptr();
        assert_eq!((address(&again), &again.info().path), (address(&first), &first.info().path));
    }
}

#[test]
fn files_that_are_no_plugin_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a file");
        path
    };
    check(&folder.path().join("missing.so"), &["cannot be opened"]);
    check(folder.path(), &["expected a shared library, found a folder", "name the .so itself"]);
    check(&file("empty.so", b""), &["expected an ELF file, found 0 bytes", "name a plugin's .so"]);
    check(&file("text.so", b"name = \"cpu\"\n"), &["expected an ELF file, found 13 bytes", "name a plugin's .so"]);
    check(&file("script.so", &[b'x'; 4096]), &["expected an ELF file, found 4096 bytes"]);
    // The test program is a position-independent executable, which the linker refuses; this is the linker's message.
    check(&std::env::current_exe().expect("a path"), &["cannot be loaded", "position-independent executable"]);
}

#[test]
fn a_library_without_the_plugin_symbol_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("plain.c");
    std::fs::write(&source, "int answer(void) { return 42; }\n").expect("a file");
    let library = folder.path().join("libplain.so");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(status.expect("cc, which also links Rust programs").success());
    check(&library, &["does not export 'rocmforge_plugin'", "export_plugin!"]);

    // The symbol alone is not enough either.
    std::fs::write(&source, "const char rocmforge_plugin[4096] = \"not a header\";\n").expect("a file");
    let library = folder.path().join("libimpostor.so");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(status.expect("cc").success());
    check(&library, &["its plugin header is not readable", "rebuild"]);
}

#[test]
fn elf_files_for_something_else_are_refused() {
    let [rival] = build_plugins(["fixture-rival"]);
    let folder = tempfile::tempdir().expect("a folder");
    let patched = |name: &str, at: usize, bytes: &[u8]| {
        copy_of(&rival, folder.path(), name, |b| b[at..at + bytes.len()].copy_from_slice(bytes))
    };
    check(&patched("bits32.so", 4, &[1]), &["expected a 64-bit little-endian library"]);
    check(&patched("big.so", 5, &[2]), &["expected a 64-bit little-endian library"]);
    check(&patched("executable.so", 16, &[2, 0]), &["expected a shared library (ELF type 3), found ELF type 2"]);
    check(&patched("riscv.so", 18, &[243, 0]), &["another processor", "found 243"]);
    check(&patched("headless.so", 56, &[0, 0]), &["corrupted", "no program headers"]);
    check(&patched("far.so", 32, &[0xff; 8]), &["truncated or corrupted", "program header table"]);
    check(&patched("sections.so", 40, &[0xff; 8]), &["truncated or corrupted", "section header table"]);
}

#[test]
fn truncated_libraries_are_refused_at_every_length() {
    let [rival] = build_plugins(["fixture-rival"]);
    let folder = tempfile::tempdir().expect("a folder");
    let size = std::fs::metadata(&rival).expect("a library").len() as usize;
    let lengths = [1, 4, 63, 64, 65, 119, 120, 500, 4095, 4096, 4097, size - 1, size - 64, size - 4096];
    for length in lengths.into_iter().chain((1..16).map(|i| size * i / 16)) {
        let path = copy_of(&rival, folder.path(), &format!("cut-{length}.so"), |b| b.truncate(length));
        check(&path, &[if length < 64 { "expected an ELF file" } else { "truncated or corrupted" }]);
    }
}

/// Runs the example `list`, which loads plugins as a host does, and returns its lines. It must end well.
fn list(paths: &[&Path]) -> Vec<String> {
    let program = build(&["--workspace", "--examples"]).join("examples/list");
    let output = Command::new(program).args(paths).output().expect("the example");
    assert!(output.status.success(), "{paths:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

#[test]
fn a_library_that_crashes_is_left_out_and_the_others_load() {
    let [crashes, rival, ir] = build_plugins(["fixture-crashes", "fixture-rival", "fixture-other-ir"]);
    let folder = tempfile::tempdir().expect("a folder");
    let again = copy_of(&crashes, folder.path(), "again.so", |_| {});
    let lines = list(&[&again, &rival, &crashes, &ir]);
    let crash = |path: &Path| {
        let file = path.display();
        format!(
            "skipped plugin {file}: crashes while it is loaded, so it is left out (a test process that loaded it ended \
             with signal: 6 (SIGABRT)"
        )
    };
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert_eq!(lines[0], "loaded fixture-rival 0.1.0");
    assert!(lines.iter().any(|l| l.starts_with(&crash(&crashes))), "{lines:#?}");
    assert!(lines.iter().any(|l| l.starts_with(&crash(&again))), "{lines:#?}");
    assert!(lines.iter().any(|l| l.contains("version 2.0.0 of the Program IR")), "{lines:#?}");
}

#[test]
fn damage_in_the_middle_of_a_library_never_ends_the_host() {
    let [rival, other] = build_plugins(["fixture-rival", "fixture-panics"]);
    let folder = tempfile::tempdir().expect("a folder");
    let size = std::fs::metadata(&rival).expect("a library").len() as usize;
    let mut refused = 0;
    for i in 0..24 {
        // Beyond the file header, whose fields have a test of their own; dense where the linker's tables are.
        let at = if i < 12 { 64 + i * 700 } else { size * (i - 11) / 14 };
        let path = copy_of(&rival, folder.path(), &format!("damaged-{at}.so"), |b| b[at..at + 256].fill(0xff));
        let lines = list(&[&path, &other]);
        let [line] = &lines.iter().filter(|l| !l.contains("fixture_panics")).collect::<Vec<_>>()[..] else {
            panic!("damage at {at}: expected one line, found {lines:#?}");
        };
        let skipped = line.starts_with(&format!("skipped plugin {}: ", path.display()));
        // Damage to a part that nothing reads goes unnoticed.
        assert!(skipped || line.starts_with("loaded "), "damage at {at}: {line}");
        refused += usize::from(skipped);
    }
    assert!(refused >= 6, "only {refused} damaged libraries were noticed");
}
