//! Who may import whom.

use crate::Violations;
use crate::tree::Package;

/// Packages below the first prefix never link to packages below the second.
const NEVER: &[(&str, &str)] = &[
    ("core/", "host/"),
    ("core/", "plugins/"),
    ("core/", "kernels/"),
    ("host/", "plugins/"),
    ("host/", "kernels/"),
    ("plugins/", "host/"),
    ("plugins/arch-", "kernels/"),
    ("plugins/arch-", "core/gguf"),
    ("plugins/template-arch", "kernels/"),
    ("plugins/template-arch", "core/gguf"),
    ("kernels/", "core/abi"),
    ("kernels/", "core/sdk"),
    ("kernels/", "host/"),
    ("kernels/", "plugins/"),
    ("kernels/hip", "kernels/cpu"),
    ("kernels/cpu", "kernels/hip"),
    ("core/", "tests/"),
    ("host/", "tests/"),
    ("plugins/", "tests/"),
    ("kernels/", "tests/"),
];

/// The only packages, by prefix, that may name a library.
const ONLY: &[(&str, &[&str])] = &[
    // The plugins under tests/plugins forge tables of other versions.
    ("abi_stable", &["core/abi", "tests/plugins/"]),
    ("axum", &["host/server"]),
    ("libloading", &["host/loader", "kernels/hip-sys", "tests/hip/"]),
    ("memmap2", &["core/gguf"]),
    ("rocmforge-hip-sys", &["plugins/backend-hip", "tests/hip/"]),
];

/// Imports that the architecture rules out.
pub fn check(packages: &[Package]) -> Violations {
    let mut found = vec![];
    for package in packages {
        for dependency in &package.dependencies {
            let path = packages.iter().find(|p| p.name == *dependency).map(|p| p.path.as_str());
            let never = NEVER
                .iter()
                .find(|(from, to)| package.path.starts_with(from) && path.is_some_and(|path| path.starts_with(to)));
            if let Some((from, to)) = never {
                found.push(format!("{} imports {dependency}: {from}* never imports {to}*", package.path));
            }
            let only = ONLY.iter().find(|(name, _)| name == dependency);
            if let Some((name, homes)) = only.filter(|(_, homes)| !homes.iter().any(|h| package.path.starts_with(h))) {
                found.push(format!("{} imports {name}: only {} may", package.path, homes.join(", ")));
            }
        }
    }
    found
}
