//! On which processors a thread runs.

/// Processors that this thread may use; none where the system does not say.
#[cfg(target_os = "linux")]
pub(crate) fn allowed() -> Vec<usize> {
    // SAFETY: a set of bits, for which zeros are valid; it is as large as said.
    let (answer, set) = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        (libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set), set)
    };
    if answer != 0 {
        return vec![];
    }
    // SAFETY: numbers below the size of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// Keeps this thread on a processor. A system that refuses costs nothing but what was hoped for.
#[cfg(target_os = "linux")]
pub(crate) fn pin(processor: usize) {
    if processor < libc::CPU_SETSIZE as usize {
        // SAFETY: a set of bits, for which zeros are valid; it is as large as said and has this bit.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(processor, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn allowed() -> Vec<usize> {
    vec![]
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn pin(_processor: usize) {}
