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

# A test program that says nothing for so many seconds is ended.
silence=900

# Runs the tests of `cargo test ARG...`. Where at most three of them fail, these are run once more, one by one, since a machine that
# is busy with something else fails tests that wait for it. What passes only then is named in the sum. Where a test waits for ever,
# all are run once more: what would have come after it is not known.
tests() { # CARGO_ARG... [-- TEST_ARG...]
    local output=$PWD/target/tests.log names status=0
    local -a arguments=() options failed_names stopped
    while (($#)) && [[ $1 != -- ]]; do
        arguments+=("$1")
        shift
    done
    options=("${@:2}")
    local -a command=(scripts/run-tests.py "$output" "$silence" cargo test "${cargo_flags[@]}" --release "${arguments[@]}" --no-fail-fast --)
    "${command[@]}" "${options[@]}" || status=$?
    readarray -t stopped < <(sed -n 's/^stopped: //p' "$output")
    if ((status == 75)); then
        printf '\nonce more, all of them\n'
        status=0
        "${command[@]}" "${options[@]}" || status=$?
    fi
    if ((status == 75)); then
        return 1
    elif ((status)); then
        names=$(scripts/failed-tests.py "$output") || return 1
        printf '\nonce more, one by one:\n%s\n' "$names"
        readarray -t failed_names <<< "$names"
        # The option must not be given twice, the variable may be set beside it.
        if ! RUST_TEST_THREADS=1 "${command[@]}" "${options[@]}" --exact "${failed_names[@]}" > /dev/null ||
            (($(grep -c '^test .* ok$' "$output") < ${#failed_names[@]})); then
            cat "$output"
            return 1
        fi
        printf 'passed alone: %s\n' "${failed_names[@]}"
    fi
    ((${#stopped[@]} == 0)) || printf 'passed again: %s\n' "${stopped[@]}"
}

unit() {
    # For the tests of stores in Redis.
    scripts/redis.sh || return 1
    # What belongs to `wws` apart from what doesn't: together they would turn on features with which wasmtime is compiled again.
    local status=0
    tests --config scripts/unit-tests.toml --workspace --exclude wws-test --exclude wws-bench --exclude containerd-shim-wws-v1 || status=1
    tests -p containerd-shim-wws-v1 -p wws-bench || status=1
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
    # For the tests of stores in Redis.
    scripts/redis.sh || return 1
    # The code of the example's interpreters is compiled once for all tests; those about the store have one of their own.
    # Root's, so that only root can clear it up.
    ((EUID != 0)) || export WWS_TEST_STORE=$PWD/target/store
    RUST_BACKTRACE=${RUST_BACKTRACE-0} tests -p wws-test -- --test-threads=1
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
    /^passed alone: / { alone++ }
    /^passed again: / { again++ }
    END {
        printf "\n%d tests passed, %d failed, in %d suites and %d s\n", passed + alone, failed - alone, suites, seconds
        if (alone) printf "%d of them failed at first and passed when they were run once more, alone\n", alone
        if (again) printf "%d of them waited for ever at first, and all were run once more\n", again
    }' "$log"
sed -n 's/^passed \(alone\|again\): /    \1: /p' "$log"
if ((${#failed[@]})); then
    grep -E '^test .* FAILED$|^error(\[|:)' "$log" | sort -u || true
    # What they said, once more: the end of a long log is what is kept of it.
    awk '/^---- .* ----$/ { said = 1 } /^failures:$|^test result:/ { said = 0 } said' "$log" | head -n 200
    echo "FAILED: ${failed[*]}"
    exit 1
fi
