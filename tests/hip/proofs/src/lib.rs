//! What the proofs share: where the built libraries are, and what they export and ask for.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

// Only so that a build of this package builds their libraries.
use rocmforge_hip_cuda_shim as _;
use rocmforge_hip_stand_in as _;

/// A library that was built with this program: beside it, or in the folder of the build.
///
/// # Errors
/// It was not built; where it was looked for, and what to do.
pub fn library(name: &str) -> Result<PathBuf, String> {
    let exe = std::env::current_exe().map_err(|e| format!("this program's own path: {e}"))?;
    let own = exe.parent().unwrap_or(Path::new("."));
    let folders = [own.to_owned(), own.join(".."), own.join("deps")];
    let file = format!("librocmforge_{name}.so");
    let found = folders.iter().map(|folder| folder.join(&file)).find(|path| path.is_file());
    found.ok_or_else(|| {
        format!("{file} is neither in {} nor beside it; run `cargo build --release` first", own.display())
    })
}

/// The dynamic symbols of a library, without their versions: those that it defines, or those that it asks for.
///
/// # Errors
/// `nm`, which comes with the linker, is missing or does not understand the file.
pub fn symbols(library: &Path, defined: bool) -> Result<BTreeSet<String>, String> {
    let which = if defined { "--defined-only" } else { "--undefined-only" };
    let output = Command::new("nm").args(["-D", which, "-P"]).arg(library).output().map_err(|e| format!("nm: {e}"))?;
    if !output.status.success() {
        return Err(format!("nm {}: {}", library.display(), String::from_utf8_lossy(&output.stderr).trim()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let name = |line: &str| line.split([' ', '@']).next().unwrap_or_default().to_owned();
    Ok(text.lines().map(name).filter(|name| !name.is_empty()).collect())
}

/// Words of a text that are named like something of HIP: `hip` and a capital letter.
pub fn hip_words(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let of_hip =
        |word: &&str| word.strip_prefix("hip").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()));
    words.filter(of_hip).map(str::to_owned).collect()
}
