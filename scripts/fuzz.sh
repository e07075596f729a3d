#!/usr/bin/env bash
# Fuzzes: each target for some time, from seeds made of the repository's own files and what earlier runs have found. Nothing of it
# takes the nightly compiler: coverage is an option of LLVM's. `make fuzz` is this.
#
#   scripts/fuzz.sh [TARGET...]     default: all of fuzz/Cargo.toml
#
# SECONDS_EACH is how long each target runs (60).
# SANITIZER=address also looks for wrong accesses of memory; the pinned compiler takes it with RUSTC_BOOTSTRAP=1, which is set then.
# What crashes a target is left in target/fuzz/artifacts; `scripts/fuzz.sh TARGET FILE` runs that alone.
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD

scripts/pip.sh lint-tools scripts/lint-tools.txt
export PATH=$repository/target/tools/lint-tools/bin:$PATH
export CARGO_TARGET_DIR=$repository/target/fuzz/build
sanitizer=${SANITIZER:-none}
[[ $sanitizer == none ]] || export RUSTC_BOOTSTRAP=1
options=(--fuzz-dir fuzz --sanitizer "$sanitizer")
mapfile -t all < <(sed -n 's/^path = "targets\/\(.*\)\.rs"$/\1/p' fuzz/Cargo.toml)

# One file a seed, named for what it holds.
seed() { # TARGET < TEXT
    local content
    content=$(mktemp "$repository/target/fuzz/seed.XXXXXX")
    cat > "$content"
    mv "$content" "target/fuzz/corpus/$1/$(sha256sum < "$content" | cut -c 1-16)"
}

# Every `"..."` of the file $2 with a line break in it is a seed for $1.
texts_of() { # TARGET FILE
    python3 - "$2" "target/fuzz/corpus/$1" << 'END'
import hashlib, re, sys
source = open(sys.argv[1], encoding="utf-8").read()
for text in re.findall(r'"((?:\\.|[^"\\])*)"', source):
    text = re.sub(r"\\\n\s*", "", text).replace("\\r", "\r").replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\")
    if "\n" in text or ";" in text or ":" in text:
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        with open(f"{sys.argv[2]}/{name}", "wb") as file:
            file.write(text.encode())
END
}

seeds() { # TARGET
    mkdir -p "target/fuzz/corpus/$1"
    local file
    case $1 in
        framing)
            while read -r file; do texts_of framing "$file"; done < <(find crates/server/src -name framing.rs)
            # Two requests, the first with each way of ending.
            for head in 'Transfer-Encoding: chunked' 'Content-Length: 3' 'x: y'; do
                for body in '' 'abc' '0\r\n' '0\r\n\r\n' '0\r\nx: y\r\n\r\n' '0\r\nx: y\n\r\n' '3\r\nabc\r\n0\r\n\r\n'; do
                    printf 'POST / HTTP/1.1\r\n%s\r\n\r\n%bGET / HTTP/1.1\r\n\r\n' "$head" "$body" | seed framing
                done
            done
            ;;
        project_toml | wws_toml)
            git ls-files '*.wws.toml' 'images/*.toml' 'kits/*/*.toml' 'test/*.toml' | while read -r file; do seed "$1" < "$file"; done
            texts_of "$1" crates/project/tests/load.rs
            texts_of "$1" crates/runtimes/src/edit.rs
            ;;
        source_map) texts_of source_map crates/languages/src/javascript/mappings.rs ;;
        guest_output) texts_of guest_output crates/engine/src/guest/protocol.rs ;;
        kv_backup)
            printf '%s\n' '{"format":"wws-kv","version":1}' '{"namespace":"n","key":"k","value":"v","expires_ms":1}' \
                '{"namespace":"n","key":"b","value_base64":"/w=="}' '{"entries":2}' | seed kv_backup
            ;;
        archive)
            file=$(mktemp -d)
            mkdir "$file/package"
            echo a > "$file/package/a"
            ln -s a "$file/package/b"
            for format in ustar gnu pax; do
                tar --format "$format" -C "$file" -c package | seed archive
                tar --format "$format" -C "$file" -cz package | seed archive
            done
            rm -r "$file"
            ;;
    esac
}

if (($# == 2)) && [[ -f $2 ]]; then
    exec cargo-fuzz run "${options[@]}" "$1" "$2"
fi
targets=("$@")
((${#targets[@]})) || targets=("${all[@]}")
failed=()
mkdir -p target/fuzz
for target in "${targets[@]}"; do
    seeds "$target"
    mkdir -p "target/fuzz/artifacts/$target"
    echo "== $target"
    cargo-fuzz build "${options[@]}" "$target"
    log=target/fuzz/$target.log
    dictionary=()
    [[ ! -e fuzz/$target.dict ]] || dictionary=("-dict=fuzz/$target.dict")
    if ! cargo-fuzz run "${options[@]}" "$target" "target/fuzz/corpus/$target" -- \
        -max_total_time="${SECONDS_EACH:-60}" -max_len=4096 -timeout=60 -print_final_stats=1 -verbosity=0 \
        "${dictionary[@]}" -artifact_prefix="$repository/target/fuzz/artifacts/$target/" > "$log" 2>&1; then
        failed+=("$target")
        tail -40 "$log"
    fi
    sed -n 's/^stat::number_of_executed_units: */  executions /p; s/^stat::peak_rss_mb: */  peak memory, MB /p' "$log"
done
((${#failed[@]} == 0)) || {
    echo "FAILED: ${failed[*]}" >&2
    exit 1
}
