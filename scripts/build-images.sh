#!/usr/bin/env bash
# Builds the workers and their images:
#
#   target/guests/NAME.wasm      every worker by itself: images/*, test/guests/*, rust-features of kits/rust; components are called
#                                component-NAME
#   target/images/NAME/          what `docker buildx build` is given: Dockerfile and root/
#   target/images/NAME.tar       the same image as an OCI archive, made without Docker; localhost/NAME:latest, for
#                                wasi/wasm, linux/amd64 and linux/arm64
#
# Only what has changed is built.
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra cargo_flags <<< "${CARGO_FLAGS---locked}"
repository=$PWD

scripts/guest-rust.sh
mkdir -p target/guests target/images
export CARGO_TARGET_DIR=$repository/target/guests-build
# A panic's place is in the module: the same one wherever the repository lies.
flags="--remap-path-prefix=$repository/= --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src/="
export CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS=$flags CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS=$flags

# Builds the crates of the directory $2 for wasm32-$1, from within it: cargo reads its configuration there.
build() { # wasip1|wasip2 DIRECTORY ARGUMENT...
    (cd "$2" && "$repository/target/tools/bin/cargo-$1" build "${cargo_flags[@]}" --release --quiet "${@:3}")
}

# Puts the module of a crate to the others. Only a changed one is touched, so that nothing is done again for it.
collect() { # wasip1|wasip2 CRATE
    local built=$CARGO_TARGET_DIR/wasm32-$1/release/$2.wasm
    [[ -e $built ]] || built=$CARGO_TARGET_DIR/wasm32-$1/release/${2//-/_}.wasm
    cmp --quiet "$built" "target/guests/$2.wasm" || install -m 644 "$built" "target/guests/$2.wasm"
}

# Packs images/$1 with the workers $2..., each at the route of its name, or at the one after a colon, and the runtimes that its .wws.toml lists.
image() { # NAME WORKER[:ROUTE]...
    local directory=target/images/$1 worker runtimes=target/images/.$1.runtimes
    # They are large, and pinned: what is installed stays.
    rm -rf "$runtimes"
    [[ ! -d $directory/root/.wws ]] || mv "$directory/root/.wws" "$runtimes"
    rm -rf "$directory"
    mkdir -p "$directory"
    cp -R "images/$1/Dockerfile" "images/$1/root" "$directory"
    for worker in "${@:2}"; do
        install -D -m 644 "target/guests/${worker%%:*}.wasm" "$directory/root/${worker#*:}.wasm"
    done
    [[ ! -d $runtimes ]] || mv "$runtimes" "$directory/root/.wws"
    if [[ -e $directory/root/.wws.toml ]]; then
        (cd "$directory/root" && "$repository/target/release/wws" runtimes install)
    fi
    "$pack" "target/images/$1.tar" "localhost/$1:latest" "$directory/root"
}

build wasip1 images/hello
build wasip1 kits/rust --example features
build wasip1 images/user-generation/rust
build wasip1 test/guests -p probe -p bad
cp -u "$CARGO_TARGET_DIR/wasm32-wasip1/release/examples/features.wasm" target/guests/rust-features.wasm
for crate in hello user-generation-rust probe bad; do
    collect wasip1 "$crate"
done
components=(hello echo features corners state hello-p3 features-p3 command)
examples=(clock upload grpc)
if [[ -e target/tools/bin/cargo-wasip2 ]]; then
    build wasip2 test/guests/components
    build wasip2 images/components/rust
    for crate in "${components[@]}" "${examples[@]}"; do
        collect wasip2 "component-$crate"
    done
else
    echo "no components: this Rust has no wasm32-wasip2 (rustup target add wasm32-wasip1 wasm32-wasip2)" >&2
fi

scripts/build-kit-guests.sh go

# For this machine, in the target directory of the workspace.
pack=$(env -u CARGO_TARGET_DIR cargo build "${cargo_flags[@]}" --release --quiet -p wws-oci-tar --message-format json |
    sed -n 's/.*"executable":"\([^"]*wws-oci-tar\)".*/\1/p')
image hello hello
image chat
image user-generation user-generation-rust user-generation-go
if [[ -e target/tools/bin/cargo-wasip2 ]]; then
    workers=(component-clock:clock component-upload:upload 'component-grpc:words.Words/[method]')
    # What scripts/build-components.sh has built answers below its name.
    for name in javascript python c go; do
        [[ ! -e target/guests/component-$name.wasm ]] || workers+=("component-$name:$name/[...path]")
    done
    image components "${workers[@]}"
fi
stat --format '%s %n' target/images/*.tar
