use std::path::{Path, PathBuf};

use crate::{GgufError, Metadata};

pub(crate) const NUMBER_KEY: &str = "split.no";
pub(crate) const COUNT_KEY: &str = "split.count";
pub(crate) const TENSOR_COUNT_KEY: &str = "split.tensors.count";

fn error(path: &Path, problem: String) -> GgufError {
    GgufError::Split { path: path.to_owned(), problem }
}

fn shown(metadata: &Metadata, key: &str) -> String {
    match metadata.get(key) {
        Some(value) => format!("{key} is {value}"),
        None => format!("{key} is absent"),
    }
}

/// `prefix` of a file named `prefix-00001-of-00003.gguf`, with its number (from 1) and count.
fn name_parts(path: &Path) -> Option<(&str, u64, u64)> {
    let rest = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = rest.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let digits = |s: &str| (s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok())?;
    Some((prefix, digits(number)?, digits(count)?))
}

fn part_path(path: &Path, prefix: &str, number: u64, count: u64) -> PathBuf {
    path.with_file_name(format!("{prefix}-{number:05}-of-{count:05}.gguf"))
}

/// The paths of the parts after the first, given the first; empty for a model in one file.
pub(crate) fn siblings(path: &Path, metadata: &Metadata) -> Result<Vec<PathBuf>, GgufError> {
    if metadata.get(COUNT_KEY).is_none() {
        return Ok(Vec::new());
    }
    let count = metadata
        .u64(COUNT_KEY)
        .filter(|n| (1..=99_999).contains(n))
        .ok_or_else(|| error(path, format!("{}, expected 1 to 99999", shown(metadata, COUNT_KEY))))?;
    if count == 1 {
        return Ok(Vec::new());
    }
    let Some((prefix, name_number, name_count)) = name_parts(path) else {
        return Err(error(
            path,
            format!(
                "one of {count} parts, but not named like one: expected NAME-00001-of-{count:05}.gguf; rename the parts back"
            ),
        ));
    };
    if metadata.u64(NUMBER_KEY) != Some(0) {
        let first = part_path(path, prefix, 1, count);
        return Err(error(
            path,
            format!(
                "not the first part ({}, expected 0): open {} instead",
                shown(metadata, NUMBER_KEY),
                first.display()
            ),
        ));
    }
    if (name_number, name_count) != (1, count) {
        return Err(error(
            path,
            format!(
                "this is part 1 of {count}, expected it to be named {prefix}-00001-of-{count:05}.gguf; rename it back"
            ),
        ));
    }
    Ok((2..=count).map(|n| part_path(path, prefix, n, count)).collect())
}

/// Checks that the file at `path` is part `number` (from 0) of `count`.
pub(crate) fn check_part(path: &Path, metadata: &Metadata, number: u64, count: u64) -> Result<(), GgufError> {
    for (key, expected) in [(NUMBER_KEY, number), (COUNT_KEY, count)] {
        if metadata.u64(key) != Some(expected) {
            return Err(error(
                path,
                format!("{}, expected {expected}: the parts are not of one model", shown(metadata, key)),
            ));
        }
    }
    Ok(())
}

/// Checks that the parts together hold as many tensors as the first one announces.
pub(crate) fn check_tensor_count(path: &Path, metadata: &Metadata, found: usize) -> Result<(), GgufError> {
    match metadata.u64(TENSOR_COUNT_KEY) {
        Some(expected) if expected == found as u64 => Ok(()),
        _ => Err(error(
            path,
            format!(
                "{}, but the parts hold {found} tensors: a part is missing or of another model",
                shown(metadata, TENSOR_COUNT_KEY)
            ),
        )),
    }
}

/// The error for a part that is not there.
pub(crate) fn missing(first: &Path, part: &Path, count: usize) -> GgufError {
    error(first, format!("one of {count} parts; expected {} beside it, found no such file", part.display()))
}
