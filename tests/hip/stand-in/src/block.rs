//! One block of a kernel: its lanes as fibres on one operating-system thread.
//!
//! Lanes of a wave take turns in a ring. A lane that reaches a rendezvous notes that it has arrived and lets the next one
//! run; when a lane finds that it is the last of its wave to arrive, the rendezvous is complete. So a shuffle costs one
//! switch per lane. What a lane gives away in a shuffle is kept twice, by the parity of the shuffle's number: the others
//! may still read it when its giver has reached the next one.
//!
//! A lane that has not begun needs no stack of its own: a kernel without rendezvous runs its lanes one after another as a
//! plain loop.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

use crate::fibre::{self, Stacks};

/// Most lanes of a block, as on AMD's GPUs.
pub const MAX_LANES: usize = 1024;
const MAX_WAVE: usize = 64;

/// Where a lane is, as the image sees it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct RfSimtLane {
    /// Its index in the block.
    pub thread: u32,
    /// Its block.
    pub block: [u32; 3],
}

/// What an image calls.
#[repr(C)]
pub struct RfSimtHooks {
    barrier: extern "C" fn(),
    shuffle: extern "C" fn(u32, u32) -> u32,
    wave_sync: extern "C" fn(),
}

impl RfSimtHooks {
    /// Does a shuffle, as an image does.
    pub fn shuffle(&self, value: u32, source: u32) -> u32 {
        (self.shuffle)(value, source)
    }
}

/// Given to every image.
pub static HOOKS: RfSimtHooks = RfSimtHooks { barrier, shuffle, wave_sync };

/// A kernel of an image: runs one lane to its end.
pub type Entry = unsafe extern "C" fn(*const c_void);
/// Gives the address of the calling thread's pointer to the current lane.
pub type Current = unsafe extern "C" fn() -> *mut *const RfSimtLane;

/// What the lanes of a wave wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Shuffle,
    WaveSync,
    Barrier,
}

impl Wait {
    fn name(self) -> &'static str {
        match self {
            Self::Shuffle => "a shuffle",
            Self::WaveSync => "a synchronisation of the wave",
            Self::Barrier => "a barrier of the block",
        }
    }
}

#[derive(Clone, Copy)]
struct Lane {
    /// Its context while it waits; null before it begins.
    saved: *mut u8,
    stack: u16,
    /// Neighbours in the ring of its wave.
    next: u16,
    previous: u16,
    /// How many shuffles it has reached.
    shuffles: u32,
}

struct Wave {
    /// Lanes that have not returned.
    active: u16,
    /// How many of them have arrived at the present rendezvous.
    arrived: u16,
    /// What they wait for; of use while some have arrived.
    wait: Wait,
    /// Whether all have arrived at the block's barrier.
    parked: bool,
    /// The lane that goes on when this wave runs again.
    head: u16,
    /// By parity of the shuffle's number and by lane: the number in the upper half, the value in the lower.
    given: [[u64; MAX_WAVE]; 2],
}

/// Runs blocks on the thread that made it.
pub struct Runner {
    stacks: Stacks,
    free: Vec<u16>,
    lanes: Vec<Lane>,
    places: Vec<RfSimtLane>,
    waves: Vec<Wave>,
    /// The lanes of a wave, as a power of two.
    wave_shift: u32,
    live_waves: usize,
    parked_waves: usize,
    running: usize,
    current: *mut *const RfSimtLane,
    entry: Option<Entry>,
    arguments: *const c_void,
    /// The context of the thread itself.
    home: *mut u8,
    fault: Option<String>,
    switches: u64,
}

thread_local! {
    static RUNNING: Cell<*mut Runner> = const { Cell::new(ptr::null_mut()) };
}

/// One launch, as every block of it sees it.
#[derive(Clone, Copy)]
pub struct Launch {
    /// The kernel.
    pub entry: Entry,
    /// Its image's current lane.
    pub current: Current,
    /// Its packed arguments.
    pub arguments: *const c_void,
    /// Lanes of a block.
    pub lanes: usize,
    /// Lanes of a wave.
    pub wave: usize,
}

