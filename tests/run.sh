#!/usr/bin/env bash
# Builds everything and runs every test. Tests that cannot run here say why in a line that begins with `skipped:`;
# they are shown and counted apart. The whole output is in target/test-output.txt. Arguments go to `cargo test`.
set -uo pipefail
cd "$(dirname "$0")/.."
cargo build --release || exit 1
log=target/test-output.txt
cargo test --release --no-fail-fast "$@" -- --show-output 2>&1 | tee "$log" |
    grep --line-buffered -E '^ +(Running|Doc-tests)|^test .*(FAILED|ignored)|^test result|^error|^skipped:'
status=${PIPESTATUS[0]}
if [ "$status" -ne 0 ]; then
    sed -n '/^failures:$/,/^test result/p' "$log"
    grep -E -A 12 '^error' "$log"
fi
awk '/^test result:/ { passed += $4; failed += $6 } /^skipped:/ { skipped++ }
     END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$log"
exit "$status"
