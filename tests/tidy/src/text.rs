//! Rules about single files.

use std::collections::BTreeSet;

use crate::Violations;
use crate::tree::Package;

/// What lies at the top of the repository, beside dotfiles and build outputs.
pub const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "core",
    "docs",
    "host",
    "kernels",
    "plugins",
    "plugins.toml",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "tests",
];

/// Entries that are missing or too many.
pub fn top_level(entries: &[String]) -> Violations {
    let found: BTreeSet<&str> =
        entries.iter().map(String::as_str).filter(|e| !e.starts_with('.') && *e != "target").collect();
    let expected: BTreeSet<&str> = TOP_LEVEL.iter().copied().collect();
    let missing = expected.difference(&found).map(|e| format!("{e} is missing"));
    missing.chain(found.difference(&expected).map(|e| format!("{e} does not belong at the top level"))).collect()
}

/// Packages under another licence.
pub fn licences(packages: &[Package]) -> Violations {
    let other = packages.iter().filter(|p| p.license != "MIT OR Apache-2.0");
    other.map(|p| format!("{}: expected license MIT OR Apache-2.0, found '{}'", p.path, p.license)).collect()
}

/// Packages, by prefix, that need `unsafe`: the ABI, the mapping of files, kernels, and what forges plugins.
const UNSAFE: &[&str] = &[
    "core/abi",
    "core/sdk",
    "core/gguf",
    "host/loader",
    "kernels/",
    "plugins/backend-",
    "tests/hip/",
    "tests/plugins/crashes",
    "tests/plugins/newer-minor",
    "tests/plugins/other-",
];

/// A root file whose crate may use `unsafe` though it needs none.
pub fn forbids_unsafe(package: &str, root: &str, text: &str) -> Violations {
    let exempt = UNSAFE.iter().any(|prefix| package.starts_with(prefix));
    let forbids = text.lines().any(|l| l.trim() == "#![forbid(unsafe_code)]");
    if exempt || forbids { vec![] } else { vec![format!("{root}: expected #![forbid(unsafe_code)]")] }
}

/// A root file of a core crate that lets public items go without documentation.
pub fn denies_missing_docs(package: &str, root: &str, text: &str) -> Violations {
    let exempt = !package.starts_with("core/") || !root.ends_with("src/lib.rs");
    let denies = text.lines().any(|l| l.trim() == "#![deny(missing_docs)]");
    if exempt || denies { vec![] } else { vec![format!("{root}: expected #![deny(missing_docs)]")] }
}

/// A manifest that does not take the workspace's lints, which deny undocumented `unsafe` blocks.
pub fn inherits_lints(path: &str, text: &str) -> Violations {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let inherits = lines.windows(2).any(|w| w == ["[lints]", "workspace = true"]);
    if inherits { vec![] } else { vec![format!("{path}: expected [lints] with workspace = true")] }
}

/// A source file that has grown too long to be read at once.
pub fn length(path: &str, lines: usize) -> Violations {
    const MOST: usize = 600;
    if lines <= MOST { vec![] } else { vec![format!("{path}: expected at most {MOST} lines, found {lines}")] }
}

/// An architecture plugin that does more than describe a model.
pub fn architecture_size(package: &str, lines: usize) -> Violations {
    const MOST: usize = 250;
    let architecture = package.starts_with("plugins/arch-") || package == "plugins/template-arch";
    let fits = !architecture || lines <= MOST;
    if fits { vec![] } else { vec![format!("{package}: expected at most {MOST} lines, found {lines}")] }
}

/// Marks of unfinished work, and traces of how the work was organised, which mean nothing to a reader of the code.
const BANNED: &[&str] = &[
    "todo!",
    "unimplemented!",
    "dbg!",
    "fixme",
    "todo:",
    "todo(",
    "xxx:",
    "/work/",
    "session",
    "worktree",
    "issue #",
    "as an ai",
    "language model wrote",
];

/// Words that a protocol gives to something of its own: WebDriver calls an open browser a session.
const ALLOWED: &[(&str, &str)] = &[("tests/e2e/src/browser.rs", "session")];

/// Lines with such marks.
pub fn traces(path: &str, text: &str) -> Violations {
    let mut found = vec![];
    for (i, line) in text.lines().enumerate() {
        let lower = line.to_lowercase();
        let banned = BANNED.iter().filter(|b| lower.contains(*b) && !ALLOWED.contains(&(path, **b)));
        found.extend(banned.map(|b| format!("{path}:{}: '{b}'", i + 1)));
        // "issue 12" as a number of a tracker; "issue 1 kernel" would be a sentence about something else.
        let numbered = lower
            .match_indices("issue ")
            .any(|(at, word)| lower[at + word.len()..].starts_with(|c: char| c.is_ascii_digit()));
        if numbered {
            found.push(format!("{path}:{}: the number of an issue", i + 1));
        }
    }
    found
}

/// Rows of the code map that name no package, and packages without a row. `tests/plugins/*` stands for all fixtures.
pub fn code_map(document: &str, packages: &[Package]) -> Violations {
    let cell = |text: &str| text.trim().trim_matches('`').to_owned();
    let rows: BTreeSet<(String, String)> = document
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').collect();
            let named = cells.len() >= 5 && cells[1].trim().starts_with('`') && cells[2].trim().starts_with('`');
            named.then(|| (cell(cells[1]), cell(cells[2])))
        })
        .collect();
    let expected: BTreeSet<(String, String)> = packages
        .iter()
        .map(|p| match p.path.starts_with("tests/plugins/") && p.name.starts_with("fixture-") {
            true => ("tests/plugins/*".to_owned(), "fixture-*".to_owned()),
            false => (p.path.clone(), p.name.clone()),
        })
        .collect();
    let missing = expected.difference(&rows).map(|(path, name)| format!("no row for {path}, {name}"));
    missing.chain(rows.difference(&expected).map(|(path, name)| format!("no such package: {path}, {name}"))).collect()
}
