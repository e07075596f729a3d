#!/usr/bin/env python3
"""Fails on an import that runs up the layers of scripts/layers.txt, between crates and between the rooms of a crate, and on
files that import one another in a circle.

    scripts/layers.py [ROOT]            check the workspace at ROOT (default: this one)
    scripts/layers.py --graph CRATE     print a crate's rooms with what each imports, as it is

Reads Rust by its tokens (comments, strings and `#[cfg(test)]` are skipped; `use` trees, `crate::` and `super::` paths are
followed), so that no compiler is needed. What a macro puts together it does not see.
"""

import re
import sys
import tomllib
from pathlib import Path

LAYERS = "scripts/layers.txt"

TOKEN = re.compile(
    r"""
    (?P<skip>\s+|//[^\n]*)
  | (?P<block>/\*)
  | (?P<raw>(?:b|c)?r(?P<hashes>\#*)")
  | (?P<string>(?:b|c)?"(?:\\.|[^"\\])*")
  | (?P<char>b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\])')
  | (?P<lifetime>'[A-Za-z_]\w*)
  | (?P<word>(?:r\#)?[^\W\d]\w*)
  | (?P<number>\d\w*)
  | (?P<path>::)
  | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)


def tokens(text):
    """The words and signs of Rust source as (line, text)."""
    at, line, found = 0, 1, []
    while at < len(text):
        match = TOKEN.match(text, at)
        end = match.end()
        if match.lastgroup == "block":
            depth = 1
            while depth and end < len(text):
                if text.startswith("/*", end):
                    depth, end = depth + 1, end + 2
                elif text.startswith("*/", end):
                    depth, end = depth - 1, end + 2
                else:
                    end += 1
        elif match.group("raw"):
            close = text.find('"' + match.group("hashes"), end)
            end = len(text) if close < 0 else close + 1 + len(match.group("hashes"))
        elif match.lastgroup in ("word", "path", "sign"):
            found.append((line, match.group().removeprefix("r#")))
        line += text.count("\n", at, end)
        at = end
    return found


class Reader:
    """Finds the paths that one file names, each as (line, module path from the crate's root)."""

    def __init__(self, text, module):
        self.tokens = tokens(text)
        self.module = module
        self.at = 0
        self.paths = []
        self.test_files = set()
        self.exports = []
        self.scope(list(module))

    def peek(self, ahead=0):
        index = self.at + ahead
        return self.tokens[index][1] if index < len(self.tokens) else ""

    def line(self):
        return self.tokens[min(self.at, len(self.tokens) - 1)][0]

    def skip_braces(self):
        """Goes past a `{ ... }` that begins here."""
        depth = 0
        while self.at < len(self.tokens):
            sign = self.peek()
            self.at += 1
            depth += (sign == "{") - (sign == "}")
            if depth == 0 and sign == "}":
                return

    def attribute(self):
        """Goes past a `#[...]` and says whether it is `#[cfg(test)]`."""
        self.at += 1
        inner = self.peek() == "!"
        self.at += inner
        depth, words = 0, []
        while self.at < len(self.tokens):
            sign = self.peek()
            self.at += 1
            depth += (sign == "[") - (sign == "]")
            if depth == 0:
                break
            words.append(sign)
        text = "".join(words[1:])
        return not inner and (text == "cfg(test)" or text.startswith("cfg(all(test,"))

    def scope(self, module):
        """Reads until the `}` that ends this module, or the end."""
        depth, is_test = 0, False
        while self.at < len(self.tokens):
            word = self.peek()
            if word == "#" and self.peek(1) in ("[", "!") and self.peek(1 + (self.peek(1) == "!")) == "[":
                is_test |= self.attribute()
                continue
            if word == "}" and depth == 0:
                return
            depth += (word == "{") - (word == "}")
            if word == "mod" and self.peek(2) in ("{", ";"):
                name, opens = self.peek(1), self.peek(2) == "{"
                self.at += 2
                if is_test and opens:
                    self.skip_braces()
                elif opens:
                    self.at += 1
                    self.scope(module + [name])
                    self.at += 1
                elif is_test:
                    self.test_files.add(tuple(module + [name]))
                is_test = False
                continue
            if word == "use" and self.peek(1) != "<":
                exported = self.peek(-1) in ("pub", ")")
                self.at += 1
                start = len(self.paths)
                if self.peek() == "::":
                    self.at += 1
                self.tree([], module, exported)
                if is_test:
                    del self.paths[start:]
                is_test = False
                continue
            if is_test and word in ("fn", "impl", "struct", "enum", "trait", "const", "static", "type"):
                self.skip_item()
                is_test = False
                continue
            if word in ("crate", "super") and self.peek(1) == "::" and self.peek(-1) not in ("::", "in", "$"):
                line, path = self.line(), []
                while True:
                    path.append(self.peek())
                    self.at += 1
                    if self.peek() != "::" or not re.match(r"[^\W\d]", self.peek(1) or " "):
                        break
                    self.at += 1
                self.add(line, path, module)
                continue
            self.at += 1

    def skip_item(self):
        """Goes past an item: to its `;` or the end of its braces."""
        while self.at < len(self.tokens):
            if self.peek() == ";":
                self.at += 1
                return
            if self.peek() == "{":
                self.skip_braces()
                return
            self.at += 1

    def tree(self, prefix, module, exported):
        """Reads a `use` tree."""
        path = list(prefix)
        line = self.line()
        while self.at < len(self.tokens):
            word = self.peek()
            if word == "{":
                self.at += 1
                while self.peek() not in ("}", ";", ""):
                    self.tree(path, module, exported)
                    if self.peek() == ",":
                        self.at += 1
                self.at += 1
                return
            if word in (",", "}", ";"):
                break
            if word == "as":
                self.at += 2
                self.add(line, path, module, exported, self.peek(-1))
                return
            if word != "::":
                line = self.line()
                path.append(word)
            self.at += 1
        self.add(line, path, module, exported)

    def add(self, line, path, module, exported=False, alias=None):
        if path and path[-1] == "self":
            path = path[:-1]
        if not path:
            return
        place = list(module)
        if path[0] == "crate":
            place, path = [], path[1:]
        elif path[0] in ("super", "self"):
            while path and path[0] in ("super", "self"):
                if path[0] == "super":
                    place = place[:-1]
                path = path[1:]
        elif module:
            # Another crate, or a name that came by another `use`.
            return
        whole = place + path
        if exported and path:
            self.exports.append((alias or path[-1], whole))
        if whole:
            self.paths.append((line, whole))


def module_of(source, file):
    parts = list(file.relative_to(source).with_suffix("").parts)
    if parts[-1] == "mod" or parts in (["lib"], ["main"]):
        parts.pop()
    return parts


def rooms_of(source):
    rooms = set()
    for entry in source.iterdir():
        if entry.is_dir() and any(entry.rglob("*.rs")):
            rooms.add(entry.name)
        elif entry.suffix == ".rs" and entry.stem not in ("lib", "main"):
            rooms.add(entry.stem)
    return rooms


def read_crate(source):
    """The reader of each file, programs of `bin` left out, and the modules that only tests have."""
    read = {}
    for file in sorted(source.rglob("*.rs")):
        if file.relative_to(source).parts[0] != "bin":
            read[file] = Reader(file.read_text(), module_of(source, file))
    return read, set().union(*(reader.test_files for reader in read.values()))


def file_imports(source):
    """What each file of a crate imports: {file: {file: [name, ...]}}. A crate's root is no file here: it imports all."""
    read, tests = read_crate(source)
    files = {}
    for file, reader in read.items():
        module = tuple(reader.module)
        if module and not any(module[:n] in tests for n in range(1, len(module) + 1)):
            files[module] = file
    exports = {}
    for reader in read.values():
        for name, path in reader.exports:
            exports[(*reader.module, name)] = path
    arrows = {file: {} for file in files.values()}
    for file in arrows:
        for _, path in read[file].paths:
            target = defining_file(tuple(path), files, exports)
            if target and target != file:
                arrows[file].setdefault(target, []).append(path[-1])
    return arrows


def defining_file(path, files, exports):
    """The file that defines what a path names, which other modules may hand on."""
    for _ in range(8):
        for length in range(len(path), 0, -1):
            if path[:length] in files:
                found = files[path[:length]]
                break
            if path[:length] in exports:
                found = None
                path = (*exports[path[:length]], *path[length:])
                break
        else:
            return None
        if found:
            handed_on = path[: length + 1] if len(path) > length else None
            if handed_on in exports and exports[handed_on] != list(handed_on):
                path = (*exports[handed_on], *path[length + 1 :])
                continue
            return found
    return None


def circles(arrows):
    """The files that import one another in a circle, as sorted lists (Tarjan's algorithm)."""
    order, low, stack, found = {}, {}, [], []

    def visit(file):
        order[file] = low[file] = len(order)
        stack.append(file)
        for target in arrows[file]:
            if target not in order:
                visit(target)
                low[file] = min(low[file], low[target])
            elif target in stack:
                low[file] = min(low[file], order[target])
        if low[file] == order[file]:
            circle = []
            while not circle or circle[-1] != file:
                circle.append(stack.pop())
            if len(circle) > 1:
                found.append(sorted(circle))

    for file in arrows:
        if file not in order:
            visit(file)
    return found


def imports(source):
    """Every arrow between the rooms of a crate: (file, line, from, to, what)."""
    rooms = rooms_of(source)
    read, tests = read_crate(source)
    # What the crate's root hands on is of the room it comes from.
    exports = {}
    for reader in read.values():
        if not reader.module:
            exports.update({name: path for name, path in reader.exports if path[0] in rooms})
    for file, reader in read.items():
        module = reader.module
        if not module or any(tuple(module[:n]) in tests for n in range(1, len(module) + 1)):
            continue
        for line, path in reader.paths:
            what = "::".join(path)
            if path[0] not in rooms and path[0] in exports:
                path = exports[path[0]]
            if path[0] in rooms and path[0] != module[0]:
                yield file, line, module[0], path[0], what


def read_layers(text):
    """The layers of each crate: {crate: [(line number, [[room, ...], ...])]}."""
    layers = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        crate, colon, order = line.partition(":")
        if not colon:
            sys.exit(f"{LAYERS}:{number}: expected `CRATE: room > room`")
        chain = [layer.split() for layer in order.split(">")]
        if not all(chain):
            sys.exit(f"{LAYERS}:{number}: nothing stands beside a `>`")
        layers.setdefault(crate.strip(), []).append((number, chain))
    return layers


def below(lines):
    """What each room may import: {room: {room below it, ...}}."""
    may = {}
    for _, chain in lines:
        for index, layer in enumerate(chain):
            for room in layer:
                may.setdefault(room, set()).update(*chain[index + 1 :])
    changed = True
    while changed:
        changed = False
        for lower in may.values():
            more = set().union(*(may[room] for room in lower)) if lower else set()
            if not more <= lower:
                lower |= more
                changed = True
    return may


def check_order(crate, lines, present, problems):
    """Returns what may import what, after a look at the lines themselves."""
    may = below(lines)
    where = f"{LAYERS}:{lines[0][0]}"
    for room, lower in sorted(may.items()):
        if room in lower:
            problems.append(f"{where}: `{room}` of {crate} is above itself; the lines of {crate} contradict one another")
    for room in sorted(may.keys() - present):
        problems.append(f"{where}: {crate} has no `{room}`: remove it from this line")
    for room in sorted(present - may.keys()):
        problems.append(f"{where}: `{room}` of {crate} is in no layer: add it where what it imports is to its right")
    return may


def advice(may, source, target):
    if source in may.get(target, ()):
        return (
            f"`{target}` is above `{source}`: move what both need into `{source}` or below it, or have `{target}` pass it in as a"
            " value, a trait or a closure"
        )
    return (
        f"`{target}` is not below `{source}`: move what both need into a room below them, or order the two in {LAYERS} if nothing"
        " runs the other way"
    )


def members(root):
    """The workspace's crates: {directory: manifest}."""
    manifest = tomllib.loads((root / "Cargo.toml").read_text())
    found = {}
    for pattern in manifest["workspace"]["members"]:
        for directory in sorted(root.glob(pattern)):
            if (directory / "Cargo.toml").exists():
                found[directory.relative_to(root).as_posix()] = tomllib.loads((directory / "Cargo.toml").read_text())
    return found


def check(root):
    """Every problem of the workspace at `root`, each as one line."""
    layers = read_layers((root / LAYERS).read_text())
    problems = []
    crates = members(root)
    names = {manifest["package"]["name"]: directory for directory, manifest in crates.items()}
    if "workspace" in layers:
        may = check_order("workspace", layers["workspace"], set(crates), problems)
        for directory, manifest in crates.items():
            tables = [manifest] + list(manifest.get("target", {}).values())
            for table in tables:
                for section in ("dependencies", "build-dependencies"):
                    for name, value in table.get(section, {}).items():
                        target = names.get(value.get("package", name) if isinstance(value, dict) else name)
                        if target and target not in may.get(directory, ()):
                            line = next(
                                (n for n, text in enumerate((root / directory / "Cargo.toml").read_text().splitlines(), 1)
                                 if re.match(rf"\s*\"?{re.escape(name)}\"?\s*[.=]", text)),
                                1,
                            )
                            problems.append(f"{directory}/Cargo.toml:{line}: {directory} depends on {target}; {advice(may, directory, target)}")
    for crate, lines in layers.items():
        if crate == "workspace":
            continue
        source = root / crate / "src"
        if not source.is_dir():
            problems.append(f"{LAYERS}:{lines[0][0]}: there is no {crate}/src")
            continue
        may = check_order(crate, lines, rooms_of(source) - {"bin"}, problems)
        for file, line, here, there, what in imports(source):
            if there not in may.get(here, ()):
                problems.append(f"{file.relative_to(root)}:{line}: `{here}` imports `{what}`; {advice(may, here, there)}")
        arrows = file_imports(source)
        for circle in circles(arrows):
            ties = [
                f"{file.relative_to(source)} -> {target.relative_to(source)} ({', '.join(sorted(set(arrows[file][target])))})"
                for file in circle
                for target in circle
                if target in arrows[file]
            ]
            problems.append(f"{crate}: files import one another in a circle: {'; '.join(ties)}: move what both need into a file of its own")
    return problems


def graph(root, crate):
    arrows = {room: {} for room in rooms_of(root / crate / "src")}
    for file, line, here, there, _ in imports(root / crate / "src"):
        arrows[here].setdefault(there, f"{file.relative_to(root)}:{line}")
    for room in sorted(arrows):
        print(f"{room}: {' '.join(sorted(arrows[room]))}")
        for target, place in sorted(arrows[room].items()):
            if room in arrows.get(target, {}):
                print(f"    both ways with {target}: {place}, {arrows[target][room]}")


def main():
    root = Path(__file__).resolve().parent.parent
    if sys.argv[1:2] == ["--graph"] and len(sys.argv) == 3:
        graph(root, sys.argv[2])
        return
    if len(sys.argv) > 2 or sys.argv[1:2] and sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    problems = check(Path(sys.argv[1]).resolve() if len(sys.argv) == 2 else root)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit(f"{len(problems)} problems of imports ({LAYERS})")


if __name__ == "__main__":
    main()
