use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::{Context, Result};
use rocmforge_loader::config::LogFormat;
use rocmforge_loader::{Config, Plugins};
use tracing_subscriber::EnvFilter;

use crate::args::Args;

/// The configuration named on the command line, else `plugins.toml` beside the program, else the defaults.
pub fn config(args: &Args) -> Result<Config> {
    if let Some(file) = &args.config {
        return Ok(Config::read(file)?);
    }
    let beside =
        std::env::current_exe().ok().and_then(|exe| Some(exe.canonicalize().ok()?.with_file_name("plugins.toml")));
    match beside.filter(|file| file.is_file()) {
        Some(file) => Ok(Config::read(&file)?),
        None => Ok(Config::default()),
    }
}

/// Starts the log on standard error.
pub fn logging(args: &Args, config: &Config) -> Result<()> {
    let filter = args.log.as_ref().or(config.log.filter.as_ref()).map_or("info", String::as_str);
    let filter = EnvFilter::try_new(filter).with_context(|| format!("log filter '{filter}'"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if args.log_json || config.log.format == LogFormat::Json {
        builder.json().try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    started.map_err(|e| anyhow::anyhow!("log: {e}"))
}

/// Tells backends how many threads to use.
pub fn threads(args: &Args, config: &Config) {
    if let Some(threads) = args.threads.or(config.placement.threads) {
        rocmforge_loader::set_compute_threads(threads.get());
    }
}

/// What the command line says of where models run.
pub fn placement(args: &Args, config: &mut Config) {
    if let Some(model) = args.command.model() {
        config.placement.fallback &= !model.no_fallback;
        if let Some(layers) = &model.gpu_layers {
            config.placement.gpu_layers = layers.clone();
        }
    }
}

/// Loads the plugins, each in a test process first.
pub fn plugins(config: &Config) -> Result<Arc<Plugins>> {
    let program = std::env::current_exe().context("finding this program's file")?;
    let plugins = Plugins::load(config, Some((&program, &["probe-plugins"])))?;
    for library in plugins.libraries() {
        tracing::debug!(file = %library.path.display(), abi = library.abi_version, "plugin {} {}", library.name, library.version);
    }
    Ok(Arc::new(plugins))
}
