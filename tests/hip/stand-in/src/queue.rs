//! Streams: queued work, and running it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rocmforge_hip_sys::{hipError_t, hipErrorInvalidValue, hipErrorLaunchFailure};

use crate::block::{Entry, Launch};
use crate::image::Image;
use crate::pool::Pool;
use crate::runtime::{Runtime, State};

/// A kernel that was asked for.
pub struct Kernel {
    /// The image that it is in, which stays loaded for as long as the kernel is used.
    pub image: Arc<Image>,
    /// Its code.
    pub entry: Entry,
    /// Its name.
    pub name: String,
    /// The module that it was asked of.
    pub module: usize,
    /// The device of that module.
    pub device: i32,
}

/// A queued launch.
pub struct QueuedLaunch {
    /// The kernel.
    pub kernel: Arc<Kernel>,
    /// The packed arguments, as 64-bit words so that they are aligned.
    pub arguments: Vec<u64>,
    /// Blocks.
    pub grid: [u32; 3],
    /// Lanes of a block.
    pub lanes: usize,
}

/// A point in a stream that an event stands for.
pub struct Point {
    /// The stream.
    pub stream: usize,
    done: AtomicBool,
    at: Mutex<Option<Instant>>,
}

impl Point {
    /// A point that the stream has not reached.
    pub fn new(stream: usize) -> Arc<Self> {
        Arc::new(Self { stream, done: AtomicBool::new(false), at: Mutex::new(None) })
    }

    /// When the stream reached it.
    pub fn reached(&self) -> Option<Instant> {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the stream has reached it.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    fn reach(&self) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.done.store(true, Ordering::Release);
    }
}

/// What a copy reads.
#[derive(Clone)]
pub enum Source {
    /// Memory, when the copy runs.
    Address(usize),
    /// Bytes as they were when the copy was queued.
    Bytes(Arc<[u8]>),
}

/// One piece of work.
#[derive(Clone)]
pub enum Work {
    /// A launch.
    Launch(Arc<QueuedLaunch>),
    /// A copy to an address.
    Copy(usize, Source, usize),
    /// Setting bytes from an address on.
    Set(usize, u8, usize),
    /// Reaching a point.
    Record(Arc<Point>),
    /// Waiting for a point.
    Wait(Arc<Point>),
    /// Recorded work.
    Graph(Arc<Vec<Work>>),
    /// Losing the device.
    Lose(hipError_t),
}

impl Work {
    /// Whether HIP counts it among a graph's nodes; waiting is an edge.
    pub fn is_node(&self) -> bool {
        matches!(self, Self::Launch(_) | Self::Copy(..) | Self::Set(..))
    }
}

/// Runs queued work; whoever holds it is the only one.
pub struct Executor {
    pool: Pool,
    /// Kernels that ran.
    pub launches: u64,
}

impl Executor {
    /// An executor of this many threads.
    ///
    /// # Errors
    /// What the operating system says about stacks and threads.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        Ok(Self { pool: Pool::new(threads)?, launches: 0 })
    }

    /// How often lanes were switched so far.
    pub fn switches(&self) -> u64 {
        self.pool.switches()
    }

    /// Runs a stream's work: all of it, or until it reaches a point.
    pub fn run(&mut self, runtime: &Runtime, stream: usize, until: Option<&Point>) {
        while !until.is_some_and(Point::is_done) && self.step(runtime, stream) {}
    }

    /// Runs one piece of a stream's work; whether there was one.
    pub fn step(&mut self, runtime: &Runtime, stream: usize) -> bool {
        let (work, device) = {
            let mut state = runtime.state();
            let Some(stream) = state.streams.get_mut(&stream) else { return false };
            let Some(work) = stream.queue.pop_front() else { return false };
            (work, stream.device)
        };
        self.perform(runtime, &work, device);
        true
    }

    /// Runs every stream of a device.
    pub fn run_device(&mut self, runtime: &Runtime, device: i32) {
        let of_device = |state: &State| -> Vec<usize> {
            state.streams.iter().filter(|(_, s)| s.device == device).map(|(id, _)| *id).collect()
        };
        let streams = of_device(&runtime.state());
        for stream in streams {
            self.run(runtime, stream, None);
        }
    }

    fn perform(&mut self, runtime: &Runtime, work: &Work, device: i32) {
        let lost = runtime.state().lost(device).is_some();
        match work {
            Work::Record(point) => point.reach(),
            Work::Wait(point) if !point.is_done() => self.run(runtime, point.stream, Some(point)),
            Work::Wait(_) => {}
            Work::Graph(list) => {
                let first = list.iter().position(|work| matches!(work, Work::Launch(_)));
                let left_out = first.filter(|_| runtime.settings.stale);
                let run = list.iter().enumerate().filter(|(i, _)| Some(*i) != left_out);
                run.for_each(|(_, work)| self.perform(runtime, work, device));
            }
            _ if lost => {}
            Work::Launch(launch) => self.launch(runtime, launch, device),
            Work::Copy(to, source, bytes) => copy(runtime, *to, source, *bytes, device),
            Work::Set(to, value, bytes) => {
                let place = runtime.state().memory.place(*to, *bytes);
                match place {
                    // SAFETY: a range within a live allocation, which is freed only by who holds the executor.
                    Ok(Some(_)) => unsafe { (*to as *mut u8).write_bytes(*value, *bytes) },
                    Ok(None) => {
                        runtime.state().lose(device, hipErrorInvalidValue, "hipMemsetAsync: memory that was freed")
                    }
                    Err(text) => runtime.state().lose(device, hipErrorInvalidValue, &format!("hipMemsetAsync: {text}")),
                }
            }
            Work::Lose(status) => runtime.state().lose(device, *status, "as HIP_STAND_IN_FAIL asks"),
        }
    }

    fn launch(&mut self, runtime: &Runtime, launch: &QueuedLaunch, device: i32) {
        let kernel = &launch.kernel;
        let block = Launch {
            entry: kernel.entry,
            current: kernel.image.current,
            arguments: launch.arguments.as_ptr().cast(),
            lanes: launch.lanes,
            wave: runtime.settings.wave,
        };
        self.launches += 1;
        // SAFETY: whoever launched vouches for the kernel's arguments; the image is loaded and bound.
        if let Err(fault) = unsafe { self.pool.run(&block, launch.grid) } {
            runtime.state().lose(device, hipErrorLaunchFailure, &format!("kernel {}, {fault}", kernel.name));
        }
    }
}

fn copy(runtime: &Runtime, to: usize, source: &Source, bytes: usize, device: i32) {
    let from = match source {
        Source::Address(address) => *address,
        Source::Bytes(copied) => copied.as_ptr() as usize,
    };
    let outside = {
        let state = runtime.state();
        let from_place = if matches!(source, Source::Bytes(_)) { Ok(None) } else { state.memory.place(from, bytes) };
        state.memory.place(to, bytes).err().or(from_place.err())
    };
    match outside {
        Some(text) => runtime.state().lose(device, hipErrorInvalidValue, &format!("hipMemcpyAsync: {text}")),
        // SAFETY: ranges of live allocations or of the caller's own memory, for which the caller vouches. They may overlap.
        None => unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) },
    }
}
