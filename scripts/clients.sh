#!/usr/bin/env bash
# Builds the clients and the versions of containerd that Debian packages none of, from their Go modules, and unpacks the network
# plugins that they need, all below target/tools. Nothing is installed.
#
#   target/tools/clients/bin/crictl          what a kubelet does to containerd, by hand
#   target/tools/clients/bin/nerdctl         Docker's commands for containerd
#   target/tools/containerd-2.3/usr/bin      containerd (long-term support), ctr and runc's shim
#   target/tools/containerd-2.4/usr/bin      the newest containerd
#   target/tools/runc-1.5/usr/sbin           runc with ID-mapped mounts and namespaces of time, which Debian 12's has not
#   target/tools/cni/usr/lib/cni             Debian's containernetworking-plugins
#
#   scripts/clients.sh             all of them
#   scripts/clients.sh NAME...     some of them: crictl, nerdctl, containerd-2.3, containerd-2.4, runc-1.5; the network plugins always
#
# scripts/go-module.sh says how. The clients take Go 1.24.3 or newer, runc takes 1.25 (and a C compiler), containerd takes 1.26.8: what
# cannot be built with the Go that is there is skipped, which is said loudly, and so are the tests with it.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=/dev/null
. scripts/go-module.sh

names=("$@")
is_wanted() { ((!${#names[@]})) || [[ " ${names[*]} " == *" $1 "* ]]; }

# What is changed in the files of a module before it is built.
prepare_nerdctl() {
    # Helpers of its tests, for which it takes a module from its own repository that is not published.
    rm cmd/nerdctl/helpers/testing*.go
    go mod edit -dropreplace=github.com/containerd/nerdctl/mod/tigron@v0.0.0 -droprequire=github.com/containerd/nerdctl/mod/tigron
}

scripts/debs.sh trixie cni containernetworking-plugins
! is_wanted crictl || build crictl 1.24.3 sigs.k8s.io/cri-tools v1.34.0 'h1:KqL9EJ+WgHtz1HR1exezm91n+o8O2uMLs/eHzHJHAWw=' \
    sigs.k8s.io/cri-tools/pkg/version.Version clients/bin ./cmd/crictl
! is_wanted nerdctl || build nerdctl 1.24.3 github.com/containerd/nerdctl/v2 v2.2.0 'h1:dTJO0gUak1FYg+PyG2+fc6L4Z3TIvH4T+Sa0vQFakAo=' \
    github.com/containerd/nerdctl/v2/pkg/version.Version clients/bin ./cmd/nerdctl
containerd=(./cmd/containerd ./cmd/ctr ./cmd/containerd-shim-runc-v2)
! is_wanted containerd-2.3 || build containerd-2.3 1.26.8 github.com/containerd/containerd/v2 v2.3.7 'h1:7PGbgAVKE4ieQjFPv7+kwAv7f9dCtRpExZwjExHD/Fk=' \
    github.com/containerd/containerd/v2/version.Version containerd-2.3/usr/bin "${containerd[@]}"
! is_wanted containerd-2.4 || build containerd-2.4 1.26.8 github.com/containerd/containerd/v2 v2.4.2 'h1:p6Qg+xbEz8lvwdhHDx0U469xENvp4LgGBx+E7djXkGw=' \
    github.com/containerd/containerd/v2/version.Version containerd-2.4/usr/bin "${containerd[@]}"
if is_wanted runc-1.5; then
    # Docker filters system calls. Without pkg-config, which a machine need not have.
    scripts/debs.sh bookworm libseccomp libseccomp-dev
    libseccomp=$PWD/target/tools/libseccomp/usr architecture=$(uname -m)
    export PKG_CONFIG=true CGO_CFLAGS=-I$libseccomp/include CGO_LDFLAGS="-L$libseccomp/lib/$architecture-linux-gnu -lseccomp"
    CGO=1 TAGS=seccomp build runc-1.5 1.25.0 github.com/opencontainers/runc v1.5.3 'h1:y3GUIW7J0Gxd+tCFfWR6L1YDnhHiNR1BGRx1J50+VnA=' \
        main.version runc-1.5/usr/sbin .
fi
