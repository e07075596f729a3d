#!/usr/bin/env bash
# Builds the examples of the compiled kits, target/guests/{go,c,cpp,zig}-{hello,features}.wasm, go-snapshot.wasm and
# rust-features.wasm, and with those of Go also target/guests/user-generation-go.wasm. Only what has changed is built.
#
#   scripts/build-kit-guests.sh [rust|go|c|cpp|zig]...      all of them where none is named
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra cargo_flags <<< "${CARGO_FLAGS---locked}"

guests=target/guests
mkdir -p "$guests"
flags=(-O2 -s -Wall -Wextra -Wshadow -Wno-infinite-recursion -Wno-missing-field-initializers)
flags+=("-Wl,--stack-first,-z,stack-size=262144")

# The smallest worker in Rust is an image by itself, images/hello.
examples() { # KIT
    [[ $1 == rust ]] || echo hello
    [[ $1 != go ]] || echo snapshot
    echo features
}

# Whether the kit $1 is to be built: a source, this script or the tool's is newer than what was built of it.
stale() { # KIT TOOL DIRECTORY...
    local example
    for example in $(examples "$1"); do
        [[ -e $guests/$1-$example.wasm ]] || return 0
        [[ -z $(find "${@:3}" "scripts/guest-$2.sh" scripts/build-kit-guests.sh -newer "$guests/$1-$example.wasm" -type f -print -quit) ]] ||
            return 0
    done
    return 1
}

# Takes the place of the module at once: a server may be reading it.
finish() { # KIT EXAMPLE
    chmod 644 "$guests/$1-$2.wasm.new"
    mv "$guests/$1-$2.wasm.new" "$guests/$1-$2.wasm"
}

build_rust() {
    local built=target/guests-build/wasm32-wasip1/release/examples/$1.wasm
    CARGO_TARGET_DIR=target/guests-build target/tools/bin/cargo-wasip1 build "${cargo_flags[@]}" --release --quiet \
        --manifest-path kits/rust/Cargo.toml --example "$1"
    cp "$built" "$guests/rust-$1.wasm.new"
}

build_go() { # EXAMPLE
    local mode=default
    [[ $1 != snapshot ]] || mode=c-shared
    (cd kits/go && ../../target/tools/bin/wasm-go build -buildmode=$mode -buildvcs=false -trimpath -ldflags='-s -w' -o "../../$guests/go-$1.wasm.new" "./examples/$1")
}

build_c() {
    target/tools/bin/wasm-clang -std=c11 "${flags[@]}" -Ikits/c "kits/c/examples/$1.c" kits/c/src/*.c -o "$guests/c-$1.wasm.new"
}

build_cpp() {
    local objects file
    objects=$(mktemp -d)
    for file in kits/c/src/*.c; do
        target/tools/bin/wasm-clang -std=c11 -O2 -c "$file" -o "$objects/$(basename "$file" .c).o"
    done
    target/tools/bin/wasm-clang++ -std=c++17 "${flags[@]}" -Ikits/cpp -Ikits/c "kits/cpp/examples/$1.cpp" "$objects"/*.o \
        -o "$guests/cpp-$1.wasm.new"
    rm -r "$objects"
}

build_zig() {
    target/tools/bin/wasm-zig build-exe -target wasm32-wasi -OReleaseSmall -fstrip -rdynamic --dep worker \
        "-Mroot=kits/zig/examples/$1.zig" -Mworker=kits/zig/src/worker.zig "-femit-bin=$guests/zig-$1.wasm.new"
}

kit() { # NAME TOOL DIRECTORY...
    stale "$@" || return 0
    echo "building the examples of kits/$1"
    scripts/guest-"$2".sh > /dev/null
    local example
    for example in $(examples "$1"); do
        "build_$1" "$example"
        finish "$1" "$example"
    done
}

# The article's program, which is no example of the kit's but uses it.
article() {
    local built=$guests/user-generation-go.wasm directory=images/user-generation/go
    [[ -e $built && -z $(find kits/go "$directory" -newer "$built" -type f -print -quit) ]] && return
    echo "building $directory"
    scripts/guest-go.sh > /dev/null
    (cd "$directory" && ../../../target/tools/bin/wasm-go build -buildvcs=false -trimpath -ldflags='-s -w' -o "../../../$built.new" .)
    chmod 644 "$built.new"
    mv "$built.new" "$built"
}

(($#)) || set -- rust c cpp zig go
for name in "$@"; do
    case $name in
        rust) kit rust rust kits/rust ;;
        go)
            kit go go kits/go
            article
            ;;
        c) kit c c kits/c/src kits/c/examples kits/c/worker.h ;;
        cpp) kit cpp c kits/cpp kits/c/src kits/c/worker.h ;;
        zig) kit zig zig kits/zig/src kits/zig/examples ;;
        *)
            echo "usage: scripts/build-kit-guests.sh [rust|go|c|cpp|zig]..." >&2
            exit 1
            ;;
    esac
done
