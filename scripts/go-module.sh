#!/usr/bin/env bash
# Builds programs from a Go module, pinned by its version and the checksum of its files, which have the checksums of all that it is
# built from. To be sourced in the repository's root, by scripts/clients.sh and scripts/conformance.sh.
set -euo pipefail

tools=$PWD/target/tools
export GOTOOLCHAIN=local GOOS='' GOARCH=''
present=$(go env GOVERSION 2> /dev/null | sed 's/^go//' || true)

# build NAME GO MODULE VERSION CHECKSUM VARIABLE DIRECTORY PACKAGE...: builds each PACKAGE of MODULE into target/tools/DIRECTORY; a package
# `test:PATH` as the program that `go test` makes of it. VARIABLE takes the version; GO is the oldest Go that builds it. CGO=1 before it
# where it has parts in C, TAGS its build tags. What cannot be built with the Go that is there is skipped, which is said loudly. `prepare_NAME` (NAME without
# its last `-part`), where there is such a function, changes the module's files before.
build() {
    local name=$1 go=$2 module=$3 version=$4 sum=$5 variable=$6 directory=$tools/$7 packages=("${@:8}")
    local pin=$directory/.$name.pin source=$tools/source/$name found files package
    local tags="no_btrfs no_devmapper no_zfs${TAGS:+ $TAGS}"
    local wanted="$module $version $sum ${packages[*]}${TAGS:+ $TAGS}" flags=(-buildvcs=false -trimpath -tags "$tags")
    [[ ! -e $pin || $(< "$pin") != "$wanted" ]] || return 0
    if [[ -z $present || $(printf '%s\n' "$go" "$present" | sort -V | head -1) != "$go" ]]; then
        printf '!!! %s\n' "Go $go or newer is needed to build $name $version; there is ${present:-none}." \
            "    THE TESTS WITH IT ARE LEFT OUT." >&2
        return 0
    fi
    echo "building $name $version from $module"
    # The checksum is known here; the public list of checksums need not know this module.
    found=$(GONOSUMDB=$module GOFLAGS=-mod=mod go mod download -json "$module@$version")
    files=$(sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' <<< "$found")
    found=$(sed -n 's/^\t"Sum": "\(.*\)",\{0,1\}$/\1/p' <<< "$found")
    if [[ $found != "$sum" ]]; then
        echo "$0: $module $version has the checksum $found instead of $sum" >&2
        exit 1
    fi
    rm -rf "$source"
    mkdir -p "$directory" "${source%/*}"
    cp -R "$files" "$source"
    chmod -R u+w "$source"
    (
        cd "$source" || exit
        export CGO_ENABLED=${CGO-0} GOFLAGS=-mod=readonly
        if declare -F "prepare_${name%-*}" > /dev/null; then
            "prepare_${name%-*}"
        fi
        for package in "${packages[@]}"; do
            if [[ $package == test:* ]]; then
                package=${package#test:}
                found=${package#./}
                go test -c -vet=off "${flags[@]}" -ldflags '-s -w' -o "$directory/${found//\//-}.test" "$package"
            else
                go build "${flags[@]}" -ldflags "-s -w -X $variable=$version" -o "$directory/" "$package"
            fi
        done
    )
    rm -rf "$source"
    echo "$wanted" > "$pin"
}
