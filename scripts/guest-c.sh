#!/usr/bin/env bash
# Makes target/tools/bin/wasm-clang and wasm-clang++: compilers and linkers for guests in C and C++, without exceptions and threads.
# They are Debian 13's, unpacked into a directory together with the libraries that they need; nothing is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/debs.sh trixie c-wasm clang-19 libclang-cpp19 libclang-common-19-dev wasi-libc libclang-rt-19-dev-wasm32 \
    libc++-19-dev-wasm32 libc++abi-19-dev-wasm32 lld-19 libllvm19 libc6 libgcc-s1 libstdc++6 libxml2 libz3-4 libedit2 libffi8 \
    libzstd1 zlib1g libbsd0 libmd0 libtinfo6 liblzma5

bin=target/tools/bin
mkdir -p "$bin"

# Replaces the file $1 by standard input, at once: others may be running it.
script() {
    cat > "$1.new"
    chmod +x "$1.new"
    mv "$1.new" "$1"
}

# The programs are for a newer glibc than the system may have: each is started by the dynamic linker that came with it.
preamble() {
    cat << 'END'
#!/usr/bin/env bash
# Written by scripts/guest-c.sh.
self=$(readlink -f "$0")
here=$(dirname "$self")
prefix=$(readlink -f "$here/../c-wasm")
run=("$prefix/usr/lib64/ld-linux-x86-64.so.2" --library-path "$prefix/usr/lib/x86_64-linux-gnu:$prefix/usr/lib/llvm-19/lib")
END
}

{
    preamble
    echo 'exec "${run[@]}" --argv0 wasm-ld "$prefix/usr/lib/llvm-19/bin/lld" "$@"'
} | script "$bin/wasm-ld-c"

for language in '' ++; do
    {
        preamble
        cat << END
# The compiler calls itself by its first argument's name, which is this script's: then the options are complete.
[[ \${1-} == -cc1* ]] && exec "\${run[@]}" --argv0 "\$self" "\$prefix/usr/lib/llvm-19/bin/clang" "\$@"
options=(--target=wasm32-wasi -no-canonical-prefixes -resource-dir "\$prefix/usr/lib/llvm-19/lib/clang/19")
options+=(-nostdlibinc -fno-exceptions -Wno-unused-command-line-argument)
END
        [[ -z $language ]] || echo 'options+=(--driver-mode=g++ -nostdinc++ -isystem "$prefix/usr/lib/llvm-19/include/wasm32-wasi/c++/v1")'
        cat << 'END'
options+=(-isystem "$prefix/usr/include/wasm32-wasi" -B "$prefix/usr/lib/wasm32-wasi" -L "$prefix/usr/lib/wasm32-wasi")
options+=("-fuse-ld=$here/wasm-ld-c")
exec "${run[@]}" --argv0 "$self" "$prefix/usr/lib/llvm-19/bin/clang" "${options[@]}" "$@"
END
    } | script "$bin/wasm-clang$language"
done
"$bin/wasm-clang" --version | head -1
