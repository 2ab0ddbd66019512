//! Lists the plugins in the files given, each of which may be missing or broken: `list FILE..`.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use rocmforge_loader::config::{Config, PluginEntry};
use rocmforge_loader::{Plugins, probe};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|a| a == "--probe").is_some() {
        return Ok(probe::child(&args.map(PathBuf::from).collect::<Vec<_>>())?);
    }
    let entry =
        |path: PathBuf| PluginEntry { name: None, path: Some(path), optional: true, options: Default::default() };
    let config = Config { plugins: args.map(|a| entry(a.into())).collect(), ..Config::default() };
    let own: &Path = &std::env::current_exe()?;
    let plugins = Plugins::load(&config, Some((own, &["--probe"])))?;
    for library in plugins.libraries() {
        println!("loaded {} {}", library.name, library.version);
    }
    for skipped in plugins.skipped() {
        println!("skipped {}", skipped.reason);
    }
    Ok(())
}
