//! Random numbers, processors and comparison for the tests of all kernels.
#![allow(dead_code)] // Each test file uses a part.

use std::sync::Arc;

use rocmforge_kernels_cpu::{Cpu, Isa, Pool};
use rocmforge_quant::DType;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In -1..1.
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// Random blocks whose scales are ordinary numbers, so that every code is hit and sums stay finite.
    pub fn weights(&mut self, dtype: DType, elements: usize) -> (Vec<u8>, Vec<f32>) {
        let layout = dtype.layout();
        let mut bytes = vec![];
        while bytes.len() < elements / layout.block_elements * layout.block_bytes {
            let block: Vec<u8> = match dtype {
                DType::F32 => self.float().to_le_bytes().to_vec(),
                DType::F64 => f64::from(self.float()).to_le_bytes().to_vec(),
                _ => (0..layout.block_bytes).map(|_| self.next() as u8).collect(),
            };
            let mut out = vec![0.0; layout.block_elements];
            rocmforge_quant::dequantize(dtype, &block, &mut out).unwrap();
            if out.iter().all(|x| x.abs() < 1e3) {
                bytes.extend(block);
            }
        }
        let mut out = vec![0.0; elements];
        rocmforge_quant::dequantize(dtype, &bytes, &mut out).unwrap();
        (bytes, out)
    }
}

/// One per instruction set of this processor.
pub fn cpus(threads: usize) -> Vec<Cpu> {
    let pool = Arc::new(Pool::new(threads).unwrap());
    Isa::available().into_iter().map(|isa| Cpu::new(Arc::clone(&pool), isa)).collect()
}

/// Each found number within `tolerance * (1 + magnitude)` of the expected one.
pub fn close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        let f = f64::from(f);
        assert!((f - e).abs() <= tolerance * (1.0 + e.abs()), "{what}: element {i}: found {f}, expected {e}");
    }
}
