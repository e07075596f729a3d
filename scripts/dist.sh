#!/usr/bin/env bash
# Packs what `make build` left:
#
#   scripts/dist.sh [DIRECTORY]    default target/dist, which is removed before; another one is new or empty
#
#   wws-VERSION-linux-ARCH.tar.gz                       both programs, completions, manual pages, licences, the Kubernetes manifests
#   containerd-shim-wws-v1-VERSION-linux-ARCH.tar.gz    one file, the shim that carries `wws` (runtime-class-manager, k3s)
#   wws_VERSION_ARCH.deb                                both programs in /usr/bin, completions, manual pages
#   wws-VERSION-linux-ARCH.tar                          the OCI image of `wws`, for hosts without the shim
#   wws-installer-VERSION-linux-ARCH.tar                the OCI image of the installer, for deploy/helm
#   wws-chart-VERSION.tgz                               the Helm chart
#   wws-VERSION.cdx.json                                what they are made of (CycloneDX)
#   wws-VERSION-linux-ARCH.profdata.xz                  the profile that `wws` was compiled by (scripts/pgo.sh), if it was
#   SHA256SUMS, and SHA256SUMS.asc with the key KEY of gpg, if it is given
#
# Nothing in them depends on when or by whom they are packed: SOURCE_DATE_EPOCH, or the time of the commit, is the time of all files.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
case $(uname -m) in
    x86_64) machine=amd64 ;;
    aarch64) machine=arm64 ;;
    *) echo "scripts/dist.sh: no archives for $(uname -m)" >&2 && exit 1 ;;
esac
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
# This machine's programs, which write the completions and manual pages of all; and those of the other architecture, if they were built.
own=target/release
for program in containerd-shim-wws-v1 wws; do
    [[ -x $own/$program ]] || { echo "scripts/dist.sh: $own/$program is missing: make build" >&2 && exit 1; }
done
architectures=("$machine")
if [[ $machine == amd64 ]]; then
    if scripts/cross.sh --check arm64 && [[ -x target/release-arm64/wws && -x target/release-arm64/containerd-shim-wws-v1 ]]; then
        architectures+=(arm64)
    else
        echo "scripts/dist.sh: nothing for arm64: scripts/cross.sh arm64 and make build ARCH=arm64 make that possible" >&2
    fi
fi

dist=${1-target/dist}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(($#)) || rm -rf "$dist"
mkdir -p "$dist"
[[ -z $(ls -A "$dist") ]] || { echo "scripts/dist.sh: $dist is not empty" >&2 && exit 1; }
umask 022

archive() { # NAME: packs the directory $work/NAME
    tar --sort=name --format=ustar --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C "$work/$1" -c . |
        gzip -n -9 > "$dist/$1.tar.gz"
}

pack() { # ARCH PROGRAMS: both archives and the Debian package
    local arch=$1 programs=$2 name root
    name=wws-$version-linux-$arch
    mkdir -p "$work/$name/bin" "$work/$name/deploy"
    install -m 755 "$programs/containerd-shim-wws-v1" "$programs/wws" "$work/$name/bin/"
    install -m 644 LICENSE THIRD_PARTY.md CHANGELOG.md "$work/$name/"
    scripts/share.sh "$own/wws" "$work/$name/share"
    cp -r deploy/kubernetes deploy/helm "$work/$name/deploy/"
    archive "$name"

    # runtime-class-manager takes the one file that the archive has at its top.
    name=containerd-shim-wws-v1-$version-linux-$arch
    mkdir -p "$work/$name"
    scripts/one-file.py "$programs/containerd-shim-wws-v1" "$programs/wws" "$work/$name/containerd-shim-wws-v1" > /dev/null
    archive "$name"

    if command -v dpkg-deb > /dev/null; then
        root=$work/deb-$arch
        mkdir -p "$root/DEBIAN" "$root/usr/bin" "$root/usr/share/doc/wws/kubernetes"
        install -m 755 "$programs/containerd-shim-wws-v1" "$programs/wws" "$root/usr/bin/"
        install -m 644 LICENSE "$root/usr/share/doc/wws/copyright"
        install -m 644 THIRD_PARTY.md "$root/usr/share/doc/wws/"
        install -m 644 deploy/kubernetes/*.yaml "$root/usr/share/doc/wws/kubernetes/"
        gzip -n -9 < CHANGELOG.md > "$root/usr/share/doc/wws/changelog.gz"
        scripts/share.sh "$own/wws" "$root/usr/share" debian
        sed -e "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@SIZE@/$(du -sk --apparent-size "$root/usr" | cut -f 1)/" \
            deploy/debian/control.in > "$root/DEBIAN/control"
        install -m 755 deploy/debian/postrm "$root/DEBIAN/postrm"
        (cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum > DEBIAN/md5sums)
        find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
        dpkg-deb --root-owner-group --uniform-compression -Zxz --build "$root" "$dist/wws_${version}_$arch.deb" > /dev/null
    fi
}

command -v dpkg-deb > /dev/null || echo "scripts/dist.sh: dpkg-deb is missing: no .deb" >&2
for architecture in "${architectures[@]}"; do
    if [[ $architecture == "$machine" ]]; then
        pack "$architecture" "$own"
    else
        pack "$architecture" "target/release-$architecture"
    fi
done

# Images are packed for this machine only.
scripts/program-images.sh "$work/images" "$version"
for name in wws wws-installer; do
    mv "$work/images/$name.tar" "$dist/$name-$version-linux-$machine.tar"
done
tar --sort=name --format=ustar --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C deploy/helm -c wws |
    gzip -n -9 > "$dist/wws-chart-$version.tgz"

scripts/sbom.py "$version" > "$dist/wws-$version.cdx.json"

# Without it, nobody can compile the same bytes again.
if [[ $own/wws -ef target/pgo/release/wws ]]; then
    xz -9 --threads=1 < target/pgo/release/wws.profdata > "$dist/wws-$version-linux-$machine.profdata.xz"
fi

(
    cd "$dist"
    shopt -s nullglob
    packed=(*.tar.gz *.tgz *.tar *.deb *.cdx.json *.profdata.xz)
    sha256sum -- "${packed[@]}" > SHA256SUMS
)
if [[ -n ${KEY-} ]]; then
    gpg --batch --yes --armor --detach-sign --local-user "$KEY" --output "$dist/SHA256SUMS.asc" "$dist/SHA256SUMS"
fi
du --apparent-size --block-size=K "$dist"/*
