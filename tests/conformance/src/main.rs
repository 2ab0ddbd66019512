//! `rocmforge-conformance plugin.so`: see the library's documentation.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use rocmforge_conformance::{Activations, Error, Outcome, Settings, Subject, Summary};
use rocmforge_loader::probe;

/// Checks a ROCmForge plugin: its library, its architectures, and each operation of its backends.
///
/// Exits with 0 if nothing failed, 1 if a case failed, 2 if the plugin could not be tested.
#[derive(Parser)]
#[command(name = "rocmforge-conformance", version)]
struct Args {
    /// The plugin's shared library.
    plugin: PathBuf,
    /// Run only cases whose name contains this.
    #[arg(long)]
    filter: Option<String>,
    /// List the cases instead of running them.
    #[arg(long)]
    list: bool,
    /// The plugin's options as in plugins.toml, e.g. 'threads = 2'.
    #[arg(long, default_value = "")]
    options: String,
    /// A small model file for one of the plugin's architectures, as often as needed; where none is given, one of the
    /// common decoder form is made up.
    #[arg(long = "model")]
    models: Vec<PathBuf>,
    /// Precision in which the backend keeps activations; wider tolerances for narrower ones.
    #[arg(long, value_enum, default_value_t)]
    activations: Activations,
    /// Print cases that failed or were skipped only.
    #[arg(long)]
    quiet: bool,
}

/// The first argument of the process that loads the plugin before this one does.
const PROBE: &str = "--load-and-exit";

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|a| a == PROBE).is_some() {
        let loaded = probe::child(&args.map(PathBuf::from).collect::<Vec<_>>());
        return if loaded.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    match run(&Args::parse()) {
        Ok(summary) if summary.failed == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<Summary, Error> {
    let settings =
        Settings { options: args.options.clone(), models: args.models.clone(), activations: args.activations };
    if let Ok(own) = std::env::current_exe()
        && let [(file, end)] = &probe::probe(&own, &[PROBE], std::slice::from_ref(&args.plugin))[..]
    {
        return Err(Error::Crash { file: file.clone(), end: end.clone() });
    }
    let subject = Subject::load(&args.plugin, settings)?;
    let mut cases = subject.cases();
    cases.retain(|c| args.filter.as_ref().is_none_or(|f| c.name.contains(f.as_str())));
    let mut summary = Summary::default();
    let mut out = std::io::stdout().lock();
    // A reader that has gone away ends the report, not the run.
    let mut say = |line: String| {
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    };
    for case in &cases {
        if args.list {
            say(format!("{}\n", case.name));
            continue;
        }
        // The name first: should the plugin end the process, it is the last line.
        let name = format!("{:<56} ", case.name);
        if !args.quiet {
            say(name.clone());
        }
        let outcome = (case.run)();
        summary.add(&outcome);
        let line = match outcome {
            Outcome::Passed if args.quiet => continue,
            Outcome::Passed => "ok\n".to_owned(),
            Outcome::Failed(why) => format!("FAILED: {why}\n"),
            Outcome::Skipped(why) => format!("skipped: {why}\n"),
        };
        say(if args.quiet { name + &line } else { line });
    }
    if !args.list {
        say(format!("{summary}\n"));
    }
    Ok(summary)
}
