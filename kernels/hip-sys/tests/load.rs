//! What a machine without ROCm, or with something else in its place, is told.

use std::path::Path;

use rocmforge_hip_sys::{FUNCTIONS, Hip, HipError, function_table};

fn error(library: &str) -> HipError {
    match Hip::load(Some(Path::new(library))) {
        Ok(_) => panic!("{library} was taken for HIP"),
        Err(error) => error,
    }
}

#[test]
fn a_library_that_is_not_there_is_named_with_who_chose_it() {
    let error = error("/nowhere/libamdhip64.so.6");
    let text = error.to_string();
    assert!(matches!(&error, HipError::NotFound { attempts, .. } if attempts.len() == 1), "{text}");
    assert!(text.contains("chosen by the configuration"), "{text}");
    assert!(text.contains("/nowhere/libamdhip64.so.6"), "{text}");
    assert!(!error.is_absence(), "a library that was chosen and is missing is a mistake, not a machine without ROCm");
}

#[test]
fn a_file_that_is_no_library_is_reported_with_the_loaders_words() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let text = error(manifest).to_string();
    assert!(text.contains(manifest) && text.contains("invalid ELF header"), "{text}");
}

#[test]
fn a_library_without_hips_functions_is_refused_with_library_version_and_symbol() {
    let text = error("libc.so.6").to_string();
    for part in ["libc.so.6", "hipInit", "of unknown version"] {
        assert!(text.contains(part), "expected '{part}' in: {text}");
    }
}

#[test]
fn every_attempt_is_listed() {
    use rocmforge_hip_sys::{Attempt, candidates};
    let absent = |candidate| Attempt { candidate, reason: "x: cannot open: No such file or directory".into() };
    let mut attempts: Vec<Attempt> = candidates(|_| None).into_iter().map(absent).collect();
    assert!(HipError::NotFound { chosen: None, attempts: attempts.clone() }.is_absence());
    attempts[3].reason = "undefined symbol: hsa_init".into();
    let error = HipError::NotFound { chosen: None, attempts: attempts.clone() };
    assert!(!error.is_absence(), "an installation that does not load is a fault to report");
    let text = error.to_string();
    assert!(
        text.starts_with("HIP's library could not be loaded: /opt/rocm/lib/libamdhip64.so.6: undefined symbol"),
        "{text}"
    );
    for attempt in &attempts {
        assert!(
            text.contains(&attempt.candidate.display().to_string()),
            "{} is missing in: {text}",
            attempt.candidate.display()
        );
    }
}

#[test]
fn the_documented_table_is_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/hip-functions.md");
    let document = std::fs::read_to_string(path).expect("docs/hip-functions.md");
    assert_eq!(
        document,
        function_table(),
        "write it anew: cargo run -p rocmforge-hip-sys --example function_table > docs/hip-functions.md"
    );
    let mut names: Vec<&str> = FUNCTIONS.iter().map(|f| f.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), FUNCTIONS.len(), "a function is in the table twice");
}
