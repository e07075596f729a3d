#!/usr/bin/env python3
"""Draws docs/badges.svg: what docs/compatibility.md says was tested, with the counts of its tables.

    scripts/badges.py            writes the picture
    scripts/badges.py --check    fails if the picture is not that of the page
"""

import html
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/compatibility.md"
PICTURE = ROOT / "docs/badges.svg"

WIDTH = 760
HEIGHT = 22
GAP = 6
CHARACTER = 6.9
GREEN, RED, GREY, DARK = "#2f7d32", "#b3261e", "#6e7681", "#30363d"


def sections(page):
    """The text below each heading of the page."""
    found, heading = {}, ""
    for line in page.splitlines():
        if match := re.match(r"#{2,3} (.*)", line):
            heading = match[1].replace("`", "")
        found.setdefault(heading, []).append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def versions(names):
    """`containerd 1.6.20` and so on as `1.6`, each once."""
    short = []
    for name in names:
        name = ".".join(name.split(".")[:2])
        if name not in short:
            short.append(name)
    return " ".join(short)


def badge(label, found, detail, text):
    """Label, value and colour, from the cells of a section's tables."""
    passed = len(re.findall(r"\| passed (?=\|)", text))
    failed = text.count("**failed**")
    for row in re.findall(r"^\| [^|]* \| (\d+) passed \|(?: (\d+) failed \|)?", text, re.M):
        passed += int(row[0])
        failed += int(row[1] or 0)
    if not found or not passed + failed:
        return label, "not run", GREY
    value = f"{detail}: {passed} passed" + (f", {failed} failed" if failed else "")
    return label, value, RED if failed else GREEN


def conformance(text):
    """How much of the suites fails with this runtime alone."""
    rows = re.findall(r"^\| \w+ \| (wws|runc) \| (\d+) \| (\d+) \|", text, re.M)
    ours = [(int(passed), int(failed)) for runtime, passed, failed in rows if runtime == "wws"]
    if not ours:
        return "conformance", "not run", GREY
    alone = re.search(r"^Failed with wws alone", text, re.M)
    passed = sum(count for count, _ in ours)
    value = f"{passed} passed, " + ("some" if alone else "none") + " failed that runc passes"
    return "conformance", value, RED if alone else GREEN


def badges(page):
    parts = sections(page)
    starting = lambda start: next((name for name in parts if name.startswith(start)), "")
    text = lambda start: parts.get(starting(start), "") if starting(start) else ""
    ctr, docker, cri, nerdctl = (text(name) for name in ("ctr", "Docker", "Kubernetes (crictl", "nerdctl"))
    of = lambda pattern, where: versions(re.findall(pattern, where))
    kubernetes, arm64 = text("Kubernetes, whole"), text("arm64")
    systemd = "\n".join(body for name, body in parts.items() if ", systemd 2" in name)
    engines = versions(re.findall(r"\| (\d+)\.[\d.]+, containerd", docker))
    return [
        badge("containerd", ctr, of(r"containerd (\d+\.\d+)", ctr), ctr),
        badge("Docker", docker, engines, docker),
        badge("CRI", cri, "crictl " + of(r"crictl ([\d.]+)", starting("Kubernetes (crictl")), cri),
        badge("nerdctl", nerdctl, of(r"nerdctl ([\d.]+)", starting("nerdctl")), nerdctl),
        badge("Kubernetes", kubernetes, of(r"Kubernetes (\d+\.\d+)", kubernetes), kubernetes),
        badge("cgroup v2 with systemd", systemd, of(r"systemd (\d+)", systemd), systemd),
        badge("arm64", arm64, "emulated", arm64),
        conformance(text("Conformance")),
    ]


def draw(all_badges):
    """One picture with a line break where a row is full."""
    x, y, parts = 0.0, 0, []
    for label, value, colour in all_badges:
        left, right = (len(words) * CHARACTER + 14 for words in (label, value))
        if x and x + left + right > WIDTH:
            x, y = 0.0, y + HEIGHT + GAP
        for offset, width, fill, words in ((0, left, DARK, label), (left, right, colour, value)):
            at = x + offset
            parts.append(
                f'<rect x="{at:.1f}" y="{y}" width="{width:.1f}" height="{HEIGHT}" fill="{fill}"/>'
                f'<text x="{at + 7:.1f}" y="{y + 15}" textLength="{width - 14:.1f}">{html.escape(words)}</text>'
            )
        x += left + right + GAP
    height = y + HEIGHT
    title = "; ".join(f"{label} {value}" for label, value, _ in all_badges)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label="{html.escape(title)}">\n'
        "<style>text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#fff}</style>\n"
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def main():
    picture = draw(badges(PAGE.read_text()))
    if sys.argv[1:] == ["--check"]:
        if not PICTURE.exists() or PICTURE.read_text() != picture:
            sys.exit("docs/badges.svg is not that of docs/compatibility.md: run scripts/badges.py")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        PICTURE.write_text(picture)


main()
