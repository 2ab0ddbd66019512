//! Clients written in Python.

use std::path::PathBuf;
use std::process::Command;

use crate::build_folder;

/// Runs a script: whether it succeeded, and what it printed.
pub fn run(program: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(args).output().expect("python runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// A Python with the official client, in a virtual environment that is made once.
pub fn with_client() -> Option<String> {
    let folder: PathBuf = build_folder().join("../python-clients");
    let program = folder.join("bin/python");
    let program = program.to_str()?.to_owned();
    let works = |program: &str| {
        let output = Command::new(program).args(["-c", "import openai"]).output();
        output.is_ok_and(|o| o.status.success())
    };
    if !works(&program) {
        let made = Command::new("python3").args(["-m", "venv"]).arg(&folder).output().ok()?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "openai>=2,<4"];
        if !made.status.success() || !Command::new(&program).args(pip).output().ok()?.status.success() {
            return None;
        }
    }
    works(&program).then_some(program)
}
