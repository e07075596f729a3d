#!/usr/bin/env bash
# Installs what building for another architecture needs, and nothing that is there: Rust's standard library for it, a C compiler and
# a C library.
#
#   scripts/cross.sh arm64
#   scripts/cross.sh --check arm64      only says whether all is there, by its exit code
set -euo pipefail
cd "$(dirname "$0")/.."

check=
[[ ${1-} != --check ]] || { check=1 && shift; }
[[ ${1-} == arm64 ]] || { echo "usage: scripts/cross.sh [--check] arm64" >&2 && exit 2; }
target=aarch64-unknown-linux-gnu
[[ $(uname -m) == x86_64 ]] || { echo "scripts/cross.sh: $1 is built on x86_64, or on itself" >&2 && exit 1; }

has_std() {
    compgen -G "$(rustc --print sysroot)/lib/rustlib/$target/lib/libstd-*.rlib" > /dev/null
}
has_compiler() {
    command -v aarch64-linux-gnu-gcc > /dev/null && [[ -e /usr/aarch64-linux-gnu/include/stdio.h ]]
}

if [[ $check ]]; then
    has_std && has_compiler
    exit
fi
if ! has_std; then
    command -v rustup > /dev/null || { echo "please install Rust's standard library for $target" >&2 && exit 1; }
    rustup target add "$target"
fi
if ! has_compiler; then
    packages=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
    command -v apt-get > /dev/null ||
        { echo "please install: ${packages[*]} (this is no Debian, so it is not done for you)" >&2 && exit 1; }
    echo "installing ${packages[*]}"
    as_root=()
    ((EUID == 0)) || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq || true
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
fi
