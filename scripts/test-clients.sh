#!/usr/bin/env bash
# The tests that take other clients than `ctr`, and minutes: `make test-clients` builds what they need before.
#
#   scripts/test-clients.sh [FILTER]     as of `cargo test`: docker_26, docker_28, a test's name
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/docker.sh
((EUID == 0)) || export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="sudo --preserve-env=WWS_TEST_PROGRAMS,RUST_BACKTRACE"
RUST_BACKTRACE=${RUST_BACKTRACE-0} cargo test ${CARGO_FLAGS---locked} --release -p wws-test --test docker --no-fail-fast -- \
    --include-ignored --test-threads=1 "$@"
