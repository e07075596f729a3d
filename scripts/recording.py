#!/usr/bin/env python3
"""Runs a session of a terminal and draws what it printed as an animated SVG: docs/get-started/recording.svg.

    scripts/recording.py WWS [OUTPUT]     WWS is the program; OUTPUT the file, standard output by default

Every line of the picture was printed by the commands below, which run for real in a directory that is removed afterwards. The times
between them are those of the run, but no pause is longer than PAUSE; typing takes as long as a person would.
"""

import html
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# What is typed, and what has to be printed before the next line is. `{}` stands for the port.
SESSION = [
    ("wws new javascript hello", "curl"),
    ("cd hello", ""),
    ("wws dev project --port {} &", "listening on"),
    ("curl http://127.0.0.1:{}/hello?name=Ada", "GET "),
    ("sed -i s/Hello/Goodbye/ project/hello.js", "reloaded"),
    ("curl http://127.0.0.1:{}/hello?name=Ada", "GET "),
    ("echo '}}' >> project/hello.js", "not reloaded"),
    ("kill %1", "stopped"),
    ("sed -i '$d' project/hello.js", ""),
    ("wws build project -t hello:v1 -o hello.tar", "wrote"),
    ("wws run hello.tar --port {} &", "listening on"),
    ("curl http://127.0.0.1:{}/hello", "Goodbye"),
]

COLUMNS = 110
# The longest that a step may take, in seconds.
LIMIT = 120
# Seconds: for each typed character, after a command is typed, the longest pause of the picture, and the time to read a result.
KEY, ENTER, PAUSE, READ = 0.035, 0.3, 0.8, 1.6
# Seconds that the whole picture stands still before it begins again.
END = 6.0
PROMPT = "$ "

LINE, WIDTH, MARGIN = 19, 8.43, 14
COLOURS = {"2": "#8b949e", "31": "#ff7b72", "32": "#7ee787", "33": "#e3b341", "36": "#79c0ff"}
TEXT, GROUND = "#e6edf3", "#0d1117"
ESCAPE = re.compile(r"\x1b\[([0-9;]*)m")
OTHER_ESCAPE = re.compile(r"\x1b\[[?0-9;]*[A-Za-ln-z]|\x1b\][^\x07]*\x07|\x1b[=>]")


class Terminal:
    """A shell on a terminal of its own, and what it prints, by time."""

    def __init__(self, directory, path):
        environment = {
            "HOME": directory, "PATH": path, "TERM": "xterm", "PS1": "", "PS2": "", "LANG": "C.UTF-8",
            "COLUMNS": str(COLUMNS), "TMPDIR": directory, "TZ": "UTC",
        }
        self.child, self.master = pty.fork()
        if self.child == 0:
            os.chdir(directory)
            os.execve("/bin/bash", ["bash", "--norc", "--noprofile", "--noediting"], environment)
        # What is typed is drawn by us.
        subprocess.run(["stty", "-echo", "cols", str(COLUMNS)], stdin=self.master, check=True)
        self.pieces = []
        self.read(0.5)

    def read(self, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.master], [], [], left)[0]:
                return
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            self.pieces.append((time.monotonic(), data.decode(errors="replace")))

    def run(self, command, wanted):
        """Types a command; returns what is printed until `wanted` is there and nothing more comes, with times."""
        self.pieces = []
        started = time.monotonic()
        os.write(self.master, (command + "\n").encode())
        while True:
            self.read(0.4)
            text = "".join(piece for _, piece in self.pieces)
            last = self.pieces[-1][0] if self.pieces else started
            if wanted in text and time.monotonic() - last >= 0.4:
                return [(at - started, piece) for at, piece in self.pieces]
            if time.monotonic() - started > LIMIT:
                sys.exit(f"{command}: no `{wanted}` in:\n{text}")


