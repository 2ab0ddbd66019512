//! Copies of a committed model with something changed.

use std::path::Path;

use rocmforge_gguf::{GgufFile, GgufWriter, Value};
use rocmforge_program::DType;
use rocmforge_test_support::committed_models;

/// A model file taken apart.
pub struct Variant {
    /// `general.architecture`, which is put in front of keys.
    pub architecture: String,
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, DType, Vec<u64>, Vec<u8>)>,
}

impl Variant {
    /// The committed model of this name.
    pub fn of(name: &str) -> Variant {
        let file = GgufFile::open(&committed_models().join(name).join("model.gguf")).expect("a committed model");
        let architecture = file.metadata().str("general.architecture").expect("an architecture").to_owned();
        let tensor = |t: rocmforge_gguf::TensorView<'_>| {
            (t.info.name.clone(), t.info.dtype, t.info.dims.clone(), t.bytes().to_vec())
        };
        Variant {
            architecture,
            metadata: file.metadata().iter().map(|(k, v)| (k.to_owned(), v.clone())).collect(),
            tensors: file.views().map(tensor).collect(),
        }
    }

    fn full(&self, key: &str) -> String {
        if key.starts_with("general.") { key.to_owned() } else { format!("{}.{key}", self.architecture) }
    }

    /// Sets a key, under the architecture unless it is a general one.
    pub fn set(mut self, key: &str, value: Value) -> Variant {
        self = self.remove(key);
        self.metadata.push((self.full(key), value));
        self
    }

    /// Sets a key by its whole name.
    pub fn put(mut self, key: &str, value: Value) -> Variant {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.push((key.to_owned(), value));
        self
    }

    /// Removes a key, if it is there.
    pub fn remove(mut self, key: &str) -> Variant {
        let key = self.full(key);
        self.metadata.retain(|(k, _)| *k != key);
        self
    }

    /// Leaves out a tensor.
    pub fn without(mut self, name: &str) -> Variant {
        let before = self.tensors.len();
        self.tensors.retain(|(n, ..)| n != name);
        assert!(self.tensors.len() < before, "no tensor {name}");
        self
    }

    /// Adds a tensor of zeros, or puts it in the place of one; dimensions outermost first.
    pub fn zeros(mut self, name: &str, dims: &[u64]) -> Variant {
        self.tensors.retain(|(n, ..)| n != name);
        let bytes = vec![0; 4 * dims.iter().product::<u64>() as usize];
        self.tensors.push((name.to_owned(), DType::F32, dims.iter().rev().copied().collect(), bytes));
        self
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.metadata {
            writer.metadata(key, value.clone()).expect("a key once");
        }
        for (name, dtype, dims, data) in &self.tensors {
            writer.tensor(name, *dtype, dims, data.as_slice()).expect("a tensor once");
        }
        writer.to_bytes()
    }

    /// The file, in memory.
    pub fn file(&self) -> GgufFile {
        GgufFile::from_bytes(Path::new("variant.gguf"), &self.bytes()).expect("a well-formed file")
    }
}
