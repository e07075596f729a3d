#!/usr/bin/env bash
# Builds the clients that Debian packages none of, from their Go modules, and unpacks the network plugins that they need, all below
# target/tools. Nothing is installed.
#
#   target/tools/clients/bin/crictl      what a kubelet does to containerd, by hand
#   target/tools/clients/bin/nerdctl     Docker's commands for containerd
#   target/tools/cni/usr/lib/cni         Debian's containernetworking-plugins
#
# A module is pinned by its version and the checksum of its files, which have the checksums of all that it is built from. It takes
# Go 1.24.3 or newer; without that nothing is built, which is said loudly, and the tests with these clients are left out.
set -euo pipefail
cd "$(dirname "$0")/.."

go_version=1.24.3
target=$PWD/target/tools/clients

# What is changed in the files of a module before it is built.
prepare_crictl() { :; }
prepare_nerdctl() {
    # Helpers of its tests, for which it takes a module from its own repository that is not published.
    rm cmd/nerdctl/helpers/testing*.go
    go mod edit -dropreplace=github.com/containerd/nerdctl/mod/tigron@v0.0.0 -droprequire=github.com/containerd/nerdctl/mod/tigron
}

build() { # NAME MODULE VERSION CHECKSUM VARIABLE: the last takes the version
    local name=$1 module=$2 version=$3 sum=$4 variable=$5 pin=$target/$1.pin source=$target/source/$1 found files
    [[ ! -x $target/bin/$name || ! -e $pin || $(< "$pin") != "$module $version $sum" ]] || return 0
    echo "building $name $version from $module"
    # The checksum is known here; the public list of checksums need not know this module.
    found=$(GONOSUMDB=$module GOFLAGS=-mod=mod go mod download -json "$module@$version")
    files=$(sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' <<< "$found")
    found=$(sed -n 's/^\t"Sum": "\(.*\)",\{0,1\}$/\1/p' <<< "$found")
    if [[ $found != "$sum" ]]; then
        echo "scripts/clients.sh: $module $version has the checksum $found instead of $sum" >&2
        exit 1
    fi
    rm -rf "$source"
    mkdir -p "$target/bin" "${source%/*}"
    cp -R "$files" "$source"
    chmod -R u+w "$source"
    (
        cd "$source"
        "prepare_$name"
        CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -buildvcs=false -trimpath -ldflags "-s -w -X $variable=$version" \
            -o "$target/bin/$name" "./cmd/$name"
    )
    rm -rf "$source"
    echo "$module $version $sum" > "$pin"
}

scripts/debs.sh trixie cni containernetworking-plugins
export GOTOOLCHAIN=local GOOS= GOARCH=
present=$(go env GOVERSION 2> /dev/null | sed 's/^go//' || true)
if [[ -z $present || $(printf '%s\n' "$go_version" "$present" | sort -V | head -1) != "$go_version" ]]; then
    printf '!!! %s\n' "Go $go_version or newer is needed to build crictl and nerdctl; there is ${present:-none}." \
        "    THE TESTS WITH THESE CLIENTS ARE LEFT OUT." >&2
    exit 0
fi
build crictl sigs.k8s.io/cri-tools v1.34.0 'h1:KqL9EJ+WgHtz1HR1exezm91n+o8O2uMLs/eHzHJHAWw=' \
    sigs.k8s.io/cri-tools/pkg/version.Version
build nerdctl github.com/containerd/nerdctl/v2 v2.2.0 'h1:dTJO0gUak1FYg+PyG2+fc6L4Z3TIvH4T+Sa0vQFakAo=' \
    github.com/containerd/nerdctl/v2/pkg/version.Version
