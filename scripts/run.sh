#!/usr/bin/env bash
# Shows the example: a private containerd in a temporary directory runs the image through our shim, curl asks each worker twice, all
# is stopped and cleared up. `make run` builds what this needs before.
#
#   scripts/run.sh              the whole of it
#   KEEP=1 scripts/run.sh       leave it running
#   scripts/run.sh stop         stop it
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra cargo_flags <<< "${CARGO_FLAGS---locked}"

# Interpreters are compiled once. Only where root may clear it up again.
((EUID != 0)) || export WWS_TEST_STORE=$PWD/target/store
walk=target/x86_64-unknown-linux-gnu/release/walk
state=target/run
as_root=()
((EUID == 0)) || as_root=(sudo)

# Ends what a `KEEP=1` left running, and clears up after anything that was killed.
stop() {
    if [[ -e $state/pid ]]; then
        local pid
        pid=$(< "$state/pid")
        if [[ $("${as_root[@]}" readlink "/proc/$pid/exe") == */walk ]]; then
            "${as_root[@]}" kill -TERM "$pid"
            "${as_root[@]}" tail --pid="$pid" -f /dev/null
            tail -n +"$(($(< "$state/lines") + 1))" "$state/log"
        fi
    fi
    rm -rf "$state"
    [[ ! -x $walk ]] || "${as_root[@]}" "$walk" sweep
}

if [[ ${1-} == stop ]]; then
    stop
    exit
fi

cargo build "${cargo_flags[@]}" --release --quiet -p wws-test --bin walk
stop
# shellcheck disable=SC2154 # It is assigned in the same line.
trap 'status=$?; stop; exit "$status"' EXIT
trap 'exit 130' INT TERM
if [[ -z ${KEEP-} ]]; then
    "${as_root[@]}" "$walk"
    exit
fi

mkdir -p "$state"
echo 0 > "$state/lines"
# In a session of its own: neither this terminal's interrupt nor its end is meant for it.
setsid "${as_root[@]}" "$walk" keep "$state/pid" > "$state/log" 2>&1 < /dev/null &
until grep -q '^Stop it:' "$state/log"; do
    if [[ ! -d /proc/$! ]]; then
        cat "$state/log"
        exit 1
    fi
    sleep 0.1
done
cat "$state/log"
wc -l < "$state/log" > "$state/lines"
trap - EXIT