impl Runner {
    /// A runner for blocks of any size.
    ///
    /// # Errors
    /// What the operating system says about memory for the stacks.
    pub fn new() -> std::io::Result<Box<Self>> {
        Ok(Box::new(Self {
            stacks: Stacks::map(MAX_LANES)?,
            free: vec![],
            lanes: vec![],
            places: vec![],
            waves: vec![],
            wave_shift: 5,
            live_waves: 0,
            parked_waves: 0,
            running: 0,
            current: ptr::null_mut(),
            entry: None,
            arguments: ptr::null(),
            home: ptr::null_mut(),
            fault: None,
            switches: 0,
        }))
    }

    /// How often lanes were switched so far.
    pub fn switches(&self) -> u64 {
        self.switches
    }

    /// Runs one block to its end.
    ///
    /// # Errors
    /// Lanes of one wave that wait for different things; what they wait for.
    ///
    /// # Safety
    /// The launch's entry takes these arguments and accesses only memory that is valid; its image was bound to [`HOOKS`].
    pub unsafe fn run(&mut self, launch: &Launch, block: [u32; 3]) -> Result<(), String> {
        self.begin(launch, block);
        let runner: *mut Self = self;
        RUNNING.set(runner);
        // SAFETY: `begin` left lane 0 ready to begin, which gives control back to `home` when the block is done. While it
        // runs, the runner is reached through `RUNNING` only.
        unsafe {
            let to = (*runner).context(0);
            (*runner).enter(0);
            fibre::switch(&raw mut (*runner).home, to);
        }
        RUNNING.set(ptr::null_mut());
        self.fault.take().map_or(Ok(()), Err)
    }

    fn begin(&mut self, launch: &Launch, block: [u32; 3]) {
        let (count, width) = (launch.lanes, launch.wave);
        assert!(count > 0 && count <= MAX_LANES && (width == 32 || width == 64), "{count} lanes in waves of {width}");
        // SAFETY: the image gives the address of a variable of this thread, which lives as long as the thread.
        self.current = unsafe { (launch.current)() };
        (self.entry, self.arguments) = (Some(launch.entry), launch.arguments);
        self.free.clear();
        self.free.extend((0..MAX_LANES as u16).rev());
        let waves = count.div_ceil(width);
        self.places.clear();
        self.places.extend((0..count).map(|i| RfSimtLane { thread: i as u32, block }));
        self.lanes.clear();
        for i in 0..count {
            let (first, last) = (i / width * width, (i / width * width + width).min(count) - 1);
            let next = if i == last { first } else { i + 1 };
            let previous = if i == first { last } else { i - 1 };
            let (next, previous) = (next as u16, previous as u16);
            self.lanes.push(Lane { saved: ptr::null_mut(), stack: u16::MAX, next, previous, shuffles: 0 });
        }
        let fresh =
            || Wave { active: 0, arrived: 0, wait: Wait::Barrier, parked: false, head: 0, given: [[0; MAX_WAVE]; 2] };
        self.waves.resize_with(waves, fresh);
        for (w, wave) in self.waves.iter_mut().enumerate() {
            (wave.active, wave.arrived, wave.parked) = (width.min(count - w * width) as u16, 0, false);
            wave.head = (w * width) as u16;
            // Numbers of shuffles begin at 1, so 0 is nobody's.
            wave.given = [[0; MAX_WAVE]; 2];
        }
        (self.wave_shift, self.live_waves, self.parked_waves) = (width.trailing_zeros(), waves, 0);
    }

    fn start_on_new_stack(&mut self, lane: usize) -> *mut u8 {
        let stack = self.free.pop().unwrap_or(0);
        self.lanes[lane].stack = stack;
        self.stacks.prepare(usize::from(stack), run_lanes)
    }

