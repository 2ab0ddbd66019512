//! Loading plugins in a child process first, so that a library that crashes while it is loaded costs one line of log
//! and not the host.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::library::Library;

/// The child's side: loads each library and prints a line before and after. To be called by the program
/// that [`probe`] starts.
///
/// # Errors
/// Standard output is gone.
pub fn child(paths: &[PathBuf]) -> std::io::Result<()> {
    for (i, path) in paths.iter().enumerate() {
        say(START, i)?;
        // An error is the parent's to report: it will meet the same one, without dying of it.
        let _ = Library::open(path);
        say(DONE, i)?;
    }
    Ok(())
}

const START: &str = "rocmforge-probe start";
const DONE: &str = "rocmforge-probe done";

/// A line of its own, whatever a library has printed before without ending its line.
fn say(what: &str, number: usize) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{what} {number}")?;
    out.flush()
}

/// The libraries that a child process `program args.. paths..` does not survive, with what became of the child.
/// A child that cannot be started, or that ends before or between libraries, proves nothing, so none is blamed for it.
pub fn probe(program: &Path, args: &[&str], paths: &[PathBuf]) -> Vec<(PathBuf, String)> {
    let mut crashed = vec![];
    let mut rest = paths;
    while !rest.is_empty() {
        let child = Command::new(program)
            .args(args)
            .args(rest)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = child else { break };
        let mut at = None;
        for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).split(b'\n')) {
            let Ok(line) = line else { break };
            let number = |prefix| String::from_utf8_lossy(&line).strip_prefix(prefix)?.trim().parse::<usize>().ok();
            match (number(START), number(DONE)) {
                (Some(i), _) => at = Some(i),
                (_, Some(_)) => at = None,
                _ => {}
            }
        }
        let Ok(status) = child.wait() else { break };
        let Some((at, file)) = at.and_then(|i| Some((i, rest.get(i)?))) else { break };
        crashed.push((file.clone(), format!("a test process that loaded it ended with {status}")));
        rest = &rest[at + 1..];
    }
    crashed
}
