//! On which processors threads run, and how often they lost theirs. Systems other than Linux say nothing.

#[cfg(target_os = "linux")]
pub(crate) use linux::{Mask, allowed, current, losses, pin, thread};
#[cfg(not(target_os = "linux"))]
pub(crate) use none::{Mask, allowed, current, losses, pin, thread};

#[cfg(target_os = "linux")]
mod linux {
    /// The processors that a thread may use.
    #[derive(Clone, Copy)]
    pub(crate) struct Mask(libc::cpu_set_t);

    impl PartialEq for Mask {
        fn eq(&self, other: &Mask) -> bool {
            // SAFETY: two sets.
            unsafe { libc::CPU_EQUAL(&self.0, &other.0) }
        }
    }

    impl Mask {
        /// That of a thread; 0: of this one.
        pub(crate) fn of(thread: i32) -> Option<Mask> {
            // SAFETY: a set of bits, for which zeros are valid; it is as large as said.
            let (answer, set) = unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                (libc::sched_getaffinity(thread, size_of::<libc::cpu_set_t>(), &raw mut set), set)
            };
            (answer == 0).then_some(Mask(set))
        }

        /// One processor.
        pub(crate) fn one(processor: usize) -> Option<Mask> {
            // SAFETY: a set of bits, for which zeros are valid, and a number below its size.
            (processor < libc::CPU_SETSIZE as usize).then(|| unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                libc::CPU_SET(processor, &mut set);
                Mask(set)
            })
        }

        pub(crate) fn processors(&self) -> Vec<usize> {
            // SAFETY: numbers below the size of the set.
            (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &self.0) }).collect()
        }

        /// Lets a thread use these; 0: this one. A system that refuses costs nothing but what was hoped for.
        pub(crate) fn set(&self, thread: i32) {
            // SAFETY: a set as large as said.
            unsafe { libc::sched_setaffinity(thread, size_of::<libc::cpu_set_t>(), &raw const self.0) };
        }
    }

    /// Processors that this thread may use; none where the system does not say.
    pub(crate) fn allowed() -> Vec<usize> {
        Mask::of(0).map_or(vec![], |mask| mask.processors())
    }

    /// Keeps this thread on a processor.
    pub(crate) fn pin(processor: usize) {
        Mask::one(processor).into_iter().for_each(|mask| mask.set(0));
    }

    /// The number of this thread.
    pub(crate) fn thread() -> i32 {
        // SAFETY: no arguments.
        unsafe { libc::gettid() }
    }

    /// The processor that this thread runs on.
    pub(crate) fn current() -> Option<usize> {
        // SAFETY: no arguments.
        usize::try_from(unsafe { libc::sched_getcpu() }).ok()
    }

    /// How often another thread took the processor of this one.
    pub(crate) fn losses() -> u64 {
        // SAFETY: plain numbers, for which zeros are valid.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
            usage
        };
        usage.ru_nivcsw as u64
    }
}

#[cfg(not(target_os = "linux"))]
mod none {
    #[derive(Clone, Copy, PartialEq)]
    pub(crate) struct Mask;

    impl Mask {
        pub(crate) fn of(_: i32) -> Option<Mask> {
            None
        }

        pub(crate) fn one(_: usize) -> Option<Mask> {
            None
        }

        pub(crate) fn processors(&self) -> Vec<usize> {
            vec![]
        }

        pub(crate) fn set(&self, _: i32) {}
    }

    pub(crate) fn allowed() -> Vec<usize> {
        vec![]
    }

    pub(crate) fn pin(_: usize) {}

    pub(crate) fn thread() -> i32 {
        0
    }

    pub(crate) fn current() -> Option<usize> {
        None
    }

    pub(crate) fn losses() -> u64 {
        0
    }
}
