//! Prints `docs/hip-functions.md`.
#![forbid(unsafe_code)]

fn main() {
    print!("{}", rocmforge_hip_sys::function_table());
}
