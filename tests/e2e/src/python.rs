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

/// A Python with the official client and a validator of JSON schemas.
pub fn with_client() -> Option<String> {
    environment("python-clients", &["openai>=2,<4", "jsonschema>=4", "httpx>=0.27"], "import openai, jsonschema, httpx")
}

/// A Python with libraries that speak to the API through adapters of their own.
pub fn with_adapters() -> Option<String> {
    let packages = ["openai>=2,<4", "langchain-openai>=1", "litellm>=1.80"];
    environment("python-adapters", &packages, "import langchain_openai, litellm")
}

/// A Python with the official clients of the APIs that the server speaks besides.
pub fn with_dialects() -> Option<String> {
    let packages = ["openai>=2,<4", "anthropic>=0.60", "ollama>=0.5"];
    environment("python-dialects", &packages, "import openai, anthropic, ollama")
}

/// A Python with lm-eval.
pub fn with_lm_eval() -> Option<String> {
    environment("python-lm-eval", &["lm-eval[api]>=0.4.10", "httpx>=0.27"], "import lm_eval, tenacity, httpx")
}

/// A virtual environment with these packages that can run `imports`, made once.
fn environment(name: &str, packages: &[&str], imports: &str) -> Option<String> {
    let folder: PathBuf = build_folder().join("..").join(name);
    let program = folder.join("bin/python");
    let program = program.to_str()?.to_owned();
    let works = |program: &str| Command::new(program).args(["-c", imports]).output().is_ok_and(|o| o.status.success());
    if !works(&program) {
        let made = Command::new("python3").args(["-m", "venv"]).arg(&folder).output().ok()?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        let installed = || Command::new(&program).args(pip).args(packages).output();
        if !made.status.success() || !installed().ok()?.status.success() {
            return None;
        }
    }
    works(&program).then_some(program)
}
