use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocmforge_abi::{ArchitectureTableRef, BuildOptions, RStr, RVec};
use rocmforge_gguf::GgufFile;
use rocmforge_program::Program;

use crate::backend::Backend;
use crate::config::{Config, PluginEntry};
use crate::error::{LoaderError, PluginErrorKind};
use crate::library::{ArchitectureInfo, Library, LibraryInfo};
use crate::probe;
use crate::view::View;

/// A plugin that the host runs without.
#[derive(Clone, Debug)]
pub struct SkippedPlugin {
    /// Its name or file.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// An architecture of a loaded plugin.
#[derive(Clone)]
pub struct Architecture {
    info: ArchitectureInfo,
    table: ArchitectureTableRef,
    options_json: String,
}

impl Architecture {
    /// Its name and claims.
    pub fn info(&self) -> &ArchitectureInfo {
        &self.info
    }

    /// The program of a model file; `context_length` 0 means the model's own.
    ///
    /// # Errors
    /// Whatever is missing from the file or wrong in it.
    pub fn build(&self, file: &GgufFile, context_length: u32) -> Result<Program, LoaderError> {
        let view = View::new(file);
        let mut bytes = RVec::new();
        let options = RStr::from_str(&self.options_json);
        let status = (self.table.build())(view.raw(), options, BuildOptions { context_length }, &mut bytes);
        LoaderError::check(&format!("architecture '{}'", self.info.name), "build", status)?;
        Program::from_bytes(&bytes)
            .map_err(|source| LoaderError::Program { architecture: self.info.name.clone(), source })
    }

    fn fit(&self, file: &GgufFile) -> Result<u32, LoaderError> {
        let view = View::new(file);
        let mut fit = 0;
        let status = (self.table.fit())(view.raw(), &mut fit);
        LoaderError::check(&format!("architecture '{}'", self.info.name), "fit", status)?;
        Ok(fit)
    }
}

/// Every plugin that is loaded, with instances of the backends.
pub struct Plugins {
    libraries: Vec<LibraryInfo>,
    backends: Vec<Backend>,
    architectures: Vec<Architecture>,
    skipped: Vec<SkippedPlugin>,
    unavailable: Vec<SkippedPlugin>,
}

impl Plugins {
    /// Loads the plugins of a configuration. With `probe`, a program and its arguments, each library is first loaded
    /// in a child process `program args.. files..` that calls [`probe::child`].
    ///
    /// # Errors
    /// A plugin that is not `optional` and cannot be loaded.
    pub fn load(config: &Config, probe: Option<(&Path, &[&str])>) -> Result<Plugins, LoaderError> {
        let mut plugins = Plugins {
            libraries: vec![],
            backends: vec![],
            architectures: vec![],
            skipped: vec![],
            unavailable: vec![],
        };
        let mut found = vec![];
        for entry in wanted(config) {
            match resolve(&entry, config) {
                Ok(path) => found.push((entry, path)),
                Err(e) => plugins.skip(&entry, e)?,
            }
        }
        let paths: Vec<PathBuf> = found.iter().map(|(_, path)| path.clone()).collect();
        let crashed = probe.map_or(vec![], |(program, args)| probe::probe(program, args, &paths));
        for (entry, path) in found {
            let result = match crashed.iter().find(|(file, _)| *file == path) {
                Some((file, message)) => Err(LoaderError::Library {
                    file: file.clone(),
                    message: format!("crashes while it is loaded, so it is left out ({message}); is the file damaged?"),
                }),
                None => plugins.add(&entry, &path),
            };
            if let Err(e) = result {
                plugins.skip(&entry, e)?;
            }
        }
        plugins.order_backends(&config.placement.backends)?;
        Ok(plugins)
    }

