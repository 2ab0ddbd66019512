//! A layout carries the name and version of the package that declares it, and this crate stands in for the ABI's.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=CARGO_PKG_NAME=rocmforge-abi");
    println!("cargo::rustc-env=CARGO_PKG_VERSION=1.0.0");
}
