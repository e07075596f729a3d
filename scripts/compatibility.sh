#!/usr/bin/env bash
# Writes test results into docs/compatibility.md: reads the output of `cargo test`, and replaces the part of the page between
# the marks of this name. The other parts belong to other runs, and remain.
#
#   scripts/compatibility.sh clients < target/test-clients.log
#   scripts/compatibility.sh trixie < target/test-vm-trixie.log        the same of forky
#   scripts/compatibility.sh kubernetes < target/test-kubernetes.log
#   scripts/compatibility.sh arm64 < target/test-arm64.log
#   scripts/compatibility.sh conformance < target/conformance/results.md
#
# docs/badges.svg is drawn anew.
set -euo pipefail
cd "$(dirname "$0")/.."

part=${1-}
page=docs/compatibility.md
tools=target/tools
containerd() {
    local program=$tools/containerd-$1/usr/bin/containerd
    [[ ! -x $program ]] || "$program" --version | awk '{ print $3 }' | sed 's/^v//; s/[~+].*//'
}
docker() {
    local program=$tools/docker-$1/usr/bin/docker
    [[ ! -x $program ]] || "$program" --version | sed 's/Docker version v\{0,1\}\([0-9.]*\).*/\1/'
}
plugin() {
    local program=$tools/docker-$1/usr/libexec/docker/cli-plugins/docker-$2
    [[ ! -x $program ]] || "$program" version | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -1
}
client() { [[ ! -x $tools/clients/bin/$1 ]] || "$tools/clients/bin/$1" --version | grep -oE '[0-9]+\.[0-9]+\.[0-9]+'; }

