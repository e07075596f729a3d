#!/usr/bin/env bash
# Unpacks Debian packages into a directory below target/tools, pinned by scripts/debs.lock. Nothing is installed, and the system's
# apt keeps its own lists and caches; only its mirror and proxy settings are used.
#
#   scripts/debs.sh SUITE NAME PACKAGE...      unpack PACKAGEs of SUITE into target/tools/NAME; nothing to do if they are there
#   scripts/debs.sh --update SUITE PACKAGE...  pin the newest of these PACKAGEs, and those that SUITE has pinned already
#   scripts/debs.sh --update                   pin the newest of all that is pinned
#   scripts/debs.sh --kernel SUITE NAME META   unpack the kernel that the package META depends on now (linux-image-arm64) into
#                                              target/tools/NAME, unless one is there: its name has its version, so it is not pinned
#   scripts/debs.sh --mirror                   say which mirror is asked
#
# Mirrors drop a version when the suite gets the next one. Then the newest of the same suite is taken, checked against the
# archive's signature instead of our checksum, and said loudly: a fresh machine goes on working until the pins are renewed.
# WWS_DEBS_STRICT=1 refuses instead. WWS_DEBIAN_MIRROR names a mirror other than the system's, WWS_DEBS_ARCH another
# architecture than this machine's (arm64): packages for an emulated one.
set -euo pipefail
cd "$(dirname "$0")/.."

lock=$PWD/scripts/debs.lock
state=$PWD/target/tools/.apt${WWS_DEBS_ARCH:+-$WWS_DEBS_ARCH}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

fail() {
    echo "scripts/debs.sh: $*" >&2
    exit 1
}

# The archive's mirror that this machine is configured for.
mirror() {
    local found
    found=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2> /dev/null |
        grep -E '^(URIs:|deb[[:space:]])' | tr -s '[:space:]' '\n' | grep -E '^[a-z+]+:.*/debian(\.list)?/?$' | head -1 || true)
    found=${WWS_DEBIAN_MIRROR-$found}
    [[ -n $found ]] || fail "apt's sources name no Debian mirror: set WWS_DEBIAN_MIRROR to one"
    echo "$found"
}

# Makes the configuration of an apt of our own for the suite $1.
configure() {
    local directory=$state/$1
    mkdir -p "$directory"/{lists/partial,cache/archives/partial,sources}
    : > "$directory/status"
    # Pinned files are old by intention: only the signature counts, not the age of the list.
    cat > "$directory/sources/debian.sources" << END
Types: deb
URIs: $(mirror)
Suites: $1
Components: main
Architectures: $arch
Signed-By: $keyring
Check-Valid-Until: no
END
    # The hooks that are cleared would run over the system's cache.
    cat > "$directory/apt.conf" << END
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::Cache "$directory/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$directory/sources";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "$directory/lists";
Dir::State::status "$directory/status";
END
}

apt() { # SUITE COMMAND...: COMMAND of apt-get or apt-cache
    "$2" -c "$state/$1/apt.conf" -qq "${@:3}"
}

refresh() {
    echo "reading the package list of Debian $1"
    apt "$1" apt-get update || fail "the package list of $1 cannot be read from $(mirror)"
}

# The newest `version sha256` of the package $2 in the suite $1; nothing if there is none.
newest() {
    { apt "$1" apt-cache show --no-all-versions "$2" 2> /dev/null || true; } |
        awk '/^Version:/ { version = $2 } /^SHA256:/ { sum = $2 } END { if (sum) print version, sum }'
}

# The `version sha256` that the package $2 of the suite $1 is pinned to.
pinned() {
    awk -v suite="$1" -v package="$2" -v arch="$arch" \
        '$1 == suite && $2 == package && $4 == arch { print $3, $5 }' "$lock"
}

# Downloads the package $2 of the suite $1 in the version $3 into the current directory and checks it against the checksum $4.
# Returns 1 if there is no such version.
download() {
    [[ $(apt "$1" apt-cache show "$2=$3" 2> /dev/null) ]] || return 1
    apt "$1" apt-get download "$2=$3" || return 1
    local file
    file=$(echo "$2"_*.deb)
    echo "$4  $file" | sha256sum --check --quiet >&2 || fail "$file is not the file that was pinned"
}