def lines_of(pieces):
    """Lines as (time, text with colours)."""
    lines, current, begun = [], "", 0.0
    for at, piece in pieces:
        for part in re.split(r"(\n)", OTHER_ESCAPE.sub("", piece).replace("\r", "")):
            if part == "\n":
                lines.append((begun if current else at, current))
                current = ""
            elif part:
                begun = at if not current else begun
                current += part
    if current:
        lines.append((begun, current))
    # What the shell says of its jobs is no part of it.
    return [(at, text) for at, text in lines if not re.match(r"\[\d+\]", text)]


def wrapped(text):
    """A line as lines of COLUMNS, each a list of (colour, text)."""
    spans, colour, rest = [], TEXT, text
    while match := ESCAPE.search(rest):
        spans.append((colour, rest[: match.start()]))
        colour = COLOURS.get(match.group(1), TEXT)
        rest = rest[match.end():]
    spans.append((colour, rest))
    rows, row, used = [], [], 0
    for colour, part in spans:
        while part:
            piece, part = part[: COLUMNS - used], part[COLUMNS - used:]
            row.append((colour, piece))
            used += len(piece)
            if used == COLUMNS:
                rows.append(row)
                row, used = [], 0
    return rows + [row] if row or not rows else rows


def picture(rows, total):
    """The SVG. `rows` are (time, spans, whether it is typed)."""
    height = MARGIN * 2 + LINE * len(rows)
    width = int(MARGIN * 2 + COLUMNS * WIDTH)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        ' role="img" aria-label="A session of a terminal: a project is created, served, changed, packed and run">',
        "<style>",
        f"text{{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre;fill:{TEXT}}}",
        f".l{{opacity:0;animation:{total:.2f}s steps(1,end) infinite}}",
        "@media (prefers-reduced-motion:reduce){.l{opacity:1;animation:none}}",
    ]
    for index, (at, _) in enumerate(rows):
        share = 100 * at / total
        out.append(f"@keyframes k{index}{{0%{{opacity:0}}{share:.3f}%,100%{{opacity:1}}}}.k{index}{{animation-name:k{index}}}")
    out += ["</style>", f'<rect width="100%" height="100%" rx="8" fill="{GROUND}"/>']
    for index, (_, spans) in enumerate(rows):
        y = MARGIN + LINE * (index + 1) - 5
        parts = "".join(
            f'<tspan fill="{colour}">{html.escape(part)}</tspan>' if colour != TEXT else html.escape(part)
            for colour, part in spans
        )
        out.append(f'<text class="l k{index}" x="{MARGIN}" y="{y}" xml:space="preserve">{parts}</text>')
    return "\n".join(out + ["</svg>", ""])


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    wws = Path(sys.argv[1]).resolve()
    directory = tempfile.mkdtemp(prefix="wws-recording-")
    try:
        bin_directory = Path(directory) / "bin"
        bin_directory.mkdir()
        (bin_directory / "wws").symlink_to(wws)
        # Compiled before, so that no second of the picture is the first start on this machine.
        cache = {**os.environ, "HOME": directory}
        subprocess.run([wws, "new", "javascript", f"{directory}/warm"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([wws, "check", f"{directory}/warm/project"], check=True, env=cache, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        shutil.rmtree(f"{directory}/warm")
        terminal = Terminal(directory, f"{bin_directory}:/usr/bin:/bin")
        rows, clock = [], 0.5
        for command, wanted in SESSION:
            shown = command.format(8080)
            clock += KEY * len(shown)
            rows += [(clock, spans) for spans in wrapped(f"\x1b[32m{PROMPT}\x1b[0m{shown}")]
            clock += ENTER
            before, begin = 0.0, clock
            for at, text in lines_of(terminal.run(command.format(8080), wanted)):
                clock += min(at - before, PAUSE)
                before = at
                rows += [(clock, spans) for spans in wrapped(text)]
            if clock == begin or wanted:
                clock += READ
        terminal.run("kill %2", "")
        text = picture(rows, clock + END)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if len(sys.argv) == 3:
        Path(sys.argv[2]).write_text(text)
    else:
        print(text, end="")


main()
