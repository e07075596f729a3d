#!/usr/bin/env bash
# Unpacks or builds the Docker Engines that the tests know below target/tools. Nothing is installed.
#
#   target/tools/docker-26/usr/{bin/docker,sbin/dockerd,...}    Debian 13
#   target/tools/docker-28/usr/...                              Debian 14
#   target/tools/docker-29/usr/...                              from the Go modules of engine, client, buildx and Compose
#
#   scripts/docker.sh              all of them
#   scripts/docker.sh 26|28|29     one of them
#
# scripts/go-module.sh says how. Docker 29 takes Go 1.26.8: with an older one it is skipped, which is said loudly, and so are the tests
# with it.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=/dev/null
. scripts/go-module.sh

if ! command -v ip > /dev/null; then
    echo "ip is missing: install iproute2" >&2
    exit 1
fi
is_wanted() { [[ -z $only || $only == "$1" ]]; }

only=${1-}
! is_wanted 26 || scripts/debs.sh trixie docker-26 docker.io docker-cli docker-buildx docker-compose
! is_wanted 28 || scripts/debs.sh forky docker-28 docker.io docker-cli docker-buildx docker-compose

# What is changed in the files of a module before it is built.
prepare_docker_cli() {
    # It has its requirements and their checksums under other names.
    rm -r vendor
    mv vendor.mod go.mod
    mv vendor.sum go.sum
    # The module proxy has no 2.1.3 of it, but the commit before that the engine takes.
    local module=github.com/moby/swarmkit/v2 version=v2.1.3-0.20260828175525-ad0357aedfca
    go mod edit -replace="$module=$module@$version"
    sed -i "\\,^$module ,d" go.sum
    printf '%s\n' "$module $version h1:8uVbEBts3zzp1dXikCta4qcGWO7hLdNk5UVySQyylCU=" \
        "$module $version/go.mod h1:LKFhuIOwIXpAOGpPqGuv2hwujjm0gT4X7boYQJKWnVA=" >> go.sum
}

is_wanted 29 || exit 0
build moby-29 1.26.3 github.com/moby/moby/v2 v2.0.0-beta.24 'h1:sWv7EckkDJhpraR9yUjkw1XeVf39+MWd58E22PYloNA=' \
    github.com/moby/moby/v2/dockerversion.Version docker-29/usr/sbin ./cmd/dockerd ./cmd/docker-proxy
build docker_cli-29 1.26.0 github.com/docker/cli v29.9.3+incompatible 'h1:SBaMp7ecohadEHMDrUJg22t9I3awqsAVhnJ7GOcWpfE=' \
    github.com/docker/cli/cli/version.Version docker-29/usr/bin ./cmd/docker
plugins=docker-29/usr/libexec/docker/cli-plugins
build buildx-29 1.26.8 github.com/docker/buildx v0.38.2 'h1:TTn5GXRaZatKpvJ4l7xXuS/N8kTIkLFP0WvGRkbbW9U=' \
    github.com/docker/buildx/version.Version "$plugins" ./cmd/buildx
# Newer ones take Go 1.26.10.
build compose-29 1.26.8 github.com/docker/compose/v5 v5.6.0 'h1:WCDEV0D1CtZLyPdklHdEjFBnCStosBYkfsD3tvM/ITU=' \
    github.com/docker/compose/v5/internal.Version "$plugins" ./cmd
# A plugin has the name of its command.
[[ ! -x target/tools/$plugins/buildx ]] || ln -sf buildx "target/tools/$plugins/docker-buildx"
[[ ! -x target/tools/$plugins/cmd ]] || ln -sf cmd "target/tools/$plugins/docker-compose"
