#!/usr/bin/env bash
# Runs the suites of containerd and Kubernetes with our runtime and with runc's, on one private containerd: `make test-conformance` builds
# what it needs before. No test may fail with ours alone.
#
#   scripts/conformance.sh                all of critest, cri (containerd's tests of its Kubernetes interface), client (of its client) and stress
#   scripts/conformance.sh SUITE...       some of them
#   FOCUS=REGEX scripts/conformance.sh critest     some tests of one
#
# RUNTIMES="wws runc" names the handlers, `wws-by-path` is a third one: our shim as `runtime_path` of `io.containerd.runc.v2`.
# Results: target/conformance/RUNTIME-SUITE.log and .results, and results.md with both beside each other.
#
# The suites kill containerd by its name, fill /run and /var, and set up packet filters: all of it happens in namespaces of its own (PID,
# mount, network, cgroups), with a root of containerd's below target/conformance, and ends with them. Images come from a registry on
# loopback (test/src/bin/suite-registry.rs).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=/dev/null
. scripts/namespaces.sh

out=$PWD/target/conformance
work=$out/work
address=127.0.0.1:5000
socket=/run/containerd-conformance/containerd.sock
read -ra cargo_flags <<< "${CARGO_FLAGS---locked}"
read -ra runtimes <<< "${RUNTIMES:-wws runc}"
suites=("$@")
((${#suites[@]})) || suites=(critest cri client stress)

# Tests that are about something else than the runtime, or for which there is nothing here.
left_out() {
    case $1 in
        # By the digest of an image that only its own registry has; by names in two registries, of which one is no more.
        critest) echo 'public image with digest|from one registry should remove' ;;
        # Other operating systems; downloads of containerd's releases, from GitHub; `docker`; runtimes and network plugins that fail on
        # purpose and that are no part of containerd (`runc-fp`), which the tests name instead of the runtime under test; images that are
        # only pulled or unpacked.
        cri) echo 'Windows|TestUpgrade|TestIssue10467|TestImageLoad|TestRunPodSandbox(WithSetupCNI|WithShim|AndTeardown)|TestContainerdRestartSandboxRecover|ShouldBackoffExitEventWhenFail|TestIssue7496_ShouldRetryShutdown|TestSandboxStopWithNilCNIResult|TestCRIImagePullTimeout|TestRuntimeHandlerUnpackWithSnapshotLabels' ;;
        # No runtime in them: images, content, snapshots, leases, transfers, converters. CRIU, which there is not. An image that waits for a
        # layer's white-outs; a `nc` that ends by SIGTERM as the init process, which busybox's does not.
        client) echo '^Test(Image|Import|Export|Content|Convert|Transfer|Snapshot|Lease|Migration|Fetch|Pull|Push|Checkpoint|CRWithImage|Crw|OCIExport|MountManager|GetUserAgent|Reconnect|ClientTTRPC|ClientVersion|ClientReconnect|DefaultRuntimeWithNonExistent|BindLowPortNonOpt|Issue13030)|Benchmark|Fuzz' ;;
    esac
}

# The limit of open files of containerd-stress is what there is: to raise it takes a right that root may not have. The images of the tests
# come from the registry on loopback: those of the client's tests can be named nowhere else.
# shellcheck disable=SC2329 # Called by its name.
prepare_suites() {
    sed -i "s,\"\(ghcr\|registry.k8s\).io/,\"$address/," integration/images/image_list.go
    sed -i 's/uint64(100000)/uint64(1024)/' cmd/containerd-stress/rlimit_unix.go
}

prepare() {
    local program
    scripts/clients.sh containerd-2.3
    # shellcheck source=/dev/null
    . scripts/go-module.sh
    build critest-1.37 1.26.6 sigs.k8s.io/cri-tools v1.37.0 'h1:BmTImEoTX3KPXCLwmIU9mfCC8umUqF4R8WibY9eVU9Y=' \
        sigs.k8s.io/cri-tools/pkg/version.Version suites test:./cmd/critest
    # Of the version that runs.
    build suites-2.3 1.26.8 github.com/containerd/containerd/v2 v2.3.7 'h1:7PGbgAVKE4ieQjFPv7+kwAv7f9dCtRpExZwjExHD/Fk=' \
        github.com/containerd/containerd/v2/version.Version suites ./cmd/containerd-stress ./integration/failpoint/cmd/runc-fp test:./integration \
        test:./integration/client
    scripts/debs.sh bookworm suites-host busybox-static iptables libxtables12 libip4tc2 libip6tc2 libnftnl11 libmnl0 libnfnetlink0 \
        libnetfilter-conntrack3 lsof libtirpc3 strace libunwind8
    cargo build "${cargo_flags[@]}" --release --quiet -p wws-test --bins
    for program in containerd-2.3/usr/bin/containerd suites/cmd-critest.test suites/containerd-stress suites/integration.test suites/integration-client.test; do
        if [[ ! -x target/tools/$program ]]; then
            echo "scripts/conformance.sh: target/tools/$program could not be built" >&2
            exit 1
        fi
    done
}

