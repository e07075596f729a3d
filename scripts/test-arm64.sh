#!/usr/bin/env bash
# Tests the programs for arm64 on an emulated arm64 CPU, on a machine of x86_64 with Debian.
#
#   scripts/test-arm64.sh               all parts, and their part of docs/compatibility.md is made from the results
#   scripts/test-arm64.sh PART...       some of: units, project, 4k, 16k
#
#   units      unit tests of the engine and of the shim, under qemu's emulation of a process
#   project    `wws`, under the same: a project in JavaScript, Python, Ruby, Rust and Go answers
#   4k, 16k    a virtual machine whose kernel has pages of that size (scripts/vm-arm64.sh), with Debian's containerd and runc: unit tests
#              that need a kernel (memory, sandbox, the whole shim), the same project in a container, the walk of `make run`, and tests of
#              test/tests/ctr
#
# Emulation makes compiling slow: interpreters are compiled under qemu's emulation of a process, and the virtual machines get that code.
#
# WWS_TEST_PATIENCE is how many times longer than elsewhere things may take (20). CARGO_PROFILE_RELEASE_OPT_LEVEL=1 builds in a third of
# the time, and the tests take longer.
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra cargo_flags <<< "${CARGO_FLAGS---locked}"
all=(units project 4k 16k)
(($#)) || set -- "${all[@]}"
for part in "$@"; do
    [[ " ${all[*]} " == *" $part "* ]] || { echo "scripts/test-arm64.sh: no part $part: ${all[*]}" >&2 && exit 2; }
done

host=aarch64-unknown-linux-gnu
languages=(js python ruby rust go)
make build ARCH=arm64
scripts/debs.sh trixie qemu-user qemu-user
qemu=$PWD/target/tools/qemu-user/usr/bin/qemu-aarch64
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=${CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER-aarch64-linux-gnu-gcc}
export WWS_TEST_PATIENCE=${WWS_TEST_PATIENCE:-20}
work=$(mktemp -d)
server=
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# With the program: dependencies are built with the same features, so not again.
engine=(-p wws -p wws-engine)
shim=(-p containerd-shim-wws-v1 -p wws-bench --bin containerd-shim-wws-v1)

units() {
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$qemu
    cargo test "${cargo_flags[@]}" --target "$host" --release "${engine[@]}" --lib -- --test-threads=2
    cargo test "${cargo_flags[@]}" --target "$host" --release "${shim[@]}" -- --test-threads=2
}

# A project with a worker in each of the languages.
make_project() { # DIRECTORY
    mkdir -p "$1"
    printf 'addEventListener("fetch", (event) => event.respondWith(new Response("js\\n")));\n' > "$1/js.js"
    printf 'def worker(request):\n    return Response("python\\n")\n' > "$1/python.py"
    printf 'def worker(request)\n  Response.new("ruby\\n")\nend\n' > "$1/ruby.rb"
    cp target/guests/hello.wasm "$1/rust.wasm"
    cp target/guests/go-hello.wasm "$1/go.wasm"
    local language
    for language in python ruby; do
        target/release/wws runtimes --path "$1" install $language latest
    done
}

expect() { # LANGUAGE RESPONSE
    case $1 in
        rust | go) [[ $2 ]] ;;
        *) [[ $2 == "$1" ]] ;;
    esac || { echo "/$1 responded: $2" >&2 && return 1; }
    echo "/$1: $2"
}

# Fills the code cache $work/code. In emulation, a worker may take longer to load than it may: its code is kept all the same.
compile() { # PROJECT
    WWS_CODE_CACHE=$work/code "$qemu" target/release-arm64/wws check "$1" > "$work/check.log" 2>&1 || tail -3 "$work/check.log"
}

