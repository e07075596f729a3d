#!/usr/bin/env bash
# What `make dist` packs, on bare Debian systems (debootstrap) with their own containerd and runc, in namespaces of their own:
#
# * the Debian package is installed, `ctr` runs the example, the package is upgraded while the container runs, and removed: nothing is left;
# * the one-file shim is put where runtime-class-manager puts it, and runs a container by its path, as that configures containerd.
#
#   scripts/test-packages.sh              Debian 12 and 13
#   scripts/test-packages.sh SUITE...     bookworm, trixie
#
# The bare systems are made once, below target/packages, and stay as they were made. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD

fail() {
    echo "scripts/test-packages.sh: $*" >&2
    exit 1
}

# Makes a bare system with containerd and runc, once.
bare() { # SUITE
    local root=target/packages/$1
    [[ ! -e $root.made ]] || return 0
    command -v debootstrap > /dev/null || apt-get install -y -qq --no-install-recommends debootstrap
    rm -rf "$root"
    mkdir -p target/packages
    echo "making a bare Debian $1 in $root"
    debootstrap --variant=minbase --include=containerd,runc "$1" "$root" "$(scripts/debs.sh --mirror)" > "$root.log" 2>&1 ||
        { tail -5 "$root.log" >&2 && fail "no bare Debian $1"; }
    rm -f "$root"/var/cache/apt/archives/*.deb
    touch "$root.made"
}

# A package of the next version, whose programs are other files.
next_package() { # PACKAGE OUTPUT
    local root
    root=$(mktemp -d)
    dpkg-deb -R "$1" "$root"
    sed -i 's/^Version: .*/&+next/' "$root/DEBIAN/control"
    echo next >> "$root/usr/bin/wws"
    (cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum > DEBIAN/md5sums)
    dpkg-deb --root-owner-group -Zxz -z0 --build "$root" "$2" > /dev/null
    rm -rf "$root"
}

# --- Inside the namespaces ---

try() { # WHAT COMMAND...: until the command succeeds
    local limit=$((SECONDS + 120)) what=$1
    shift
    until "$@" > /dev/null 2>&1; do
        ((SECONDS < limit)) || fail "$what did not happen in 120 s"
        sleep 0.1
    done
}

in_root() {
    chroot "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"
}

ctr() {
    in_root ctr "$@"
}

# All files that a package or a container could leave. What apt and dpkg note of any package is none, nor what containerd keeps for itself.
files() {
    (cd "$root" && find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run -o -path ./packages -o -path ./tmp \
        -o -path ./var/log -o -path ./var/cache/apt -o -path ./var/lib/apt -o -path ./var/lib/dpkg -o -path ./var/lib/containerd -o -path ./etc/cni \
        -o -path ./var/cache/debconf \) -prune -o -print | LC_ALL=C sort)
}

start_containerd() {
    in_root containerd > "$work/containerd.log" 2>&1 &
    daemon=$!
    try "the start of containerd" ctr version
}

stop_containerd() {
    kill "$daemon"
    wait "$daemon" || true
}

start() { # NAME PORT RUNTIME
    ctr run -d --net-host --env "WWS_PORT=$2" --runtime "$3" localhost/hello:latest "$1"
    try "an answer of $1" curl -sSf "http://127.0.0.1:$2/hello"
    echo "$1: $(curl -sS "http://127.0.0.1:$2/hello" | head -c 60)"
}

stop() { # NAME
    local code
    ctr task kill -s SIGTERM "$1"
    try "the end of $1" is_stopped "$1"
    # It is the exit code of `ctr task delete`.
    code=0
    ctr task delete "$1" > /dev/null || code=$?
    ((code == 0)) || fail "$1 ended with $code"
    ctr container rm "$1"
}

is_stopped() {
    ctr task list | grep -q "^$1 .*STOPPED"
}

no_process() {
    ! grep -slE '^(wws|containerd-shim)' /proc/[0-9]*/comm
}

nothing_left() { # WHAT
    try "the end of the shims" no_process
    files > "$work/after"
    diff "$work/before" "$work/after" || fail "$1 left files"
    [[ ! -e $root/run/wws ]] || fail "$1 left /run/wws"
    ! grep -E "$root.*(wws|shim)" /proc/self/mounts || fail "$1 left mounts"
}

