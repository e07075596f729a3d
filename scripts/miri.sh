#!/usr/bin/env bash
# Runs the tests of code that needs no system under miri, which reports undefined behaviour, here and in the crates that are used:
# the key/value stores, routes and settings, and the readers of test/pure. Miri needs a nightly compiler, so no gate does this.
# `make miri` is this.
#
#   scripts/miri.sh [FILTER...]     words that cargo test takes, for one test
set -euo pipefail
cd "$(dirname "$0")/.."

toolchain=${MIRI_TOOLCHAIN:-nightly}
if ! cargo "+$toolchain" miri --version > /dev/null 2>&1; then
    echo "miri is missing: rustup toolchain install $toolchain --profile minimal --component miri,rust-src" >&2
    exit 1
fi
export CARGO_TARGET_DIR=$PWD/target/miri
# System calls as calls of libc, which miri knows.
export RUSTFLAGS="--cfg rustix_use_libc"
# Entries of stores expire by the real clock. A property is tried with few values: each takes hundreds of times as long as without.
export MIRIFLAGS="${MIRIFLAGS--Zmiri-disable-isolation}" PROPTEST_CASES=${PROPTEST_CASES-16}

# Without the tests of files: miri has no SQLite.
cargo "+$toolchain" miri test --locked -p wws-kv --lib -- "$@"
# Without the tests that read files: miri has no openat2.
cargo "+$toolchain" miri test --locked -p wws-project --lib -- --skip beneath --skip directory --skip dot_env --skip secret \
    --skip watched "$@"
cargo "+$toolchain" miri test --locked --manifest-path test/pure/Cargo.toml -- "$@"
