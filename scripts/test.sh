#!/usr/bin/env bash
# All tests, one line of sum at the end. `make test` builds what they need before.
#
#   scripts/test.sh [PART...]     PART is one of: unit models kits end-to-end; default all
set -euo pipefail
cd "$(dirname "$0")/.."

read -ra cargo_flags <<< "${CARGO_FLAGS---locked}"
log=$PWD/target/test.log
: > "$log"
failed=()
started=$SECONDS

part() { # NAME COMMAND...
    echo
    echo "== $1"
    if ! "${@:2}" 2>&1 | tee -a "$log"; then
        failed+=("$1")
    fi
}

unit() {
    # What belongs to `wws` apart from what doesn't: together they would turn on features with which wasmtime is compiled again.
    local status=0
    cargo test "${cargo_flags[@]}" --release --workspace --exclude wws-test --exclude wws-bench --exclude containerd-shim-wws-v1 \
        --no-fail-fast || status=1
    cargo test "${cargo_flags[@]}" --release -p containerd-shim-wws-v1 -p wws-bench --no-fail-fast || status=1
    return $status
}

models() {
    # A workspace of its own; its Cargo.toml says why.
    CARGO_TARGET_DIR=$PWD/target/models cargo test "${cargo_flags[@]}" --manifest-path test/models/Cargo.toml
}

kits() {
    local manifest
    # Their examples are workers of test/tests/kits.rs.
    scripts/build-kit-guests.sh || return 1
    scripts/test-kits.sh || return 1
    for manifest in kits/*/Cargo.toml; do
        [[ -e $manifest ]] || continue
        CARGO_TARGET_DIR=target/kits cargo test --manifest-path "$manifest" || return 1
    done
}

end_to_end() {
    # Containers take root, building does not: only the test programs run as root. One at a time, since starting containers
    # and watching clocks at once is how tests become unsteady.
    ((EUID == 0)) || export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="sudo --preserve-env=WWS_TEST_PROGRAMS,RUST_BACKTRACE"
    # The code of the example's interpreters is compiled once for all tests; those about the store have one of their own.
    # Root's, so that only root can clear it up.
    ((EUID != 0)) || export WWS_TEST_STORE=$PWD/target/store
    RUST_BACKTRACE=${RUST_BACKTRACE-0} cargo test "${cargo_flags[@]}" --release -p wws-test --no-fail-fast -- --test-threads=1
}

# Interpreters that projects bring along.
scripts/interpreters.sh all
parts=("$@")
((${#parts[@]})) || parts=(unit models kits end-to-end)
for name in "${parts[@]}"; do
    case $name in
        unit | models | kits) part "$name" "$name" ;;
        end-to-end) part "$name" end_to_end ;;
        *)
            echo "no part $name: unit, models, kits, end-to-end" >&2
            exit 2
            ;;
    esac
done

awk -v seconds=$((SECONDS - started)) '
    /^test result:/ { passed += $4; failed += $6; suites++ }
    END { printf "\n%d tests passed, %d failed, in %d suites and %d s\n", passed, failed, suites, seconds }' "$log"
if ((${#failed[@]})); then
    grep -E '^test .* FAILED$|^error(\[|:)' "$log" | sort -u || true
    echo "FAILED: ${failed[*]}"
    exit 1
fi
