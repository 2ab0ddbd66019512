//! The command line of ROCmForge.
fn main() {}
