#!/usr/bin/env bash
# The article's walk on a private Docker Engine, printed as a transcript. `make demo-docker` builds what this needs before.
#
#   scripts/demo-docker.sh [26|28|29]     default 28
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra cargo_flags <<< "${CARGO_FLAGS---locked}"

scripts/docker.sh "${1-28}"
[[ ${1-} != 29 ]] || scripts/clients.sh containerd-2.3
demo=target/x86_64-unknown-linux-gnu/release/demo-docker
as_root=()
((EUID == 0)) || as_root=(sudo)
cargo build "${cargo_flags[@]}" --release --quiet -p wws-test --bins
"${as_root[@]}" "${demo%/*}/walk" sweep
trap '"${as_root[@]}" "${demo%/*}/walk" sweep' EXIT
trap 'exit 130' INT TERM
"${as_root[@]}" "$demo" "$@"
