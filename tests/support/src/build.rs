use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder that cargo puts this build's libraries and programs into, e.g. `target/release`.
pub fn build_folder() -> PathBuf {
    let test = std::env::current_exe().expect("the path of the test program");
    test.parent().and_then(Path::parent).expect("a test program in <target>/<profile>/deps").to_owned()
}

/// Runs `cargo build` on targets of the workspace, e.g. `["--workspace", "--examples"]`, in the profile and target
/// folder of the test program. A test cannot depend on a `cdylib` in any other way.
pub fn build(targets: &[&str]) -> PathBuf {
    let folder = build_folder();
    let profile = match folder.file_name().and_then(|n| n.to_str()).expect("a profile") {
        "debug" => "dev",
        name => name,
    };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["build", "--quiet", "--profile", profile])
        .args(targets)
        .arg("--target-dir")
        .arg(folder.parent().expect("a target folder"))
        .current_dir(crate::repository())
        .status()
        .expect("cargo");
    assert!(status.success(), "cargo build {targets:?} failed");
    folder
}

/// Builds the workspace, once per test program, and returns the paths of plugin packages' libraries, in the same order.
/// The whole of it, because building single packages chooses other features of dependencies and compiles those again.
pub fn build_plugins<const N: usize>(packages: [&str; N]) -> [PathBuf; N] {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| build(&["--workspace"]));
    packages.map(|p| folder.join(format!("lib{}{}", p.replace('-', "_"), std::env::consts::DLL_SUFFIX)))
}
