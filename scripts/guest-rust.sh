#!/usr/bin/env bash
# Makes target/tools/bin/cargo-wasip1 (and cargo-wasip2): `cargo` for Rust guests. It builds for wasm32-wasip1 whatever the
# directory it is called in says.
#
# If the user's own toolchain has the targets, or rustup can add them, it is used. Otherwise the user's cargo runs the compiler of Debian 13,
# unpacked into a directory together with the libraries that it needs: compiler and standard library must be of one version. That compiler is
# too old for components: then there is no cargo-wasip2. WWS_GUEST_RUST=debian chooses the latter.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=target/tools/bin
mkdir -p "$bin"

# Replaces the file $1 by standard input, at once: others may be running it.
script() {
    cat > "$1.new"
    chmod +x "$1.new"
    mv "$1.new" "$1"
}

sysroot=$(rustc --print sysroot 2> /dev/null || true)
has_targets() {
    local target
    for target in wasm32-wasip1 wasm32-wasip2; do
        compgen -G "$sysroot/lib/rustlib/$target/lib/libstd-*.rlib" > /dev/null || return 1
    done
}
own=false
if [[ $sysroot && ${WWS_GUEST_RUST-} != debian ]]; then
    # The network that rustup needs may be missing.
    if ! has_targets && command -v rustup > /dev/null; then
        timeout 300 rustup target add wasm32-wasip1 wasm32-wasip2 >&2 || true
    fi
    ! has_targets || own=true
fi

if $own; then
    for target in wasip1 wasip2; do
        script "$bin/cargo-$target" << END
#!/usr/bin/env bash
# Written by scripts/guest-rust.sh.
export CARGO_BUILD_TARGET=wasm32-$target
exec cargo "\$@"
END
    done
    exit
fi

scripts/debs.sh trixie rust-wasm rustc libstd-rust-1.85 libstd-rust-dev libstd-rust-dev-wasm32 lld-19 libllvm19 libc6 libgcc-s1 \
    libstdc++6 libxml2 libz3-4 libedit2 libffi8 libzstd1 zlib1g libbsd0 libmd0 libtinfo6 liblzma5

# Its programs are for a newer glibc than the system may have: each is started by the dynamic linker that came with it.
run() { # NAME PROGRAM ARGUMENT...
    script "$bin/$1" << END
#!/usr/bin/env bash
# Written by scripts/guest-rust.sh.
here=\$(dirname "\$(readlink -f "\$0")")
prefix=\$here/../rust-wasm
exec "\$prefix/usr/lib64/ld-linux-x86-64.so.2" --library-path "\$prefix/usr/lib/x86_64-linux-gnu" "\$prefix/$2" ${*:3} "\$@"
END
}
run rustc-wasm usr/bin/rustc --sysroot '"$prefix/usr"'
# By this name it is told from other linkers.
run wasm-ld usr/lib/llvm-19/bin/wasm-ld

rm -f "$bin/cargo-wasip2"
script "$bin/cargo-wasip1" << 'END'
#!/usr/bin/env bash
# Written by scripts/guest-rust.sh.
here=$(dirname "$(readlink -f "$0")")
export RUSTC=$here/rustc-wasm CARGO_BUILD_TARGET=wasm32-wasip1 CARGO_TARGET_WASM32_WASIP1_LINKER=$here/wasm-ld
unset RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER
exec cargo "$@"
END
"$bin/rustc-wasm" --version