    fn add(&mut self, entry: &PluginEntry, path: &Path) -> Result<(), LoaderError> {
        let library = Library::open(path)?;
        let options_json = serde_json::to_string(&entry.options).unwrap_or_default();
        let fail = |message: String| LoaderError::Library { file: path.to_owned(), message };
        let info = library.info();
        let taken = |kind: &str, name: &str| {
            fail(format!(
                "its {kind} '{name}' is already loaded from another plugin; remove one of them from plugins.toml"
            ))
        };
        if let Some(name) = info.backends.iter().find(|&n| self.backends.iter().any(|b| b.name() == n)) {
            return Err(taken("backend", name));
        }
        if let Some(a) = info.architectures.iter().find(|&n| self.architectures.iter().any(|a| a.info.name == n.name)) {
            return Err(taken("architecture", &a.name));
        }
        let mut backends = vec![];
        for &table in &library.backends {
            match Backend::create(table, &options_json) {
                Ok(backend) => backends.push(backend),
                // Most machines lack most devices: nothing is wrong with the plugin.
                Err(e) if entry.optional && e.plugin_kind() == Some(PluginErrorKind::Device) => {
                    tracing::info!(plugin = entry.label(), "{e}; going on without it");
                    let name = table.name().to_string();
                    let reason = e.plugin_message().unwrap_or_default().to_owned();
                    self.unavailable.push(SkippedPlugin { name, reason });
                }
                Err(e) => return Err(fail(e.to_string())),
            }
        }
        for (info, &table) in std::iter::zip(&info.architectures, &library.architectures) {
            self.architectures.push(Architecture { info: info.clone(), table, options_json: options_json.clone() });
        }
        self.backends.append(&mut backends);
        self.libraries.push(library.info().clone());
        Ok(())
    }

    fn skip(&mut self, entry: &PluginEntry, error: LoaderError) -> Result<(), LoaderError> {
        if !entry.optional {
            return Err(error);
        }
        tracing::warn!(plugin = entry.label(), "optional plugin left out: {error}");
        self.skipped.push(SkippedPlugin { name: entry.label(), reason: error.to_string() });
        Ok(())
    }

    fn order_backends(&mut self, order: &[String]) -> Result<(), LoaderError> {
        if order.is_empty() {
            return Ok(());
        }
        let mut ordered = vec![];
        for name in order {
            match self.backends.iter().find(|b| b.name() == name) {
                Some(backend) => ordered.push(backend.clone()),
                None if self.unavailable.iter().any(|u| u.name == *name) => {}
                None if self.skipped.is_empty() => {
                    let loaded: Vec<_> = self.backends.iter().map(Backend::name).collect();
                    return Err(LoaderError::Placement(format!(
                        "backends: expected names of loaded backends ({}), found '{name}'",
                        loaded.join(", ")
                    )));
                }
                None => tracing::warn!("placement: backend '{name}' is not loaded, the next one is used"),
            }
        }
        self.backends = ordered;
        self.unavailable.retain(|u| order.contains(&u.name));
        Ok(())
    }

    /// What is loaded.
    pub fn libraries(&self) -> &[LibraryInfo] {
        &self.libraries
    }

    /// What is left out.
    pub fn skipped(&self) -> &[SkippedPlugin] {
        &self.skipped
    }

    /// Backends that were asked for, and whose devices this machine does not have.
    pub fn unavailable(&self) -> &[SkippedPlugin] {
        &self.unavailable
    }

    /// Backends in order of preference.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// Architectures.
    pub fn architectures(&self) -> &[Architecture] {
        &self.architectures
    }

    /// Fails unless there is a backend.
    ///
    /// # Errors
    /// There is none; the error says what was left out and what to do.
    pub fn require_backend(&self) -> Result<(), LoaderError> {
        if !self.backends.is_empty() {
            return Ok(());
        }
        Err(LoaderError::NoBackend {
            skipped: self
                .skipped
                .iter()
                .chain(&self.unavailable)
                .map(|s| format!("{}: {}", s.name, s.reason))
                .collect(),
            hint: "build the CPU backend (cargo build --release -p rocmforge-backend-cpu) and keep \
                   librocmforge_backend_cpu.so beside the program or in a folder of search_paths"
                .into(),
        })
    }

