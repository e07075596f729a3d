#!/usr/bin/env bash
# Builds a program of this repository from its Go modules, whose checksums its go.sum pins. To be sourced in the repository's root.
set -euo pipefail

# build_program DIRECTORY TOOL PROGRAM WHAT [FLAG...]: `go build FLAG...` of DIRECTORY into target/tools/TOOL/PROGRAM; nothing to do if it
# is there. WHAT names it in messages. Fails if the Go that is there is older than DIRECTORY's go.mod asks for.
build_program() {
    local directory=$1 target=$PWD/target/tools/$2 program=$3 what=$4 wanted oldest present
    wanted=$(cat "$directory"/go.{mod,sum} "$directory"/*.go | sha256sum)
    [[ ! -e $target/.pin || $(< "$target/.pin") != "$wanted" ]] || return 0
    oldest=$(sed -n 's/^go //p' "$directory/go.mod")
    export GOTOOLCHAIN=local GOOS='' GOARCH='' CGO_ENABLED=0 GOFLAGS=-mod=readonly
    present=$(go env GOVERSION 2> /dev/null | sed 's/^go//' || true)
    if [[ -z $present || $(printf '%s\n' "$oldest" "$present" | sort -V | head -1) != "$oldest" ]]; then
        echo "$0: Go $oldest or newer is needed to build $what; there is ${present:-none}" >&2
        return 1
    fi
    echo "building $what"
    (cd "$directory" && go build -trimpath -buildvcs=false "${@:5}" -o "$target/$program" .)
    echo "$wanted" > "$target/.pin"
}
