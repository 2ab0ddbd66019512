//! Model files with random weights, the same every time.

use std::path::Path;

use rocmforge_gguf::{GgufFile, GgufWriter, Value};
use rocmforge_program::DType;

/// Numbers without pattern (SplitMix64), the same for the same seed.
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// From -1 to 1.
    pub fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Token ids below `vocab`.
    pub fn tokens(&mut self, count: usize, vocab: usize) -> Vec<u32> {
        (0..count).map(|_| self.below(vocab) as u32).collect()
    }
}

/// A model file in the making.
pub struct Tiny {
    writer: GgufWriter<'static>,
    architecture: String,
    /// Where its weights come from.
    pub random: Random,
}

impl Tiny {
    /// A file of an architecture, with these numbers under `architecture.KEY` and an RMS epsilon of 1e-6.
    pub fn new(architecture: &str, seed: u64, sizes: &[(&str, u32)]) -> Tiny {
        let writer = GgufWriter::new();
        let mut tiny = Tiny { writer, architecture: architecture.to_owned(), random: Random::new(seed) };
        tiny.writer.metadata("general.architecture", Value::String(architecture.into())).expect("a key once");
        for &(key, value) in sizes {
            tiny.set(key, Value::U32(value));
        }
        tiny.set("attention.layer_norm_rms_epsilon", Value::F32(1e-6));
        tiny
    }

    /// Sets `architecture.KEY`.
    pub fn set(&mut self, key: &str, value: Value) {
        self.writer.metadata(&format!("{}.{key}", self.architecture), value).expect("a key once");
    }

    /// Adds a tensor of bytes; dimensions outermost first.
    pub fn bytes(&mut self, name: &str, dtype: DType, dims: &[usize], bytes: Vec<u8>) {
        let dims: Vec<u64> = dims.iter().rev().map(|&d| d as u64).collect();
        self.writer.tensor(name, dtype, &dims, bytes).expect("a tensor once");
    }

    /// Adds an F32 tensor of numbers around `center`, at most `spread` from it.
    pub fn floats(&mut self, name: &str, dims: &[usize], center: f32, spread: f32) {
        let count: usize = dims.iter().product();
        let bytes = (0..count).flat_map(|_| (center + spread * self.random.uniform()).to_le_bytes()).collect();
        self.bytes(name, DType::F32, dims, bytes);
    }

    /// The file, in memory.
    pub fn file(&self) -> GgufFile {
        GgufFile::from_bytes(Path::new("tiny.gguf"), &self.writer.to_bytes()).expect("a well-formed file")
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) {
        self.writer.write(path).expect("the file is written");
    }
}
