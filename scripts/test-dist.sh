#!/usr/bin/env bash
# What `make dist`, `make install` and `make uninstall` do with the programs that `make build` left, which are not built again:
#
# * packing twice gives the same bytes, whatever the user's locale, time zone and umask are;
# * the checksums, owners and times in the archives, and the package's own checksums are right;
# * KEY signs the checksums: the signature verifies, and does not for other checksums;
# * `make install` installs all files below DESTDIR and PREFIX, also over a program that runs, and `make uninstall` removes them and no
#   other ones.
#
#   scripts/test-dist.sh [DIRECTORY]    DIRECTORY has what was packed before (target/dist); without it, all is packed twice
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "scripts/test-dist.sh: $*" >&2
    exit 1
}

work=$(mktemp -d)
running=''
cleanup() {
    [[ -z $running ]] || kill "$running" 2> /dev/null || true
    [[ ! -d $work/gnupg ]] || GNUPGHOME=$work/gnupg gpgconf --kill all
    rm -rf "$work"
}
trap cleanup EXIT
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
time=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

sums() { # DIRECTORY
    (cd "$1" && find . -type f ! -name '*.asc' -exec sha256sum {} + | LC_ALL=C sort -k 2)
}

twice() { # [DIRECTORY]
    first=$work/first
    if (($#)); then
        first=$1
    else
        scripts/dist.sh "$first" > "$work/log" || fail "packing failed"
    fi
    mkdir "$work/gnupg" "$work/tmp" "$work/home"
    chmod 700 "$work/gnupg"
    export GNUPGHOME=$work/gnupg
    gpg --batch --quiet --passphrase '' --quick-generate-key 'tests <tests@localhost>' ed25519 sign 1d 2> "$work/gpg.log" ||
        fail "no key: $(< "$work/gpg.log")"
    (
        # What is another user's, and none of the archives' business.
        umask 077
        export TZ=Pacific/Kiritimati LC_ALL=C.UTF-8 TMPDIR=$work/tmp
        KEY=tests@localhost scripts/dist.sh "$work/second" > "$work/log"
    ) || fail "packing with a key failed"
    diff <(sums "$first") <(sums "$work/second") || fail "packing twice gives other bytes"
    echo "packed twice with the same bytes: $(wc -l < "$first/SHA256SUMS") files"
}

checksums() {
    local listed=$work/listed
    (cd "$work/second" && sha256sum --check --strict --quiet SHA256SUMS) || fail "SHA256SUMS is wrong"
    awk '{ print $2 }' "$work/second/SHA256SUMS" | sort > "$listed"
    find "$work/second" -type f ! -name 'SHA256SUMS*' -printf '%f\n' | sort | diff "$listed" - || fail "SHA256SUMS does not list all files"
    gpg --batch --quiet --verify "$work/second/SHA256SUMS.asc" "$work/second/SHA256SUMS" 2> "$work/gpg.log" ||
        fail "the signature does not verify: $(< "$work/gpg.log")"
    (cat "$work/second/SHA256SUMS" && echo) > "$work/other"
    ! gpg --batch --quiet --verify "$work/second/SHA256SUMS.asc" "$work/other" 2> /dev/null || fail "the signature verifies for other checksums"
    echo "the checksums and their signature verify"
}

# Archives have nothing of who packed them and when.
contents() {
    local archive found package
    for archive in "$work"/second/*.tar.gz "$work"/second/*.tgz; do
        # tar says the time of a file in the zone of the user.
        found=$(TZ=UTC tar --numeric-owner --full-time -tvzf "$archive" |
            awk -v time="$(date -u -d "@$time" '+%Y-%m-%d %H:%M:%S')" '$2 != "0/0" || $4 " " $5 != time')
        [[ -z $found ]] || fail "${archive##*/} has other owners or times: $found"
    done
    for archive in "$work/second/containerd-shim-wws-v1-$version"-linux-*.tar.gz; do
        [[ $(tar -tzf "$archive") == $'./\n./containerd-shim-wws-v1' ]] || fail "${archive##*/} is not one file"
    done
    python3 -m json.tool "$work/second/wws-$version.cdx.json" > /dev/null || fail "the SBOM is no JSON"
    for package in "$work"/second/*.deb; do
        [[ -e $package ]] || { echo "!!! dpkg-deb is missing: NO PACKAGE IS TESTED" >&2 && return; }
        found=$(dpkg-deb --field "$package" Package Version)
        [[ $found == $'Package: wws\nVersion: '"$version" ]] || fail "${package##*/} says $found"
        rm -rf "$work/package"
        dpkg-deb --raw-extract "$package" "$work/package"
        (cd "$work/package" && md5sum --check --strict --quiet DEBIAN/md5sums) || fail "${package##*/} has other files than it lists"
        found=$(dpkg-deb --fsys-tarfile "$package" | tar --numeric-owner -tvf - | awk '$2 != "0/0"')
        [[ -z $found ]] || fail "${package##*/} has files of others: $found"
    done
    echo "archives and packages have what they say, of root, at the time of the commit"
}

# All files of a directory, without the pages of commands.
files() { # DIRECTORY
    (cd "$1" && find . ! -type d ! -name 'wws-*.1' -printf '%m %p\n' | LC_ALL=C sort -k 2)
}

# `make build` is taken for done.
make_of() { # TARGET
    make --old-file=build "$1" DESTDIR="$work/root" PREFIX=/opt/wws > "$work/log" 2>&1 || fail "make $1: $(< "$work/log")"
}

install_and_uninstall() {
    local root=$work/root prefix=$work/root/opt/wws
    # What others have there; and one of our programs that runs.
    mkdir -p "$prefix/bin" "$prefix/share/man/man1" "$root/var/lib/wws/code" "$root/var/lib/other"
    touch "$prefix/bin/wwsx" "$prefix/share/man/man1/wwsx.1" "$root/var/lib/wws/code/entry" "$root/var/lib/other/file"
    files "$root" | grep -v /var/lib/wws > "$work/others"
    cp "$(command -v sleep)" "$prefix/bin/wws"
    "$prefix/bin/wws" 600 &
    running=$!
    (umask 022 && make_of install)
    kill -0 "$running" || fail "make install ended a program that runs"
    cat > "$work/expected" << END
755 ./bin/containerd-shim-wws-v1
755 ./bin/wws
644 ./share/bash-completion/completions/wws
644 ./share/fish/vendor_completions.d/wws.fish
644 ./share/man/man1/wws.1
644 ./share/zsh/site-functions/_wws
END
    files "$prefix" | grep -v 'wwsx' | diff "$work/expected" - || fail "make install installs other files"
    [[ -n $(find "$prefix/share/man/man1" -name 'wws-*.1' -size +0) ]] || fail "make install installs no pages of commands"
    cmp target/release/wws "$prefix/bin/wws"
    [[ $("$prefix/bin/wws" --version) == "wws $version"* ]] || fail "the installed program is another version"
    # Again, over what is there.
    (umask 022 && make_of install)
    files "$prefix" | grep -v 'wwsx' | diff "$work/expected" - || fail "make install installs other files the second time"
    make_of uninstall
    files "$root" | diff "$work/others" - || fail "make uninstall leaves files, or removes those of others"
    kill -0 "$running" || fail "make uninstall ended a program that runs"
    # Where nothing is installed, there is nothing to do.
    make_of uninstall
    echo "make install and make uninstall install and remove the same files"
}

install_and_uninstall
twice "$@"
checksums
contents
