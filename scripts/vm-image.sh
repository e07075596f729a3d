#!/usr/bin/env bash
# Makes the disk of scripts/vm.sh's guest from Debian packages, of the machine's own mirror: target/vm/SUITE/{disk,vmlinuz,initrd,packages}.
# Called by `scripts/vm.sh image`, and as root, since a disk has files of many owners.
#
#   scripts/vm-image.sh SUITE MIRROR
set -euo pipefail
cd "$(dirname "$0")/.."

suite=$1 mirror=$2
target=target/vm/$suite
root=$target/root
size=3G
# What is under test; what makes a machine of it; what the tests call.
packages=(containerd runc docker.io docker-cli docker-buildx docker-compose containernetworking-plugins
    linux-image-cloud-amd64 initramfs-tools systemd systemd-sysv dbus udev kmod openssh-server
    iproute2 iptables procps util-linux bsdutils curl ca-certificates)

trap 'rm -rf "$root"' EXIT
rm -rf "$root"
# Packages are pinned by what scripts/vm.sh says of them, not by the age of the mirror's list.
mmdebstrap --quiet --mode=root --variant=minbase --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
    --include="$(IFS=,; echo "${packages[*]}")" \
    --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Check-Valid-Until "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --skip=cleanup/reproducible "$suite" "$root" "$mirror"

echo guest > "$root/etc/hostname"
printf '127.0.0.1 localhost guest\n::1 localhost\n' > "$root/etc/hosts"
printf '/dev/vda / ext4 rw,noatime 0 1\n' > "$root/etc/fstab"
: > "$root/etc/machine-id"
rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/*
install -d -m 700 "$root/root/.ssh"
install -m 600 target/vm/key.pub "$root/root/.ssh/authorized_keys"
chroot "$root" ssh-keygen -q -A
# What qemu's own network expects.
printf '[Match]\nName=en* eth*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nLinkLocalAddressing=no\n' \
    > "$root/etc/systemd/network/10-qemu.network"
mkdir -p "$root/etc/docker"
echo '{ "features": { "containerd-snapshotter": true } }' > "$root/etc/docker/daemon.json"
chroot "$root" systemctl enable --quiet systemd-networkd ssh
chroot "$root" systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer \
    systemd-networkd-wait-online.service

cp "$root"/boot/vmlinuz-* "$target/vmlinuz"
cp "$root"/boot/initrd.img-* "$target/initrd"
dpkg-query --admindir="$root/var/lib/dpkg" --show --showformat '${Package} ${Version}\n' > "$target/packages"
mke2fs -q -t ext4 -d "$root" -L root -O ^has_journal -E lazy_itable_init=1,root_owner=0:0 "$target/disk.new" "$size"
chown --reference="$target" "$target"/{vmlinuz,initrd,packages,disk.new}
