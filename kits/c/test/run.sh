#!/usr/bin/env bash
# Tests the library on this machine. The number of damaged requests can be given: test/run.sh 1000000
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
${CC:-cc} -std=c11 -O1 -g -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -fsanitize=address,undefined \
    -fno-sanitize-recover=all test/test.c src/*.c -o "$out/test"
# The causes that the library logs are expected.
"$out/test" "$@" 2> "$out/log" || { grep -v '^worker: ' "$out/log" >&2; exit 1; }
