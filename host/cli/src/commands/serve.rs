use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rocmforge_loader::config::{ModelEntry, TracingSettings};
use rocmforge_loader::{Config, DeviceLoss};
use rocmforge_server::AppState;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::args::{ModelArgs, Serve};
use crate::served::Loader;
use crate::{models, setup};

pub fn run(config: &mut Config, args: &Serve) -> Result<()> {
    if let Some(host) = &args.host {
        config.server.host.clone_from(host);
    }
    if let Some(port) = args.port {
        config.server.port = port;
    }
    allow_connections();
    let mut wanted = wanted(config, &args.model)?;
    wanted.values_mut().for_each(|entry| args.speculation.apply(entry));
    let plugins = setup::plugins(config)?;
    plugins.require_backend()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting a runtime")?;
    let result = runtime.block_on(serve(config, Loader::new(config, plugins, args.model.no_fallback, wanted)));
    // Loading a model cannot be interrupted, and nobody waits for its result any more.
    runtime.shutdown_background();
    result
}

/// Every connection needs a descriptor, of which shells give 1024 where the system allows far more.
fn allow_connections() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// The model of the command line, else every model of the configuration.
fn wanted(config: &Config, args: &ModelArgs) -> Result<BTreeMap<String, ModelEntry>> {
    if args.model.is_some() {
        return Ok(BTreeMap::from([models::select(config, args)?]));
    }
    if config.models.is_empty() {
        bail!("no model to serve; give --model FILE, or list models in plugins.toml");
    }
    if let [(name, entry)] = config.models.iter().collect::<Vec<_>>()[..] {
        let (_, selected) = models::select(config, args)?;
        return Ok(BTreeMap::from([(name.clone(), ModelEntry { load: entry.load, ..selected })]));
    }
    Ok(config.models.clone())
}

async fn serve(config: &Config, loader: Loader) -> Result<()> {
    let listener = rocmforge_server::bind(&config.server).await?;
    let loader = Arc::new(loader);
    let state = AppState::with_loader(config.server.clone(), Some(loader.clone()));
    let state = Arc::new(state.with_tracing(traces(config)));
    let drain = Duration::from_secs(config.server.shutdown_seconds);
    let (failed, loading_failed) = oneshot::channel();
    // Listening starts before loading, so that clients and routers see "loading" instead of a refused connection.
    let loading = tokio::spawn({
        let state = state.clone();
        async move {
            let loaded = load(&state, loader).await;
            if loaded.is_err() {
                let _ = failed.send(());
            }
            loaded
        }
    });
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (lost, device_lost) = oneshot::channel();
    if config.placement.device_loss == DeviceLoss::Exit {
        let state = state.clone();
        tokio::spawn(async move { lost.send(state.device_lost().await) });
    }
    let mut gone = None;
    let stop = stop(terminate, interrupt, loading_failed, device_lost, &mut gone);
    rocmforge_server::serve(listener, state.clone(), stop, drain).await?;
    state.end_engines().await;
    if let Some(model) = gone {
        bail!("the device of model '{model}' is lost, and device_loss = \"exit\"");
    }
    if loading.is_finished() {
        return loading.await.context("loading models")?;
    }
    Ok(())
}

/// Completes when the process is asked to stop, nothing could be loaded, or a device is lost, of which `gone` gets the model.
/// A second signal ends the process at once.
async fn stop(
    mut terminate: Signal,
    mut interrupt: Signal,
    loading_failed: oneshot::Receiver<()>,
    device_lost: oneshot::Receiver<String>,
    gone: &mut Option<String>,
) {
    tokio::select! {
        _ = terminate.recv() => tracing::info!("stopping on SIGTERM"),
        _ = interrupt.recv() => tracing::info!("stopping on Ctrl-C; again to stop at once"),
        Ok(()) = loading_failed => {}
        Ok(model) = device_lost => {
            tracing::error!("stopping, since the device of model '{model}' is lost");
            *gone = Some(model);
        }
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

/// Settings for traces, of the configuration and of the environment.
fn traces(config: &Config) -> TracingSettings {
    config.tracing.clone().with_environment(|name| std::env::var(name).ok())
}

async fn load(state: &Arc<AppState>, loader: Arc<Loader>) -> Result<()> {
    let offers = tokio::task::spawn_blocking({
        let loader = loader.clone();
        move || loader.offers()
    });
    state.set_plugins(loader.plugins());
    for offer in offers.await.context("reading model files")?? {
        state.offer_model(offer);
    }
    for name in loader.at_start() {
        state.load_model(&name).await.map_err(anyhow::Error::msg)?;
    }
    state.set_ready();
    tracing::info!("ready");
    Ok(())
}
