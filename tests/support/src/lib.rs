//! What the tests of several crates share: where the ground truth is, and how to read it.
//!
//! A fixture that cannot be read fails the test with a panic that names the file; this crate is for tests only.
#![forbid(unsafe_code)]

mod build;

use std::path::{Path, PathBuf};

pub use build::{build, build_folder, build_plugins};
use serde_json::Value;

/// The root of the checkout that the current folder is in. Looked for at run time: a program built elsewhere, like the
/// frozen ones, must find the checkout that it is run in.
pub fn repository() -> PathBuf {
    let folder = std::env::current_dir().expect("a current folder");
    let root = folder.ancestors().find(|f| f.join("tests/models/reference").is_dir());
    root.unwrap_or_else(|| panic!("{} is in no checkout of this repository", folder.display())).to_owned()
}

/// The ground-truth models that are committed, one directory each.
pub fn committed_models() -> PathBuf {
    repository().join("tests/models/reference")
}

/// The whole pack of ground-truth models, `<repo>/../shared/reference`, where it is present.
pub fn reference_pack() -> Option<PathBuf> {
    let path = repository().parent()?.join("shared/reference");
    path.is_dir().then_some(path)
}

/// Every model directory at hand whose name is in `names`: from the pack, or else from the committed ones.
/// Says which names it left out.
pub fn models(names: &[&str]) -> Vec<PathBuf> {
    let roots = [reference_pack(), Some(committed_models())];
    let find = |name: &&str| roots.iter().flatten().map(|r| r.join(name)).find(|d| d.join("model.gguf").is_file());
    let missing: Vec<_> = names.iter().filter(|n| find(n).is_none()).collect();
    if !missing.is_empty() {
        println!("skipped: {missing:?}, not in this checkout");
    }
    names.iter().filter_map(find).collect()
}

/// `expected.json` of a model directory.
pub fn expected_json(dir: &Path) -> Value {
    let path = dir.join("expected.json");
    serde_json::from_slice(&read(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Token ids, as in `sequences.random48.ids` of `expected.json`.
pub fn token_ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap_or_else(|| panic!("expected an array of token ids, found {value}"));
    ids.iter().map(|id| id.as_u64().and_then(|id| id.try_into().ok()).expect("a token id")).collect()
}

/// Shape and elements of a `.npy` file of little-endian f32 in row-major order, as `numpy.save` writes it.
pub fn npy_f32(path: impl AsRef<Path>) -> (Vec<usize>, Vec<f32>) {
    let path = path.as_ref();
    parse_npy_f32(&read(path)).unwrap_or_else(|what| panic!("{}: expected {what}", path.display()))
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The error says what was expected.
fn parse_npy_f32(bytes: &[u8]) -> Result<(Vec<usize>, Vec<f32>), &'static str> {
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("the magic bytes of a .npy file")?;
    // Version 1 has a 16-bit header length, later ones a 32-bit one.
    let (length, start) = match *rest {
        [1, _, a, b, ..] => (usize::from(u16::from_le_bytes([a, b])), 4),
        [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([a, b, c, d]) as usize, 6),
        _ => return Err("version 1 to 3"),
    };
    let header = rest.get(start..start + length).ok_or("a whole header")?;
    let header = std::str::from_utf8(header).map_err(|_| "a header in UTF-8")?;
    if !header.contains("'descr': '<f4'") || !header.contains("'fortran_order': False") {
        return Err("row-major little-endian f32");
    }
    let shape = header.split_once("'shape': (").and_then(|(_, s)| s.split_once(')')).ok_or("a shape")?.0;
    let shape: Vec<usize> = shape
        .split(',')
        .map(str::trim)
        .filter(|d| !d.is_empty())
        .map(|d| d.parse().map_err(|_| "numbers as the shape"))
        .collect::<Result<_, _>>()?;
    let (elements, odd) = rest[start + length..].as_chunks::<4>();
    if !odd.is_empty() || elements.len() != shape.iter().product::<usize>() {
        return Err("as many elements as the shape says");
    }
    Ok((shape, elements.iter().map(|&e| f32::from_le_bytes(e)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, elements: &[f32]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.extend(elements.iter().flat_map(|e| e.to_le_bytes()));
        bytes
    }

    #[test]
    fn npy_files_are_read_or_refused_with_a_reason() {
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }  \n";
        let check = |bytes: Vec<u8>, expected| assert_eq!(parse_npy_f32(&bytes), expected);
        check(file(1, good, &[1.5, -2.0]), Ok((vec![2, 1], vec![1.5, -2.0])));
        check(file(2, good, &[1.5, -2.0]), Ok((vec![2, 1], vec![1.5, -2.0])));
        check(file(1, &good.replace("(2, 1)", "(2,)"), &[0.0, 3.0]), Ok((vec![2], vec![0.0, 3.0])));
        check(file(1, good, &[1.5]), Err("as many elements as the shape says"));
        check(file(1, &good.replace("<f4", "<f8"), &[1.5, 2.0]), Err("row-major little-endian f32"));
        check(file(1, &good.replace("False", "True"), &[1.5, 2.0]), Err("row-major little-endian f32"));
        check(file(9, good, &[1.5, 2.0]), Err("version 1 to 3"));
        check(b"PK".to_vec(), Err("the magic bytes of a .npy file"));
    }

    #[test]
    fn the_committed_model_is_complete() {
        let dir = committed_models().join("llama3-gqa");
        let ids = token_ids(&expected_json(&dir)["sequences"]["random48"]["ids"]);
        let (shape, logits) = npy_f32(dir.join("logits.npy"));
        assert_eq!((shape[0], logits.len()), (ids.len(), shape[0] * shape[1]));
        assert!(dir.join("model.gguf").is_file());
    }
}
