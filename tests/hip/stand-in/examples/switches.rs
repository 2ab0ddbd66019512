//! Measures how many lane switches a second one thread makes: a wave that does nothing but shuffle.

use std::ffi::c_void;
use std::time::Instant;

use rocmforge_hip_stand_in::block::{HOOKS, Launch, RfSimtHooks, RfSimtLane, Runner};

static mut CURRENT: *const RfSimtLane = std::ptr::null();

unsafe extern "C" fn current() -> *mut *const RfSimtLane {
    &raw mut CURRENT
}

unsafe extern "C" fn shuffles(rounds: *const c_void) {
    let hooks: &RfSimtHooks = &HOOKS;
    // SAFETY: the argument is the number of rounds, given below.
    let rounds = unsafe { *rounds.cast::<u32>() };
    let mut value = 1u32;
    for i in 0..rounds {
        value = hooks.shuffle(value, i) ^ i;
    }
    std::hint::black_box(value);
}

fn main() {
    let rounds = 200_000u32;
    for wave in [32, 64] {
        let arguments = (&raw const rounds).cast();
        let launch = Launch { entry: shuffles, current, arguments, lanes: wave, wave };
        let mut runner = Runner::new().expect("stacks");
        let start = Instant::now();
        // SAFETY: the kernel above, with the arguments that it takes.
        unsafe { runner.run(&launch, [0; 3]) }.expect("a block");
        let (seconds, switches) = (start.elapsed().as_secs_f64(), runner.switches() as f64);
        println!(
            "waves of {wave}: {:.1} million lane switches a second, {:.1} ns each",
            switches / seconds / 1e6,
            seconds / switches * 1e9
        );
    }
}
