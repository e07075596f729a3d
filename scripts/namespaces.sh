#!/usr/bin/env bash
# Namespaces of their own for scripts that start daemons: processes, mounts, network, cgroups. To be sourced.
set -euo pipefail

# isolate NAME COMMAND...: runs COMMAND in namespaces and cgroups of its own, without input. All that it started ends with it.
isolate() {
    local name=$1-$$ group status=0 hierarchies=()
    if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
        hierarchies=(/sys/fs/cgroup)
    else
        for group in /sys/fs/cgroup/*/; do
            [[ -L ${group%/} || ! -e $group/cgroup.procs ]] || hierarchies+=("${group%/}")
        done
    fi
    for group in "${hierarchies[@]}"; do
        mkdir "$group/$name"
        [[ ! -e $group/cpuset.cpus ]] || cat "$group/cpuset.cpus" > "$group/$name/cpuset.cpus"
        [[ ! -e $group/cpuset.mems ]] || cat "$group/cpuset.mems" > "$group/$name/cpuset.mems"
    done
    (
        for group in "${hierarchies[@]}"; do
            echo "$BASHPID" > "$group/$name/cgroup.procs"
        done
        # A test counts the pipes of a shim: none may be inherited.
        for group in /proc/"$BASHPID"/fd/*; do
            group=${group##*/}
            ((group <= 2)) || eval "exec $group>&-"
        done
        exec unshare --cgroup --mount --pid --net --ipc --uts --fork --kill-child --mount-proc --propagation private \
            "${@:2}" < /dev/null
    ) || status=$?
    for group in "${hierarchies[@]}"; do
        # Processes of the PID namespace end with its first one, but not at once.
        for _ in {1..50}; do
            [[ $(cat "$group/$name/cgroup.procs" 2> /dev/null) ]] || break
            sleep 0.1
        done
        find "$group/$name" -depth -type d -exec rmdir {} \; || status=1
    done
    return "$status"
}

# furnish NAME: in new namespaces, gives the system a host name, loopback, and a /run, /sys and cgroups of its own.
furnish() {
    local line name mounted=()
    hostname "$1"
    ip link set lo up
    mount -t tmpfs -o mode=755 run /run
    mkdir /run/lock
    if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        mkdir /sys/fs/cgroup/init
        while read -r line; do
            echo "$line" > /sys/fs/cgroup/init/cgroup.procs 2> /dev/null || true
        done < /sys/fs/cgroup/cgroup.procs
        for line in $(< /sys/fs/cgroup/cgroup.controllers); do
            echo "+$line" > /sys/fs/cgroup/cgroup.subtree_control || true
        done
        return
    fi
    # Each hierarchy, with the group of this run as its root.
    for line in /sys/fs/cgroup/*/; do
        [[ -L ${line%/} || ! -e $line/cgroup.procs ]] || mounted+=("$(basename "$line")")
    done
    umount -R /sys/fs/cgroup
    mount -t sysfs sysfs /sys
    mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
    for name in "${mounted[@]}"; do
        mkdir "/sys/fs/cgroup/$name"
        case $name in
            unified) mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified ;;
            systemd) mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd ;;
            *) mount -t cgroup -o "$name" cgroup "/sys/fs/cgroup/$name" ;;
        esac
    done
}
