#!/usr/bin/env python3
"""Names of the tests that failed, one a line, from the output of `cargo test --no-fail-fast`.

Fails where they are not to be run once more: more than three failed, or a test program did not come to its end (or did not
compile), so that it is not known which of its tests would have failed.
"""

import re
import sys

MOST = 3


def failed(output: str) -> list[str] | None:
    """The names; None where a program has no result."""
    programs = re.search(r"^error: (\d+) targets? failed:$", output, re.M)
    results = re.findall(r"^failures:\n((?:    \S.*\n)+)\ntest result: FAILED", output, re.M)
    if not programs or int(programs[1]) != len(results):
        return None
    return sorted(line.strip() for result in results for line in result.splitlines())


def main() -> int:
    with open(sys.argv[1], encoding="utf-8", errors="replace") as file:
        names = failed(file.read())
    if not names or len(names) > MOST:
        return 1
    print("\n".join(names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
