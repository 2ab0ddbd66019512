use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rocmforge_loader::config::ModelEntry;
use rocmforge_loader::{Config, Plugins};
use rocmforge_server::{AppState, ServedModel};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::args::{ModelArgs, Serve};
use crate::{models, setup};

pub fn run(config: &mut Config, args: &Serve) -> Result<()> {
    if let Some(host) = &args.host {
        config.server.host.clone_from(host);
    }
    if let Some(port) = args.port {
        config.server.port = port;
    }
    let mut wanted = wanted(config, &args.model)?;
    wanted.iter_mut().for_each(|(_, entry)| args.speculation.apply(entry));
    let plugins = setup::plugins(config)?;
    plugins.require_backend()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting a runtime")?;
    let result = runtime.block_on(serve(config, plugins, wanted, args.model.no_fallback));
    if result.is_err() {
        // A server that cannot start does not wait for models that are still being loaded.
        runtime.shutdown_background();
    }
    result
}

/// The model of the command line, else every model of the configuration.
fn wanted(config: &Config, args: &ModelArgs) -> Result<Vec<(String, ModelEntry)>> {
    if args.model.is_some() || config.models.len() == 1 {
        return Ok(vec![models::select(config, args)?]);
    }
    if config.models.is_empty() {
        bail!("no model to serve; give --model FILE, or list models in plugins.toml");
    }
    Ok(config.models.iter().map(|(name, entry)| (name.clone(), entry.clone())).collect())
}

async fn serve(
    config: &Config,
    plugins: Arc<Plugins>,
    wanted: Vec<(String, ModelEntry)>,
    no_fallback: bool,
) -> Result<()> {
    let listener = rocmforge_server::bind(&config.server).await?;
    let state = Arc::new(AppState::new(config.server.clone()));
    let drain = Duration::from_secs(config.server.shutdown_seconds);
    let (failed, loading_failed) = oneshot::channel();
    // Listening starts before loading, so that clients and routers see "loading" instead of a refused connection.
    let loader = tokio::task::spawn_blocking({
        let (config, state) = (config.clone(), state.clone());
        move || {
            let loaded = load(&config, &plugins, &wanted, no_fallback, &state);
            if loaded.is_err() {
                let _ = failed.send(());
            }
            loaded
        }
    });
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    rocmforge_server::serve(listener, state, stop(terminate, interrupt, loading_failed), drain).await?;
    if loader.is_finished() {
        return loader.await.context("loading models")?;
    }
    // Loading cannot be interrupted and nobody waits for its result any more.
    std::process::exit(0);
}

/// Completes when the process is asked to stop or nothing could be loaded. A second signal ends the process at once.
async fn stop(mut terminate: Signal, mut interrupt: Signal, loading_failed: oneshot::Receiver<()>) {
    tokio::select! {
        _ = terminate.recv() => tracing::info!("stopping on SIGTERM"),
        _ = interrupt.recv() => tracing::info!("stopping on Ctrl-C; again to stop at once"),
        Ok(()) = loading_failed => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("stopped at once");
        std::process::exit(130);
    });
}

fn load(
    config: &Config,
    plugins: &Arc<Plugins>,
    wanted: &[(String, ModelEntry)],
    no_fallback: bool,
    state: &AppState,
) -> Result<()> {
    for (name, entry) in wanted {
        let sequences = config.scheduler.max_sequences.get();
        let running = models::start(config, plugins, name, entry, no_fallback, sequences)?;
        state.add_model(ServedModel {
            id: running.name,
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
            tokenizer: running.tokenizer,
            template: running.template,
            context_length: running.engine.context_length(),
            engine: running.engine,
            max_sequences: running.max_sequences,
            block_size: running.block_size,
            template_source: running.template_source,
        });
    }
    state.set_ready();
    tracing::info!("ready");
    Ok(())
}
