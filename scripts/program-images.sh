#!/usr/bin/env bash
# Packs what `make build` left as OCI images of this machine's architecture, from scratch, below a directory:
#
#   scripts/program-images.sh [DIRECTORY [TAG]]     target/images, `latest`
#
#   wws.tar              localhost/wws:TAG             the program `wws`, for hosts without the shim
#   wws-installer.tar    localhost/wws-installer:TAG   `wws`, and the one-file shim that `wws install` copies to a node
#
# SOURCE_DATE_EPOCH is the time of all files.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-target/images} tag=${2:-latest}
case $(uname -m) in
    x86_64) platform=linux/amd64 ;;
    aarch64) platform=linux/arm64 ;;
    *) echo "scripts/program-images.sh: no images for $(uname -m)" >&2 && exit 1 ;;
esac
programs=target/release
for program in containerd-shim-wws-v1 wws; do
    [[ -x $programs/$program ]] || { echo "scripts/program-images.sh: $programs/$program is missing: make build" >&2 && exit 1; }
done
read -r -a cargo_flags <<< "${CARGO_FLAGS---locked}"
pack=$(env -u CARGO_TARGET_DIR cargo build "${cargo_flags[@]}" --release --quiet -p wws-oci-tar --message-format json |
    sed -n 's/.*"executable":"\([^"]*wws-oci-tar\)".*/\1/p')

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022
mkdir -p "$out" "$work/wws" "$work/wws-installer"
install -m 755 "$programs/wws" "$work/wws/"
install -m 755 "$programs/wws" "$work/wws-installer/"
scripts/one-file.py "$programs/containerd-shim-wws-v1" "$programs/wws" "$work/wws-installer/containerd-shim-wws-v1" > /dev/null
chmod 755 "$work/wws-installer/containerd-shim-wws-v1"
for image in wws wws-installer; do
    "$pack" "$out/$image.tar" "localhost/$image:$tag" "$work/$image" --platform "$platform" --entrypoint /wws
done
