//! The HIP backend calls the functions of one table and nothing else of HIP.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rocmforge_hip_proofs::{hip_words, library, symbols};
use rocmforge_hip_sys::FUNCTIONS;

fn table() -> BTreeSet<String> {
    FUNCTIONS.iter().map(|f| f.name.to_owned()).collect()
}

#[test]
fn the_stand_ins_export_the_table_and_nothing_else() {
    for name in ["hip_stand_in", "hip_cuda_shim"] {
        let exported = symbols(&library(name).expect("built"), true).expect("symbols");
        assert_eq!(exported, table(), "{name}");
    }
}

/// The backend's package, if this repository has it.
fn backend() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../plugins/backend-hip");
    if !folder.is_dir() {
        println!("skipped: this repository has no plugins/backend-hip");
        return None;
    }
    Some(folder)
}

#[test]
fn the_backend_links_to_nothing_of_hip() {
    if backend().is_none() {
        return;
    }
    let plugin = library("backend_hip").expect("built");
    let of_a_gpu = |name: &&String| {
        ["hip", "hsa", "cu", "nv", "roc"].iter().any(|prefix| {
            name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase() || c == '_'))
        })
    };
    let wanted = symbols(&plugin, false).expect("symbols");
    assert!(wanted.contains("dlsym"), "the plugin resolves its functions at run time: {wanted:?}");
    let found: Vec<&String> = wanted.iter().filter(of_a_gpu).collect();
    assert!(found.is_empty(), "{found:?}");
}

/// Every Rust file below a folder of the repository.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(sources(&path)),
            false if path.extension().is_some_and(|e| e == "rs") => found.push(path),
            false => {}
        }
    }
    found
}

#[test]
fn the_backends_source_names_nothing_of_hip_but_the_table_and_its_types() {
    let Some(backend) = backend() else { return };
    let types = backend.join("../../kernels/hip-sys/src/types.rs");
    let types = std::fs::read_to_string(types).expect("the types");
    let known: BTreeSet<String> = table().union(&hip_words(&types)).cloned().collect();
    let files = sources(&backend.join("src"));
    assert!(files.len() > 3, "{files:?}");
    for file in files {
        let words = hip_words(&std::fs::read_to_string(&file).expect("a source file"));
        let unknown: Vec<&String> = words.difference(&known).collect();
        assert!(unknown.is_empty(), "{}: {unknown:?} are not in docs/hip-functions.md", file.display());
    }
}

#[test]
fn words_of_hip_are_told_from_others() {
    let found = hip_words("let x = hip.functions.hipMalloc(hipster, hip_sys, \"hipFree\", ship, hipError_t::X)");
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found, ["hipError_t", "hipFree", "hipMalloc"]);
}