fetch() { # SUITE PACKAGE
    local version sum now
    read -r version sum < <(pinned "$1" "$2")
    download "$1" "$2" "$version" "$sum" && return
    # The list may be older than the pin.
    [[ -e $state/$1/fresh ]] || refresh "$1"
    touch "$state/$1/fresh"
    download "$1" "$2" "$version" "$sum" && return
    now=$(newest "$1" "$2")
    [[ $now ]] || fail "Debian $1 has no package $2 (wanted: $version)"
    [[ -z ${WWS_DEBS_STRICT-} ]] || fail "Debian $1 has $2 ${now% *} instead of $version: run scripts/debs.sh --update"
    printf '!!! %s\n' "Debian $1 no longer has $2 $version: taking ${now% *}, as signed by the archive." \
        "    The tests are not known to pass with it; scripts/debs.sh --update pins it." >&2
    download "$1" "$2" "${now% *}" "${now#* }" || fail "$2 ${now% *} of Debian $1 cannot be downloaded"
}

unpack() { # SUITE NAME PACKAGE...
    local suite=$1 target=target/tools/$2 package wanted=''
    for package in "${@:3}"; do
        [[ $(pinned "$suite" "$package") ]] ||
            fail "$package of $suite for $arch is not in scripts/debs.lock: run scripts/debs.sh --update $suite $package"
        wanted+="$suite $package $(pinned "$suite" "$package")"$'\n'
    done
    [[ ! -e $target/.debs || $(< "$target/.debs") != "${wanted%$'\n'}" ]] || return 0

    echo "unpacking ${*:3} (Debian $suite) into $target"
    configure "$suite"
    # A list from this run, if another run's has not what is asked for.
    rm -f "$state/$suite/fresh"
    rm -rf "$target" "$target.new" "$state/debs"
    mkdir -p "$target.new" "$state/debs"
    for package in "${@:3}"; do
        (cd "$state/debs" && fetch "$suite" "$package")
        dpkg-deb -x "$state/debs/$package"_*.deb "$target.new"
    done
    echo -n "$wanted" > "$target.new/.debs"
    mv "$target.new" "$target"
    rm -rf "$state/debs"
}

kernel() { # SUITE NAME META
    local target=target/tools/$2 package now
    [[ ! -e $target/boot ]] || return 0
    configure "$1"
    refresh "$1"
    package=$(apt "$1" apt-cache depends "$3" | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' | head -1)
    now=$(newest "$1" "${package:-$3}")
    [[ $package && $now ]] || fail "Debian $1 has no kernel $3"
    echo "unpacking $package (Debian $1) into $target"
    rm -rf "$target" "$target.new" "$state/debs"
    mkdir -p "$target.new" "$state/debs"
    (cd "$state/debs" && download "$1" "$package" "${now% *}" "${now#* }") || fail "$package cannot be downloaded"
    dpkg-deb -x "$state/debs/$package"_*.deb "$target.new"
    mv "$target.new" "$target"
    rm -rf "$state/debs"
}

update() { # [SUITE PACKAGE...]
    local suite suites package now rows
    rows=$(awk -v arch="$arch" -v only="${1-}" '$4 == arch && (!only || $1 == only) { print $1, $2 }' "$lock")
    for package in "${@:2}"; do
        rows+=$'\n'"$1 $package"
    done
    mapfile -t suites < <(cut -s -d ' ' -f 1 <<< "$rows" | sort -u)
    for suite in "${suites[@]}"; do
        configure "$suite"
        refresh "$suite"
    done
    while read -r suite package; do
        [[ $suite ]] || continue
        now=$(newest "$suite" "$package")
        [[ $now ]] || fail "Debian $suite has no package $package"
        awk -v row="$suite $package ${now% *} $arch ${now#* }" -v key="$suite $package $arch" '
            $1 " " $2 " " $4 != key { print } END { print row }' "$lock" > "$lock.new"
        { grep '^#' "$lock.new"; grep -v '^#' "$lock.new" | sort; } > "$lock.sorted"
        mv "$lock.sorted" "$lock"
        rm "$lock.new"
    done < <(sort -u <<< "$rows")
}

for command in apt-get apt-cache dpkg-deb sha256sum flock; do
    command -v "$command" > /dev/null || fail "$command is missing: a Debian or a system derived from it is needed"
done
[[ -e $keyring ]] || fail "$keyring is missing: run scripts/setup.sh"
arch=${WWS_DEBS_ARCH:-$(dpkg --print-architecture)}
mkdir -p "$state"
exec 9> "$state/lock"
flock 9

case ${1-} in
    --update) update "${@:2}" ;;
    --kernel) kernel "${@:2}" ;;
    --mirror) mirror ;;
    '' | -*) fail "usage: scripts/debs.sh SUITE NAME PACKAGE... | --update [SUITE PACKAGE...] | --kernel SUITE NAME META | --mirror" ;;
    *)
        (($# >= 3)) || fail "usage: scripts/debs.sh SUITE NAME PACKAGE..."
        unpack "$@"
        ;;
esac
