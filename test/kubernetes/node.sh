#!/usr/bin/env bash
# A Kubernetes node with its control plane in namespaces of its own (mounts, network, processes), which end with the init process in
# them. Outside there is nothing of it but the directory NODE and, below each cgroup hierarchy, a cgroup of the directory's name.
#
#   NODE=DIRECTORY test/kubernetes/node.sh up          the namespaces, containerd, etcd ... kube-proxy; waits until the node is ready
#                                          in COMMAND... run in the node, as its root
#                                          start NAME   a daemon again: containerd, etcd, kube-apiserver, kube-controller-manager,
#                                                       kube-scheduler, kubelet, kube-proxy; or pod-metrics and metrics-server,
#                                                       which `up` does not start
#                                          stop NAME    the daemon, by SIGTERM
#                                          down         ends and removes all of it
#
# PROGRAMS is the directory of the shim, TOOLS target/tools, CONTAINERD a directory below it, STORE the code cache.
set -euo pipefail

: "${NODE:?a directory}" "${PROGRAMS:?the directory of the shim}" "${TOOLS:?}" "${CONTAINERD:=containerd-2.1}" "${STORE:=$NODE/store}"
group=${NODE##*/}
address=10.99.0.2 pods=10.98.0.0/24 services=10.96.0.0/24
kube=$TOOLS/kubernetes/bin/kube
export WWS_CODE_CACHE=$STORE CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1
export PATH=$PROGRAMS:$TOOLS/$CONTAINERD/usr/bin:$TOOLS/runc/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# The init process: makes what is private to the node, and waits.
first() {
    mount --make-rslave /
    mount -t proc proc /proc
    # One that nothing is mounted over: without it the kernel lets no user namespace mount its own.
    mkdir -p "$NODE/proc" "$NODE/cgroup" && mount -t proc proc "$NODE/proc"
    # The /sys of this network namespace, with the cgroups as they were.
    mount --rbind /sys/fs/cgroup "$NODE/cgroup"
    mount -t sysfs sysfs /sys && mount --rbind "$NODE/cgroup" /sys/fs/cgroup
    # Kernel parameters that the kubelet sets: shown to it as it wants them, so that it changes none of the machine's.
    local parameter name
    for parameter in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
        kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
        name=${parameter%=*}
        echo "${parameter#*=}" > "$NODE/${name##*/}"
        mount --bind "$NODE/${name##*/}" "/proc/sys/$name"
    done
    local directory
    for directory in /run/containerd /run/netns /run/wws /var/lib/cni /var/lib/kubelet /var/log; do
        mkdir -p "$NODE/private$directory" "$directory"
        mount --bind "$NODE/private$directory" "$directory"
    done
    mount --make-rshared /
    ip link set lo up
    # The kernel may have no `dummy` devices: one end of a pair is the node's device.
    ip link add eth0 type veth peer name eth0-peer
    ip link set eth0-peer up
    ip address add "$address/24" dev eth0
    ip link set eth0 up
    ip route add default via 10.99.0.1
    echo 1 > /proc/sys/net/ipv4/ip_forward
    touch "$NODE/is-up"
    trap 'exit 0' TERM
    while :; do sleep 3600 & wait $!; done
}

inside() {
    nsenter --target "$(< "$NODE/first.pid")" --mount --net --pid --wd="$NODE" -- "$@"
}

# A daemon in the node: its log is NAME.log, its process number in the node in NAME.pid.
daemon() { # NAME COMMAND...
    # shellcheck disable=SC2016
    inside bash -c 'echo $$ > "$0.pid"; exec "$@" >> "$0.log" 2>&1 < /dev/null' "$@" > /dev/null 2>&1 &
    disown
}

wait_for() { # WHAT COMMAND...
    local end=$((SECONDS + ${PATIENCE:-180}))
    until "${@:2}" > "$NODE/wait.log" 2>&1; do
        if ((SECONDS > end)); then
            echo "$1: not within ${PATIENCE:-180} s" >&2
            tail -5 "$NODE/wait.log" "$NODE"/*.log >&2
            return 1
        fi
        sleep 0.3
    done
}

configure_containerd() {
    mkdir -p "$NODE/cni"
    cat > "$NODE/cni/10-node.conflist" << END
{"cniVersion": "0.4.0", "name": "node", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "$NODE/addresses", "ranges": [[{"subnet": "$pods"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
END
    # As docs/operate/kubernetes.md has it.
    cat > "$NODE/containerd.toml" << END
version = 3
root = "$NODE/root"
state = "$NODE/state"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
address = "$NODE/c.sock"
[ttrpc]
address = "$NODE/c.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "$NODE/opt"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "localhost/pause:latest"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri"]
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dir = "$TOOLS/cni/usr/lib/cni"
conf_dir = "$NODE/cni"
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.wws]
runtime_type = "io.containerd.runc.v2"
runtime_path = "$PROGRAMS/containerd-shim-wws-v1"
END
}

# What the API shows to servers of further APIs, such as that of metrics.
make_certificates() {
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=front-authority -keyout "$NODE/front-authority.key" -out "$NODE/front-authority.crt"
    openssl req -newkey rsa:2048 -nodes -subj /CN=front -keyout "$NODE/front.key" -out "$NODE/front.csr"
    openssl x509 -req -days 2 -in "$NODE/front.csr" -CA "$NODE/front-authority.crt" -CAkey "$NODE/front-authority.key" -CAcreateserial \
        -out "$NODE/front.crt"
}

configure_kubernetes() {
    make_certificates 2> "$NODE/openssl.log"
    openssl genrsa -out "$NODE/accounts.key" 2048 2> /dev/null
    openssl rsa -in "$NODE/accounts.key" -pubout -out "$NODE/accounts.pub" 2> /dev/null
    local token
    token=$(openssl rand -hex 16)
    (umask 077 && echo "$token,admin,admin,system:masters" > "$NODE/tokens.csv")
    cat > "$NODE/kubeconfig" << END
apiVersion: v1
kind: Config
clusters: [{name: node, cluster: {server: "https://$address:6443", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: "$token"}}]
contexts: [{name: node, context: {cluster: node, user: admin}}]
current-context: node
END
    echo 'nameserver 127.0.0.1' > "$NODE/resolv.conf"
    mkdir -p "$NODE/manifests"
    cat > "$NODE/kubelet.yaml" << END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: /$group
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: "unix://$NODE/c.sock"
resolvConf: "$NODE/resolv.conf"
staticPodPath: "$NODE/manifests"
volumePluginDir: "$NODE/volume-plugins"
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
makeIPTablesUtilChains: false
syncFrequency: 5s
nodeStatusUpdateFrequency: 4s
serializeImagePulls: false
END
    cat > "$NODE/kube-proxy.yaml" << END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: "$NODE/kubeconfig"}
clusterCIDR: $pods
hostnameOverride: node
conntrack: {maxPerCore: 0, min: 0}
END
}

start() { # NAME
    case $1 in
        containerd)
            daemon containerd containerd --config "$NODE/containerd.toml" --log-level info
            wait_for 'containerd is up' inside ctr --address "$NODE/c.sock" version
            ;;
        etcd)
            daemon etcd "$kube" etcd --data-dir "$NODE/etcd" --unsafe-no-fsync --log-level warn \
                --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
                --listen-peer-urls http://127.0.0.1:2380
            ;;
        kube-apiserver)
            daemon kube-apiserver "$kube" kube-apiserver --etcd-servers http://127.0.0.1:2379 --cert-dir "$NODE/certificates" \
                --bind-address $address --advertise-address $address --secure-port 6443 --service-cluster-ip-range $services \
                --token-auth-file "$NODE/tokens.csv" --authorization-mode RBAC --allow-privileged \
                --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$NODE/accounts.pub" \
                --service-account-signing-key-file "$NODE/accounts.key" \
                --kubelet-preferred-address-types InternalIP --endpoint-reconciler-type none \
                --requestheader-client-ca-file "$NODE/front-authority.crt" --requestheader-allowed-names front \
                --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
                --requestheader-extra-headers-prefix X-Remote-Extra- \
                --proxy-client-cert-file "$NODE/front.crt" --proxy-client-key-file "$NODE/front.key"
            wait_for 'the API answers' kubectl get --raw /readyz
            ;;
        kube-controller-manager)
            daemon kube-controller-manager "$kube" kube-controller-manager --kubeconfig "$NODE/kubeconfig" --leader-elect=false \
                --bind-address 127.0.0.1 --service-account-private-key-file "$NODE/accounts.key" \
                --root-ca-file "$NODE/certificates/apiserver.crt" --horizontal-pod-autoscaler-sync-period 3s \
                --horizontal-pod-autoscaler-initial-readiness-delay 1s --horizontal-pod-autoscaler-cpu-initialization-period 1s
            ;;
        kube-scheduler)
            daemon kube-scheduler "$kube" kube-scheduler --kubeconfig "$NODE/kubeconfig" --leader-elect=false --bind-address 127.0.0.1
            ;;
        kubelet)
            # The socket of containerd is also for the metrics of containers.
            daemon kubelet "$kube" kubelet --config "$NODE/kubelet.yaml" --kubeconfig "$NODE/kubeconfig" --root-dir "$NODE/kubelet" \
                --cert-dir "$NODE/kubelet-certificates" --node-ip $address --hostname-override node \
                --containerd "$NODE/c.sock" --containerd-namespace k8s.io -v 2
            ;;
        kube-proxy)
            daemon kube-proxy env "LD_LIBRARY_PATH=$TOOLS/nftables/usr/lib/x86_64-linux-gnu:$TOOLS/nftables/lib/x86_64-linux-gnu" \
                "PATH=$TOOLS/nftables/usr/sbin:$PATH" "$kube" kube-proxy --config "$NODE/kube-proxy.yaml"
            ;;
        pod-metrics)
            daemon pod-metrics "$kube" pod-metrics --kubeconfig "$NODE/kubeconfig" --address $address:4444
            ;;
        metrics-server)
            # Its tokens are those of the API; it asks the kubelet at the least interval that it takes.
            daemon metrics-server "$TOOLS/metrics-server/bin/metrics-server" --kubeconfig "$NODE/kubeconfig" \
                --authentication-kubeconfig "$NODE/kubeconfig" --authorization-kubeconfig "$NODE/kubeconfig" \
                --bind-address $address --secure-port 4445 --cert-dir "$NODE/metrics-certificates" --metric-resolution 10s \
                --kubelet-request-timeout 9s --kubelet-insecure-tls --kubelet-preferred-address-types InternalIP
            ;;
        *)
            echo "test/kubernetes/node.sh: no daemon $1" >&2
            return 2
            ;;
    esac
}

stop() { # NAME
    local pid
    pid=$(< "$NODE/$1.pid")
    inside kill "$pid"
    wait_for "$1 has ended" eval "! inside test -d /proc/$pid"
}

kubectl() { inside "$kube" kubectl --kubeconfig "$NODE/kubeconfig" "$@"; }

is_ready() { kubectl get node node --no-headers | grep -q ' Ready'; }

hierarchies() {
    if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
        echo /sys/fs/cgroup
    else
        ls -d /sys/fs/cgroup/*/
    fi
}

up() {
    mkdir "$NODE"
    local hierarchy file name
    for hierarchy in $(hierarchies); do
        mkdir -p "$hierarchy/$group"
    done
    if [[ -d /sys/fs/cgroup/cpuset ]]; then
        for file in cpus mems; do
            cat "/sys/fs/cgroup/cpuset/cpuset.$file" > "/sys/fs/cgroup/cpuset/$group/cpuset.$file"
        done
    fi
    setsid unshare --net --mount --pid --fork --kill-child --propagation slave -- "$0" first > "$NODE/first.log" 2>&1 < /dev/null &
    echo $! > "$NODE/unshare.pid"
    disown
    wait_for 'the namespaces are there' test -e "$NODE/is-up"
    pgrep -P "$(< "$NODE/unshare.pid")" > "$NODE/first.pid"
    configure_containerd
    configure_kubernetes
    for name in containerd etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy; do
        start $name
    done
    wait_for 'the node is ready' is_ready
}

down() {
    [[ -d $NODE ]] || return 0
    # The init process takes all others of its namespace with it, and the last one all mounts.
    [[ ! -e $NODE/first.pid ]] || kill -KILL "$(< "$NODE/first.pid")" || true
    [[ ! -e $NODE/unshare.pid ]] || wait_for 'the namespaces are gone' eval "! test -d /proc/$(< "$NODE/unshare.pid")"
    local hierarchy tries
    for tries in 1 2 3 4 5 6 7 8 9 10; do
        for hierarchy in $(hierarchies); do
            [[ ! -d $hierarchy/$group ]] || find "$hierarchy/$group" -depth -type d -exec rmdir {} \; 2> /dev/null || true
        done
        hierarchies | sed "s,/*$,/$group," | xargs ls -d 2> /dev/null | grep -q . || break
        sleep "0.$tries"
    done
    rm -rf "$NODE"
}

case $1 in
    up | down | first) "$1" ;;
    start | stop) "$1" "$2" ;;
    # Becomes the program, so that who ends this process ends it.
    in) exec nsenter --target "$(< "$NODE/first.pid")" --mount --net --pid --wd="$NODE" -- "${@:2}" ;;
    *)
        sed -n 's/^# \{0,1\}//p' "$0" | sed -n 2,12p >&2
        exit 2
        ;;
esac
