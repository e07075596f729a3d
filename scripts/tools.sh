#!/usr/bin/env bash
# Unpacks what the tests run against below target/tools: three versions of containerd, and runc. Nothing is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/debs.sh bookworm containerd-1.6 containerd
