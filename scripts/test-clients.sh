#!/usr/bin/env bash
# The whole matrix of clients and scenarios: `make test-clients` builds what it needs before.
#
#   scripts/test-clients.sh              all, and their part of docs/compatibility.md is made from how it went
#   scripts/test-clients.sh FILTER...    as of `cargo test`: docker_28, cri, nerdctl_1_7, a test's name
#
# WWS_TEST_CYCLES=N sets how many containers come and go in a row in the test of growth (1,000).
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra cargo_flags <<< "${CARGO_FLAGS---locked}"

scripts/docker.sh
scripts/clients.sh
scripts/check-manifests.sh

log=target/test-clients.log
tests=(--test ctr --test docker --test artifacts)
leave_out=()
if [[ -x target/tools/clients/bin/crictl && -x target/tools/clients/bin/nerdctl && -x target/tools/runc-1.5/usr/sbin/runc ]]; then
    tests+=(--test cri --test nerdctl)
else
    echo '!!! crictl, nerdctl or runc could not be built: THE TESTS WITH THEM ARE LEFT OUT' >&2
fi
for version in 2.3 2.4; do
    [[ ! -x target/tools/containerd-$version/usr/bin/containerd || ! -x target/tools/runc-1.5/usr/sbin/runc ]] || continue
    echo "!!! containerd $version or its runc could not be built: ITS TESTS ARE LEFT OUT" >&2
    leave_out+=(--skip "${version/./_}")
done
for program in containerd-2.3/usr/bin/containerd runc-1.5/usr/sbin/runc docker-29/usr/sbin/dockerd; do
    [[ ! -x target/tools/$program ]] || continue
    echo "!!! $program could not be built: THE TESTS OF DOCKER 29 ARE LEFT OUT" >&2
    leave_out+=(--skip docker_29)
done
((EUID == 0)) ||
    export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="sudo --preserve-env=WWS_TEST_PROGRAMS,WWS_TEST_CYCLES,RUST_BACKTRACE"
status=0
RUST_BACKTRACE=${RUST_BACKTRACE-0} cargo test "${cargo_flags[@]}" --release -p wws-test "${tests[@]}" --no-fail-fast -- \
    --include-ignored --test-threads=1 --show-output "${leave_out[@]}" "$@" 2>&1 | tee "$log" || status=1
if ((!$#)); then
    scripts/compatibility.sh clients < "$log"
fi
grep '^does not apply: ' "$log" | sort | uniq -c | sed 's/^ *\([0-9]*\)/!!! passed, and ran nothing: \1 x/' >&2 || true
awk '/^test result:/ { passed += $4; failed += $6 } END { printf "\n%d passed, %d failed\n", passed, failed }' "$log"
exit $status
