#!/usr/bin/env bash
# Runs the tests of the engine and of the shim under AddressSanitizer, which reports reads and writes outside of what was allocated,
# and of what was freed. The sanitizer's runtime comes with the pinned compiler, which takes its flag with RUSTC_BOOTSTRAP=1: no
# nightly compiler is needed. `make asan` is this.
#
#   scripts/asan.sh [PART...] [-- TEST_ARG...]     PART is engine or shim; default both
#
# All crates are compiled again, with wasmtime, below target/asan: 3 GB, and as long as a first build. The standard library is not
# instrumented, and neither is code that wasmtime compiles.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(uname -m)-unknown-linux-gnu
parts=() options=()
while (($#)) && [[ $1 != -- ]]; do
    parts+=("$1")
    shift
done
options=("${@:2}")
((${#parts[@]})) || parts=(engine shim)

# Where they are set, the flags of .cargo/config.toml are not: the sanitizer needs a program that is linked dynamically.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address
export CARGO_TARGET_DIR=$PWD/target/asan
# Cranelift runs instrumented too: without optimization, compiling modules would take minutes.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=line-tables-only CARGO_PROFILE_RELEASE_STRIP=none
export CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true
# Guests' accesses out of bounds are signals that wasmtime handles. Memory that lives as long as the program is no leak.
export ASAN_OPTIONS=${ASAN_OPTIONS:-handle_segv=0:allow_user_segv_handler=1:detect_leaks=0:detect_stack_use_after_return=0}

failed=()
for part in "${parts[@]}"; do
    case $part in
        engine) package=wws-engine ;;
        shim) package=containerd-shim-wws-v1 ;;
        *)
            echo "no part $part: engine, shim" >&2
            exit 2
            ;;
    esac
    printf '\n== %s\n' "$part"
    cargo test --locked --release --target "$host" -p "$package" --tests --no-fail-fast -- "${options[@]}" || failed+=("$part")
done
((${#failed[@]} == 0)) || {
    echo "FAILED: ${failed[*]}" >&2
    exit 1
}
