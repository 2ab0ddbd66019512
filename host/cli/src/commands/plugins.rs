use std::path::Path;

use anyhow::Result;
use rocmforge_loader::{Config, Library, LibraryInfo, LoaderError, probe};
use serde_json::json;

use crate::setup;

pub fn list(config: &Config, as_json: bool) -> Result<()> {
    let plugins = setup::plugins(config)?;
    let devices = |backend: &rocmforge_loader::Backend| match backend.devices() {
        Ok(devices) => devices.iter().map(|d| format!("{} {}", d.id, d.description)).collect::<Vec<_>>(),
        Err(e) => vec![format!("not available: {e}")],
    };
    if as_json {
        let value = json!({
            "libraries": plugins.libraries().iter().map(library_json).collect::<Vec<_>>(),
            "backends": plugins.backends().iter()
                .map(|b| json!({"name": b.name(), "devices": devices(b)})).collect::<Vec<_>>(),
            "unavailable": plugins.unavailable().iter()
                .map(|s| json!({"name": s.name, "reason": s.reason})).collect::<Vec<_>>(),
            "skipped": plugins.skipped().iter()
                .map(|s| json!({"name": s.name, "reason": s.reason})).collect::<Vec<_>>(),
        });
        say!("{value:#}");
    } else {
        plugins.libraries().iter().try_for_each(print_library)?;
        for backend in plugins.backends() {
            say!("backend {}: {}", backend.name(), devices(backend).join("; "));
        }
        for unavailable in plugins.unavailable() {
            say!("backend {}: not available: {}", unavailable.name, unavailable.reason);
        }
        for skipped in plugins.skipped() {
            say!("left out {}: {}", skipped.name, skipped.reason);
        }
    }
    Ok(plugins.require_backend()?)
}

pub fn check(file: &Path) -> Result<()> {
    let program = std::env::current_exe()?;
    if let Some((file, message)) = probe::probe(&program, &["probe-plugins"], &[file.to_owned()]).pop() {
        return Err(LoaderError::Library { file, message: format!("crashes while it is loaded: {message}") }.into());
    }
    let library = Library::open(file)?;
    print_library(library.info())?;
    say!("ok");
    Ok(())
}

fn library_json(info: &LibraryInfo) -> serde_json::Value {
    json!({
        "path": info.path,
        "name": info.name,
        "version": info.version,
        "abi": info.abi_version,
        "ir": info.ir_version,
        "architectures": info.architectures.iter()
            .map(|a| json!({"name": a.name, "claims": a.claims})).collect::<Vec<_>>(),
        "backends": info.backends,
    })
}

fn print_library(info: &LibraryInfo) -> Result<()> {
    say!("{} {} (abi {}, ir {}) {}", info.name, info.version, info.abi_version, info.ir_version, info.path.display());
    for a in &info.architectures {
        say!("  architecture {} for {}", a.name, a.claims.join(", "));
    }
    for b in &info.backends {
        say!("  backend {b}");
    }
    Ok(())
}
