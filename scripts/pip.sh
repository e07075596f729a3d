#!/usr/bin/env bash
# Unpacks packages of PyPI into target/tools/NAME, pinned by version and checksum in PINS. Python's pip fetches them from whatever
# index the machine is configured for; a machine without pip gets Debian's, unpacked. Nothing is installed.
#
#   scripts/pip.sh NAME PINS      nothing to do if they are there
set -euo pipefail
cd "$(dirname "$0")/.."

(($# == 2)) || { echo "usage: scripts/pip.sh NAME PINS" >&2; exit 2; }
target=target/tools/$1 pins=$2
wanted="$(python3 --version) $(sha256sum < "$pins")"
[[ ! -e $target/.pins || $(< "$target/.pins") != "$wanted" ]] || exit 0

pip=(python3 -m pip)
if ! "${pip[@]}" --version > /dev/null 2>&1; then
    scripts/debs.sh trixie python-pip python3-pip-whl
    pip=(python3 "$(echo target/tools/python-pip/usr/share/python-wheels/pip-*.whl)/pip")
fi
echo "unpacking what $pins names into $target"
rm -rf "$target" "$target.new"
mkdir -p target/tools
"${pip[@]}" install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes --no-warn-script-location \
    --root-user-action ignore \
    --target "$target.new" --requirement "$pins"
echo "$wanted" > "$target.new/.pins"
mv "$target.new" "$target"
