#!/usr/bin/env bash
# Looks for advisories about the dependencies (`cargo deny check advisories`), by the RustSec database. It is fetched where that is
# possible; else the clone of it that cargo-deny keeps is used.
#
#   scripts/advisories.sh             says loudly if there is no database, and is no failure then
#   REQUIRED=1 scripts/advisories.sh  it is one
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p target

deny=target/tools/lint-tools/bin/cargo-deny
[[ -x $deny ]] || { echo "cargo-deny is missing: make deny" >&2; exit 1; }

flags=()
databases=${CARGO_HOME:-$HOME/.cargo}/advisory-dbs
if ! "$deny" fetch db > target/deny-fetch.log 2>&1; then
    if ! compgen -G "$databases/*/crates" > /dev/null; then
        {
            echo "************************************************************************"
            echo "ADVISORIES NOT CHECKED: the RustSec database cannot be fetched, and there"
            echo "is no clone of it below $databases."
            tail -n 3 target/deny-fetch.log
            echo "************************************************************************"
        } >&2
        exit "${REQUIRED:-0}"
    fi
    echo "the RustSec database cannot be fetched; using the one below $databases" >&2
    flags=(--disable-fetch)
fi
"$deny" check "${flags[@]}" advisories
