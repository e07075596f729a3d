#!/usr/bin/env bash
# Unpacks what the tests and figures run against below target/tools: versions of containerd, runc, Prometheus, a registry, and a
# load generator. Nothing is installed.
#
#   target/tools/containerd-1.6/usr/bin/{containerd,ctr}    Debian 12
#   target/tools/containerd-1.7/usr/bin/...                 Debian 13
#   target/tools/containerd-2.1/usr/bin/...                 Debian 14
#   target/tools/runc/usr/sbin/runc                         Debian 12's, since later ones need a newer glibc than that has
#   target/tools/prometheus/usr/bin                         Debian 12's prometheus and promtool
#   target/tools/registry/usr/bin/docker-registry           Debian 12
#   target/tools/wrk/usr/bin/wrk                            with LD_LIBRARY_PATH=target/tools/wrk/usr/lib/x86_64-linux-gnu
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/debs.sh bookworm containerd-1.6 containerd
scripts/debs.sh trixie containerd-1.7 containerd
scripts/debs.sh forky containerd-2.1 containerd
scripts/debs.sh bookworm runc runc
scripts/debs.sh bookworm wrk wrk libluajit-5.1-2
scripts/debs.sh bookworm prometheus prometheus
scripts/debs.sh bookworm registry docker-registry