    /// The architecture for a model file: the one named, else the one that fits best.
    ///
    /// # Errors
    /// None takes the file, or several fit equally well.
    pub fn architecture_for(&self, file: &GgufFile, name: Option<&str>) -> Result<&Architecture, LoaderError> {
        let path = file.shards().first().map(|m| m.path().to_owned()).unwrap_or_default();
        let fail = |message: String| Err(LoaderError::Model { file: path.clone(), message });
        if let Some(name) = name {
            return match self.architectures.iter().find(|a| a.info.name == name) {
                Some(architecture) => Ok(architecture),
                None => fail(format!("architecture: expected one of {}, found '{name}'", self.names())),
            };
        }
        let Some(wanted) = file.metadata().str("general.architecture") else {
            return fail("metadata 'general.architecture' is missing from the file".into());
        };
        let mut best: Vec<&Architecture> = vec![];
        let mut best_fit = 1;
        let mut failed = String::new();
        for architecture in self.architectures.iter().filter(|a| a.info.claims.iter().any(|c| c == wanted)) {
            let fit = architecture.fit(file).unwrap_or_else(|e| {
                // One faulty plugin must not keep the others from a file that they can take.
                tracing::warn!("{e}");
                failed.push_str(&format!("; {e}"));
                0
            });
            if fit > best_fit {
                best.clear();
            }
            if fit >= best_fit {
                best_fit = fit;
                best.push(architecture);
            }
        }
        match best[..] {
            [one] => Ok(one),
            [] => fail(format!("no loaded plugin takes architecture '{wanted}'{failed}; loaded: {}", self.names())),
            _ => {
                let names: Vec<_> = best.iter().map(|a| a.info.name.as_str()).collect();
                fail(format!(
                    "several plugins take architecture '{wanted}' equally well: {}; set `architecture` for the model in plugins.toml, or --architecture",
                    names.join(", ")
                ))
            }
        }
    }

    fn names(&self) -> String {
        let claims: BTreeSet<String> =
            self.architectures.iter().map(|a| format!("{} ({})", a.info.name, a.info.claims.join(", "))).collect();
        if claims.is_empty() { "none".into() } else { claims.into_iter().collect::<Vec<_>>().join(", ") }
    }
}

/// The program's folder, where plugins lie beside it.
fn program_folder() -> Option<PathBuf> {
    std::env::current_exe().ok()?.canonicalize().ok()?.parent().map(Path::to_owned)
}

fn search_paths(config: &Config) -> Vec<PathBuf> {
    let mut paths = config.search_paths.clone();
    if let Some(folder) = program_folder() {
        paths.push(folder.join("../lib/rocmforge"));
        paths.insert(paths.len() - 1, folder);
    }
    paths
}

/// The configured plugins, or where there are none, every file that is named like one of the project's. Those are
/// optional: nobody asked for one of them in particular.
fn wanted(config: &Config) -> Vec<PluginEntry> {
    if !config.plugins.is_empty() {
        return config.plugins.clone();
    }
    let mut names = BTreeSet::new();
    for folder in search_paths(config) {
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        names.extend(files.filter_map(|f| {
            let name = f.file_name().into_string().ok()?;
            let stem = name.strip_prefix("librocmforge_")?.strip_suffix(std::env::consts::DLL_SUFFIX)?;
            (stem.starts_with("backend_") || stem.starts_with("arch_")).then(|| stem.replace('_', "-"))
        }));
    }
    // The CPU is what every model falls back to, so it comes after other backends.
    let mut names: Vec<String> = names.into_iter().collect();
    names.sort_by_key(|n| n == "backend-cpu");
    let entry = |name| PluginEntry { name: Some(name), path: None, optional: true, options: toml::Table::new() };
    names.into_iter().map(entry).collect()
}

fn resolve(entry: &PluginEntry, config: &Config) -> Result<PathBuf, LoaderError> {
    if let Some(path) = &entry.path {
        return Ok(path.clone());
    }
    let name = entry.name.as_deref().unwrap_or_default();
    let stem = name.replace('-', "_");
    let suffix = std::env::consts::DLL_SUFFIX;
    let files = [format!("librocmforge_{stem}{suffix}"), format!("lib{stem}{suffix}")];
    let mut tried = vec![];
    for folder in search_paths(config) {
        for file in &files {
            let path = folder.join(file);
            if path.is_file() {
                return Ok(path);
            }
            tried.push(path.display().to_string());
        }
    }
    Err(LoaderError::NotFound { name: name.to_owned(), tried })
}

/// Keeps plugins alive for those who hold something made by them.
pub(crate) type SharedPlugins = Arc<Plugins>;
