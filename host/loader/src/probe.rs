//! Loading plugins in a child process first, so that a library that crashes while it is loaded costs one line of log
//! and not the host.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

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

/// A library may look for devices while it is loaded, which takes seconds on some machines.
const LIMIT: Duration = Duration::from_secs(60);

const START: &str = "rocmforge-probe start";
const DONE: &str = "rocmforge-probe done";

/// A line of its own, whatever a library has printed before without ending its line.
fn say(what: &str, number: usize) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{what} {number}")?;
    out.flush()
}

/// The libraries that a child process `program args.. paths..` does not get through, with what became of the child.
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
        let (at, hangs) = follow(&mut child);
        if hangs {
            // It may have ended this very moment; either way `wait` returns.
            let _ = child.kill();
        }
        let Ok(status) = child.wait() else { break };
        let Some((at, file)) = at.and_then(|i| Some((i, rest.get(i)?))) else { break };
        let end = match hangs {
            true => format!("was still at it after {} s", LIMIT.as_secs()),
            false => format!("ended with {status}"),
        };
        crashed.push((file.clone(), format!("a test process that loaded it {end}")));
        rest = &rest[at + 1..];
    }
    crashed
}

/// The library that the child was at when it ended, if it was at one, and whether it had to be given up.
fn follow(child: &mut Child) -> (Option<usize>, bool) {
    let (sender, lines) = mpsc::channel();
    let out = child.stdout.take();
    std::thread::spawn(move || {
        let lines = out.into_iter().flat_map(|out| BufReader::new(out).split(b'\n')).map_while(Result::ok);
        lines.take_while(|line| sender.send(String::from_utf8_lossy(line).into_owned()).is_ok()).for_each(drop);
    });
    let mut at = None;
    loop {
        match lines.recv_timeout(LIMIT) {
            Ok(line) => {
                let number = |prefix| line.strip_prefix(prefix)?.trim().parse::<usize>().ok();
                at = number(START).or(at).filter(|_| number(DONE).is_none());
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return (at, false),
            Err(mpsc::RecvTimeoutError::Timeout) => return (at, true),
        }
    }
}