    /// Makes a lane the running one.
    #[inline(always)]
    fn enter(&mut self, lane: usize) {
        self.running = lane;
        // SAFETY: the image's own variable of this thread; the place outlives the block.
        unsafe { *self.current = &raw const self.places[lane] };
    }

    /// The context in which a lane goes on, or begins.
    #[inline(always)]
    fn context(&mut self, lane: usize) -> *mut u8 {
        let saved = self.lanes[lane].saved;
        if saved.is_null() { self.start_on_new_stack(lane) } else { saved }
    }

    /// What a switch to another lane needs: where to save the running lane's context, and the other's context.
    #[inline(always)]
    fn switch_to(&mut self, to: usize) -> (*mut *mut u8, *mut u8) {
        let from = self.running;
        let context = self.context(to);
        self.enter(to);
        self.switches += 1;
        (&raw mut self.lanes[from].saved, context)
    }

    /// The running lane arrives at a rendezvous: the lane that runs now, which is the same one if the rendezvous is complete.
    ///
    /// # Errors
    /// Others of the wave wait for something else; what.
    #[inline(always)]
    fn arrive(&mut self, wait: Wait) -> Result<usize, Wait> {
        let lane = self.running;
        let index = lane >> self.wave_shift;
        let wave = &mut self.waves[index];
        if wave.arrived == 0 {
            wave.wait = wait;
        } else if wave.wait != wait {
            return Err(wave.wait);
        }
        wave.arrived += 1;
        if wave.arrived < wave.active {
            // One that has not arrived: lanes arrive in the order of the ring.
            return Ok(usize::from(self.lanes[lane].next));
        }
        if wait == Wait::Barrier {
            wave.head = lane as u16;
            return Ok(self.park(index));
        }
        wave.arrived = 0;
        Ok(lane)
    }

    /// A wave whose every lane is at the barrier: the lane that runs now.
    fn park(&mut self, wave: usize) -> usize {
        self.waves[wave].parked = true;
        self.parked_waves += 1;
        self.after_wave(wave)
    }

    /// The lane that runs when this wave can do no more: of a wave that is not parked, or of the first one, if all are and
    /// the barrier is complete. There is one.
    fn after_wave(&mut self, wave: usize) -> usize {
        if self.parked_waves == self.live_waves {
            self.parked_waves = 0;
            for wave in &mut self.waves {
                (wave.parked, wave.arrived) = (false, 0);
            }
        }
        let count = self.waves.len();
        let order = (wave + 1..count).chain(0..=wave);
        let found = order.into_iter().find(|w| self.waves[*w].active > 0 && !self.waves[*w].parked);
        usize::from(self.waves[found.unwrap_or(wave)].head)
    }

    /// Takes the running lane out of its wave: the lane that runs now, or none at the end of the block.
    fn finish(&mut self) -> Option<usize> {
        let lane = self.running;
        let Lane { next, previous, .. } = self.lanes[lane];
        self.lanes[usize::from(previous)].next = next;
        self.lanes[usize::from(next)].previous = previous;
        let index = lane >> self.wave_shift;
        let wave = &mut self.waves[index];
        wave.active -= 1;
        if wave.active == 0 {
            self.live_waves -= 1;
            return (self.live_waves > 0).then(|| self.after_wave(index));
        }
        if wave.arrived == wave.active {
            wave.head = next;
            if wave.wait == Wait::Barrier {
                return Some(self.park(index));
            }
            wave.arrived = 0;
        }
        Some(usize::from(next))
    }

    /// After the running lane's end: what a switch needs, or nothing where a lane begins on the same stack.
    fn after_lane(&mut self) -> Option<(*mut *mut u8, *mut u8)> {
        let lane = self.running;
        let next = self.finish();
        let stack = self.lanes[lane].stack;
        let to = match next {
            Some(next) if self.lanes[next].saved.is_null() => {
                self.lanes[next].stack = stack;
                self.enter(next);
                return None;
            }
            Some(next) => {
                self.free.push(stack);
                self.enter(next);
                self.switches += 1;
                self.lanes[next].saved
            }
            None => self.home,
        };
        Some((&raw mut self.lanes[lane].saved, to))
    }