project() {
    local port=$((RANDOM % 20000 + 30000)) language started=$SECONDS
    WWS_CODE_CACHE=$work/code "$qemu" target/release-arm64/wws "$work/project" --host 127.0.0.1 --port "$port" > "$work/log" 2>&1 &
    server=$!
    until (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null; do
        [[ -d /proc/$server ]] || { cat "$work/log" >&2 && return 1; }
        sleep 0.2
    done
    for language in "${languages[@]}"; do
        expect "$language" "$(curl -sS --max-time 600 "http://127.0.0.1:$port/$language")"
    done
    kill "$server"
    wait "$server" || { cat "$work/log" >&2 && return 1; }
    server=
    echo "$("$qemu" target/release-arm64/wws --version): five languages responded $((SECONDS - started)) s after the start"
}

# Builds a program for the guest with the options of cargo that follow NAME: $work/files/scenario/NAME.
guest_program() { # NAME OPTION...
    local program
    cargo "$2" "${cargo_flags[@]}" --target "$host" --release "${@:3}" --message-format json 2> "$work/build.log" > "$work/build.json" ||
        { cat "$work/build.log" >&2 && return 1; }
    program=$(sed -n "s|.*\"name\":\"$1\".*\"executable\":\"\([^\"]*\)\".*|\1|p" "$work/build.json" | tail -1)
    [[ -x $program ]] || { echo "scripts/test-arm64.sh: cargo built no $1" >&2 && return 1; }
    aarch64-linux-gnu-strip -o "$work/files/scenario/$1" "$program"
}

# Files have the same path in the guest as here.
copy_to_guest() { # FILE
    mkdir -p "$work/files/$(dirname "$PWD/$1")"
    cp -L "$1" "$work/files/$PWD/$1"
}

prepare_guest() {
    [[ ! -e $work/files ]] || return 0
    local file
    mkdir -p "$work/files/scenario" "$work/files/usr/local/bin"
    guest_program wws_engine test --no-run "${engine[@]}" --lib
    guest_program wws test --no-run "${engine[@]}" --bin wws
    guest_program containerd-shim-wws-v1 test --no-run "${shim[@]}"
    guest_program ctr test --no-run -p wws-test --test ctr
    guest_program walk build -p wws-test --bin walk
    target/release/wws build "$work/project" -t languages -o "$work/files/scenario/languages.tar" > /dev/null
    cp target/release-arm64/{wws,containerd-shim-wws-v1} "$work/files/usr/local/bin/"
    compile "$work/project"
    compile target/images/user-generation/root
    mkdir -p "$work/files/var/lib/wws/code"
    chmod 700 "$work/files/var/lib/wws/code"
    cp "$work"/code/*.code "$work/files/var/lib/wws/code/"
    for file in target/guests/{probe,hello}.wasm target/images/{hello,user-generation}.tar; do
        copy_to_guest "$file"
    done
    mkdir -p "$work/files/$PWD/target/tools" "$work/files/$PWD/test"
    ln -s / "$work/files/$PWD/target/tools/containerd-1.7"
    ln -s / "$work/files/$PWD/target/tools/runc"
    # The code cache of the tests is that of the container before them, so that interpreters are compiled once.
    cat > "$work/files/scenario/run" << END
cd $PWD
export WWS_TEST_PROGRAMS=/usr/local/bin WWS_TEST_STORE=/var/lib/wws/code WWS_TEST_SHARE_CODE=1 WWS_TEST_PATIENCE=$WWS_TEST_PATIENCE RUST_BACKTRACE=0 TMPDIR=/tmp
END
    cat >> "$work/files/scenario/run" << 'END'
failed=
run() {
    echo "-- $*"
    started=$(cut -d . -f 1 /proc/uptime)
    "$@" || { failed="$failed
$*"; echo "FAILED: $*"; }
    echo "-- after $(($(cut -d . -f 1 /proc/uptime) - started)) s"
}
stopped() {
    tries=0
    until ctr task list | grep -q STOPPED; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || return 1
        sleep 0.2
    done
}
# Interpreters are compiled meanwhile.
responds() { # LANGUAGE
    tries=0
    until answer=$(wget -q -T 600 -O - http://127.0.0.1:3000/$1 2> /tmp/wget); do
        tries=$((tries + 1))
        [ $tries -lt 1800 ] || { cat /tmp/wget; return 1; }
        sleep 1
    done
    echo "/$1: $answer"
    case $1 in
        rust | go) [ "$answer" ] ;;
        *) [ "$answer" = $1 ] ;;
    esac
}
nothing_left() {
    ! ps | grep -v grep | grep -E 'containerd-shim|wws'
}
uname -srm
containerd > /tmp/containerd.log 2>&1 &
daemon=$!
tries=0
until ctr version > /dev/null 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 600 ] || { cat /tmp/containerd.log; break; }
    sleep 0.2
done
ctr version
runc --version
run wws doctor
run ctr image import /scenario/languages.tar
run ctr run -d --net-host --env WWS_COMPILE_TIMEOUT=2h --runtime io.containerd.wws.v1 docker.io/library/languages:latest five
for language in js python ruby rust go; do
    run responds $language
done
run ctr task metrics five
run ctr task kill -s SIGTERM five
run stopped
run ctr task delete five
run ctr container rm five
run nothing_left
kill $daemon
wait $daemon
run /scenario/walk
run /scenario/wws_engine --test-threads=2 memory::
run /scenario/wws --test-threads=1 sandbox:: memory:: precompile::
run /scenario/containerd-shim-wws-v1 --test-threads=2
run /scenario/ctr --test-threads=1 runs:: life:: stop:: --skip 1_6 --skip 2_1 --skip 2_3 --skip 2_4
[ "$failed" ] || exec echo "all passed"
echo "failed:$failed"
exit 1
END
}

machine() { # PAGES
    prepare_guest
    scripts/vm-arm64.sh "$1" "$work/files" ". /scenario/run"
}

# The results of a log as a table of Markdown.
table() {
    awk '
        function row(what, passed, failed) {
            print "| " where " | " what " | " passed " passed |" (failed > 0 ? " " failed " failed |" : " |")
        }
        function responses() {
            if (answered) row("`wws`: a project in JavaScript, Python, Ruby, Rust and Go, responses", answered, 0)
            answered = 0
        }
        BEGIN {
            names["wws_engine"] = "unit tests of the engine"
            names["wws"] = "unit tests of `wws`: sandbox, memory, compiling"
            names["containerd_shim_wws_v1"] = names["containerd-shim-wws-v1"] = "unit tests of the shim"
            names["ctr"] = "`test/tests/ctr`: runs, life, stop"
            print "| where | what | passed | failed |\n| --- | --- | --- | --- |"
        }
        /^== / { responses(); where = "qemu-user" }
        /^Linux / { where = "Linux " $2 }
        / Running / { sub(/.*\//, ""); sub(/-[0-9a-f]*\)$/, ""); what = names[$0] }
        /^-- \/scenario\// { sub(/.*\//, "", $2); what = names[$2] }
        /^\/(js|python|ruby|rust|go): / { answered++ }
        /^-- ctr task metrics/ && answered { row("a container of the same project, responses", answered, 0); answered = 0 }
        /^\$ curl -i / { walked++ }
        /^nothing is left: / { row("the walk of `make run`: the five endpoints of the example image, twice", walked, 0); walked = 0 }
        /^test result:/ { row(what, $4, $6) }
        END { responses() }'
}

[[ -e $work/project ]] || make_project "$work/project"
log=target/test-arm64.log
: > "$log"
status=0
# In a shell of its own, so that a failure ends the part, and no other.
set +e
for part in "$@"; do
    (
        set -e
        trap '[[ -z $server ]] || kill "$server" 2> /dev/null' EXIT
        echo "== $part"
        case $part in
            units | project) "$part" ;;
            *) machine "$part" ;;
        esac
    ) 2>&1 | tee -a "$log"
    ((PIPESTATUS[0] == 0)) || status=1
done
set -e
results=$(table < "$log")
printf '\n%s\n' "$results" | tee -a "$log"
if [[ $* == "${all[*]}" ]]; then
    scripts/compatibility.sh arm64 < "$log"
fi
exit $status