# Mounts what else the namespaces have of their own.
furnish_suites() {
    furnish conformance
    mount --bind "$work/tmp" /tmp
    mkdir -p /run/containerd /var/lib/cni /var/lib/containerd-test /run/containerd-test
    mount --bind "$work/var-lib-cni" /var/lib/cni
    mount --bind "$work/client-root" /var/lib/containerd-test
}

configure() {
    local name
    cat > "$work/config.toml" << END
version = 3
root = "$work/root"
state = "/run/containerd-conformance"
[grpc]
address = "$socket"
[ttrpc]
address = "$socket.ttrpc"
END
    cat > "$work/plugins.toml" << END
version = 3
[plugins."io.containerd.internal.v1.opt"]
path = "$work/opt"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "$address/pause:3.10.2"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "$work/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
# There may be no right to lower it.
restrict_oom_score_adj = true
drain_exec_sync_io_timeout = "10s"
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["$PWD/target/tools/cni/usr/lib/cni"]
conf_dir = "$work/cni"
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.wws]
runtime_type = "io.containerd.wws.v1"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.wws-by-path]
runtime_type = "io.containerd.runc.v2"
runtime_path = "$PWD/target/release/containerd-shim-wws-v1"
END
    # Some tests start a containerd of their own, which has to know the runtime and the registry, too.
    mkdir "$work/bin"
    for name in ctr containerd-shim-runc-v2; do
        ln -s "$PWD/target/tools/containerd-2.3/usr/bin/$name" "$work/bin/$name"
    done
    for name in iptables ip6tables; do
        type -p "$name" > /dev/null || ln -s "$PWD/target/tools/suites-host/usr/sbin/xtables-nft-multi" "$work/bin/$name"
    done
    cat > "$work/bin/containerd" << END
#!/usr/bin/env bash
for ((i = 1; i < \$#; i++)); do
    next=\$((i + 1))
    [[ \${!i} != --config ]] || grep -q '^imports' "\${!next}" || sed -i '1i imports = ["$work/plugins.toml"]' "\${!next}" ||
        true
    [[ \${!i} != --config || -s \${!next} ]] || echo 'imports = ["$work/plugins.toml"]' > "\${!next}"
done
exec "$PWD/target/tools/containerd-2.3/usr/bin/containerd" "\$@"
END
    chmod +x "$work/bin/containerd"
    cat > "$work/certs.d/_default/hosts.toml" << END
server = "http://$address"
[host."http://$address"]
capabilities = ["pull", "resolve"]
END
    cat > "$work/cni/10-conformance.conflist" << END
{ "cniVersion": "0.4.0", "name": "conformance", "plugins": [
    { "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "promiscMode": true, "ipam": { "type": "host-local",
        "ranges": [[{ "subnet": "10.88.0.0/16" }], [{ "subnet": "fd88::/64" }]],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] } },
    { "type": "portmap", "capabilities": { "portMappings": true } } ] }
END
    # Those that critest pulls by their own names come from the same registry (certs.d).
    cat > "$work/images.yaml" << END
defaultTestContainerImage: registry.k8s.io/e2e-test-images/busybox:1.29-2
webServerTestImage: registry.k8s.io/e2e-test-images/nginx:1.14-2
END
}

# Starts containerd again whenever a test has ended it, as the suite of containerd wants it.
keep_containerd() {
    while true; do
        containerd --config "$work/config.toml" --log-level info >> "$out/containerd.log" 2>&1 || true
        sleep 1
    done
}

await() { # WHAT COMMAND...
    for _ in {1..150}; do
        ! "${@:2}" > /dev/null 2>&1 || return 0
        sleep 0.2
    done
    echo "scripts/conformance.sh: no $1 within 30 s" >&2
    return 1
}

# shellcheck disable=SC2329 # Called by its name, as the next one.
answers() { ctr --address "$socket" version; }
# shellcheck disable=SC2329
is_listened_to() { : < "/dev/tcp/${address/://}"; }

# Writes `passed|failed|skipped NAME` of each test, of what `go test` prints.
of_go() {
    sed -nE 's/^ *--- (PASS|FAIL|SKIP): ([^ ]+) .*/\1 \2/p' | sed 's/^PASS/passed/; s/^FAIL/failed/; s/^SKIP/skipped/' | sort -u -k 2
}

