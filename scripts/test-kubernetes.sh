#!/usr/bin/env bash
# Scenarios in a whole Kubernetes: `make test-kubernetes` builds what it needs before.
#
#   scripts/test-kubernetes.sh              all, and their part of docs/compatibility.md is made from the results
#   scripts/test-kubernetes.sh FILTER...    as of `cargo test`: a test's name
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra cargo_flags <<< "${CARGO_FLAGS---locked}"

scripts/kubernetes.sh
leave_out=()
if [[ ! -x target/tools/metrics-server/bin/metrics-server ]]; then
    echo '!!! metrics-server could not be built: ITS TEST IS LEFT OUT' >&2
    leave_out+=(--skip cpu_time)
fi
log=target/test-kubernetes.log
status=0
WWS_TEST_STORE=${WWS_TEST_STORE-$PWD/target/store} cargo test "${cargo_flags[@]}" --release -p wws-test --test kubernetes -- \
    --include-ignored --test-threads=1 --show-output "${leave_out[@]}" "$@" 2>&1 | tee "$log" || status=1
if ((!$#)); then
    scripts/compatibility.sh kubernetes < "$log"
fi
exit $status
