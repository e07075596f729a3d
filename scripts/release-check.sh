#!/usr/bin/env bash
# Whether this commit can be released: what it says of its version, every gate, every client and system of the matrix, the figures,
# and archives that are the same twice. All parts run, also after one that failed; the sum is at the end.
#
#   scripts/release-check.sh [PART...]    PART is one of those below; default all, which takes hours
#
# tree       no file is changed or new
# version    Cargo.toml, Cargo.lock, CHANGELOG.md, the pages and the tag name one version
# gates      .ci/run: lint and all tests
# clients, conformance, kubernetes, packages, systemd, arm64
#            make test-clients, test-conformance, test-kubernetes, test-packages, test-vm for both versions of Debian, test-arm64
# figures    make bench
# archives   make dist, and scripts/test-dist.sh: the same bytes again, what is in them, signatures, make install and uninstall
set -euo pipefail
cd "$(dirname "$0")/.."

all=(tree version gates clients conformance kubernetes packages systemd arm64 figures archives)

bad() {
    echo "$*" >&2
    problems=$((problems + 1))
}

tree() {
    local changed
    changed=$(git status --porcelain)
    [[ -z $changed ]] || { echo "$changed"; return 1; }
}

version() {
    local version problems=0 section found at
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
    echo "version $version"
    [[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || bad "Cargo.toml: \`$version\` is no version"
    for at in . fuzz test/models test/pure; do
        (cd $at && cargo metadata --locked --format-version 1 > /dev/null) || bad "$at/Cargo.lock: does not agree with Cargo.toml"
    done
    section=$(awk -v heading="## $version - " 'index($0, heading) == 1 { found = 1; print; next } /^## / { found = 0 } found' CHANGELOG.md)
    if [[ -z $section ]]; then
        bad "CHANGELOG.md: no section \`## $version - DATE\`"
    else
        [[ $(head -1 <<< "$section") =~ \ -\ [0-9]{4}-[0-9]{2}-[0-9]{2}$ ]] || bad "CHANGELOG.md: $version has no date"
        grep -q '^\* ' <<< "$section" || bad "CHANGELOG.md: $version names no change"
        grep -q '^### Upgrade' <<< "$section" || bad "CHANGELOG.md: $version has no notes on upgrades"
    fi
    for at in version appVersion; do
        found=$(sed -n "s/^$at: \"\{0,1\}\([0-9.]*\)\"\{0,1\}$/\1/p" deploy/helm/wws/Chart.yaml)
        [[ $found == "$version" ]] || bad "deploy/helm/wws/Chart.yaml: $at is $found"
    done
    scripts/badges.py --check || bad "docs/badges.svg: is not that of docs/compatibility.md"
    # Names of archives and packages in the pages.
    while IFS=: read -r at found; do
        [[ $found == "$version" ]] || bad "$at: names version $found"
    done < <(git grep -noE '(wws_|wws-|wws-v1-|wws:)[0-9]+\.[0-9]+\.[0-9]+' -- docs README.md | sed -E 's/:(wws_|wws-|wws-v1-|wws:)([0-9.]+)$/:\2/; s/^([^:]*):([0-9]+):/\1 line \2:/')
    at=$(git rev-parse --quiet --verify "v$version^{commit}" || true)
    [[ -z $at || $at == $(git rev-parse HEAD) ]] || bad "the tag v$version is another commit: choose the next version"
    ((problems == 0))
}

gates() { .ci/run; }
clients() { make test-clients; }
conformance() { make test-conformance; }
kubernetes() { make test-kubernetes; }
packages() { make test-packages; }
systemd() { make test-vm && SUITE=forky make test-vm; }
arm64() { make test-arm64; }
figures() { make bench; }

archives() {
    make dist && scripts/test-dist.sh target/dist && cat target/dist/SHA256SUMS
}

parts=("$@")
((${#parts[@]})) || parts=("${all[@]}")
for part in "${parts[@]}"; do
    [[ " ${all[*]} " == *" $part "* ]] || { echo "no part $part: ${all[*]}" >&2; exit 2; }
done
sum='' failed=0
for part in "${parts[@]}"; do
    printf '\n== %s\n' "$part"
    started=$SECONDS
    # In a shell of its own, so that a failure ends the part.
    if ("$part"); then
        sum+="ok      $part  $((SECONDS - started)) s"$'\n'
    else
        sum+="FAILED  $part  $((SECONDS - started)) s"$'\n'
        failed=1
    fi
done
printf '\n%s' "$sum"
if ((failed)); then
    echo "this commit cannot be released"
    exit 1
fi
if ((${#parts[@]} == ${#all[@]})); then
    echo "this commit can be released: git tag v$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)"
fi
