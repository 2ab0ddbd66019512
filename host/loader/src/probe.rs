//! Loading plugins in a child process first, so that a library that crashes while it is loaded costs one line of log
//! and not the host.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::library::Library;

/// The child's side: loads each library and prints a line when it is through with it. To be called by the program
/// that [`probe`] starts.
///
/// # Errors
/// Standard output is gone.
pub fn child(paths: &[PathBuf]) -> std::io::Result<()> {
    for path in paths {
        // An error is the parent's to report: it will meet the same one, without dying of it.
        let _ = Library::open(path);
        let mut out = std::io::stdout().lock();
        writeln!(out, "done")?;
        out.flush()?;
    }
    Ok(())
}

/// The libraries that a child process `program args.. paths..` does not survive, with what became of the child.
/// A child that cannot be started proves nothing, so no library is blamed for it.
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
        let lines = child.stdout.take().map(|out| BufReader::new(out).lines().map_while(Result::ok));
        let done = lines.map_or(0, |lines| lines.filter(|l| l == "done").count());
        let Ok(status) = child.wait() else { break };
        if status.success() || done >= rest.len() {
            break;
        }
        crashed.push((rest[done].clone(), format!("a test process that loaded it ended with {status}")));
        rest = &rest[done + 1..];
    }
    crashed
}