# Defines what reads results and what prints tables.
tables='
    BEGIN {
        while ((getline line < "scripts/compatibility-titles.txt") > 0)
            if (split(line, pair, " = ") == 2) titles[pair[1]] = pair[2]
    }
    function keep(table, column, name, result) {
        gsub(/_/, " ", name)
        name = name in titles ? titles[name] : toupper(substr(name, 1, 1)) substr(name, 2)
        if (!((table, name) in known)) {
            known[table, name] = 1
            names[table, ++count[table]] = name
        }
        cells[table, name, column] = result == "ok" ? "passed" : result == "FAILED" ? "**failed**" : ""
    }
    # Keeps the result of a test under the name that cargo prints.
    function record(name, result,    column, table, piece) {
        if (suite == "ctr") {
            column = "c17"
            sub(/^[a-z_]+::/, "", name)
            sub(/::/, "_", name)
            if (match(name, /_on_containerd_[0-9]_[0-9]$/)) {
                column = "c" substr(name, RSTART + 15, 1) substr(name, RSTART + 17, 1)
                name = substr(name, 1, RSTART - 1)
            }
            keep("ctr", column, name, result)
        } else if (split(name, piece, "::") == 2) {
            table = piece[1]
            sub(/_.*/, "", table)
            column = piece[1]
            sub(/^[a-z]+_/, "", column)
            sub(/_/, "", column)
            keep(table, (table == "docker" ? "d" : "c") column, piece[2], result)
        } else {
            keep(suite, "all", name, result)
        }
    }
    function print_table(table, first, columns, heads,    keys, words, n, i, j, line) {
        if (!count[table]) return
        n = split(columns, keys, " ")
        split(heads, words, "|")
        line = "\n|" (first ? " " first : "") " |"
        for (i = 1; i <= n; i++) line = line (words[i] ? " " words[i] : "") " |"
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
    function head(table, title, note) {
        if (!count[table]) return
        print "\n## " title
        if (note) print "\n" note
    }
    / Running tests\// {
        suite = $0
        sub(/.*Running tests\//, "", suite)
        sub(/(\/main)?\.rs.*/, "", suite)
    }
    # What a test writes may come between its name and how it ended.
    /^test .* \.\.\. / { name = $2; result = "" }
    / \.\.\. (ok|FAILED)$/ { result = $NF }
    name && /^(ok|FAILED)$/ { result = $1 }
    name && result {
        record(name, result)
        name = result = ""
    }
    # A test that finds that the machine has not what it is about has run nothing: its cell is empty.
    /^---- .* stdout ----$/ { shown = $2 }
    shown && /^does not apply: / { record(shown, "") }'

clients() { # < LOG
    local groups
    groups=$([[ -e /sys/fs/cgroup/cgroup.controllers ]] && echo 2 || echo "1 (hybrid)")
    cat << END2

containerd, Docker, their plugins, CNI's and runc $("$tools/runc/usr/sbin/runc" --version | awk 'NR == 1 { print $3 }' | sed 's/[~+].*//') are
Debian's, pinned in \`scripts/debs.lock\`; containerd 2.3 and 2.4 (with runc 1.5), crictl and nerdctl are built from their Go modules by \`scripts/clients.sh\`, Docker 29
by \`scripts/docker.sh\`.
The machine has cgroup v$groups. By \`make test-clients\`.
END2
    awk -v c16="$(containerd 1.6)" -v c17="$(containerd 1.7)" -v c21="$(containerd 2.1)" -v c23="$(containerd 2.3)" -v c24="$(containerd 2.4)" \
        -v d26="$(docker 26)" -v d28="$(docker 28)" -v d29="$(docker 29)" \
        -v m26="$(plugin 26 compose)" -v m28="$(plugin 28 compose)" -v m29="$(plugin 29 compose)" \
        -v b26="$(plugin 26 buildx)" -v b28="$(plugin 28 buildx)" -v b29="$(plugin 29 buildx)" \
        -v crictl="$(client crictl)" -v nerdctl="$(client nerdctl)" "$tables"'
        END {
            of_containerd = "containerd " c16 "|containerd " c17 "|containerd " c21 "|containerd " c23 "|containerd " c24
            head("ctr", "`ctr`")
            print_table("ctr", "", "c16 c17 c21 c23 c24", of_containerd)
            head("docker", "Docker", "With its containerd image store, buildx and Compose.")
            print_table("docker", "", "d26 d28 d29", d26 ", containerd " c17 ", buildx " b26 ", Compose " m26 "|" \
                d28 ", containerd " c21 ", buildx " b28 ", Compose " m28 "|" d29 ", containerd " c23 ", buildx " b29 ", Compose " m29)
            head("cri", "Kubernetes (crictl " crictl ")", "Pods through the interface that a kubelet uses.")
            print_table("cri", "", "c16 c17 c21 c23 c24", of_containerd)
            head("nerdctl", "nerdctl " nerdctl)
            print_table("nerdctl", "", "c17 c21", "containerd " c17 "|containerd " c21)
        }'
}

guest() { # < LOG
    awk "$tables"'
        /^guest: / { guest = substr($0, 8) }
        # It has one version of each.
        function print_one(table, first,    keys) {
            print_table(table, first, table == "systemd" ? "all" : table == "docker" ? docker : containerd, "")
        }
        END {
            containerd = guest ~ /containerd 1\.7/ ? "c17" : "c21"
            docker = guest ~ /Docker 26/ ? "d26" : "d28"
            print "\n### " guest
            print_one("systemd", "Scopes and slices, under the machine\x27s own units")
            print_one("docker", "Docker, a private one: its containers are scopes in a slice")
            print_one("cri", "Kubernetes: pods with `SystemdCgroup`")
            print_one("ctr", "`ctr`: plain paths")
        }'
}

kubernetes() { # < LOG
    awk -v version="$(sed -n 's,^\tk8s.io/kubernetes v,,p' test/kubernetes/go.mod)" -v containerd="$(containerd 2.1)" "$tables"'
        END { print_table("kubernetes", "", "all", "Kubernetes " version ", containerd " containerd) }'
}

case $part in
    clients) text=$(clients) ;;
    kubernetes) text=$(kubernetes) ;;
    arm64) text=$(echo && sed -n '/^| where /,$p') ;;
    trixie | forky) text=$(guest) ;;
    conformance) text=$(echo && cat) ;;
    *)
        echo "usage: scripts/compatibility.sh clients | trixie | forky | kubernetes | arm64 | conformance < LOG" >&2
        exit 2
        ;;
esac
TEXT=$text awk -v from="<!-- $part -->" -v to="<!-- end of $part -->" '
    $0 == to { print "\n" to; inside = 0; found = 1; next }
    inside { next }
    { print }
    $0 == from { print ENVIRON["TEXT"]; inside = 1 }
    END { exit !found }' "$page" > target/compatibility.md
mv target/compatibility.md "$page"
scripts/badges.py
echo "$page has the results"
