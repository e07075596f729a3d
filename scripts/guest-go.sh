#!/usr/bin/env bash
# Makes target/tools/bin/wasm-go: `go` for workers, whatever the directory it is called in says. The user's own Go is taken if it is
# 1.24 or newer; else Debian's is unpacked. WWS_GUEST_GO=debian chooses the latter. With WWS_GUEST_GOOS= and WWS_GUEST_GOARCH= it is
# `go` for this machine.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=target/tools/bin
mkdir -p "$bin"
own=''
if [[ ${WWS_GUEST_GO-} != debian ]] && command -v go > /dev/null; then
    version=$(GOTOOLCHAIN=local go env GOVERSION | sed 's/^go//')
    [[ $(printf '%s\n' 1.24 "$version" | sort -V | head -1) != 1.24 ]] || own=$(command -v go)
fi
[[ $own ]] || scripts/debs.sh trixie go golang-1.24-go golang-1.24-src

{
    echo '#!/usr/bin/env bash'
    echo '# Written by scripts/guest-go.sh.'
    if [[ $own ]]; then
        printf 'go=%q\n' "$own"
    else
        # Debian keeps the compiler's files in two places, bound by links that are absolute.
        ln -sfn ../../share/go-1.24/src target/tools/go/usr/lib/go-1.24/src
        for name in api misc test; do ln -sfn "../../share/go-1.24/$name" "target/tools/go/usr/lib/go-1.24/$name"; done
        echo 'export GOROOT=$(readlink -f "$(dirname "$(readlink -f "$0")")/../go/usr/lib/go-1.24")'
        echo 'go=$GOROOT/bin/go'
    fi
    echo 'export GOOS=${WWS_GUEST_GOOS-wasip1} GOARCH=${WWS_GUEST_GOARCH-wasm} GOTOOLCHAIN=local'
    echo 'exec "$go" "$@"'
} > "$bin/wasm-go.new"
chmod +x "$bin/wasm-go.new"
mv "$bin/wasm-go.new" "$bin/wasm-go"
"$bin/wasm-go" version
