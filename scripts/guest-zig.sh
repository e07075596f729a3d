#!/usr/bin/env bash
# Makes target/tools/bin/wasm-zig: the Zig compiler, from its package on PyPI (it has none in Debian), pinned by its checksum.
# Python's pip fetches it from whatever index the machine is configured for; without pip, Debian's is unpacked and used.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.17.1
sum=ea6cc5d87b033cf0aedfbc8f9549a908cae6c50ac31f1698188fa48a74524b54
target=target/tools/zig
bin=target/tools/bin

if [[ ! -e $target/.version || $(< "$target/.version") != "$version $sum" ]]; then
    command -v python3 > /dev/null || {
        echo "scripts/guest-zig.sh: python3 is missing, which fetches and unpacks the compiler" >&2
        exit 1
    }
    pip=(python3 -m pip)
    if ! "${pip[@]}" --version > /dev/null 2>&1; then
        scripts/debs.sh trixie python-pip python3-pip-whl
        pip=(python3 "$(echo target/tools/python-pip/usr/share/python-wheels/pip-*.whl)/pip")
    fi
    echo "fetching the Zig compiler $version into $target"
    rm -rf "$target.new"
    mkdir -p "$target.new" "$bin"
    echo "ziglang==$version --hash=sha256:$sum" > "$target.new/requirements.txt"
    "${pip[@]}" download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --platform manylinux_2_12_x86_64 --dest "$target.new" --requirement "$target.new/requirements.txt"
    python3 -m zipfile -e "$target.new"/ziglang-*.whl "$target.new"
    rm "$target.new"/ziglang-*.whl
    chmod +x "$target.new/ziglang/zig"
    echo "$version $sum" > "$target.new/.version"
    rm -rf "$target"
    mv "$target.new" "$target"
fi

mkdir -p "$bin"
cat > "$bin/wasm-zig.new" << 'END'
#!/usr/bin/env bash
# Written by scripts/guest-zig.sh.
here=$(dirname "$(readlink -f "$0")")
export ZIG_GLOBAL_CACHE_DIR=${ZIG_GLOBAL_CACHE_DIR-$here/../zig-cache}
exec "$here/../zig/ziglang/zig" "$@"
END
chmod +x "$bin/wasm-zig.new"
mv "$bin/wasm-zig.new" "$bin/wasm-zig"
"$bin/wasm-zig" version
