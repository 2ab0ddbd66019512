use std::sync::{Mutex, MutexGuard, PoisonError};

/// A cache line, so that vectors of it are aligned to one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([f32; LINE]);

/// Elements per [`Line`].
pub(crate) const LINE: usize = 16;

/// Buffers that kernels use inside a call, kept between calls so that none allocates.
pub struct Workspace {
    packed: Vec<Line>,
    threads: Vec<Mutex<Vec<Line>>>,
}

/// What the largest calls with a [`Workspace`] will need. [`Needs::include`] joins several.
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

    /// Bytes of a workspace for this many threads.
    pub fn bytes(self, threads: usize) -> u64 {
        let lines = self.packed.div_ceil(LINE) + self.per_thread.div_ceil(LINE) * threads;
        lines as u64 * size_of::<Line>() as u64
    }
}

impl Workspace {
    /// Buffers for calls that need at most `needs`, from a pool of `threads`.
    pub fn new(threads: usize, needs: Needs) -> Workspace {
        let lines = |floats: usize| vec![Line([0.0; LINE]); floats.div_ceil(LINE)];
        Workspace {
            packed: lines(needs.packed),
            threads: (0..threads.max(1)).map(|_| Mutex::new(lines(needs.per_thread))).collect(),
        }
    }

    /// The shared buffer and the buffers per thread; grown if a call needs more than was announced.
    pub(crate) fn parts(&mut self, needs: Needs, threads: usize) -> (&mut [f32], PerThread<'_>) {
        let grow = |lines: &mut Vec<Line>, floats: usize| {
            if lines.len() < floats.div_ceil(LINE) {
                lines.resize(floats.div_ceil(LINE), Line([0.0; LINE]));
            }
        };
        grow(&mut self.packed, needs.packed);
        if self.threads.len() < threads {
            self.threads.resize_with(threads, Default::default);
        }
        for buffer in &mut self.threads {
            grow(buffer.get_mut().unwrap_or_else(PoisonError::into_inner), needs.per_thread);
        }
        (floats(&mut self.packed), PerThread(&self.threads))
    }
}

/// One buffer per thread of a loop.
#[derive(Clone, Copy)]
pub(crate) struct PerThread<'a>(&'a [Mutex<Vec<Line>>]);

impl<'a> PerThread<'a> {
    /// The buffer of a thread, which nobody else locks.
    pub(crate) fn lock(self, thread: usize) -> MutexGuard<'a, Vec<Line>> {
        self.0[thread].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The elements of lines.
pub(crate) fn floats(lines: &mut [Line]) -> &mut [f32] {
    // SAFETY: a Line is 16 f32 without padding (its size is its alignment), so these are 16 times as many f32.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * LINE) }
}

impl std::fmt::Debug for Workspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Workspace of {} lines and {} threads", self.packed.len(), self.threads.len())
    }
}
