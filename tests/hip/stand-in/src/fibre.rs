//! Stacks for lanes, and switching between them.
//!
//! A switch saves what the C calling convention lets a callee keep and nothing else: kernels change neither the rounding
//! mode nor the signal mask. It ends with a plain `ret`: lanes in step wait in the same place, so the processor's guess of
//! where to return to, made for the lane that called, is right for the one that goes on.

use std::io;
use std::ptr;

/// Bytes of a lane's stack, without its guard page.
pub const STACK_BYTES: usize = 64 * 1024;
/// Bytes below a stack that cannot be accessed, so that an overflow ends the process instead of changing another lane.
const GUARD_BYTES: usize = 4096;

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".text",
    ".p2align 4",
    ".hidden rocmforge_fibre_switch",
    ".globl rocmforge_fibre_switch",
    ".type rocmforge_fibre_switch,@function",
    "rocmforge_fibre_switch:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rdi], rsp",
    "mov rsp, rsi",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    ".size rocmforge_fibre_switch, . - rocmforge_fibre_switch",
);

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    /// Saves the running context to `*save` and continues the one that was saved as `to`.
    fn rocmforge_fibre_switch(save: *mut *mut u8, to: *mut u8);
}

/// Saves the running context to `*save` and continues the one that was saved as `to`.
///
/// # Safety
/// `to` is a context of this thread that was saved by a switch or made by [`Stacks::prepare`], and is not running.
#[inline(always)]
pub unsafe fn switch(save: *mut *mut u8, to: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: what the caller vouches for.
    unsafe {
        rocmforge_fibre_switch(save, to);
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (save, to);
        unreachable!("no device is offered on this processor");
    }
}

/// Whether lanes can run on this processor.
pub const SUPPORTED: bool = cfg!(target_arch = "x86_64");

/// Stacks for a number of lanes, mapped once and used again for every block.
pub struct Stacks {
    base: *mut u8,
    count: usize,
}

impl Stacks {
    /// Maps `count` stacks. Memory that no lane touches is not taken.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn map(count: usize) -> io::Result<Self> {
        let bytes = count * (STACK_BYTES + GUARD_BYTES);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping touches no other memory.
        let base = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stacks = Self { base: base.cast(), count };
        for i in 0..count {
            // SAFETY: the first page of a slot, within the mapping.
            if unsafe { libc::mprotect(stacks.slot(i).cast(), GUARD_BYTES, libc::PROT_NONE) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(stacks)
    }

    fn slot(&self, i: usize) -> *mut u8 {
        assert!(i < self.count, "stack {i} of {}", self.count);
        // SAFETY: within the mapping, as just checked.
        unsafe { self.base.add(i * (STACK_BYTES + GUARD_BYTES)) }
    }

    /// A context on stack `i` that begins with a call of `entry`, which never returns.
    pub fn prepare(&self, i: usize, entry: extern "C" fn() -> !) -> *mut u8 {
        // Tops a multiple of a page apart would compete for the same few lines of the cache.
        let colour = i * 5 % 64 * 64;
        // SAFETY: the top of the slot; the words below it are within the stack, which no lane is using.
        unsafe {
            let top = self.slot(i).add(GUARD_BYTES + STACK_BYTES - colour).cast::<usize>();
            // Where a function expects its return address; it then finds the stack at 8 modulo 16, as after a call.
            top.sub(1).write(0);
            top.sub(2).write(entry as usize);
            let saved = top.sub(8);
            for register in 0..6 {
                saved.add(register).write(0);
            }
            saved.cast()
        }
    }
}

impl Drop for Stacks {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` made, which no lane uses any more.
        unsafe { libc::munmap(self.base.cast(), self.count * (STACK_BYTES + GUARD_BYTES)) };
    }
}
