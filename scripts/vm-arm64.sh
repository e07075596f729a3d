#!/usr/bin/env bash
# Runs a command in an emulated arm64 machine: kernel, containerd, runc, curl and busybox of Debian 13 in its memory, without systemd.
#
#   scripts/vm-arm64.sh 4k|16k DIRECTORY COMMAND    with pages of 4 or 16 KiB
#
# The contents of DIRECTORY are at the guest's root. COMMAND is one of busybox's shell: its output is printed, and its exit code is that of
# this script. WWS_VM_CPUS and WWS_VM_MEMORY (MiB) are the guest's size. After WWS_VM_LIMIT seconds (7200) the guest is stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
(($# == 3)) || { echo "usage: scripts/vm-arm64.sh 4k|16k DIRECTORY COMMAND" >&2 && exit 2; }
pages=$1 files=$2 command=$3

fail() {
    echo "scripts/vm-arm64.sh: $*" >&2
    exit 1
}

need() { # COMMAND PACKAGE...
    ! command -v "$1" > /dev/null || return 0
    command -v apt-get > /dev/null || fail "please install: ${*:2} (this is no Debian, so it is not done for you)"
    echo "installing ${*:2}"
    local as_root=()
    ((EUID == 0)) || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq || true
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${@:2}" > /dev/null
}
need qemu-system-aarch64 qemu-system-arm ipxe-qemu
need cpio cpio

case $pages in
    4k) meta=linux-image-cloud-arm64 ;;
    16k) meta=linux-image-arm64-16k ;;
    *) fail "pages are of 4k or 16k" ;;
esac
tools=target/tools/arm64
WWS_DEBS_ARCH=arm64 scripts/debs.sh --kernel trixie "arm64/kernel-$pages" "$meta"
# curl, and the libraries that it is linked with.
curl=(curl libbrotli1 libcom-err2 libcurl4t64 libffi8 libgcc-s1 libgmp10 libgnutls30t64 libgssapi-krb5-2 libhogweed6t64 libidn2-0
    libk5crypto3 libkeyutils1 libkrb5-3 libkrb5support0 libldap2 libnettle8t64 libnghttp2-14 libnghttp3-9 libp11-kit0 libpsl5t64
    librtmp1 libsasl2-2 libssh2-1t64 libssl3t64 libtasn1-6 libunistring5 libzstd1 zlib1g)
WWS_DEBS_ARCH=arm64 scripts/debs.sh trixie arm64/system libc6 libseccomp2 busybox-static containerd runc "${curl[@]}"

work=$(mktemp -d)
qemu=
trap '[[ -z $qemu ]] || kill "$qemu" 2> /dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
root=$work/root
mkdir -p "$root"/{proc,sys,dev,new,tmp,run,root,modules,bin,etc}
# The directories of the merged /usr are another package's than libc6's.
cp -a "$tools/system/usr" "$root/"
rm -rf "${root:?}"/usr/share "$root"/usr/bin/containerd-stress
mv "$root/usr/bin/busybox" "$root/bin/busybox"
for name in lib lib64 sbin; do
    mkdir -p "$root/usr/$name"
    [[ -e $root/$name ]] || ln -s "usr/$name" "$root/$name"
done
echo 'root:x:0:0:root:/root:/bin/sh' > "$root/etc/passwd"
echo 'root:x:0:' > "$root/etc/group"
touch "$root/etc/resolv.conf"
printf '127.0.0.1 localhost\n::1 localhost\n' > "$root/etc/hosts"
module=$(find "$tools/kernel-$pages" -name 'overlay.ko*' | head -1)
case $module in
    *.xz) xz -dc "$module" > "$root/modules/overlay.ko" ;;
    *.ko) cp "$module" "$root/modules/" ;;
    *) fail "the kernel has no overlayfs" ;;
esac
printf '%s\n' "$command" > "$root/command"
# runc's pivot_root needs a root other than the initramfs.
cat > "$root/init" << 'END'
#!/bin/busybox sh
/bin/busybox mount -t tmpfs -o mode=755,size=90% root /new
for part in /*; do
    case $part in
        /new | /proc | /sys | /dev) ;;
        *) /bin/busybox cp -a "$part" /new/ ;;
    esac
done
/bin/busybox mkdir -p /new/proc /new/sys /new/dev
exec /bin/busybox switch_root /new /start
END
cat > "$root/start" << 'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/local/bin:/bin:/usr/bin:/usr/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/init
echo 1 > /sys/fs/cgroup/init/cgroup.procs
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control
done
insmod /modules/overlay.ko
ip link set lo up
echo "@@ started"
sh /command < /dev/null
echo "@@ exit $?"
sync
poweroff -f
END
chmod 755 "$root/init" "$root/start"
(cd "$root" && find . | cpio --quiet -o -H newc -R 0:0) > "$work/initrd"
(cd "$files" && find . -mindepth 1 | cpio --quiet -o -H newc -R 0:0) >> "$work/initrd"
rm -rf "$root"

# In a session of its own: an interrupt of the terminal is for this script, which then stops it.
setsid qemu-system-aarch64 -M virt -cpu max,pauth-impdef=on -accel tcg,thread=multi,tb-size=1024 \
    -smp "${WWS_VM_CPUS:-2}" -m "${WWS_VM_MEMORY:-4096}" -display none -no-reboot -nic none -device virtio-rng-pci \
    -kernel "$(find "$tools/kernel-$pages/boot" -name 'vmlinuz-*' | head -1)" -initrd "$work/initrd" \
    -append "console=ttyAMA0 quiet loglevel=3 mitigations=off panic=-1" \
    -serial "file:$work/console" < /dev/null > "$work/qemu.log" 2>&1 &
qemu=$!
: > "$work/console"
timeout "${WWS_VM_LIMIT:-7200}" tail --pid="$qemu" -n +1 -f "$work/console" | sed -u 's/\r$//; 0,/^@@ started/d; /^@@ exit/,$d' || true
status=$(tr -d '\r' < "$work/console" | sed -n 's/^@@ exit //p')
if [[ ! $status ]]; then
    cat "$work/qemu.log" >&2
    tr -d '\r' < "$work/console" | tail -20 >&2
    fail "the guest exited, or was stopped after ${WWS_VM_LIMIT:-7200} s, before its command exited"
fi
exit "$status"
