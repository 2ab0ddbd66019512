//! Mutated files, always the same ones: reading them neither panics nor reserves memory that the file cannot justify.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rocmforge_gguf::{ArrayValue, GgufFile, GgufWriter, Value};
use rocmforge_quant::DType;

struct Largest;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: forwards to the system's allocator unchanged.
unsafe impl GlobalAlloc for Largest {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Largest = Largest;

/// SplitMix64, <https://prng.di.unimi.it/splitmix64.c>.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut plain = GgufWriter::new();
    plain.metadata("general.architecture", Value::String("llama".into())).unwrap();
    plain.metadata("llama.block_count", Value::U32(2)).unwrap();
    let tokens = (0..20).map(|i| format!("t{i}")).collect();
    plain.metadata("tokenizer.ggml.tokens", Value::Array(ArrayValue::String(tokens))).unwrap();
    plain.metadata("tokenizer.ggml.scores", Value::Array(ArrayValue::F32(vec![0.5; 20]))).unwrap();
    plain.tensor("a", DType::F32, &[4, 2], vec![1; 32]).unwrap();
    plain.tensor("b", DType::Q4_K, &[256, 3], vec![2; 432]).unwrap();
    plain.tensor("c", DType::I8, &[5], vec![3; 5]).unwrap();
    let mut nested = GgufWriter::new();
    nested.metadata("general.alignment", Value::U32(8)).unwrap();
    let inner = ArrayValue::Array(vec![ArrayValue::Bool(vec![true; 3]), ArrayValue::U64(vec![7; 3])]);
    nested.metadata("n", Value::Array(ArrayValue::Array(vec![inner.clone(), inner]))).unwrap();
    nested.metadata("split.count", Value::U16(1)).unwrap();
    nested.tensor("t", DType::F16, &[2, 2, 2, 2], vec![0; 32]).unwrap();
    vec![plain.to_bytes(), nested.to_bytes()]
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    const WORDS: [u64; 8] = [0, 1, 0x7fff_ffff, 0xffff_ffff, u64::MAX, 1 << 63, 1 << 32, 0x0100_0000_0000_0000];
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len());
        match random.below(5) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => {
                let word = WORDS[random.below(WORDS.len())].to_le_bytes();
                let n = (bytes.len() - at).min(8);
                bytes[at..at + n].copy_from_slice(&word[..n]);
            }
            3 => drop(bytes.drain(at..(at + random.below(9)).min(bytes.len() - 1).max(at))),
            _ => {
                let end = (at + random.below(32)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
        }
    }
}

#[test]
fn mutated_files_are_read_or_refused_within_bounds() {
    let (mut opened, mut refused) = (0, 0);
    for seed in seeds() {
        for case in 0..30_000 {
            let mut bytes = seed.clone();
            mutate(&mut bytes, &mut Random(case));
            LARGEST.store(0, Relaxed);
            match GgufFile::from_bytes("fuzz".as_ref(), &bytes) {
                Ok(file) => {
                    opened += 1;
                    let sum: usize = file.views().map(|v| v.bytes().len()).sum();
                    assert!(sum <= bytes.len(), "case {case}: more tensor data than file");
                }
                Err(e) => {
                    refused += 1;
                    assert!(e.to_string().starts_with("fuzz: "), "case {case}: {e}");
                }
            }
            let largest = LARGEST.load(Relaxed);
            assert!(largest <= 4096 + 4 * bytes.len(), "case {case}: {largest} bytes for a file of {}", bytes.len());
        }
    }
    assert!(opened > 1000 && refused > 1000, "{opened} opened, {refused} refused");
}
