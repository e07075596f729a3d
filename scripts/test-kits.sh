#!/usr/bin/env bash
# Tests of the kits in Go, C, C++ and Zig on this machine; with the table of test/tests/kits.rs they are also called by a real server.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/guest-go.sh > /dev/null
scripts/guest-zig.sh > /dev/null
failed=()
run() { # NAME COMMAND...
    echo "kits/$1"
    "${@:2}" || failed+=("$1")
}
run go env -C kits/go WWS_GUEST_GOOS= WWS_GUEST_GOARCH= ../../target/tools/bin/wasm-go test ./...
run c kits/c/test/run.sh
run cpp kits/cpp/test/run.sh
run zig target/tools/bin/wasm-zig test kits/zig/src/worker.zig
((${#failed[@]} == 0)) || {
    echo "FAILED: ${failed[*]}"
    exit 1
}
