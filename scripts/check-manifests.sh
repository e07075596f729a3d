#!/usr/bin/env bash
# Checks deploy/kubernetes/ against the schemas of Kubernetes' API, and first that the check finds a mistake.
#
#   scripts/check-manifests.sh [VERSION...]     of Kubernetes; default: an older one that still has all that is used, and the newest
#
# The schemas come in a package of PyPI, pinned by its checksum, with what it needs; Python's pip fetches them from whatever index the
# machine is configured for. Nothing is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

target=target/tools/kubernetes-validate
versions=("$@")
((${#versions[@]})) || versions=(1.29 1.37)

if ! command -v python3 > /dev/null; then
    printf '!!! %s\n' "python3 is missing: THE MANIFESTS OF deploy/kubernetes ARE NOT CHECKED." >&2
    exit 0
fi
scripts/pip.sh kubernetes-validate scripts/check-manifests.txt

check() { # VERSION FILE...
    PYTHONPATH=$target python3 -m kubernetes_validate --strict --kubernetes-version "$@"
}

mistake=$(mktemp --suffix .yaml)
trap 'rm -f "$mistake"' EXIT
for version in "${versions[@]}"; do
    for pattern in s/runtimeClassName:/runtimeClass:/ s/failureThreshold:.*/failureThreshold:\ many/; do
        sed "$pattern" deploy/kubernetes/example.yaml > "$mistake"
        if check "$version" "$mistake" > /dev/null 2>&1; then
            echo "scripts/check-manifests.sh: a mistake ($pattern) is not found by the schemas of $version" >&2
            exit 1
        fi
    done
    # The monitors of deploy/kubernetes/metrics are of the Prometheus Operator, whose schemas are not there; a patch is no whole object.
    check "$version" deploy/kubernetes/*.yaml deploy/kubernetes/metrics/hpa.yaml deploy/kubernetes/otlp/collector.yaml deploy/kubernetes/redis/redis.yaml
done
