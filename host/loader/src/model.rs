use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocmforge_abi::CompileOptions;
use rocmforge_gguf::GgufFile;
use rocmforge_program::{Op, Program, ValueId};

use crate::backend::Backend;
use crate::config::{DeviceLoss, GpuLayers};
use crate::error::LoaderError;
use crate::executable::{Executable, Spare};
use crate::placement::{Placement, Request, place};
use crate::plugins::{Plugins, SharedPlugins};

/// What the user has set for a model.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The architecture plugin to use; absent: the one that fits best.
    pub architecture: Option<String>,
    /// Longest context in tokens; absent: the model's own.
    pub context_length: Option<u32>,
    /// Whether later backends are tried when an earlier one cannot take the model.
    pub fallback: bool,
    /// How many layers go to the devices of the preferred backend.
    pub gpu_layers: GpuLayers,
    /// Bytes of KV cache, where they are set.
    pub cache_bytes: Option<u64>,
    /// What happens when its device is lost.
    pub device_loss: DeviceLoss,
    /// Whether the program tells embeddings besides, if its form and the backends allow it.
    pub embeddings: bool,
    /// Sizes to compile for.
    pub compile: CompileOptions,
}

impl LoadOptions {
    /// For these sizes, with everything else as it is where the user sets nothing.
    pub fn new(compile: CompileOptions) -> LoadOptions {
        LoadOptions {
            architecture: None,
            context_length: None,
            fallback: true,
            gpu_layers: GpuLayers::Auto,
            cache_bytes: None,
            device_loss: DeviceLoss::default(),
            embeddings: false,
            compile,
        }
    }
}

/// How far loading has come.
#[derive(Clone, Copy, Debug)]
pub struct LoadProgress {
    /// Bytes of weights that the backend has.
    pub done: u64,
    /// Bytes of weights in all.
    pub total: u64,
}

/// A model file on a backend, with its weights bound and no KV cache yet.
pub struct Model {
    /// Runs it.
    pub executable: Executable,
    /// The file.
    pub file: Arc<GgufFile>,
    /// The architecture plugin that described it.
    pub architecture: String,
    /// Where it runs.
    pub placement: Placement,
    /// Longest context in tokens.
    pub context_length: u32,
    /// Tensors of the file that the program does not read.
    pub unused_tensors: Vec<String>,
    plugins: SharedPlugins,
}

impl Model {
    /// Opens a file, asks its architecture for the program, places and compiles it, and binds the weights.
    ///
    /// # Errors
    /// Whatever is wrong with the file, by key or tensor; no architecture or backend for it; out of memory.
    pub fn load(
        plugins: &Arc<Plugins>,
        path: &Path,
        options: &LoadOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Model, LoaderError> {
        plugins.require_backend()?;
        let file = Arc::new(GgufFile::open(path)?);
        let (program, architecture) = describe(plugins, &file, options)?;
        let unused_tensors = unused(&file, &program);
        for name in &unused_tensors {
            tracing::warn!(model = %path.display(), "tensor '{name}' of the file is not used by architecture '{architecture}'");
        }
        let context_length = options.context_length.unwrap_or(program.info.context_length);
        let program = match options.embeddings {
            true => with_embeddings(program, plugins.backends())?,
            false => program,
        };
        let (mut executable, placement) = place(&Request {
            program: &program,
            file: &file,
            backends: plugins.backends(),
            unavailable: plugins.unavailable(),
            fallback: options.fallback,
            gpu_layers: &options.gpu_layers,
            context: context_length.min(program.info.context_length),
            cache_bytes: options.cache_bytes,
            compile: options.compile,
        })?;
        // Before a weight is read: what does not suit the user need not be waited for.
        placement.to_string().lines().for_each(|line| tracing::info!("{line}"));
        executable.keep_spare(Spare {
            program: Arc::new(program),
            file: Arc::clone(&file),
            backends: plugins.backends().to_vec(),
            allowed: options.fallback && options.device_loss == DeviceLoss::Continue,
        });
        let total = placement.rows.iter().map(|r| r.weight_bytes).sum();
        executable.bind_weights(&mut |done| progress(LoadProgress { done, total }))?;
        Ok(Model {
            executable,
            file,
            architecture,
            placement,
            context_length,
            unused_tensors,
            plugins: Arc::clone(plugins),
        })
    }

    /// The plugins that it was loaded with.
    pub fn plugins(&self) -> &Arc<Plugins> {
        &self.plugins
    }

    /// The program of a file, without compiling it.
    ///
    /// # Errors
    /// As [`load`](Model::load), but for backends.
    pub fn program(plugins: &Plugins, file: &GgufFile, options: &LoadOptions) -> Result<Program, LoaderError> {
        describe(plugins, file, options).map(|(program, _)| program)
    }
}

fn describe(plugins: &Plugins, file: &GgufFile, options: &LoadOptions) -> Result<(Program, String), LoaderError> {
    let path = || file.shards().first().map_or_else(PathBuf::new, |m| m.path().to_owned());
    let architecture = plugins.architecture_for(file, options.architecture.as_deref())?;
    let program = architecture.build(file, options.context_length.unwrap_or(0)).map_err(|e| match e {
        LoaderError::Plugin { message, plugin, .. } => {
            LoaderError::Model { file: path(), message: format!("{plugin}: {message}") }
        }
        other => other,
    })?;
    Ok((program, architecture.info().name.clone()))
}

/// The program with embeddings as outputs, where every backend that it may run on can compute them.
fn with_embeddings(program: Program, backends: &[Backend]) -> Result<Program, LoaderError> {
    let pools = [Op::MeanPool { x: ValueId(0) }, Op::LastPool { x: ValueId(0) }];
    for backend in backends {
        for pool in &pools {
            if !backend.supports(pool, &[])? {
                tracing::warn!("no embeddings: backend '{}' has no '{}'", backend.name(), pool.name());
                return Ok(program);
            }
        }
    }
    let more = program.with_embeddings().map_err(|e| LoaderError::Placement(e.to_string()))?;
    Ok(more.unwrap_or(program))
}

fn unused(file: &GgufFile, program: &Program) -> Vec<String> {
    let used: std::collections::HashSet<&str> = program.weights.iter().map(|w| w.name.as_str()).collect();
    file.tensors().iter().filter(|t| !used.contains(t.name.as_str())).map(|t| t.name.clone()).collect()
}
