#!/usr/bin/env bash
# The tests with cgroup v2 and systemd, in a guest made of Debian packages: `make test-vm` builds what it needs before.
#
#   scripts/test-vm.sh              all, and their part of docs/compatibility.md is made from how it went
#   scripts/test-vm.sh FILTER...    as of `cargo test`: docker_26, cri, a_killed_shim
#
# SUITE is the guest's Debian, trixie (13, the default) or forky (14): the Docker, containerd and runc under test are its own.
# WWS_TEST_PATIENCE says how many times longer than on an ordinary machine things may take there (12).
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra cargo_flags <<< "${CARGO_FLAGS---locked}"

export SUITE=${SUITE:-trixie}
log=target/test-vm-$SUITE.log
host=x86_64-unknown-linux-gnu

# The suites that say something of cgroups: the whole of `systemd`, and what of others is for the versions that the guest has.
tests=(ctr docker)
parts=(life leftovers native environment)
case $SUITE in
    trixie)
        containerd=1.7 docker=26
        others=(--skip containerd_1_6 --skip containerd_2_1 --skip docker_28 --skip cri_1_6 --skip cri_2_1 --skip 2_3 --skip 2_4)
        chosen=()
        ;;
    forky)
        others=(--skip containerd_1_6 --skip containerd_1_7 --skip docker_26 --skip cri_1_6 --skip cri_1_7 --skip 2_3 --skip 2_4)
        # Tests to which the version is the same run on 1.7.
        containerd=2.1 docker=28
        chosen=(containerd_2_1 docker_28 cri_2_1)
        ;;
    *)
        echo "scripts/test-vm.sh: SUITE is trixie or forky" >&2
        exit 2
        ;;
esac
for part in test/tests/ctr/*.rs; do
    part=$(basename "$part" .rs)
    [[ " ${parts[*]} " == *" $part "* ]] || others+=(--skip "$part::")
done
scripts/clients.sh
if [[ -x target/tools/clients/bin/crictl ]]; then
    tests+=(cri)
else
    echo '!!! crictl could not be built: ITS TESTS ARE LEFT OUT' >&2
fi

mkdir -p "target/vm/$SUITE"
# What the tests are given lies at the same place in the guest as here.
push=$PWD/target/vm/$SUITE/push.tar
build=(cargo test "${cargo_flags[@]}" --release -p wws-test)
"${build[@]}" --no-run "${tests[@]/#/--test=}" --test systemd 2>&1 | tee "target/vm/$SUITE/build.log"
mapfile -t programs < <(sed -n 's/^  Executable .*(\(.*\))$/\1/p' "target/vm/$SUITE/build.log")
clients=(target/tools/clients/bin/crictl)
[[ -e ${clients[0]} ]] || clients=()
tar -C / -cf "$push" --owner=0 --group=0 "${programs[@]/#/${PWD#/}/}" "${clients[@]/#/${PWD#/}/}" \
    "${PWD#/}"/target/{release/wws,release/containerd-shim-wws-v1,$host/release/native-hello,guests/probe.wasm}

scripts/vm.sh image
trap 'status=$?; scripts/vm.sh off; rm -f "$push"; exit $status' EXIT
trap 'exit 130' INT TERM
scripts/vm.sh boot "$push"
scripts/vm.sh run "cd '$PWD' && install target/release/{wws,containerd-shim-wws-v1} /usr/local/bin &&
    mkdir -p test target/tools && cd target/tools && ln -s / docker-$docker && ln -s / containerd-$containerd && ln -s / runc && ln -s / cni"
versions=$(scripts/vm.sh run "$(cat << 'END'
first() { grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -1; }
echo "Debian $(cut -d . -f 1 /etc/debian_version), Linux $(uname -r | first), systemd $(systemctl --version | grep -oE '[0-9]+' | head -1)," \
    "Docker $(docker --version | first), containerd $(containerd --version | first), runc $(runc --version | first)"
END
)")
echo "$versions"

# Code is compiled once for all tests: the CPU that is emulated is not this machine's.
settings=(WWS_TEST_GUEST=1 WWS_TEST_PATIENCE="${WWS_TEST_PATIENCE:-12}" WWS_TEST_STORE=/var/lib/wws/code WWS_TEST_SHARE_CODE=1
    RUST_BACKTRACE="${RUST_BACKTRACE-0}")
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$PWD/scripts/vm.sh run env ${settings[*]}"
run_all() { # FILTER...
    local failed=0
    echo "guest: $versions"
    "${build[@]}" --no-fail-fast --test systemd -- --include-ignored --test-threads=1 --show-output "$@" || failed=1
    (($#)) || set -- "${chosen[@]}"
    "${build[@]}" --no-fail-fast "${tests[@]/#/--test=}" -- --include-ignored --test-threads=1 --show-output "${others[@]}" "$@" || failed=1
    return $failed
}
started=$SECONDS
status=0
run_all "$@" 2>&1 | tee "$log" || status=1
if ((!$#)); then
    scripts/compatibility.sh "$SUITE" < "$log"
fi
echo "the tests took $((SECONDS - started)) s"
awk '/^test result:/ { passed += $4; failed += $6 } END { printf "\n%d passed, %d failed\n", passed, failed }' "$log"
exit $status
