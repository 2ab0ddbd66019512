use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rocmforge_abi::{Status, status};

use crate::error::{Error, Result};

#[cfg(panic = "abort")]
compile_error!("a plugin must be built with panic = \"unwind\", or a panic in it ends the host");

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps panic messages for [`guard`] instead of printing them. A plugin has its own copy of the standard library, so
/// this does not touch the host's hook.
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("a panic without a message");
        let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        LAST_PANIC.with(|last| *last.borrow_mut() = format!("{text}{place}"));
    }));
}

/// Runs a call from the host; a panic becomes a status.
pub(crate) fn guard(call: impl FnOnce() -> Result<(), Error>) -> Status {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => Status::ok(),
        Ok(Err(e)) => e.into(),
        Err(payload) => {
            // Dropping a payload can panic again; it is tiny and rare, so it is left.
            std::mem::forget(payload);
            let message = LAST_PANIC.with(|last| last.take());
            Status::error(status::PANIC, format!("the plugin panicked: {message}"))
        }
    }
}

/// As [`guard`] for calls that return a value: `fallback` stands for it after a panic.
pub(crate) fn guard_value<T>(fallback: T, call: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        std::mem::forget(payload);
        fallback
    })
}
