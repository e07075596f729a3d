#!/usr/bin/env bash
# Checks deploy/kubernetes/, and what Helm makes of deploy/helm/, against the schemas of Kubernetes' API, and first that the check finds
# a mistake. Without Helm (`scripts/helm.sh` builds it, where there is none) the chart is not checked.
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

# The Deployment of the example with a patch, as `kubectl patch` merges it: lists whose entries have names by these, others replaced.
patched() { # PATCH
    PYTHONPATH=$target python3 - "$1" << 'PYTHON'
import sys
import yaml


def merge(old, new):
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {key: merge(old[key], value) if key in old else value for key, value in new.items()}
    if isinstance(old, list) and isinstance(new, list) and all("name" in entry for entry in old + new):
        named = {entry["name"]: entry for entry in old}
        return list(merge(named, {entry["name"]: entry for entry in new}).values())
    return new


def first(path):
    with open(path, encoding="utf-8") as file:
        return next(yaml.safe_load_all(file))


example, patch = first("deploy/kubernetes/example.yaml"), first(sys.argv[1])
for key in ("apiVersion", "kind"):
    assert example[key] == patch[key], f"{sys.argv[1]} patches another {key}"
assert example["metadata"]["name"] == patch["metadata"]["name"], f"{sys.argv[1]} patches another object"
containers = {container["name"] for container in example["spec"]["template"]["spec"]["containers"]}
for container in patch["spec"]["template"]["spec"]["containers"]:
    assert container["name"] in containers, f"{sys.argv[1]} patches no container of the example"
print(yaml.safe_dump(merge(example, patch)))
PYTHON
}

mistake=$(mktemp --suffix .yaml)
patched=$(mktemp --suffix .yaml)
trap 'rm -f "$mistake" "$patched"' EXIT
for version in "${versions[@]}"; do
    for pattern in s/runtimeClassName:/runtimeClass:/ s/failureThreshold:.*/failureThreshold:\ many/; do
        sed "$pattern" deploy/kubernetes/example.yaml > "$mistake"
        if check "$version" "$mistake" > /dev/null 2>&1; then
            echo "scripts/check-manifests.sh: a mistake ($pattern) is not found by the schemas of $version" >&2
            exit 1
        fi
    done
    # The monitors of deploy/kubernetes/metrics are of the Prometheus Operator, whose schemas are not there.
    check "$version" deploy/kubernetes/*.yaml deploy/kubernetes/metrics/hpa.yaml deploy/kubernetes/otlp/collector.yaml deploy/kubernetes/redis/redis.yaml
    # A patch is no whole object.
    for patch in deploy/kubernetes/*/patch.yaml; do
        patched "$patch" > "$patched"
        check "$version" "$patched"
    done
done

helm=$(command -v helm || true)
[[ ! -x target/tools/helm/bin/helm ]] || helm=target/tools/helm/bin/helm
if [[ -z $helm ]]; then
    printf '!!! %s\n' "helm is missing (scripts/helm.sh): THE CHART OF deploy/helm IS NOT CHECKED." >&2
    exit 0
fi
rendered=$(mktemp --suffix .yaml)
trap 'rm -f "$mistake" "$patched" "$rendered"' EXIT
"$helm" lint --strict --quiet deploy/helm/wws

render() { # OPTION...
    for version in "${versions[@]}"; do
        "$helm" template wws deploy/helm/wws --namespace wws --kube-version "$version" "$@" > "$rendered"
        check "$version" "$rendered"
    done
}

expect() { # PATTERN
    grep -q -e "$1" "$rendered" || { echo "scripts/check-manifests.sh: the chart does not render $1" >&2 && exit 1; }
}

render
expect "image: \"localhost/wws-installer:$(sed -n 's/^appVersion: "\(.*\)"/\1/p' deploy/helm/wws/Chart.yaml)\""
expect 'kubernetes.io/os: linux'
render --set runtimeClass.create=false --set image.tag=v1 --set installDirectory=/opt/bin
expect 'image: "localhost/wws-installer:v1"'
expect '--node-directory=/opt/bin'
if grep -q RuntimeClass "$rendered"; then
    echo "scripts/check-manifests.sh: the chart renders a RuntimeClass that is not wanted" >&2
    exit 1
fi
render --set-json 'runtimeClass.nodeSelector={"wws.runtime/installed":"true"}' --set-json 'imagePullSecrets=[{"name":"s"}]' \
    --set priorityClassName=system-node-critical --set podAnnotations.a=b --set-json 'tolerations=[]'
expect 'wws.runtime/installed: "true"'
if grep -qE 'rbac|ServiceAccount\b' "$rendered"; then
    echo "scripts/check-manifests.sh: the chart asks for rights in the cluster" >&2
    exit 1
fi
