#!/usr/bin/env python3
"""Runs `cargo test`, and ends a test program that says nothing for too long.

    scripts/run-tests.py OUTPUT SECONDS COMMAND...

The command's output goes to standard output and to the file OUTPUT. Where a test waits for ever, its program and what that has
started are ended after SECONDS, so that the other programs still run, and the log says which test it was. The time in which cargo
compiles does not count. Exits as the command does; with 75 if a program was ended: not all tests have run.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time

STOPPED = 75


def children() -> dict[int, list[int]]:
    """All processes, by their parents."""
    found: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                # The name of a program may contain blanks and brackets.
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        found.setdefault(parent, []).append(int(name))
    return found


def below(parent: int) -> list[int]:
    """The descendants of a process, those next to it first."""
    by_parent, found = children(), [parent]
    for process in found:
        found += by_parent.get(process, [])
    return found[1:]


class Run:
    """A command, and what is known of the tests that it runs."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.said = time.monotonic()
        self.is_testing = False
        self.slow: dict[str, None] = {}
        self.stopped = False

    def note(self, line: str) -> None:
        self.said = time.monotonic()
        if re.match(r"\s+(Running|Doc-tests) ", line):
            self.is_testing, self.slow = True, {}
        elif re.match(r"\s+(Compiling|Blocking|Finished) ", line):
            self.is_testing = False
        elif slow := re.match(r"test (\S+) has been running for over", line):
            self.slow[slow[1]] = None
        elif ended := re.match(r"test (\S+)( - should panic)? \.\.\. ", line):
            self.slow.pop(ended[1], None)

    def stop_tests(self, seconds: int) -> str:
        """Ends the test program. Returns what is to be said of it."""
        self.stopped = True
        self.said = time.monotonic()
        for process in reversed(below(self.process.pid)):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        names = "".join(f"stopped: {name}\n" for name in self.slow) or "stopped: a test without a name\n"
        return f"\nno word for {seconds} s: the test program was ended\n{names}"


def main() -> int:
    output, seconds, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    with open(output, "w", encoding="utf-8") as log:
        run = Run(command)

        def say(text: str) -> None:
            sys.stdout.write(text)
            sys.stdout.flush()
            log.write(text)
            log.flush()

        def watch() -> None:
            while run.process.poll() is None:
                time.sleep(1)
                if run.is_testing and time.monotonic() - run.said > seconds:
                    say(run.stop_tests(seconds))

        threading.Thread(target=watch, daemon=True).start()
        for line in run.process.stdout:
            text = line.decode(errors="replace")
            run.note(text)
            say(text)
        status = run.process.wait()
    return STOPPED if run.stopped else status


if __name__ == "__main__":
    sys.exit(main())
