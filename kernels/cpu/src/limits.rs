//! What the processor can do at most: how fast all threads together read memory and multiply.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::cpu::Cpu;
use crate::error::KernelError;
use crate::int8::{Int8, Kernel8};
#[cfg(target_arch = "x86_64")]
use crate::int8::{Token8, amx};
use crate::packed::large_zeros;
use crate::shared::SharedMut;
use crate::simd::{AHEAD, prefetch};

/// Bytes that are read; more than caches hold.
const READ: usize = 512 << 20;
/// Bytes per task.
const PART: usize = 256 << 10;
/// Independent sums of products, enough to hide the latency of an instruction.
const CHAINS: usize = 12;
/// Additions of products to each sum per task, and tasks per thread.
const TURNS: usize = 20_000;
const TASKS: usize = 64;

/// Measured limits of the threads of a pool.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes read from memory per second.
    pub read: f64,
    /// Multiplications of 8-bit integers, or in tiles of bfloat16, each with its addition, per second; `None` without
    /// instructions for them.
    pub products: Option<f64>,
}

/// Products of registers.
struct Multiply;

impl Kernel8 for Multiply {
    #[inline(always)]
    fn run<S: Int8>(self, s: S) {
        let mut sums = [s.zero(); CHAINS];
        let mut x = Lines([[1; 64]; CHAINS]);
        for _ in 0..TURNS {
            // Each sum has an x of its own, or compilers multiply once for all where sums are added apart.
            let x = &black_box(&mut x).0;
            // SAFETY: 64 bytes; no vector has more.
            let codes = unsafe { s.load(x[0].as_ptr()) };
            for (sum, x) in sums.iter_mut().zip(x) {
                // SAFETY: as above.
                *sum = s.dot(*sum, codes, unsafe { s.load(x.as_ptr()) });
            }
        }
        let mut out = [0.0; 16];
        for sum in sums {
            // SAFETY: 16 elements; no vector has more.
            unsafe { s.store(out.as_mut_ptr(), s.to_f32(s.total(sum))) };
            black_box(&mut out);
        }
    }
}

/// Vectors at the starts of cache lines.
#[repr(align(64))]
struct Lines([[u8; 64]; CHAINS]);

/// Seconds of the fastest of several calls.
fn fastest(mut call: impl FnMut() -> Result<(), KernelError>) -> Result<f64, KernelError> {
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed() < Duration::from_millis(600) {
        let start = Instant::now();
        call()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

impl Cpu {
    /// Measures the limits of this processor; takes two seconds and half a gigabyte of memory.
    ///
    /// # Errors
    /// There is no memory.
    pub fn measure_limits(&self) -> Result<Limits, KernelError> {
        let mut bytes = large_zeros(READ)?;
        let shared = SharedMut::new(&mut bytes);
        self.pool.parallel_for(READ, PART, |_, range| {
            // SAFETY: each part is visited once.
            unsafe { shared.part(range).fill(1) }
        })?;
        let read = fastest(|| {
            self.pool.parallel_for(READ, PART, |_, range| {
                let mut sums = [0u64; 32];
                for line in bytes[range].as_chunks::<256>().0 {
                    (0..256).step_by(64).for_each(|i| prefetch(line.as_ptr().wrapping_add(AHEAD + i)));
                    sums.iter_mut().zip(line.as_chunks::<8>().0).for_each(|(s, w)| *s ^= u64::from_ne_bytes(*w));
                }
                black_box(sums);
            })
        })?;
        drop(bytes);
        let tasks = TASKS * self.pool.threads();
        #[cfg(target_arch = "x86_64")]
        if let Some((_, amx)) = self.isa.int8().and_then(Token8::tiles) {
            let turn = || amx.shape(amx::ROWS).multiply_only(TURNS);
            let seconds = fastest(|| self.pool.parallel_for(tasks, 1, |_, range| range.for_each(|_| turn())))?;
            let products = (tasks * TURNS * amx::TURN_PRODUCTS) as f64 / seconds;
            return Ok(Limits { read: READ as f64 / read, products: Some(products) });
        }
        let products = self.isa.int8().map(|token| {
            let seconds =
                fastest(|| self.pool.parallel_for(tasks, 1, |_, range| range.for_each(|_| token.run(Multiply))))?;
            Ok((tasks * TURNS * CHAINS * token.width()) as f64 / seconds)
        });
        Ok(Limits { read: READ as f64 / read, products: products.transpose()? })
    }
}
