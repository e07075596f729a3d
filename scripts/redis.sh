#!/usr/bin/env bash
# Unpacks Debian's Redis below target/tools/redis, for the tests of the store in Redis. Does nothing where it is there.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/debs.sh bookworm redis redis-server redis-tools libjemalloc2 liblzf1 libatomic1
