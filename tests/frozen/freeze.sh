#!/usr/bin/env bash
# Builds the binaries of a released ABI version into a folder of that name; see README.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=tests/frozen/${1:?usage: freeze.sh abi-X.Y}
[ ! -e "$out" ] || { echo "$out is frozen already" >&2; exit 1; }
home=${CARGO_HOME:-$HOME/.cargo}
export RUSTFLAGS="--remap-path-prefix=$PWD=rocmforge --remap-path-prefix=$home=cargo"
export CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_OPT_LEVEL=s CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1
export CARGO_PROFILE_RELEASE_STRIP=symbols CARGO_PROFILE_RELEASE_INCREMENTAL=false
cargo build --release --target-dir target/frozen -p rocmforge-arch-llama -p fixture-reference -p rocmforge-e2e
mkdir -p "$out"
cp target/frozen/release/{librocmforge_arch_llama.so,libfixture_reference.so,accuracy} "$out"
# Repositories grow with every one of them.
xz --x86 --lzma2=preset=9e "$out"/*