# The same, of a report for JUnit.
of_junit() {
    grep -oE '<testcase name="[^"]*"[^>]*status="[a-z]*"' "$1" |
        sed -E 's/<testcase name="([^"]*)".*status="([a-z]*)"/\2 \1/; s/&#34;|&quot;/"/g; s/&#39;|&apos;/'"'"'/g; s/&lt;/</g; s/&gt;/>/g; s/&amp;/\&/g' |
        grep '\[It\]' | sed 's/^pending/skipped/; s/^timedout/failed/; s/^panicked/failed/' | sort -u -k 2
}

run() { # RUNTIME SUITE: writes its log and results
    local runtime=$1 suite=$2 log=$out/$1-$2.log results=$out/$1-$2.results type
    local from=$SECONDS endpoint=unix://$socket
    case $runtime in
        runc) type=io.containerd.runc.v2 ;;
        *) type=io.containerd.wws.v1 ;;
    esac
    case $suite in
        critest)
            rm -f "$work/junit.xml"
            cmd-critest.test --runtime-endpoint "$endpoint" --image-endpoint "$endpoint" --runtime-handler "$runtime" \
                --test-images-file "$work/images.yaml" --ginkgo.skip "$(left_out critest)" --ginkgo.focus "${FOCUS-}" \
                --ginkgo.junit-report "$work/junit.xml" --ginkgo.no-color --ginkgo.timeout 3h > "$log" 2>&1 || true
            of_junit "$work/junit.xml" > "$results"
            ;;
        cri)
            (cd "$work/tmp" && integration.test -test.v -test.timeout 2h -test.run "${FOCUS-.}" -test.skip "$(left_out cri)" \
                -cri-endpoint "$endpoint" -runtime-handler "$runtime" -build-dir "$(dirname "$(type -p containerd)")") > "$log" 2>&1 ||
                true
            of_go < "$log" > "$results"
            ;;
        client)
            # It starts a containerd of its own.
            (cd "$work/tmp" && TEST_RUNTIME=$type integration-client.test -test.v -test.timeout 2h -test.run "${FOCUS-.}" \
                -test.skip "$(left_out client)" -test.root -no-criu) > "$log" 2>&1 || true
            of_go < "$log" > "$results"
            ;;
        stress)
            : > "$log"
            stress "$runtime" "$type" >> "$log" 2>&1
            grep -aE '^(passed|failed) ' "$log" > "$results"
            ;;
    esac
    printf '%-12s %-8s %s in %s s\n' "$runtime" "$suite" \
        "$(cut -d ' ' -f 1 "$results" | sort | uniq -c | tr -s ' \n' ' ')" $((SECONDS - from))
}

stress() { # RUNTIME TYPE
    local image=$address/containerd/busybox:1.36 way answer failed
    for way in '' --exec --cri; do
        local words=(--address "$socket" --image "$image" --concurrent 4 --duration 10s --json)
        [[ $way == --cri ]] && words+=(--cri --runtime "$1") || words+=(${way:+"$way"} --runtime "$2")
        [[ $way != --cri ]] || words=("${words[@]/#4/3}")
        answer=$(containerd-stress "${words[@]}" 2>&1 | tee -a "$out/$1-stress.log" | grep -a '^{' | tail -1) || true
        echo
        failed=$(grep -oE '"(failures|execFailures)":[0-9]+' <<< "$answer" | grep -v ':0$' || true)
        if [[ $answer && ! $failed ]]; then
            echo "passed containerd-stress${way:+ $way}"
        else
            echo "failed containerd-stress${way:+ $way}"
        fi
        # What it left: nothing of any container.
        failed=$(pgrep -fa 'containerd-shim-(wws|runc)' || true)
        if [[ $failed ]]; then
            echo "failed containerd-stress${way:+ $way}: nothing is left"
            echo "$failed"
        else
            echo "passed containerd-stress${way:+ $way}: nothing is left"
        fi
    done
}

