//! Aborts in its initialiser, before any code of the host's could look at it.

extern "C" fn crash() {
    // Output without a line end must not confuse whoever reads the test process's lines.
    print!("about to crash");
    std::process::abort();
}

#[used]
// SAFETY: the section holds pointers to functions without arguments, which is what this is.
#[unsafe(link_section = ".init_array")]
static INITIALISER: extern "C" fn() = crash;
