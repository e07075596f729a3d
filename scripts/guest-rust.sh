#!/usr/bin/env bash
# Makes target/tools/bin/cargo-wasip1 (and cargo-wasip2): `cargo` for Rust guests. It builds for wasm32-wasip1 whatever the
# folder it is called in says, and needs no `rustup target add`, which takes a network that many machines do not have.
#
# If the user's own toolchain has the target, that is used. Otherwise the user's cargo runs the compiler of Debian 13, unpacked
# into a folder together with the libraries that it needs: compiler and standard library must be of one version.
# WWS_GUEST_RUST=debian chooses the latter.
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
own=false
if [[ $sysroot && ${WWS_GUEST_RUST-} != debian ]]; then
    own=true
    for target in wasm32-wasip1 wasm32-wasip2; do
        compgen -G "$sysroot/lib/rustlib/$target/lib/libstd-*.rlib" > /dev/null || own=false
    done
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

# Makes components of modules. It has no Debian package of its own, but rustup's toolchains have it.
component_ld=$sysroot/lib/rustlib/x86_64-unknown-linux-gnu/bin/wasm-component-ld
if [[ ! -x $component_ld ]]; then
    component_ld=$PWD/target/tools/wasm-component-ld/bin/wasm-component-ld
    [[ -x $component_ld ]] || CARGO_BUILD_TARGET=x86_64-unknown-linux-gnu cargo install wasm-component-ld --version 0.5.22 \
        --locked --quiet --root target/tools/wasm-component-ld
fi
script "$bin/wasm-component-ld" << END
#!/usr/bin/env bash
# Written by scripts/guest-rust.sh.
# Its first argument must stay the first.
exec "$component_ld" "\$@" --wasm-ld-path "\$(dirname "\$(readlink -f "\$0")")/wasm-ld"
END

for target in wasip1:WASIP1:wasm-ld wasip2:WASIP2:wasm-component-ld; do
    IFS=: read -r name variable linker <<< "$target"
    script "$bin/cargo-$name" << END
#!/usr/bin/env bash
# Written by scripts/guest-rust.sh.
here=\$(dirname "\$(readlink -f "\$0")")
export RUSTC=\$here/rustc-wasm CARGO_BUILD_TARGET=wasm32-$name CARGO_TARGET_WASM32_${variable}_LINKER=\$here/$linker
unset RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER
exec cargo "\$@"
END
done
"$bin/rustc-wasm" --version