# Runs again, with each runtime that failed them, the tests that failed with ours alone: how they go then is what counts, and is written down.
again() {
    local suite=$1 kind=$2 name alone
    ((${#runtimes[@]} > 1)) || return 0
    alone=$(only_with_ours "$suite")
    [[ $alone && ! ${FOCUS-} && $suite != stress ]] || return 0
    echo "only with $kind, run again:" $'\n'"$alone"
    cp "$out/$kind-$suite.results" "$work/first"
    cp "$out/$kind-$suite.log" "$out/$kind-$suite.first.log"
    if [[ $suite == critest ]]; then
        name=$(sed 's/^\[It\] //; s/[][().*+?^$|{}\\]/\\&/g; s/ *\(\\\[[A-Za-z ]*\\\] *\)*$//' <<< "$alone" | paste -sd '|')
    else
        # shellcheck disable=SC2001 # Of each line.
        name=$(sed 's,/.*,,' <<< "$alone" | sort -u | sed 's/.*/^&$/' | paste -sd '|')
    fi
    FOCUS=$name run "$kind" "$suite"
    awk -v again="$out/again.txt" -v suite="$suite" -v kind="$kind" '
        { result = $1; name = substr($0, length($1) + 2) }
        NR == FNR { now[name] = result; next }
        result == "failed" && now[name] == "passed" { print suite ": " name >> again; result = "passed" }
        { print result, name }' "$out/$kind-$suite.results" "$work/first" > "$work/both"
    mv "$work/both" "$out/$kind-$suite.results"
}

only_with_ours() { # SUITE
    awk '
        { result = $1; name = substr($0, length($1) + 2) }
        NR == FNR { ours[name] = result; next }
        { theirs[name] = result }
        END { for (name in ours) if (ours[name] == "failed" && theirs[name] != "failed") print name }
    ' "$out/${runtimes[0]}-$1.results" "$out/${runtimes[1]}-$1.results" | sort
}

inside() {
    local tools=$PWD/target/tools host=$PWD/target/tools/suites-host runtime suite
    furnish_suites
    configure
    export PATH=$work/bin:$PWD/target/release:$tools/runc/usr/sbin:$tools/suites:$tools/clients/bin:$PATH
    # What of them the machine has not.
    export WWS_CODE_CACHE=$work/store
    export PATH=$PATH:$host/usr/sbin:$host/usr/bin XTABLES_LIBDIR=$host/usr/lib/x86_64-linux-gnu/xtables TMPDIR=/tmp HOME=/root
    export LD_LIBRARY_PATH=$host/usr/lib/x86_64-linux-gnu:$host/lib/x86_64-linux-gnu
    target/x86_64-unknown-linux-gnu/release/suite-registry "$address" "$host/bin/busybox" > "$out/registry.log" 2>&1 &
    await 'registry' is_listened_to
    keep_containerd &
    await 'containerd' answers
    for suite in "${suites[@]}"; do
        for runtime in "${runtimes[@]}"; do
            run "$runtime" "$suite"
        done
        again "$suite" "${runtimes[0]}"
    done
}

report() {
    local suite runtime column status=0 alone
    {
        echo "containerd $(target/tools/containerd-2.3/usr/bin/containerd --version | awk '{ print $3 }'), $(target/tools/runc/usr/sbin/runc --version | head -1)"
        echo
        echo "| suite | runtime | passed | failed | skipped |"
        echo "| --- | --- | --- | --- | --- |"
        for suite in "${suites[@]}"; do
            for runtime in "${runtimes[@]}"; do
                printf '| %s | %s |' "$suite" "$runtime"
                for column in passed failed skipped; do
                    printf ' %s |' "$(grep -c "^$column " "$out/$runtime-$suite.results" || true)"
                done
                echo
            done
        done
        if ((${#runtimes[@]} > 1)); then
            for suite in "${suites[@]}"; do
                alone=$(only_with_ours "$suite")
                if [[ $alone ]]; then
                    status=1
                    printf '\nFailed with %s alone, of %s:\n\n' "${runtimes[0]}" "$suite"
                    printf '* %s\n' "${alone//$'\n'/$'\n'* }"
                fi
                alone=$(grep -h '^failed ' "$out/${runtimes[1]}-$suite.results" | cut -d ' ' -f 2- | sort || true)
                if [[ $alone ]]; then
                    printf '\nFailed with %s, of %s:\n\n' "${runtimes[1]}" "$suite"
                    printf '* %s\n' "${alone//$'\n'/$'\n'* }"
                fi
            done
        fi
        if [[ -s $out/again.txt ]]; then
            printf '\nFailed with %s at first, passed when run again:\n\n' "${runtimes[0]}"
            sed 's/^/* /' "$out/again.txt"
        fi
    } > "$out/results.md"
    cat "$out/results.md"
    return $((status))
}

if [[ ${1-} == inside ]]; then
    suites=("${@:2}")
    inside
    exit
fi
if ((EUID != 0)); then
    (prepare)
    exec sudo --preserve-env=RUNTIMES,FOCUS "$0" "$@"
fi
mkdir -p "$out"
exec 9> "$out/lock"
flock --nonblock 9 || {
    echo "scripts/conformance.sh: runs already" >&2
    exit 1
}
rm -f "$out/again.txt" "$out/containerd.log"
(prepare)
rm -rf "$work"
mkdir -p "$work"/{root,tmp,cni,certs.d/_default,store,var-lib-cni,client-root}
trap 'rm -rf "$work"' EXIT
isolate wws-conformance "$0" inside "${suites[@]}"
status=0
report || status=$?
if ((!$#)) && [[ ! ${FOCUS-}${RUNTIMES-} ]]; then
    scripts/compatibility.sh conformance < "$out/results.md"
fi
exit $status
