#!/usr/bin/env bash
# Fetches what the figures of interpreted languages are compared with, below target/tools/peers. Nothing is installed.
#
#   target/tools/peers/fastify/                 Fastify, from npm; run by the system's node
#   target/tools/peers/gunicorn/                gunicorn, from PyPI; run by the system's Python 3
#   target/tools/puma/                          Puma and Ruby, Debian 12's
#
# Versions and hashes are pinned: bench/peers/package-lock.json, bench/peers/requirements.txt, scripts/debs.lock.
set -euo pipefail
cd "$(dirname "$0")/.."

out=target/tools/peers
mkdir -p "$out"

# Whether the directory $1 was made from the files $2...; else it is made anew.
fresh() {
    local sum
    sum=$(cat "${@:2}" | sha256sum)
    [[ -r $out/$1/.made-from && $(< "$out/$1/.made-from") == "$sum" ]] && return
    rm -rf "${out:?}/$1"
    mkdir -p "$out/$1"
    return 1
}

made() {
    cat "${@:2}" | sha256sum > "$out/$1/.made-from"
}

npm=(bench/peers/package.json bench/peers/package-lock.json bench/peers/fastify.js)
if ! fresh fastify "${npm[@]}"; then
    cp "${npm[@]}" "$out/fastify"
    (cd "$out/fastify" && npm ci --no-audit --no-fund --ignore-scripts --loglevel error)
    made fastify "${npm[@]}"
fi

pip=(bench/peers/requirements.txt bench/peers/hello_wsgi.py)
if ! fresh gunicorn "${pip[@]}"; then
    cp bench/peers/hello_wsgi.py "$out/gunicorn"
    python3 -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --target "$out/gunicorn" \
        -r bench/peers/requirements.txt
    made gunicorn "${pip[@]}"
fi

scripts/debs.sh bookworm puma puma ruby3.1 libruby3.1 rubygems-integration ruby-nio4r ruby-rack libyaml-0-2
