#!/usr/bin/env python3
"""Prints the software bill of materials of both programs: CycloneDX 1.5, JSON.

    scripts/sbom.py VERSION > sbom.cdx.json

It lists the crates that are linked into `wws` and `containerd-shim-wws-v1` or run while these are built, from Cargo.lock and
`cargo metadata`, with licences and checksums, and the npm packages that `wws` contains (scripts/interpreters.sh). The same
commit gives the same bytes; SOURCE_DATE_EPOCH is its time.
"""

import base64
import datetime
import json
import os
import re
import subprocess
import sys
import tomllib
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ["wws", "containerd-shim-wws-v1"]
TARGETS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]


def metadata():
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    for target in TARGETS:
        command += ["--filter-platform", target]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def reached(graph, starts):
    """Each package that the programs are made of, with those that it needs: tests' own are left out."""
    nodes = {node["id"]: node for node in graph["resolve"]["nodes"]}
    found, pending = {}, list(starts)
    while pending:
        package = pending.pop()
        if package in found:
            continue
        needed = {
            dependency["pkg"]
            for dependency in nodes[package]["deps"]
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"])
        }
        found[package] = sorted(needed)
        pending += needed
    return found


def checksums():
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    return {(package["name"], package["version"]): package.get("checksum") for package in lock["package"]}


def contained():
    """The npm packages that `wws` contains, which all have this licence: those that are fetched to build it."""
    text, _ = (ROOT / "scripts/interpreters.sh").read_text().split("[[ ${1-} == all ]]")
    found = re.findall(r"^package \S+ (\S+) (\S+) \\\n +(\S+) ", text, re.MULTILINE)
    assert found, "scripts/interpreters.sh has another form"
    components = []
    for name, version, digest in found:
        purl = f"pkg:npm/{name}@{version}"
        components.append(
            {
                "type": "library",
                "bom-ref": purl,
                "name": name,
                "version": version,
                "licenses": [{"license": {"id": "MIT"}}],
                "purl": purl,
                "hashes": [{"alg": "SHA-512", "content": base64.b64decode(digest).hex()}],
            }
        )
    return components


def main():
    version = sys.argv[1]
    graph = metadata()
    packages = {package["id"]: package for package in graph["packages"]}
    starts = [package["id"] for package in graph["packages"] if package["name"] in PROGRAMS and package["source"] is None]
    if len(starts) != len(PROGRAMS):
        sys.exit("scripts/sbom.py: the programs are not in this workspace")
    sums = checksums()

    def ref(identity):
        package = packages[identity]
        return f"pkg:cargo/{package['name']}@{package['version']}"

    components, dependencies = contained(), []
    for identity, needed in reached(graph, starts).items():
        package = packages[identity]
        component = {
            "type": "application" if package["name"] in PROGRAMS else "library",
            "bom-ref": ref(identity),
            "name": package["name"],
            "version": package["version"],
            "purl": ref(identity),
        }
        if package["license"]:
            # Crates of long ago separate alternatives by a slash.
            component["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        checksum = sums.get((package["name"], package["version"]))
        if checksum:
            component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        elif package["source"] is not None:
            sys.exit(f"scripts/sbom.py: {ref(identity)} has no checksum in Cargo.lock")
        components.append(component)
        dependencies.append({"ref": ref(identity), "dependsOn": sorted({ref(one) for one in needed})})
    top = f"wws-{version}"
    inside = [component["bom-ref"] for component in contained()]
    for dependency in dependencies:
        if dependency["ref"].startswith("pkg:cargo/wws-languages@"):
            dependency["dependsOn"] = sorted([*dependency["dependsOn"], *inside])
    dependencies += [{"ref": one, "dependsOn": []} for one in inside]
    dependencies.append({"ref": top, "dependsOn": sorted(ref(start) for start in starts)})
    components.sort(key=lambda component: component["bom-ref"])
    dependencies.sort(key=lambda dependency: dependency["ref"])
    refs = {component["bom-ref"] for component in components}
    assert len(refs) == len(components), "a component is listed twice"
    assert all(one in refs for dependency in dependencies for one in dependency["dependsOn"]), "a dependency is not listed"
    time = datetime.datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), datetime.timezone.utc)
    listed = json.dumps([components, dependencies], sort_keys=True)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, listed)}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {"type": "application", "bom-ref": top, "name": "wws", "version": version},
        },
        "components": components,
        "dependencies": dependencies,
    }
    json.dump(document, sys.stdout, indent=1, sort_keys=True)
    print()


main()
