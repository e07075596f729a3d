#!/usr/bin/env bash
# Writes the completions and manual pages of the program WWS, where the shells and `man` look for them below DIRECTORY (PREFIX/share).
#
#   scripts/share.sh WWS DIRECTORY             bash, zsh, fish and man
#   scripts/share.sh WWS DIRECTORY debian      where Debian has those of packages, pages compressed
set -euo pipefail

wws=$1 share=$2 zsh=zsh/site-functions
[[ ${3-} != debian ]] || zsh=zsh/vendor-completions
umask 022
mkdir -p "$share"/{bash-completion/completions,"$zsh",fish/vendor_completions.d,man/man1}
"$wws" completions bash > "$share/bash-completion/completions/wws"
"$wws" completions zsh > "$share/$zsh/_wws"
"$wws" completions fish > "$share/fish/vendor_completions.d/wws.fish"
"$wws" man --directory "$share/man/man1"
[[ ${3-} != debian ]] || gzip -n -9 "$share"/man/man1/wws*.1
