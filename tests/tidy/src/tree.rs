//! The files and packages of the repository.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A package of the workspace.
#[derive(Clone, Debug, Default)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its folder, relative to the repository, with `/`.
    pub path: String,
    /// Its licence.
    pub license: String,
    /// What it links to, by package name: dependencies and build dependencies, not those of its tests.
    pub dependencies: Vec<String>,
    /// Root files of its libraries, programs and examples, relative to the repository.
    pub roots: Vec<String>,
}

/// The repository's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// All packages of the workspace whose manifest this is, or of the package if it is in none.
pub fn packages(manifest: &Path) -> Vec<Package> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(manifest)
        .output()
        .expect("cargo");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON from cargo metadata");
    list(&metadata["packages"]).iter().map(|p| package(p, &root())).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn package(p: &Value, root: &Path) -> Package {
    let relative = |path: &Value| {
        let path = PathBuf::from(text(path));
        let path = path.strip_prefix(root).expect("a path in the repository");
        path.to_str().expect("a path in UTF-8").replace('\\', "/")
    };
    let linked = |d: &&Value| d["kind"].as_str() != Some("dev");
    let tested = |t: &&Value| list(&t["kind"]).iter().any(|k| k == "test" || k == "custom-build");
    Package {
        name: text(&p["name"]),
        path: relative(&p["manifest_path"]).trim_end_matches("Cargo.toml").trim_end_matches('/').to_owned(),
        license: text(&p["license"]),
        dependencies: list(&p["dependencies"]).iter().filter(linked).map(|d| text(&d["name"])).collect(),
        roots: list(&p["targets"]).iter().filter(|t| !tested(t)).map(|t| relative(&t["src_path"])).collect(),
    }
}

/// Every file of the repository with one of these extensions, relative to it; build outputs and dotfiles are left out.
pub fn files(extensions: &[&str]) -> Vec<String> {
    let (root, mut found) = (root(), vec![]);
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if name.starts_with('.') || name == "target" || name == "__pycache__" {
                continue;
            }
            match entry.file_type().expect("a file type").is_dir() {
                true => folders.push(path),
                false if extensions.iter().any(|e| name.ends_with(&format!(".{e}"))) => {
                    let path = path.strip_prefix(&root).expect("a path in the repository");
                    found.push(path.to_string_lossy().replace('\\', "/"));
                }
                false => {}
            }
        }
    }
    found.sort();
    found
}

/// The text of a file of the repository.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}
