#!/usr/bin/env bash
# Compiles `wws` by a profile of its own work, as target/pgo/release/wws: what `make build PGO=1` and `make dist` do.
#
#   scripts/pgo.sh [PROFILE]             PROFILE may be compressed by xz, as `make dist` leaves it
#
# Without PROFILE, the profile is made: `wws` is compiled with counters, answers the requests of scripts/pgo-train.py, and its counts are
# merged as target/pgo/wws.profdata, which stays for as long as nothing that it was made from changes. Counts differ from run to run, and so do
# programs that are compiled by them: the same PROFILE gives the same bytes. It is of one architecture, since the names of functions differ.
#
# All crates are compiled twice, below target/pgo: 3 GB. Set CARGO_FLAGS as for `make build`.
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra cargo_flags <<< "${CARGO_FLAGS---locked}"

host=$(uname -m)-unknown-linux-gnu
out=$PWD/target/pgo
profile=${1-}
tool=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata

# Compiles `wws` with the flag $1 besides those of .cargo/config.toml.
build() {
    CARGO_TARGET_DIR=$out/build cargo build "${cargo_flags[@]}" --target "$host" --release -p wws \
        --config "target.$host.rustflags = [\"$1\"]"
}

# What a profile is made from: the sources, the compiler, and what trains.
origin() {
    {
        rustc -vV
        git ls-files -z -co --exclude-standard -- .cargo Cargo.toml Cargo.lock rust-toolchain.toml crates kits images test/guests \
            scripts/pgo.sh scripts/pgo-train.py | xargs -0 sha256sum
    } | sha256sum | cut -d ' ' -f 1
}

train() {
    if [[ ! -x $tool ]]; then
        command -v rustup > /dev/null || { echo "llvm-profdata of this Rust is missing: please install it as $tool" >&2 && exit 1; }
        rustup component add llvm-tools
    fi
    # Guests and interpreters that the server is trained with, made by a `wws` of the usual build.
    env -u MAKEFLAGS -u MFLAGS make images PGO=
    build -Cprofile-generate
    rm -rf "$out/counts"
    mkdir -p "$out/counts"
    LLVM_PROFILE_FILE=$out/counts/%p-%m.profraw scripts/pgo-train.py "$out/build/$host/release/wws" "$out/project"
    "$tool" merge -o "$profile.new" "$out"/counts/*.profraw
    mv "$profile.new" "$profile"
    origin > "$profile.origin"
    rm -rf "$out/counts" "$out/project"
}

if [[ ! $profile ]]; then
    profile=$out/wws.profdata
    mkdir -p "$out"
    if [[ ! -e $profile || ! -e $profile.origin || $(< "$profile.origin") != "$(origin)" ]]; then
        train
    fi
fi
profile=$(realpath -e "$profile")
if [[ $profile == *.xz ]]; then
    mkdir -p "$out"
    xz -dc "$profile" > "$out/given.profdata"
    profile=$out/given.profdata
fi
build "-Cprofile-use=$profile"
mkdir -p "$out/release"
ln -f "$out/build/$host/release/wws" "$out/release/wws"
ln -f "$profile" "$out/release/wws.profdata" 2> /dev/null || cp "$profile" "$out/release/wws.profdata"
