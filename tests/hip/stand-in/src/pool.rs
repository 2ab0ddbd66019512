//! The blocks of a launch, on several operating-system threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::block::{Launch, Runner};

/// Below this many lanes in all, waking other threads costs more than it brings.
const FEW_LANES: u64 = 1024;

/// Threads that run blocks: one job at a time.
pub struct Pool {
    own: Box<Runner>,
    shared: Arc<Shared>,
    helpers: usize,
    /// Launches so far, which decide the order of blocks.
    launches: u64,
}

struct Shared {
    slot: Mutex<Slot>,
    posted: Condvar,
    finished: Condvar,
}

struct Slot {
    job: Option<Arc<Job>>,
    /// Counts jobs, so that a helper takes each one once.
    number: u64,
    /// Helpers that have not finished the present job.
    busy: usize,
    /// Switches of all helpers so far.
    switches: u64,
}

struct Job {
    launch: Launch,
    grid: [u32; 3],
    blocks: u64,
    /// The launch's number.
    number: u64,
    next: AtomicU64,
    fault: Mutex<Option<String>>,
}

// SAFETY: a job's pointers are to an image that is loaded and to arguments that live until every helper has finished.
unsafe impl Send for Job {}
// SAFETY: as above; lanes only read the arguments.
unsafe impl Sync for Job {}
// SAFETY: a runner refers to its own stacks, and to a thread only while `run` runs.
unsafe impl Send for Runner {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The block that comes at place `i` of so many: HIP promises no order, so launch by launch it is the usual one, the reverse, and
/// the even blocks before the odd ones.
fn ordered(launch: u64, i: u64, blocks: u64) -> u64 {
    let even = blocks.div_ceil(2);
    match launch % 3 {
        0 => i,
        1 => blocks - 1 - i,
        _ if i < even => 2 * i,
        _ => 2 * (i - even) + 1,
    }
}

impl Job {
    /// Runs blocks until none is left or one has failed.
    fn work(&self, runner: &mut Runner) {
        let [width, height, _] = self.grid.map(u64::from);
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= self.blocks {
                return;
            }
            let i = ordered(self.number, i, self.blocks);
            let block = [i % width, i / width % height, i / width / height].map(|n| n as u32);
            // SAFETY: whoever launched vouches for the kernel and its arguments.
            if let Err(fault) = unsafe { runner.run(&self.launch, block) } {
                self.next.store(self.blocks, Ordering::Relaxed);
                *lock(&self.fault) = Some(fault);
                return;
            }
        }
    }
}

impl Pool {
    /// A pool of this many threads, the one that calls included.
    ///
    /// # Errors
    /// What the operating system says about stacks and threads.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let slot = Slot { job: None, number: 0, busy: 0, switches: 0 };
        let shared = Arc::new(Shared { slot: Mutex::new(slot), posted: Condvar::new(), finished: Condvar::new() });
        for i in 1..threads {
            let (shared, mut runner) = (Arc::clone(&shared), Runner::new()?);
            let help = move || shared.help(&mut runner);
            std::thread::Builder::new().name(format!("hip-stand-in-{i}")).spawn(help)?;
        }
        Ok(Self { own: Runner::new()?, shared, helpers: threads.saturating_sub(1), launches: 0 })
    }

    /// How often lanes were switched so far.
    pub fn switches(&self) -> u64 {
        self.own.switches() + lock(&self.shared.slot).switches
    }

    /// Runs every block of a launch.
    ///
    /// # Errors
    /// Lanes that wait for different things.
    ///
    /// # Safety
    /// As for [`Runner::run`], for every block of the grid.
    pub unsafe fn run(&mut self, launch: &Launch, grid: [u32; 3]) -> Result<(), String> {
        let blocks: u64 = grid.iter().map(|n| u64::from(*n)).product();
        let (number, next, fault) = (self.launches, AtomicU64::new(0), Mutex::new(None));
        self.launches += 1;
        let job = Arc::new(Job { launch: *launch, grid, blocks, number, next, fault });
        let shared = blocks > 1 && self.helpers > 0 && blocks * launch.lanes as u64 >= FEW_LANES;
        if shared {
            let mut slot = lock(&self.shared.slot);
            (slot.job, slot.busy) = (Some(Arc::clone(&job)), self.helpers);
            slot.number += 1;
            self.shared.posted.notify_all();
        }
        job.work(&mut self.own);
        if shared {
            let mut slot = lock(&self.shared.slot);
            while slot.busy > 0 {
                slot = self.shared.finished.wait(slot).unwrap_or_else(PoisonError::into_inner);
            }
            slot.job = None;
        }
        lock(&job.fault).take().map_or(Ok(()), Err)
    }
}

impl Shared {
    fn help(&self, runner: &mut Runner) {
        let mut done = 0;
        loop {
            let job = {
                let mut slot = lock(&self.slot);
                while slot.number == done || slot.job.is_none() {
                    slot = self.posted.wait(slot).unwrap_or_else(PoisonError::into_inner);
                }
                done = slot.number;
                slot.job.clone()
            };
            let before = runner.switches();
            if let Some(job) = job {
                job.work(runner);
            }
            let mut slot = lock(&self.slot);
            slot.switches += runner.switches() - before;
            slot.busy -= 1;
            if slot.busy == 0 {
                self.finished.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ordered;

    #[test]
    fn every_block_has_one_place_in_every_order() {
        let order = |launch: u64, blocks: u64| (0..blocks).map(|i| ordered(launch, i, blocks)).collect::<Vec<_>>();
        for blocks in [1, 2, 7, 8] {
            for launch in 0..6 {
                let mut found = order(launch, blocks);
                found.sort_unstable();
                assert_eq!(found, (0..blocks).collect::<Vec<_>>(), "launch {launch}");
            }
        }
        assert_eq!([order(0, 5), order(1, 5), order(2, 5)], [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [0, 2, 4, 1, 3]]);
    }
}
