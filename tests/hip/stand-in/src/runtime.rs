//! What the library knows between calls.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::ThreadId;

use rocmforge_hip_sys::*;

use crate::image::Image;
use crate::memory::Memory;
use crate::queue::{Executor, Kernel, Point, Work};
use crate::settings::Settings;

/// A stream.
pub struct Stream {
    /// Its device.
    pub device: i32,
    /// Work that has not run.
    pub queue: VecDeque<Work>,
    /// The capture that it is part of.
    pub capture: Option<usize>,
}

/// An event.
pub struct Event {
    /// Whether it measures time.
    pub timed: bool,
    /// Where it was last recorded.
    pub point: Option<Arc<Point>>,
    /// Where it was last recorded within a capture: the capture, the stream, and how much that stream had recorded.
    pub captured: Option<(usize, usize, u64)>,
}

/// Work that is being recorded.
pub struct Capture {
    /// The stream that it began with.
    pub origin: usize,
    /// The thread that began it.
    pub thread: ThreadId,
    /// What others may do meanwhile.
    pub mode: hipStreamCaptureMode,
    /// What was recorded.
    pub work: Vec<Work>,
    /// Why it cannot become a graph, if it cannot.
    pub invalid: bool,
    /// Other streams that joined it, with how much each recorded, and whether the origin has waited for that much.
    pub forks: HashMap<usize, (u64, bool)>,
}

/// A graph, recorded or launchable.
pub struct Graph {
    /// Its device.
    pub device: i32,
    /// The work.
    pub work: Arc<Vec<Work>>,
}

/// Everything that has a handle, and what went wrong.
#[derive(Default)]
pub struct State {
    /// Device and pinned memory.
    pub memory: Memory,
    /// By handle.
    pub streams: BTreeMap<usize, Stream>,
    /// By handle.
    pub events: HashMap<usize, Event>,
    /// By handle: the device and the image.
    pub modules: HashMap<usize, (i32, Arc<Image>)>,
    /// By handle.
    pub kernels: HashMap<usize, Arc<Kernel>>,
    /// By handle.
    pub captures: HashMap<usize, Capture>,
    /// By handle.
    pub graphs: HashMap<usize, Graph>,
    /// By handle.
    pub executables: HashMap<usize, Graph>,
    /// By device: the status with which it was lost.
    lost: HashMap<i32, hipError_t>,
    /// How often each function was called.
    pub calls: BTreeMap<&'static str, u64>,
    /// What no program should do, in order.
    pub misuses: Vec<String>,
    next_handle: usize,
}

impl State {
    /// A number that no handle had before.
    pub fn handle(&mut self) -> usize {
        self.next_handle += 16;
        // Far from what could be an address, so that looking behind a handle ends the process.
        0x0bad_0000_0000 + self.next_handle
    }

    /// The status with which a device was lost, if it was.
    pub fn lost(&self, device: i32) -> Option<hipError_t> {
        self.lost.get(&device).copied()
    }

    /// From now on every call for a device fails.
    pub fn lose(&mut self, device: i32, status: hipError_t, reason: &str) {
        self.misuse(format!("device {device} is lost with status {}: {reason}", status.0));
        self.lost.entry(device).or_insert(status);
    }

    /// Fails if a device is lost.
    ///
    /// # Errors
    /// The status with which it was lost.
    pub fn alive(&self, device: i32) -> Result<(), hipError_t> {
        self.lost(device).map_or(Ok(()), Err)
    }

    /// Notes what no program should do.
    pub fn misuse(&mut self, text: String) {
        eprintln!("hip stand-in: {text}");
        self.misuses.push(text);
    }

    /// Refuses a call, with a note of why.
    ///
    /// # Errors
    /// Always: the status.
    pub fn refuse<T>(&mut self, status: hipError_t, text: String) -> Result<T, hipError_t> {
        self.misuse(text);
        Err(status)
    }
}

/// The library.
pub struct Runtime {
    /// What the environment chose.
    pub settings: Settings,
    state: Mutex<State>,
    executor: Mutex<Executor>,
}

thread_local! {
    static DEVICE: Cell<i32> = const { Cell::new(0) };
    static LAST_ERROR: Cell<hipError_t> = const { Cell::new(hipSuccess) };
}

static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();

impl Runtime {
    fn start() -> Result<Self, String> {
        let settings = Settings::read(|name| std::env::var(name).ok())?;
        let executor = Executor::new(settings.threads).map_err(|e| format!("stacks for lanes: {e}"))?;
        // SAFETY: the function is part of this library, which stays loaded until the process ends: HIP's libraries do.
        unsafe { libc::atexit(report_at_exit) };
        Ok(Self { settings, state: Mutex::default(), executor: Mutex::new(executor) })
    }

    /// The state, for a short time. Never taken by who has it; never kept while work runs.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to run work. Taken before the state, never after.
    pub fn executor(&self) -> MutexGuard<'_, Executor> {
        self.executor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The calling thread's device.
    pub fn device(&self) -> i32 {
        DEVICE.get()
    }

    /// Chooses the calling thread's device.
    pub fn set_device(&self, device: i32) {
        DEVICE.set(device);
    }

    /// Whether there is such a device.
    pub fn has(&self, device: i32) -> bool {
        usize::try_from(device).is_ok_and(|d| d < self.settings.devices)
    }

    /// Writes the report, if one is asked for.
    pub fn report(&self) {
        let Some(path) = &self.settings.report else { return };
        let text = crate::report::text(self);
        if let Err(error) = std::fs::write(path, text) {
            eprintln!("hip stand-in: {}: {error}", path.display());
        }
    }
}

extern "C" fn report_at_exit() {
    if let Some(Ok(runtime)) = RUNTIME.get() {
        runtime.report();
    }
}

/// A status that a setting asks for, and whether it comes only when the work runs.
pub struct Injected(pub hipError_t);

/// Does one call of HIP: counts it, fails if it is to fail, and remembers how it ended.
pub fn call(name: &'static str, body: impl FnOnce(&Runtime, Option<Injected>) -> Result<(), hipError_t>) -> hipError_t {
    let guarded = AssertUnwindSafe(|| {
        let started = RUNTIME.get_or_init(|| Runtime::start().inspect_err(|text| eprintln!("hip stand-in: {text}")));
        let runtime = started.as_ref().map_err(|_| hipErrorNotInitialized)?;
        let injected = {
            let mut state = runtime.state();
            let count = state.calls.entry(name).or_default();
            *count += 1;
            let due = runtime.settings.failures.iter().find(|f| f.name == name && f.call == *count);
            due.map(|f| Injected(f.status))
        };
        match injected {
            // A kernel that ends the device is launched like any other.
            Some(Injected(status)) if name == "hipModuleLaunchKernel" && status.loses_device() => {
                body(runtime, Some(Injected(status)))
            }
            Some(Injected(status)) => {
                if status.loses_device() {
                    runtime.state().lose(runtime.device(), status, "as HIP_STAND_IN_FAIL asks");
                }
                Err(status)
            }
            None => body(runtime, None),
        }
    });
    let status = match catch_unwind(guarded) {
        Ok(Ok(())) => hipSuccess,
        Ok(Err(status)) => status,
        Err(_) => hipErrorUnknown,
    };
    if status != hipSuccess && status != hipErrorNotReady {
        LAST_ERROR.set(status);
    }
    status
}

/// The status of the calling thread's last failed call; forgotten by asking.
pub fn take_last_error() -> hipError_t {
    LAST_ERROR.replace(hipSuccess)
}
