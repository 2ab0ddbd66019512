use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::affinity;
use crate::error::KernelError;
use crate::neighbours::{Caller, Posts};

/// How often an idle thread looks for work before it sleeps: some tens of microseconds, the time between two
/// operations of a step.
const SPINS: u32 = 4_000;

/// About as long as a system lets another process have a core before it comes back to a thread.
const SLICE: Duration = Duration::from_millis(5);

/// Threads that share out loops. They spin briefly between loops and sleep when there is nothing to do.
///
/// Chunks are claimed one at a time, so a thread that is held up by other processes costs its current chunk only, and a
/// thread that does not wake in time is not waited for. Beside busy processes threads give way and change places, see
/// `neighbours`.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One loop at a time; a second one from another thread waits here.
    running: Mutex<Caller>,
    /// The processor of the calling thread, if it is to keep to one.
    caller: Option<usize>,
}

/// `state`: bit 0: the job may be joined; bits 1..16: threads inside it; the rest: its number.
const OPEN: u64 = 1;
const ONE: u64 = 2;
const INSIDE: u64 = 0xfffe;
const JOB: u64 = 1 << 16;
/// Threads of a pool, so that the count of those inside a job fits its bits.
const MOST_THREADS: usize = 1024;

struct Shared {
    state: AtomicU64,
    job: UnsafeCell<Job>,
    next: AtomicUsize,
    panic: Mutex<Option<String>>,
    sleepers: AtomicUsize,
    caller_waits: AtomicBool,
    stop: AtomicBool,
    posts: Posts,
    lock: Mutex<()>,
    wake: Condvar,
    done: Condvar,
}

#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize, Range<usize>) + Sync),
    items: usize,
    grain: usize,
    /// What is left is divided by this.
    shares: usize,
}

/// Ranges per thread that are left, of which one is taken.
const SHARES: usize = 4;

// SAFETY: `job` is written only while no thread is inside (see `run_shared`) and read only from inside; the task it
// points to is Sync.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

