#!/usr/bin/env bash
# Tests the wrapper on this machine: the examples, built under the address and undefined-behaviour sanitizers, answer requests.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for file in ../c/src/*.c; do
    ${CC:-cc} -std=c11 -g -fsanitize=address,undefined -c "$file" -o "$out/$(basename "$file" .c).o"
done
for example in hello features; do
    ${CXX:-c++} -std=c++17 -g -Wall -Wextra -Wshadow -Wpedantic -Werror -Wno-missing-field-initializers -Wno-infinite-recursion \
        -fsanitize=address,undefined -fno-sanitize-recover=all -I. -I../c "examples/$example.cpp" "$out"/*.o -o "$out/$example"
done

failed=0
check() { # EXAMPLE REQUEST ANSWER: ANSWER is a part of what is printed, or of the log
    local got
    got=$("$out/$1" <<< "$2" 2>&1 || true)
    [[ $got == *"$3"* ]] || {
        failed=1
        printf 'kits/cpp: %s of %s\n got: %s\nwant: %s\n' "$1" "$2" "$got" "$3" >&2
    }
}
feature() { # NAME REST-OF-THE-REQUEST ANSWER
    check features "{\"url\":\"http://a.test/${4-}\",\"method\":\"POST\",\"params\":{\"feature\":\"$1\"}$2}" "$3"
}
check hello '{"url":"http://a.test/","method":"GET"}' '"data":"Hello from C++\u000a","status":200,"headers":{"content-type":"text/plain; charset=utf-8"}}'
feature hello '' '"data":"Hello, Zoe!"' '?name=Zoe'
feature hello '' '"data":"Hello, !"'
feature nosuch '' '"data":"no such feature: nosuch","status":404'
feature count ',"kv":{"count":"41","other":"x"}' '"data":"42"'
feature count ',"kv":{"count":"41","other":"x"}' '"kv":{"count":"42","other":"x"}'
feature forget ',"kv":{"count":"41"}' '"kv":{}'
feature keep ',"body":"a\u0000b"' '"kv":{"kept":"a\u0000b"}'
feature echo ',"body":"/wA=","body_base64":true,"headers":{"Content-Type":"x/y"}' '"data":"/wA=","base64":true,"status":200,"headers":{"content-type":"x/y"}'
feature headers ',"headers":{},"header_list":[["x-in","1"],["X-In","2"]]' '"x-out":["1","2"],"set-cookie":["a=1","b=2; Path=/"]'
feature status '' '"data":"418","status":418' '?code=418'
feature status '' 'worker: the status is not from 200 to 599' '?code=1'
feature fetch '' '"data":"internal-error: requests can be sent by WebAssembly workers only","status":502' '?url=http%3A%2F%2Fb.test'
feature fail '' 'features: failed on purpose'
feature global '' '"data":"1"'
((failed == 0)) && echo "kits/cpp: ok" || exit 1
