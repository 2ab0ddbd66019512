use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::KernelError;
use crate::packed::advise_huge_pages;
use crate::zeros::zeros;

/// Elements of a cache line.
const LINE: usize = 16;

/// Elements of whole cache lines. What is not used takes no memory: a vector whose elements are as large as lines would be
/// written with zeros when it is made, as only memory of ordinary alignment comes from the system as zeros.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// Begins with as many elements that are not used as make the next one the first of a line.
    data: Vec<f32>,
    floats: usize,
}

/// Buffers that kernels use inside a call, kept between calls so that none allocates.
pub(crate) struct Workspace {
    packed: Lines,
    threads: Vec<Mutex<Lines>>,
    /// What the shared buffer holds since the last call, if that may be used again.
    holds: Option<Held>,
}

/// How activations are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounded {
    /// To 8 bits, with sums times the weights' code of zero, which some have.
    Bytes { zero: i32 },
    /// To 16 bits.
    Halves,
    /// To bfloat16.
    #[cfg(target_arch = "x86_64")]
    Bfloats,
}

/// Rows of activations, rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The caller's name for them.
    pub(crate) key: u64,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) rounded: Rounded,
}

/// What the largest calls of a [`Cpu`](crate::Cpu) will need in scratch memory. [`Needs::include`] joins several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub(crate) packed: usize,
    pub(crate) per_thread: usize,
}

impl Needs {
    /// Enough for `self` and for `other`, one at a time.
    pub fn include(self, other: Needs) -> Needs {
        Needs { packed: self.packed.max(other.packed), per_thread: self.per_thread.max(other.per_thread) }
    }

    /// Bytes of the buffers for this many threads.
    pub fn bytes(self, threads: usize) -> u64 {
        let lines = |floats: usize| floats.div_ceil(LINE) as u64;
        let all = lines(self.packed).saturating_add(lines(self.per_thread).saturating_mul(threads as u64));
        all.saturating_mul(4 * LINE as u64)
    }
}

impl Workspace {
    /// Empty buffers for a pool of `threads`.
    pub(crate) fn new(threads: usize) -> Workspace {
        let threads = (0..threads.max(1)).map(|_| Mutex::default()).collect();
        Workspace { packed: Lines::default(), threads, holds: None }
    }

    /// Makes the buffers large enough for calls that need at most `needs`.
    pub(crate) fn reserve(&mut self, needs: Needs) -> Result<(), KernelError> {
        grow(&mut self.packed, needs.packed)?;
        for buffer in &mut self.threads {
            grow(buffer.get_mut().unwrap_or_else(PoisonError::into_inner), needs.per_thread)?;
        }
        Ok(())
    }

    /// The shared buffer and the buffers per thread; grown if a call needs more than was announced.
    pub(crate) fn parts(&mut self, needs: Needs) -> Result<(&mut [f32], PerThread<'_>), KernelError> {
        self.reserve(needs)?;
        self.holds = None;
        Ok((floats(&mut self.packed), PerThread(&self.threads)))
    }

    /// What the shared buffer holds.
    pub(crate) fn holds(&self) -> Option<Held> {
        self.holds
    }

    /// Says what it holds, until somebody else uses it.
    pub(crate) fn hold(&mut self, held: Option<Held>) {
        self.holds = held;
    }
}

/// What was in it is lost.
fn grow(lines: &mut Lines, floats: usize) -> Result<(), KernelError> {
    let needed = floats.next_multiple_of(LINE);
    if needed > lines.floats {
        *lines = Lines::default();
        lines.data = zeros(needed.saturating_add(LINE))?;
        lines.floats = needed;
        advise_huge_pages(&mut lines.data);
    }
    Ok(())
}

/// One buffer per thread of a loop.
#[derive(Clone, Copy)]
pub(crate) struct PerThread<'a>(&'a [Mutex<Lines>]);

impl<'a> PerThread<'a> {
    /// The buffer of a thread, which nobody else locks.
    pub(crate) fn lock(self, thread: usize) -> MutexGuard<'a, Lines> {
        self.0[thread].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The elements of lines.
pub(crate) fn floats(lines: &mut Lines) -> &mut [f32] {
    if lines.floats == 0 {
        return &mut [];
    }
    let first = lines.data.as_ptr().align_offset(4 * LINE).min(LINE);
    &mut lines.data[first..first + lines.floats]
}

impl std::fmt::Debug for Workspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Workspace of {} numbers and {} threads", self.packed.floats, self.threads.len())
    }
}
