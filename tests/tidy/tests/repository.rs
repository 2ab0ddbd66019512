//! The repository keeps its own rules.

use rocmforge_tidy::tree::{Package, files, packages, read, root};
use rocmforge_tidy::{Violations, imports, text};

const TEMPLATE: &str = "plugins/template-arch";

/// The workspace and the crate that is copied out of it.
fn all() -> Vec<Package> {
    let mut all = packages(&root().join("Cargo.toml"));
    let manifest = root().join(TEMPLATE).join("Cargo.toml");
    all.extend(packages(&manifest).into_iter().filter(|p| p.path == TEMPLATE));
    assert!(all.len() > 15, "found {} packages only", all.len());
    all
}

#[track_caller]
fn none(violations: Violations) {
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn packages_import_only_what_their_place_allows() {
    none(imports::check(&all()));
}

#[test]
fn the_top_level_is_fixed() {
    let entries = std::fs::read_dir(root()).expect("the repository").flatten();
    let names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    none(text::top_level(&names));
}

#[test]
fn every_package_has_both_licences() {
    none(text::licences(&all()));
}

#[test]
fn unsafe_code_is_forbidden_where_it_is_not_needed() {
    let roots = all().into_iter().flat_map(|p| p.roots.into_iter().map(move |root| (p.path.clone(), root)));
    none(roots.flat_map(|(path, root)| text::forbids_unsafe(&path, &root, &read(&root))).collect());
}

#[test]
fn public_items_of_core_crates_are_documented() {
    let roots = all().into_iter().flat_map(|p| p.roots.into_iter().map(move |root| (p.path.clone(), root)));
    none(roots.flat_map(|(path, root)| text::denies_missing_docs(&path, &root, &read(&root))).collect());
}

#[test]
fn every_package_takes_the_lints_of_the_workspace() {
    let members = all().into_iter().filter(|p| p.path != TEMPLATE).map(|p| format!("{}/Cargo.toml", p.path));
    none(members.flat_map(|m| text::inherits_lints(&m, &read(&m))).collect());
}

#[test]
fn no_source_file_is_too_long() {
    none(files(&["rs"]).iter().flat_map(|f| text::length(f, read(f).lines().count())).collect());
}

#[test]
fn an_architecture_is_a_page_or_two() {
    let lines = |p: &Package| {
        let source = format!("{}/src/", p.path);
        files(&["rs"]).iter().filter(|f| f.starts_with(&source)).map(|f| read(f).lines().count()).sum()
    };
    none(all().iter().flat_map(|p| text::architecture_size(&p.path, lines(p))).collect());
}

#[test]
fn nothing_is_left_half_done_or_tells_how_it_was_made() {
    let sources = files(&["rs", "toml", "md", "py", "sh", "yml"]);
    // The rule's own words.
    let others = sources.iter().filter(|f| !f.starts_with("tests/tidy/"));
    none(others.flat_map(|f| text::traces(f, &read(f))).collect());
}

#[test]
fn the_code_map_names_every_package_and_no_other() {
    none(text::code_map(&read("docs/ARCHITECTURE.md"), &all()));
}