thread_local! {
    /// The index of this thread in the loop that it is running, if any.
    static INDEX: Cell<Option<usize>> = const { Cell::new(None) };
    /// Whether this thread has been put on its processor.
    static PINNED: Cell<bool> = const { Cell::new(false) };
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool of `threads` threads, the calling one included; 0 counts as 1.
    ///
    /// # Errors
    /// The system does not start a thread.
    pub fn new(threads: usize) -> Result<Pool, KernelError> {
        Pool::on(threads, &[])
    }

    /// The same, with each thread on a processor of its own, as far as there are as many that this one may use. The
    /// calling thread keeps to its processor from its first loop on.
    ///
    /// # Errors
    /// As [`new`](Pool::new).
    pub fn pinned(threads: usize) -> Result<Pool, KernelError> {
        Pool::on(threads, &affinity::allowed())
    }

    fn on(threads: usize, processors: &[usize]) -> Result<Pool, KernelError> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(Job { task: &|_, _| {}, items: 0, grain: 1, shares: 1 }),
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            caller_waits: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            posts: Posts::new(threads.clamp(1, MOST_THREADS) - 1),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            done: Condvar::new(),
        });
        let mut pool =
            Pool { shared, workers: vec![], running: Mutex::new(Caller::new()), caller: processors.first().copied() };
        for index in 1..threads.clamp(1, MOST_THREADS) {
            let shared = Arc::clone(&pool.shared);
            let processor = processors.get(index).copied();
            let worker = std::thread::Builder::new()
                .name(format!("compute-{index}"))
                .spawn(move || {
                    processor.into_iter().for_each(affinity::pin);
                    shared.work(index);
                })
                .map_err(|e| KernelError::Thread { index, reason: e.to_string() })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads that take part, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(thread, range)` for ranges of at least `grain` items (but the last) that cover `0..items`, on all threads at once;
    /// `thread` is below [`threads`](Pool::threads) and no two calls have the same one at the same time.
    ///
    /// A loop inside a task runs on that task's thread.
    ///
    /// # Errors
    /// A task panicked. The remaining ranges are skipped, running ones are waited for.
    pub fn parallel_for(
        &self,
        items: usize,
        grain: usize,
        task: impl Fn(usize, Range<usize>) + Sync,
    ) -> Result<(), KernelError> {
        let grain = grain.max(1);
        if items == 0 {
            return Ok(());
        }
        if let Some(index) = INDEX.get() {
            return caught(|| task(index, 0..items));
        }
        let mut caller = locked(&self.running);
        if let Some(processor) = self.caller
            && !PINNED.replace(true)
        {
            affinity::pin(processor);
        }
        if self.workers.is_empty() || items <= grain {
            return as_thread(0, || caught(|| task(0, 0..items)));
        }
        if self.caller.is_none() {
            caller.look(&self.shared.posts);
        }
        self.run_shared(items, grain, &task)
    }

    fn run_shared(
        &self,
        items: usize,
        grain: usize,
        task: &(dyn Fn(usize, Range<usize>) + Sync),
    ) -> Result<(), KernelError> {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. No thread uses the pointer once this function returns: it closes the job
        // and waits until nobody is inside.
        let task: *const (dyn Fn(usize, Range<usize>) + Sync) =
            unsafe { std::mem::transmute::<&(dyn Fn(usize, Range<usize>) + Sync), _>(task) };
        // SAFETY: the job is closed and nobody is inside: so it was left, under `running`, by the loop before.
        unsafe { *shared.job.get() = Job { task, items, grain, shares: SHARES * self.threads() } };
        shared.next.store(0, Ordering::Relaxed);
        let before = shared.state.load(Ordering::Relaxed);
        shared.state.store((before & !(OPEN | INSIDE)).wrapping_add(JOB) | OPEN, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            let _guard = locked(&shared.lock);
            shared.wake.notify_all();
        }
        as_thread(0, || shared.run_chunks(0));
        shared.state.fetch_and(!OPEN, Ordering::SeqCst);
        shared.wait_until_left();
        match locked(&shared.panic).take() {
            None => Ok(()),
            Some(message) => Err(KernelError::Panic { message }),
        }
    }
}

impl Shared {
    fn inside(&self) -> u64 {
        self.state.load(Ordering::SeqCst) & INSIDE
    }

    /// The next range: a share of what is left, so that memory is read in long pieces and the last ones are short.
    fn claim(&self, job: &Job) -> Option<(usize, usize)> {
        let mut start = self.next.load(Ordering::Relaxed);
        loop {
            let left = job.items.checked_sub(start).filter(|&n| n > 0)?;
            let end = start + left.min(job.grain.max(left / job.shares));
            match self.next.compare_exchange_weak(start, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some((start, end)),
                Err(found) => start = found,
            }
        }
    }

    fn run_chunks(&self, index: usize) {
        // SAFETY: this thread is inside the job (or is the caller), so it is not written now.
        let job = unsafe { *self.job.get() };
        // SAFETY: the caller keeps the task alive while a thread is inside.
        let task = unsafe { &*job.task };
        while let Some((start, end)) = self.claim(&job) {
            if let Err(KernelError::Panic { message }) = caught(|| task(index, start..end)) {
                self.next.store(usize::MAX, Ordering::Relaxed);
                locked(&self.panic).get_or_insert(message);
            }
        }
    }

    fn wait_until_left(&self) {
        for _ in 0..SPINS {
            if self.inside() == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        // A thread that is still inside has lost its core to another process. This one lets it have its own, if it
        // waits for that; an idle core would call the other process here, which would then hold up this thread, too.
        let since = Instant::now();
        while since.elapsed() < SLICE {
            if self.inside() == 0 {
                return;
            }
            std::thread::yield_now();
        }
        let mut guard = locked(&self.lock);
        self.caller_waits.store(true, Ordering::SeqCst);
        while self.inside() != 0 {
            guard = self.done.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_waits.store(false, Ordering::SeqCst);
    }

    fn work(&self, index: usize) {
        let mut last = 0;
        let mut neighbours = self.posts.worker(index - 1);
        while let Some(state) = self.next_job(last) {
            last = state & !(OPEN | INSIDE);
            // Joining fails if the job was closed, or another thread joined or left, in the meantime.
            let mut now = state;
            let joined = loop {
                if now & OPEN == 0 || now & !(OPEN | INSIDE) != last {
                    break false;
                }
                match self.state.compare_exchange_weak(now, now + ONE, Ordering::SeqCst, Ordering::SeqCst) {
                    Ok(_) => break true,
                    Err(found) => now = found,
                }
            };
            if joined {
                as_thread(index, || self.run_chunks(index));
                self.state.fetch_sub(ONE, Ordering::SeqCst);
                if self.caller_waits.load(Ordering::SeqCst) {
                    let _guard = locked(&self.lock);
                    self.done.notify_all();
                }
                neighbours.look();
            }
        }
    }

    /// The state once it holds an open job other than `last`; `None` when the pool ends.
    fn next_job(&self, last: u64) -> Option<u64> {
        let fresh = || {
            let state = self.state.load(Ordering::SeqCst);
            (state & OPEN != 0 && state & !(OPEN | INSIDE) != last).then_some(state)
        };
        for _ in 0..SPINS {
            if let Some(state) = fresh() {
                return Some(state);
            }
            std::hint::spin_loop();
        }
        let mut guard = locked(&self.lock);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let found = loop {
            if self.stop.load(Ordering::SeqCst) {
                break None;
            }
            if let Some(state) = fresh() {
                break Some(state);
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        drop(guard);
        found
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        locked(&self.running).release();
        self.shared.stop.store(true, Ordering::SeqCst);
        {
            let _guard = locked(&self.shared.lock);
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // Panics of tasks are caught inside, and there is nobody to tell of another one.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool of {} threads", self.threads())
    }
}

/// Runs `f` as thread `index` of a loop.
fn as_thread<R>(index: usize, f: impl FnOnce() -> R) -> R {
    let before = INDEX.replace(Some(index));
    let result = f();
    INDEX.set(before);
    result
}

fn caught(f: impl FnOnce()) -> Result<(), KernelError> {
    // What a panicking task leaves half-written are numbers in buffers that the failed call does not hand out.
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| KernelError::Panic { message: message_of(&*payload) })
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