    /// Notes what the running lane gives away in its next shuffle: the shuffle's number.
    #[inline(always)]
    fn give(&mut self, value: u32) -> u32 {
        let lane = self.running;
        let (index, place) = (lane >> self.wave_shift, lane & ((1 << self.wave_shift) - 1));
        let number = self.lanes[lane].shuffles + 1;
        self.lanes[lane].shuffles = number;
        self.waves[index].given[(number & 1) as usize][place] = u64::from(number) << 32 | u64::from(value);
        number
    }

    /// What the lane `source` of the running lane's wave gave away in a shuffle. A lane that has returned gives 0: what is
    /// left of it has another number.
    #[inline(always)]
    fn taken(&self, number: u32, source: u32) -> u32 {
        let (index, place) = (self.running >> self.wave_shift, source as usize & ((1 << self.wave_shift) - 1));
        let given = self.waves[index].given[(number & 1) as usize][place];
        if given >> 32 == u64::from(number) { given as u32 } else { 0 }
    }

    /// Notes that the running lane waits for something else than others of its wave.
    #[cold]
    fn note_fault(&mut self, wait: Wait, other: Wait) {
        let (lane, [x, y, z]) = (self.running, self.places[self.running].block);
        self.fault = Some(format!(
            "block ({x}, {y}, {z}): lane {lane} waits for {}, while others of its wave wait for {}",
            wait.name(),
            other.name()
        ));
    }
}

/// The running lane waits until a rendezvous is complete.
///
/// # Safety
/// Called in a lane of this runner. No reference to the runner is held across it: other lanes change the runner meanwhile.
#[inline(always)]
unsafe fn rendezvous(runner: *mut Runner, wait: Wait) {
    // SAFETY: the borrow ends before any other lane runs; the context switched to is that of a lane that waits or begins.
    unsafe {
        match (*runner).arrive(wait) {
            Ok(lane) if lane == (*runner).running => {}
            Ok(lane) => {
                let (save, to) = (*runner).switch_to(lane);
                fibre::switch(save, to);
            }
            Err(other) => {
                // The whole block is given up: no lane of it goes on.
                (*runner).note_fault(wait, other);
                let mut abandoned = ptr::null_mut();
                fibre::switch(&mut abandoned, (*runner).home);
            }
        }
    }
}

/// What every stack begins with: runs the running lane, and after it every lane that has not begun when its turn comes.
extern "C" fn run_lanes() -> ! {
    let runner = RUNNING.get();
    loop {
        // SAFETY: set by `run` on this thread for as long as lanes run. No reference to the runner is held while a lane
        // runs, which reaches it in the same way; the caller of `run` vouches for the kernel and its arguments.
        unsafe {
            let arguments = (*runner).arguments;
            if let Some(entry) = (*runner).entry {
                entry(arguments);
            }
            if let Some((save, to)) = (*runner).after_lane() {
                // This stack is not used until it is prepared anew.
                fibre::switch(save, to);
            }
        }
    }
}

extern "C" fn barrier() {
    // SAFETY: an image calls this in a lane, that is, while `run` runs on this thread.
    unsafe { rendezvous(RUNNING.get(), Wait::Barrier) };
}

extern "C" fn wave_sync() {
    // SAFETY: as above.
    unsafe { rendezvous(RUNNING.get(), Wait::WaveSync) };
}

extern "C" fn shuffle(value: u32, source: u32) -> u32 {
    let runner = RUNNING.get();
    // SAFETY: as above; each borrow ends before another lane runs.
    unsafe {
        let given = (*runner).give(value);
        rendezvous(runner, Wait::Shuffle);
        (*runner).taken(given, source)
    }
}
