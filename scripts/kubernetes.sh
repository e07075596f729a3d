#!/usr/bin/env bash
# Builds all of Kubernetes from its Go modules, as one program, and unpacks what it needs, all below target/tools. Nothing is installed.
#
#   target/tools/kubernetes/bin/kube         etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubelet, kubectl
#   target/tools/metrics-server/bin          what a HorizontalPodAutoscaler reads CPU and memory from
#   target/tools/nftables/usr/sbin/nft       what kube-proxy writes rules with
#   target/tools/cni/usr/lib/cni             Debian's containernetworking-plugins
#   target/tools/busybox/bin/busybox         the program of native containers beside ours
#
#   target/tools/helm/bin/helm               what installs the chart of deploy/helm
#
# test/kubernetes/go.sum pins the checksum of every module of Kubernetes. The build takes 15 minutes of one CPU and 3 GiB of memory.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/debs.sh trixie cni containernetworking-plugins
scripts/debs.sh bookworm nftables nftables libnftables1 libnftnl11 libxtables12 libmnl0 libjansson4 libedit2 libbsd0 libmd0
scripts/debs.sh bookworm busybox busybox-static

. scripts/go-program.sh
version=$(sed -n 's,^\tk8s.io/kubernetes v,,p' test/kubernetes/go.mod)
minor=${version#*.}
base=k8s.io/component-base/version
build_program test/kubernetes kubernetes bin/kube "Kubernetes $version" -ldflags "-s -w -X $base.gitVersion=v$version \
    -X $base.gitMajor=${version%%.*} -X $base.gitMinor=${minor%%.*} -X k8s.io/client-go/pkg/version.gitVersion=v$version"

# shellcheck source=/dev/null
. scripts/go-module.sh
build metrics-server 1.26.4 sigs.k8s.io/metrics-server v0.9.0 'h1:nlqqZ2H0Xfko8eJC/1qaNVVT17hu4rxndkOi22KTZ4w=' \
    k8s.io/client-go/pkg/version.gitVersion metrics-server/bin ./cmd/metrics-server
scripts/helm.sh
