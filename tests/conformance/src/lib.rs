//! Checks a plugin from its author's side: the library against the ABI, an architecture against damaged model files, a
//! backend's operations against the reference interpreter.
//!
//! `rocmforge-conformance plugin.so` runs everything that fits the plugin; `docs/PLUGIN-ABI.md` has the rules behind
//! the checks.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod abi;
mod architecture;
mod cases;
mod error;
mod executable;
mod net;
mod ops;
mod paging;
mod random;
mod report;
mod sampling;
mod tolerance;
mod weights;

use std::path::{Path, PathBuf};

use rocmforge_loader::config::{Config, PluginEntry};
use rocmforge_loader::{Library, Plugins};

pub use error::Error;
pub use report::{Case, Outcome, Summary};
pub use tolerance::{Activations, Family, Tolerance};

/// What to test and how.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The plugin's table in `plugins.toml`, as TOML.
    pub options: String,
    /// Small model files of claimed architectures; for claims without one, one of the common decoder form is made up.
    pub models: Vec<PathBuf>,
    /// How a backend keeps activations.
    pub activations: Activations,
}

/// A plugin that is loaded for testing.
pub struct Subject {
    library: Library,
    plugins: Plugins,
    options: toml::Table,
    settings: Settings,
    ops: &'static [ops::OpCase],
    models: Vec<architecture::ModelFile>,
}

impl Subject {
    /// Loads a plugin.
    ///
    /// # Errors
    /// It does not load, its options are no TOML, or the model is no GGUF file.
    pub fn load(path: &Path, settings: Settings) -> Result<Subject, Error> {
        let options: toml::Table = toml::from_str(&settings.options)?;
        let library = Library::open(path)?;
        let entry = PluginEntry {
            name: None,
            path: Some(path.to_owned()),
            optional: false,
            options: if library.info().backends.is_empty() { toml::Table::new() } else { options.clone() },
        };
        let plugins = Plugins::load(&Config { plugins: vec![entry], ..Config::default() }, None)?;
        let ops = if plugins.backends().is_empty() { &[] } else { cases::all()? };
        let models = architecture::models(&plugins, &settings.models)?;
        Ok(Subject { library, plugins, options, settings, ops, models })
    }

    /// Every case that fits the plugin, in the order of the report.
    pub fn cases(&self) -> Vec<Case<'_>> {
        let mut cases = abi::cases(&self.library, &self.options);
        for model in &self.models {
            cases.extend(architecture::cases(&self.plugins, model));
        }
        for backend in self.plugins.backends() {
            for op in self.ops {
                let activations = self.settings.activations;
                let run = move || op.run(backend, activations);
                cases.push(Case { name: op.name.clone(), run: Box::new(run) });
            }
            for case in sampling::CASES {
                cases.push(Case { name: case.name.to_owned(), run: Box::new(move || case.run(backend)) });
            }
        }
        cases
    }
}
