//! Each rule fails where it should: a rule that nothing can break protects nothing.

use rocmforge_tidy::tree::Package;
use rocmforge_tidy::{Violations, imports, text};

/// What must be found: nothing, or one violation with this text.
#[track_caller]
fn expect(found: Violations, expected: Option<&str>) {
    match expected {
        None => assert!(found.is_empty(), "{found:?}"),
        Some(part) => {
            assert_eq!(found.len(), 1, "expected one violation with '{part}', found {found:?}");
            assert!(found[0].contains(part), "expected '{part}' in {found:?}");
        }
    }
}

fn package(path: &str, name: &str, dependencies: &[&str]) -> Package {
    let dependencies = dependencies.iter().map(|&d| d.to_owned()).collect();
    Package { name: name.into(), path: path.into(), dependencies, ..Package::default() }
}

#[test]
fn imports_across_the_layers_are_noticed() {
    let check = |path: &str, dependency: &str, expected: Option<&str>| {
        let known = [
            package("host/loader", "loader", &[]),
            package("core/abi", "abi", &[]),
            package("core/sdk", "sdk", &[]),
            package("core/gguf", "gguf", &[]),
            package("kernels/cpu", "kernels-cpu", &[]),
            package("plugins/arch-llama", "arch-llama", &[]),
            package("tests/support", "support", &[]),
            package(path, "subject", &[dependency]),
        ];
        expect(imports::check(&known), expected);
    };
    check("host/engine", "loader", None);
    check("host/engine", "arch-llama", Some("host/* never imports plugins/*"));
    check("host/engine", "kernels-cpu", Some("host/* never imports kernels/*"));
    check("plugins/backend-cpu", "kernels-cpu", None);
    check("plugins/backend-cpu", "loader", Some("plugins/* never imports host/*"));
    check("plugins/arch-x", "sdk", None);
    check("plugins/arch-x", "kernels-cpu", Some("never imports kernels/*"));
    check("plugins/arch-x", "gguf", Some("never imports core/gguf*"));
    check("plugins/template-arch", "gguf", Some("never imports core/gguf*"));
    check("kernels/hip", "abi", Some("kernels/* never imports core/abi*"));
    check("kernels/hip", "sdk", Some("kernels/* never imports core/sdk*"));
    check("core/sdk", "abi", None);
    check("core/sdk", "loader", Some("core/* never imports host/*"));
    check("host/engine", "support", Some("host/* never imports tests/*"));
    check("tests/e2e", "loader", None);
    check("core/abi", "abi_stable", None);
    check("core/sdk", "abi_stable", Some("only core/abi"));
    check("host/server", "axum", None);
    check("host/cli", "axum", Some("only host/server"));
    check("host/loader", "libloading", None);
    check("kernels/hip-sys", "libloading", None);
    check("host/cli", "libloading", Some("only host/loader"));
    check("kernels/hip", "kernels-cpu", Some("kernels/hip* never imports kernels/cpu*"));
    check("plugins/backend-hip", "rocmforge-hip-sys", None);
    check("tests/hip/stand-in", "rocmforge-hip-sys", None);
    check("plugins/backend-cpu", "rocmforge-hip-sys", Some("only plugins/backend-hip"));
    check("kernels/hip", "rocmforge-hip-sys", Some("only plugins/backend-hip"));
    check("host/loader", "memmap2", Some("only core/gguf"));
}

#[test]
fn entries_at_the_top_are_noticed() {
    let check = |add: &[&str], remove: &str, expected| {
        let entries = text::TOP_LEVEL.iter().chain(add).filter(|e| **e != remove).map(|&e| e.to_owned());
        expect(text::top_level(&entries.collect::<Vec<_>>()), expected);
    };
    check(&[".git", ".ci", "target"], "", None);
    check(&["notes.txt"], "", Some("notes.txt does not belong"));
    check(&[], "plugins.toml", Some("plugins.toml is missing"));
}

#[test]
fn licences_are_noticed() {
    let check = |license: &str, expected| {
        expect(text::licences(&[Package { license: license.into(), ..Package::default() }]), expected);
    };
    check("MIT OR Apache-2.0", None);
    check("MIT", Some("found 'MIT'"));
    check("", Some("found ''"));
}

#[test]
fn missing_attributes_are_noticed() {
    let unsafe_code = |package: &str, source: &str, expected| {
        expect(text::forbids_unsafe(package, "src/lib.rs", source), expected);
    };
    unsafe_code("host/engine", "//! Docs.\n#![forbid(unsafe_code)]\n", None);
    unsafe_code("host/engine", "//! Docs.\n", Some("#![forbid(unsafe_code)]"));
    unsafe_code("host/engine", "//! #![forbid(unsafe_code)]\n", Some("#![forbid(unsafe_code)]"));
    unsafe_code("host/loader", "", None);
    unsafe_code("plugins/backend-cpu", "", None);
    unsafe_code("plugins/arch-llama", "", Some("#![forbid(unsafe_code)]"));
    let docs = |package: &str, root: &str, source: &str, expected| {
        expect(text::denies_missing_docs(package, root, source), expected);
    };
    docs("core/abi", "core/abi/src/lib.rs", "#![deny(missing_docs)]", None);
    docs("core/abi", "core/abi/src/lib.rs", "#![warn(missing_docs)]", Some("#![deny(missing_docs)]"));
    docs("host/cli", "host/cli/src/main.rs", "", None);
    expect(text::inherits_lints("a", "[lints]\nworkspace = true\n"), None);
    expect(text::inherits_lints("a", "[package]\nworkspace = true\n"), Some("[lints]"));
}

#[test]
fn sizes_are_noticed() {
    expect(text::length("a.rs", 600), None);
    expect(text::length("a.rs", 601), Some("found 601"));
    expect(text::architecture_size("plugins/arch-x", 250), None);
    expect(text::architecture_size("plugins/arch-x", 251), Some("found 251"));
    expect(text::architecture_size("plugins/template-arch", 251), Some("found 251"));
    expect(text::architecture_size("plugins/backend-cpu", 9999), None);
}

#[test]
fn traces_are_noticed() {
    let check = |source: &str, expected| expect(text::traces("a.rs", source), expected);
    check("let issue = 1; // an issue of style, and todo lists\n", None);
    check("fn f() {\n    todo!()\n}", Some("a.rs:2: 'todo!'"));
    check("// FIXME later", Some("fixme"));
    check("// see issue 12", Some("the number of an issue"));
    check("// Issue #12", Some("issue #"));
    check("let p = \"/work/main\";", Some("/work/"));
}

#[test]
fn a_code_map_that_is_out_of_date_is_noticed() {
    let check = |rows: &str, expected| {
        let packages = [package("core/a", "a", &[]), package("tests/plugins/bad", "fixture-bad", &[])];
        expect(text::code_map(&format!("| path | package | for |\n|---|---|---|\n{rows}"), &packages), expected);
    };
    let (a, fixtures) = ("| `core/a` | `a` | x |\n", "| `tests/plugins/*` | `fixture-*` | x |\n");
    check(&format!("{a}{fixtures}| `tests/models` | | data |\n"), None);
    check(fixtures, Some("no row for core/a, a"));
    check(a, Some("no row for tests/plugins/*"));
    check(&format!("{a}{fixtures}| `core/b` | `b` | x |\n"), Some("no such package: core/b, b"));
}
