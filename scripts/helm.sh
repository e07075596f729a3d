#!/usr/bin/env bash
# Builds Helm from its Go module, for the tests of the chart in deploy/helm: target/tools/helm/bin/helm. Nothing is installed.
# It takes Go 1.25 or newer, and minutes of one CPU.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=/dev/null
. scripts/go-module.sh

build helm 1.25.0 helm.sh/helm/v3 v3.20.2 'h1:binM4rvPx5DcNsa1sIt7UZi55lRbu3pZUFmQkSoRh48=' \
    helm.sh/helm/v3/internal/version.version helm/bin ./cmd/helm
