#!/usr/bin/env python3
"""Fails on lines of Rust that are longer than 100 columns: rustfmt leaves long strings and comments
as they are.

Raw strings are data (the source of a guest, JSON, a configuration), and may have any length. So may
tables in comments, and comments of one word, such as a URL.
"""
import re
import subprocess
import sys

MAX = 100
# Comments that cannot be broken.
UNBREAKABLE = re.compile(r"\s*//[/!]? ?(\|.*|\S+)$")
TOKEN = re.compile(
    r"""
    (?P<raw> \bb?c?r(?P<marks>\#*)"(?:.|\n)*?"(?P=marks) )
    | (?P<text> " (?: \\(?:.|\n) | [^"\\] )* " )
    | (?P<char> ' (?: \\[^\n]+? | [^'\\\n] ) ' )
    | (?P<line> //[^\n]* )
    | (?P<block> /\* (?:.|\n)*? \*/ )
    """,
    re.VERBOSE,
)


def without_data(text):
    """The text with two quotes in place of each line of a raw string."""
    return TOKEN.sub(
        lambda token: '""' + '\n""' * token[0].count("\n") if token["raw"] else token[0], text
    )


def long_lines(text):
    """Numbers and lengths of the lines that are too long."""
    lines = text.split("\n")
    if all(len(line) <= MAX for line in lines):
        return []
    return [
        (number, len(line))
        for number, line in enumerate(without_data(text).split("\n"), 1)
        if len(line) > MAX and not UNBREAKABLE.match(line)
    ]


def main():
    listing = ["git", "ls-files", "-co", "--exclude-standard", "*.rs"]
    files = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()
    count = 0
    for file in files:
        with open(file, encoding="utf-8") as opened:
            for number, length in long_lines(opened.read()):
                print(f"{file}:{number}: {length} columns")
                count += 1
    if count:
        sys.exit(f"{count} lines are longer than {MAX} columns: break strings with \\ or concat!")


if __name__ == "__main__":
    main()
