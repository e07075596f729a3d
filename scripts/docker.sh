#!/usr/bin/env bash
# Unpacks the two Docker Engines that the tests know below target/tools. Nothing is installed.
#
#   target/tools/docker-26/usr/{bin/docker,sbin/dockerd,...}    Debian 13
#   target/tools/docker-28/usr/...                              Debian 14
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v ip > /dev/null; then
    echo "ip is missing: install iproute2" >&2
    exit 1
fi
scripts/debs.sh trixie docker-26 docker.io docker-cli docker-buildx docker-compose
scripts/debs.sh forky docker-28 docker.io docker-cli docker-buildx docker-compose
