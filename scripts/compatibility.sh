#!/usr/bin/env bash
# Makes docs/compatibility.md from what the tests said: reads the output of `cargo test`, writes Markdown.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=target/tools
containerd() { "$tools/containerd-$1/usr/bin/containerd" --version | awk '{ print $3 }' | sed 's/[~+].*//'; }
docker() { "$tools/docker-$1/usr/bin/docker" --version | sed 's/Docker version \([0-9.]*\).*/\1/'; }
plugin() { "$tools/docker-$1/usr/libexec/docker/cli-plugins/docker-$2" version | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -1; }
client() { [[ ! -x $tools/clients/bin/$1 ]] || "$tools/clients/bin/$1" --version | grep -oE '[0-9]+\.[0-9]+\.[0-9]+'; }
groups=$([[ -e /sys/fs/cgroup/cgroup.controllers ]] && echo 2 || echo "1 (hybrid)")

cat << END2
# What runs it

Made by \`make test-clients\`, which runs each line with the real programs and writes down how it ended. A line is a test: its words are the
test's name, in \`test/tests\`. An empty cell was not run.

containerd, Docker, their plugins, CNI's and runc $("$tools/runc/usr/sbin/runc" --version | awk 'NR == 1 { print $3 }' | sed 's/[~+].*//') are
Debian's, pinned in \`scripts/debs.lock\`; crictl and nerdctl are built from their Go modules by \`scripts/clients.sh\`. Control groups are of
version $groups.
END2

awk -v c16="$(containerd 1.6)" -v c17="$(containerd 1.7)" -v c21="$(containerd 2.1)" -v d26="$(docker 26)" -v d28="$(docker 28)" \
    -v m26="$(plugin 26 compose)" -v m28="$(plugin 28 compose)" -v b26="$(plugin 26 buildx)" -v b28="$(plugin 28 buildx)" \
    -v crictl="$(client crictl)" -v nerdctl="$(client nerdctl)" '
    function keep(table, column, name, result) {
        gsub(/_/, " ", name)
        name = toupper(substr(name, 1, 1)) substr(name, 2)
        if (!((table, name) in known)) {
            known[table, name] = 1
            names[table, ++count[table]] = name
        }
        cells[table, name, column] = result == "ok" ? "passed" : result == "FAILED" ? "**failed**" : ""
    }
    function print_table(table, title, note, columns, heads,    keys, words, n, i, j, line) {
        if (!count[table]) return
        print "\n## " title "\n"
        if (note) print note "\n"
        n = split(columns, keys, " ")
        split(heads, words, "|")
        line = "| |"
        for (i = 1; i <= n; i++) line = line " " words[i] " |"
        print line
        line = "| --- |"
        for (i = 1; i <= n; i++) line = line " --- |"
        print line
        for (j = 1; j <= count[table]; j++) {
            line = "| " names[table, j] " |"
            for (i = 1; i <= n; i++) line = line " " cells[table, names[table, j], keys[i]] " |"
            print line
        }
    }
    / Running tests\// {
        suite = $0
        sub(/.*Running tests\//, "", suite)
        sub(/(\/main)?\.rs.*/, "", suite)
    }
    /^test .* \.\.\. (ok|FAILED)$/ {
        name = $2
        if (suite ~ /^container_/) {
            column = "c17"
            if (match(name, /_on_containerd_[0-9]_[0-9]$/)) {
                column = "c" substr(name, RSTART + 15, 1) substr(name, RSTART + 17, 1)
                name = substr(name, 1, RSTART - 1)
            }
            keep("ctr", column, name, $4)
        } else if (split(name, part, "::") == 2) {
            table = part[1]
            sub(/_.*/, "", table)
            column = part[1]
            sub(/^[a-z]+_/, "", column)
            sub(/_/, "", column)
            keep(table, (table == "docker" ? "d" : "c") column, part[2], $4)
        }
    }
    END {
        print_table("ctr", "`ctr`", "", "c16 c17 c21", "containerd " c16 "|containerd " c17 "|containerd " c21)
        print_table("docker", "Docker", "With its containerd image store, buildx and Compose of the same distribution.",
            "d26 d28", d26 ", containerd " c17 ", buildx " b26 ", Compose " m26 "|" d28 ", containerd " c21 ", buildx " b28 ", Compose " m28)
        print_table("cri", "Kubernetes (crictl " crictl ")", "Pods through the interface that a kubelet uses.",
            "c16 c17 c21", "containerd " c16 "|containerd " c17 "|containerd " c21)
        print_table("nerdctl", "nerdctl " nerdctl, "", "c17 c21", "containerd " c17 "|containerd " c21)
    }'

cat << 'END2'

## Not run

* Control groups of version 2 with systemd: the machines that these tests run on have none.
* A kubelet: Debian packages none. `deploy/kubernetes/` is checked against the API's schemas by
  `scripts/check-manifests.sh`, as part of `make test-clients`.
* `nerdctl run -p`: its port mapping changes the packet filter of the machine that tests run on. Containers are asked over a bridge instead.
* crun: 1.8.1 of Debian 12 refuses hybrid control groups, with any shim.
END2
