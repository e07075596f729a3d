#!/usr/bin/env bash
# A guest with systemd and cgroup v2, made of Debian packages and emulated by qemu, all below target/vm:
#
#   scripts/vm.sh image          make the guest's disk, once; again when what it is made by has changed
#   scripts/vm.sh boot [TAR]     start it and wait until it can be talked to; TAR is unpacked at its root
#   scripts/vm.sh run COMMAND    run a command of the shell in it
#   scripts/vm.sh off            power it off
#
# SUITE is the Debian release: trixie (13, the default) or forky (14). The disk stays as it was made, whatever happens in the
# guest. The guest is reached by ssh on a free port of 127.0.0.1, with a key of its own, and reaches nothing itself.
# WWS_VM_ACCEL=kvm has it virtualized instead of emulated; WWS_VM_CPUS and WWS_VM_MEMORY (MiB) say its size.
#
# The guest has the newest packages of the suite. Those that differ from what scripts/debs.lock pins are said loudly;
# WWS_DEBS_STRICT=1 refuses them instead.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=${SUITE:-trixie}
target=target/vm/$suite
boot_limit=600

fail() {
    echo "scripts/vm.sh: $*" >&2
    exit 1
}

as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

# What makes and starts a guest, each only if the command it brings is not there.
need() { # COMMAND PACKAGE, ...
    local missing=()
    while (($#)); do
        command -v "$1" > /dev/null || missing+=("$2")
        shift 2
    done
    ((${#missing[@]})) || return 0
    command -v apt-get > /dev/null || fail "please install: ${missing[*]} (this is no Debian, so it is not done for you)"
    echo "installing ${missing[*]}"
    as_root apt-get update -qq || true
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
}

check_pins() {
    local differ
    differ=$(awk -v suite="$suite" '
        FNR == NR { if ($1 == suite) pinned[$2] = $3; next }
        $1 in pinned && pinned[$1] != $2 { print "    " $1 " " $2 " instead of " pinned[$1] }' scripts/debs.lock "$target/packages")
    [[ $differ ]] || return 0
    [[ -z ${WWS_DEBS_STRICT-} ]] || fail "other packages than pinned: run scripts/debs.sh --update"$'\n'"$differ"
    printf '!!! %s\n' "the guest has other packages of Debian $suite than are pinned, as signed by the archive:"$'\n'"$differ" >&2
    echo "    The tests are not known to pass with them; scripts/debs.sh --update pins them." >&2
}

image() {
    local from mirror
    need mmdebstrap mmdebstrap mke2fs e2fsprogs ssh-keygen openssh-client
    mkdir -p "$target"
    [[ -e target/vm/key ]] || ssh-keygen -q -t ed25519 -N '' -C 'guest of scripts/vm.sh' -f target/vm/key
    from=$(cat scripts/vm-image.sh target/vm/key.pub | sha256sum)
    if [[ ! -e $target/disk || ! -e $target/made || $(< "$target/made") != "$from" ]]; then
        mirror=$(scripts/debs.sh --mirror)
        echo "making a guest of Debian $suite in $target"
        rm -f "$target"/disk*
        if ! as_root scripts/vm-image.sh "$suite" "$mirror" > "$target/image.log" 2>&1; then
            tail -20 "$target/image.log" >&2
            fail "no guest could be made"
        fi
        mv "$target/disk.new" "$target/disk"
        echo "$from" > "$target/made"
    fi
    check_pins
}

talk() { # COMMAND
    [[ -e $target/port ]] || fail "no guest runs: scripts/vm.sh boot"
    ssh -i target/vm/key -p "$(< "$target/port")" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
        -o LogLevel=ERROR -o "ConnectTimeout=${patience:-120}" -o ServerAliveInterval=30 -o ServerAliveCountMax=20 -o BatchMode=yes root@127.0.0.1 "$@"
}

# Whether the qemu that was started here still runs.
runs() {
    [[ -e $target/pid ]] && grep -qF "file=$target/disk" "/proc/$(< "$target/pid")/cmdline" 2> /dev/null
}

free_port() {
    local port
    while port=$((RANDOM % 20000 + 30000)) && (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null; do :; done
    echo "$port"
}

boot() { # [TAR]
    local accel disks=() started=$SECONDS
    need qemu-system-x86_64 qemu-system-x86 ssh openssh-client
    ! runs || fail "a guest runs already: scripts/vm.sh off"
    case ${WWS_VM_ACCEL:-tcg} in
        # Emulated, cmpxchg16b stops all CPUs, and a fifth level of page tables costs a look-up each.
        tcg) accel=(-accel "tcg,thread=multi,tb-size=1024" -cpu "max,cx16=off,la57=off") ;;
        kvm) accel=(-accel kvm -cpu host) ;;
        *) fail "WWS_VM_ACCEL is tcg or kvm" ;;
    esac
    # An archive as a disk: no file system to make, and nothing to send.
    [[ -z $1 ]] || disks=(-drive "file=$1,format=raw,if=virtio,readonly=on")
    free_port > "$target/port"
    # Of lower priority and in a session of its own: an interrupt from the terminal is for the script, which ends it.
    setsid nice qemu-system-x86_64 "${accel[@]}" -M q35 -smp "${WWS_VM_CPUS:-2}" -m "${WWS_VM_MEMORY:-4096}" \
        -display none -no-reboot -kernel "$target/vmlinuz" -initrd "$target/initrd" \
        -append "root=/dev/vda rw console=ttyS0 mitigations=off quiet" \
        -drive "file=$target/disk,format=raw,if=virtio,snapshot=on,cache=unsafe" "${disks[@]}" \
        -nic "user,restrict=on,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:$(< "$target/port")-:22" \
        -device virtio-rng-pci -serial "file:$target/console" < /dev/null > "$target/qemu.log" 2>&1 &
    echo $! > "$target/pid"
    # Nobody listens yet: a connection that hangs will not be answered.
    until patience=10 talk true 2> /dev/null; do
        if ! kill -0 "$(< "$target/pid")" 2> /dev/null; then
            cat "$target/qemu.log" >&2
            fail "qemu has ended"
        fi
        if ((SECONDS - started > boot_limit)); then
            tail -5 "$target/console" >&2
            off
            fail "the guest cannot be talked to after $boot_limit s"
        fi
        sleep 0.5
    done
    [[ -z $1 ]] || talk 'tar -C / -xf /dev/vdb'
    echo "Debian $suite is up after $((SECONDS - started)) s"
}

off() {
    local pid
    if runs; then
        pid=$(< "$target/pid")
        # It may not answer yet, or hang; its disk is not kept.
        if patience=10 talk "systemctl --no-block poweroff" > /dev/null 2>&1; then
            timeout 60 tail --pid="$pid" -f /dev/null || true
        fi
        ! runs || kill "$pid"
    fi
    rm -f "$target/pid" "$target/port"
}

case ${1-} in
    image) image ;;
    boot) boot "${2-}" ;;
    run) talk "${@:2}" ;;
    off) off ;;
    *) fail "usage: scripts/vm.sh image | boot [TAR] | run COMMAND | off" ;;
esac
