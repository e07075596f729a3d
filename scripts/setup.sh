#!/usr/bin/env bash
# Installs the distribution packages that building and testing need, each only if the command it brings is not there:
# a C compiler and make (build scripts of crates), curl and certificates, the keys of Debian's archive (what scripts/debs.sh
# unpacks below target/tools is checked with them). Everything else lies below target/.
set -euo pipefail

missing=()
need() { # COMMAND PACKAGE...
    command -v "$1" > /dev/null || missing+=("${@:2}")
}
need cc build-essential
need make make
need curl curl ca-certificates
need chroot coreutils
need xz xz-utils
need git git
# What JavaScript workers do is compared with it (crates/languages/tests/web/differential.rs).
need node nodejs
# scripts/layers.py; and pip, which unpacks the pinned linters (scripts/pip.sh).
need python3 python3
# For the pinned interpreters (scripts/interpreters.sh), where no registry is named for curl to fetch from.
[[ -n ${NPM_CONFIG_REGISTRY-}${npm_config_registry-} ]] || need npm npm
[[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] || missing+=(debian-archive-keyring)

# Before anything is downloaded: what is too old, or missing and cannot be installed from here.
cd "$(dirname "$0")/.."
needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
pinned=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
if ! command -v cargo > /dev/null; then
    echo "cargo is missing: install Rust $needed or newer (rustup, or the distribution's), then run this again" >&2
    exit 1
fi
# rustup would fetch the toolchain that rust-toolchain.toml names without a question.
if ! version=$(RUSTUP_AUTO_INSTALL=0 cargo --version 2>&1); then
    echo "${version%%$'\n'*}" >&2
    echo "Rust $pinned is not installed: rustup toolchain install $pinned --profile minimal --component clippy,rustfmt" >&2
    echo "(RUSTUP_TOOLCHAIN=stable takes another one, which must be $needed or newer)" >&2
    exit 1
fi
version=$(cut -d ' ' -f 2 <<< "$version")
if [[ $(printf '%s\n' "$needed" "$version" | sort -V | head -1) != "$needed" ]]; then
    echo "cargo $version is too old: Rust $needed or newer is needed" >&2
    exit 1
fi
((${#missing[@]})) || exit 0

if ! command -v apt-get > /dev/null; then
    echo "please install: ${missing[*]} (this is no Debian, so it is not done for you)" >&2
    exit 1
fi
echo "installing ${missing[*]}"
as_root=()
((EUID == 0)) || as_root=(sudo)
# A source that does not answer is no reason to stop while another has the package.
"${as_root[@]}" apt-get update -qq || true
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
