use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use rocmforge_abi::{
    ArchitectureTableRef, BackendTableRef, CheckedPlugin, PLUGIN_SYMBOL, PluginRef, RVec, check_plugin,
};
use rocmforge_program::IR_VERSION;

use crate::elf;
use crate::error::LoaderError;
use crate::host_table::host_table;

/// An architecture in a library.
#[derive(Clone, Debug)]
pub struct ArchitectureInfo {
    /// Its name in `plugins.toml`.
    pub name: String,
    /// Values of `general.architecture` that it may take.
    pub claims: Vec<String>,
}

/// What a library says of itself.
#[derive(Clone, Debug)]
pub struct LibraryInfo {
    /// The file.
    pub path: PathBuf,
    /// Name of its package.
    pub name: String,
    /// Version of its package.
    pub version: String,
    /// Version of the plugin ABI that it was built with.
    pub abi_version: String,
    /// Version of the Program that it writes or reads.
    pub ir_version: String,
    /// Its architectures.
    pub architectures: Vec<ArchitectureInfo>,
    /// Names of its backends.
    pub backends: Vec<String>,
}

/// A loaded, checked and initialised plugin library. It stays loaded until the process ends.
#[derive(Clone)]
pub struct Library {
    pub(crate) info: LibraryInfo,
    tables: PluginRef,
    pub(crate) architectures: Vec<ArchitectureTableRef>,
    pub(crate) backends: Vec<BackendTableRef>,
}

impl Library {
    /// Loads a library. The same file again gives the same library.
    ///
    /// # Errors
    /// No whole ELF file, no plugin, another major version of ABI or IR, tables that differ, or a failing start:
    /// one readable line with the file.
    pub fn open(path: &Path) -> Result<Library, LoaderError> {
        static OPEN: OnceLock<Mutex<HashMap<PathBuf, Library>>> = OnceLock::new();
        let fail = |message: String| LoaderError::Library { file: path.to_owned(), message };
        let file = path.canonicalize().map_err(|e| fail(format!("cannot be opened: {e}")))?;
        let mut open = OPEN.get_or_init(Default::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = open.get(&file) {
            return Ok(library.clone());
        }
        elf::check(&file).map_err(fail)?;
        let checked = link(&file)?;
        let library = describe(&file, checked)?;
        open.insert(file, library.clone());
        Ok(library)
    }

    /// What it says of itself.
    pub fn info(&self) -> &LibraryInfo {
        &self.info
    }

    /// Its tables as they crossed the ABI, for tools that test a plugin. Calls on them are checked by nobody but the
    /// plugin; a host has [`Plugins`](crate::Plugins).
    pub fn tables(&self) -> PluginRef {
        self.tables
    }
}

fn link(file: &Path) -> Result<CheckedPlugin, LoaderError> {
    let fail = |message: String| LoaderError::Library { file: file.to_owned(), message };
    // SAFETY: loading a library runs its initialisers; that is what the user asked for by naming the file.
    let library = unsafe { libloading::Library::new(file) }.map_err(|e| fail(reason(&e)))?;
    // SAFETY: the symbol is only taken as an address; `check_plugin` looks at its magic bytes first.
    let symbol = unsafe { library.get::<*const ()>(PLUGIN_SYMBOL.as_bytes()) };
    let Ok(symbol) = symbol.map(|address| *address) else {
        return Err(fail(format!(
            "no ROCmForge plugin: it does not export '{PLUGIN_SYMBOL}' (see export_plugin! in rocmforge-sdk)"
        )));
    };
    // Never unloaded: tables, statics and thread-locals of a plugin may be in use until the process ends.
    std::mem::forget(library);
    // SAFETY: the address is that of the exported symbol, in a library that now stays.
    unsafe { check_plugin(symbol) }.map_err(|source| LoaderError::Abi { file: file.to_owned(), source })
}

/// The linker's own words, which are in the source of the error.
fn reason(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("cannot be loaded: {source}"),
        None => format!("cannot be loaded: {error}"),
    }
}

fn describe(file: &Path, checked: CheckedPlugin) -> Result<Library, LoaderError> {
    let plugin = checked.plugin;
    let name = plugin.name().to_string();
    let ir_version = plugin.ir_version().to_string();
    let major = ir_version.split('.').next().and_then(|m| m.parse::<u64>().ok());
    if major != Some(IR_VERSION.major) {
        return Err(LoaderError::Library {
            file: file.to_owned(),
            message: format!(
                "it uses version {ir_version} of the Program IR, expected {}.x; rebuild it against a current rocmforge-sdk",
                IR_VERSION.major
            ),
        });
    }
    let check = |call, status| {
        LoaderError::check(&name, call, status)
            .map_err(|e| LoaderError::Library { file: file.to_owned(), message: e.to_string() })
    };
    check("init", (plugin.init())(host_table()))?;
    let (mut architectures, mut backends) = (RVec::new(), RVec::new());
    check("architectures", (plugin.architectures())(&mut architectures))?;
    check("backends", (plugin.backends())(&mut backends))?;
    let architectures: Vec<ArchitectureTableRef> = architectures.into_iter().collect();
    let backends: Vec<BackendTableRef> = backends.into_iter().collect();
    let (major, minor, patch) = checked.abi_version;
    let info = LibraryInfo {
        path: file.to_owned(),
        version: plugin.version().to_string(),
        abi_version: format!("{major}.{minor}.{patch}"),
        ir_version,
        architectures: architectures
            .iter()
            .map(|a| ArchitectureInfo {
                name: a.name().to_string(),
                claims: (a.claims())().iter().map(|c| c.to_string()).collect(),
            })
            .collect(),
        backends: backends.iter().map(|b| b.name().to_string()).collect(),
        name,
    };
    Ok(Library { info, tables: plugin, architectures, backends })
}
