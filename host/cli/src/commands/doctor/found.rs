//! Plugins and models.

use rocmforge_gguf::GgufFile;
use rocmforge_loader::{Config, Plugins};

use super::{Section, mib};
use crate::{memory, setup};

pub(super) fn found(config: &Config) -> Vec<Section> {
    let mut section = Section::new("Plugins");
    match &config.file {
        Some(file) => section.fact(format!("configuration: {}", file.display())),
        None => section.fact("configuration: none; every plugin beside the program is used"),
    }
    match setup::plugins(config) {
        Ok(plugins) => describe(&plugins, &mut section),
        Err(e) => section.problem(format!("{e:#}"), "build or install the plugin, or mark it `optional = true`"),
    }
    vec![section, models(config)]
}

fn describe(plugins: &Plugins, section: &mut Section) {
    for library in plugins.libraries() {
        let provides: Vec<String> = library.backends.iter().map(|b| format!("backend {b}")).collect();
        let architectures = library.architectures.iter().map(|a| format!("architecture {}", a.name));
        let provides: Vec<String> = provides.into_iter().chain(architectures).collect();
        section.fact(format!("{} {}: {}", library.name, library.version, provides.join(", ")));
    }
    for skipped in plugins.skipped() {
        section.note(
            format!("left out {}: {}", skipped.name, skipped.reason),
            "see the reason; models that need it do not run",
        );
    }
    for backend in plugins.backends() {
        match backend.devices() {
            Ok(devices) if devices.is_empty() => section.note(
                format!("backend {}: no device", backend.name()),
                "the next backend is used; see the cards above",
            ),
            Ok(devices) => {
                let shown = devices.iter().map(|d| format!("{} {}", d.id, d.description));
                section.fact(format!("backend {}: {}", backend.name(), shown.collect::<Vec<_>>().join("; ")));
            }
            Err(e) => section.note(format!("backend {}: {e}", backend.name()), "the next backend is used"),
        }
    }
    if let Err(e) = plugins.require_backend() {
        section.problem(e.to_string(), "nothing can run without a backend");
    }
}

fn models(config: &Config) -> Section {
    let mut section = Section::new("Models");
    if config.models.is_empty() {
        section.fact("none in the configuration");
    }
    let available = memory::available();
    for (name, entry) in &config.models {
        match GgufFile::open(&entry.path) {
            Ok(file) => {
                let size = file.total_bytes();
                let text = format!("{name}: {}, {}", entry.path.display(), mib(size));
                match available {
                    Some(bytes) if size > bytes => section.note(
                        format!("{text}, more than the {} of memory available", mib(bytes)),
                        "it is read from the disk again and again; use a smaller quantisation",
                    ),
                    _ => section.fact(text),
                }
            }
            Err(e) => section.problem(format!("{name}: {e}"), "correct `path` under [models]"),
        }
    }
    section
}
