#!/usr/bin/env bash
# Fuzzes: each target for some time, from seeds made of the repository's own files and what earlier runs have found. Coverage is an
# option of LLVM's, which the pinned compiler has: neither a nightly compiler nor another tool is needed. `make fuzz` is this.
#
#   scripts/fuzz.sh [TARGET...]     default: all of fuzz/Cargo.toml
#   scripts/fuzz.sh TARGET FILE     run one input, such as one that crashed
#
# SECONDS_EACH is how long each target runs (60); 0 runs seeds and earlier finds once.
# SANITIZER=address also looks for wrong accesses of memory; the pinned compiler takes it with RUSTC_BOOTSTRAP=1, which is set then.
#
# Prints for each target how many inputs it ran, how many edges of its code they reached of all that its program has (with the
# libraries, of which most is out of reach), and how many features: edges by how often they are passed, and results of comparisons.
# What crashes a target is left in target/fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD

host=$(uname -m)-unknown-linux-gnu
sanitizer=${SANITIZER:-none}
seconds=${SECONDS_EACH:-60}
export CARGO_TARGET_DIR=$repository/target/fuzz/build
# The flags of cargo-fuzz. Where they are set, those of .cargo/config.toml are not: the program is linked dynamically.
flags=(--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module)
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=("-Cllvm-args=-sanitizer-coverage-$option")
done
flags+=(-Cllvm-args=-simplifycfg-branch-fold-threshold=0)
if [[ $sanitizer != none ]]; then
    export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$CARGO_TARGET_DIR-$sanitizer
    flags+=("-Zsanitizer=$sanitizer")
fi
export RUSTFLAGS="${flags[*]}"
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
    for file in fuzz/seeds/"$1"/*; do
        [[ ! -e $file ]] || seed "$1" < "$file"
    done
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
            for file in crates/project/tests/load/*.rs; do texts_of "$1" "$file"; done
            texts_of "$1" crates/runtimes/src/edit.rs
            ;;
        source_map) texts_of source_map crates/languages/src/javascript/mappings.rs ;;
        guest_output) texts_of guest_output crates/engine/src/guest/protocol.rs ;;
        kv_backup)
            printf '%s\n' '{"format":"wws-kv","version":1}' '{"namespace":"n","key":"k","value":"v","expires_ms":1}' \
                '{"namespace":"n","key":"b","value_base64":"/w=="}' '{"entries":2}' | seed kv_backup
            ;;
        websocket)
            # Of a client, of a server, and compressed ("Hello" of RFC 7692), in pieces of 3 bytes.
            printf '\000\002\201\205\067\372\041\075\177\237\115\121\130' | seed websocket
            printf '\001\002\001\003Hel\211\001x\200\002lo\210\002\003\350' | seed websocket
            printf '\003\002\301\007\362\110\315\311\311\007\000\202\176\000\1770123456789012345678901234567890' | seed websocket
            ;;
        shim_options)
            # The first byte is what the others are: options of each type, start parameters, saved options, a command line.
            printf '\000\042\005/runc\052\002/r\070\001' | seed shim_options
            printf '\002\010\001\040\001\062\003net\100\001\112\006/shims\120\240\215\006\130\007' | seed shim_options
            printf '\003\012\001x\032\034SystemdCgroup = true\nRoot="r"' | seed shim_options
            printf '\004\022\007options' | seed shim_options
            printf '\006\012\002c1\022\007default\030\002\102\037\012\035\012\032containerd.runc.v1.Options\022\000' | seed shim_options
            printf '\007{"BinaryName":"crun","SystemdCgroup":true,"IoUid":7,"New":1}' | seed shim_options
            printf '\010-namespace\ndefault\n-address\n/run/c.sock\n--id=c1\n-debug\nstart' | seed shim_options
            ;;
        shim_strings)
            for file in stdio/target oci/shell oci/mount/options oci/mount/overlay runc/failure; do
                texts_of shim_strings "shim/src/$file.rs"
            done
            printf 'overlay index=off,lowerdir=/s/1/fs:/s/2/fs,uidmap=0:1000:1' | seed shim_strings
            printf 'bind rbind,ro,nosuid,rprivate,x-a' | seed shim_strings
            printf '{"level":"error","msg":"runc create failed: container with given ID already exists"}\n' | seed shim_strings
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

build() { # TARGET...
    cargo build --locked --release --target "$host" --manifest-path fuzz/Cargo.toml "${@/#/--bin=}"
}

# The first number that follows $2 in the last line of the file $1 that has it.
number() { # LOG WORD
    sed -n "s/.*$2 *\([0-9][0-9]*\).*/\1/p" "$1" | tail -1
}

programs=$CARGO_TARGET_DIR/$host/release
if (($# == 2)) && [[ -f $2 ]]; then
    build "$1"
    exec "$programs/$1" "$2"
fi
targets=("$@")
((${#targets[@]})) || targets=("${all[@]}")
build "${targets[@]}"
limit=("-max_total_time=$seconds")
((seconds > 0)) || limit=(-runs=0)
failed=()
echo 'target            executions  a second     edges   of all  features  inputs  MB'
for target in "${targets[@]}"; do
    seeds "$target"
    mkdir -p "target/fuzz/artifacts/$target"
    log=target/fuzz/$target.log
    dictionary=()
    [[ ! -e fuzz/$target.dict ]] || dictionary=("-dict=fuzz/$target.dict")
    "$programs/$target" "target/fuzz/corpus/$target" "${limit[@]}" -max_len=4096 -timeout=60 -print_final_stats=1 \
        "${dictionary[@]}" -artifact_prefix="target/fuzz/artifacts/$target/" > "$log" 2>&1 < /dev/null || failed+=("$target")
    printf '%-16s %11d %9d %9d %8d %9d %7d %3d\n' "$target" "$(number "$log" stat::number_of_executed_units:)" \
        "$(number "$log" stat::average_exec_per_sec:)" "$(number "$log" ' cov:')" "$(number "$log" 'modules *(')" \
        "$(number "$log" ' ft:')" "$(number "$log" ' corp:')" "$(number "$log" stat::peak_rss_mb:)"
    [[ " ${failed[*]} " != *" $target "* ]] || tail -40 "$log"
done
((${#failed[@]} == 0)) || {
    echo "FAILED: ${failed[*]}" >&2
    exit 1
}