package() {
    files > "$work/before"
    in_root apt-get install -y -qq "/packages/$(basename "$deb")" > "$work/apt.log" 2>&1 ||
        { tail -20 "$work/apt.log" >&2 && fail "the package cannot be installed"; }
    in_root dpkg -s wws | grep '^Version'
    in_root dpkg --verify wws
    start_containerd
    # It finds what is missing; a bare system has no Docker.
    in_root wws doctor || true
    ctr image import --all-platforms /packages/hello.tar > /dev/null
    start before 3001 io.containerd.wws.v1
    in_root dpkg -i /packages/next.deb > "$work/dpkg.log" 2>&1 || { tail -20 "$work/dpkg.log" >&2 && fail "no upgrade"; }
    in_root dpkg -s wws | grep '^Version'
    curl -sSf "http://127.0.0.1:3001/hello" > /dev/null || fail "a container ended with the upgrade"
    start after 3002 io.containerd.wws.v1
    curl -sSf "http://127.0.0.1:3001/hello" > /dev/null || fail "a container ended with the start of another"
    stop before
    stop after
    stop_containerd
    in_root apt-get purge -y -qq wws >> "$work/apt.log" 2>&1 || { tail -20 "$work/apt.log" >&2 && fail "no removal"; }
    nothing_left "the package"
    echo "Debian $(cat "$root/etc/debian_version"), $(in_root containerd --version | cut -d ' ' -f 3): installed, ran, upgraded, removed"
}

# As the node installer of runtime-class-manager: one file in its own directory, and a runtime of its path.
one_file() {
    local shim=/opt/rcm/bin/containerd-shim-wws-v1
    files > "$work/before"
    mkdir -p "$root/opt/rcm/bin"
    tar -xzf "$archive" -C "$root/opt/rcm/bin"
    [[ $(ls "$root/opt/rcm/bin") == containerd-shim-wws-v1 ]] || fail "the archive holds more than one file"
    start_containerd
    ctr image import --all-platforms /packages/hello.tar > /dev/null
    start rcm 3003 "$shim"
    stop rcm
    stop_containerd
    # It leaves what it unpacked for the next start.
    rm -rf "$root/opt/rcm" "$root/var/lib/wws"
    [[ $(ls -A "$root/opt") ]] || touch "$root/opt"
    nothing_left "the one file"
    echo "Debian $(cat "$root/etc/debian_version"): the one file of $(du -h "$archive" | cut -f 1) ran from /opt/rcm/bin"
}

inside() { # SUITE WORK DEB ARCHIVE
    # shellcheck source=/dev/null
    . scripts/namespaces.sh
    furnish "bare-$1"
    work=$2 deb=$3 archive=$4 root=$2/root
    mkdir -p "$root" "$work/layer"
    # The bare system stays as it is.
    mount -t tmpfs -o size=4G layer "$work/layer"
    mkdir "$work/layer"/{upper,work}
    mount -t overlay -o "lowerdir=target/packages/$1,upperdir=$work/layer/upper,workdir=$work/layer/work" overlay "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount -t tmpfs -o mode=755 run "$root/run"
    mount -t tmpfs tmp "$root/tmp"
    mount -t tmpfs -o mode=755 dev "$root/dev"
    for name in null zero full random urandom tty; do
        touch "$root/dev/$name"
        mount --bind "/dev/$name" "$root/dev/$name"
    done
    mkdir "$root/dev/pts" "$root/dev/shm" "$root/packages"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    # Snapshots of overlayfs cannot lie on overlayfs.
    mkdir -p "$root/var/lib/containerd"
    mount -t tmpfs -o mode=711 containerd "$root/var/lib/containerd"
    # What an installed system has, and `ctr run --net-host` mounts.
    echo '127.0.0.1 localhost' > "$root/etc/hosts"
    touch "$root/etc/resolv.conf"
    cp "$deb" "$work/next.deb" target/images/hello.tar "$root/packages/"
    package
    one_file
}

if [[ ${1-} == --inside ]]; then
    inside "${@:2}"
    exit
fi

((EUID == 0)) || fail "needs root"
# shellcheck source=/dev/null
. scripts/namespaces.sh
(($#)) || set -- bookworm trixie
architecture=$(dpkg --print-architecture)
deb=$(compgen -G "$repository/target/dist/wws_*_$architecture.deb") || fail "no package: make dist"
archive=$(compgen -G "$repository/target/dist/containerd-shim-wws-v1-*-linux-$architecture.tar.gz") || fail "no archive: make dist"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
next_package "$deb" "$work/next.deb"
for suite in "$@"; do
    bare "$suite"
    echo "== Debian $suite"
    mkdir -p "$work/$suite"
    cp "$work/next.deb" "$work/$suite/"
    isolate "bare-$suite" "$repository/scripts/test-packages.sh" --inside "$suite" "$work/$suite" "$deb" "$archive"
done
