#!/usr/bin/env python3
"""Lists comment lines of Rust and lines of markdown that are wider than 120 columns.

Tables, links and code blocks of markdown are left out.
"""
import re
import subprocess
import sys

COLUMNS = 120
# Written by `make oracle`.
MADE = {"docs/redo-coverage.md"}


def markdown(lines):
    """The lines of prose, each with its number."""
    in_code = False
    for number, line in lines:
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif not (in_code or re.match(r"\s*\||\s*\[[^]]+\]:|\s*\S+$", line)):
            yield number, line


def rust(lines):
    """The lines that are a comment and nothing else, each with its number."""
    return ((number, line) for number, line in lines if re.match(r"\s*//(?![/!]? \|)", line))


def wide(path):
    """The wide lines of one file."""
    chosen = markdown if path.endswith(".md") else rust
    with open(path, encoding="utf-8") as file:
        lines = list(enumerate(file.read().split("\n"), 1))
    return [f"{path}:{number}" for number, line in chosen(lines) if len(line) > COLUMNS]


def main():
    files = subprocess.run(["git", "ls-files", "-z", "*.rs", "*.md"], check=True, capture_output=True, text=True)
    found = [place for path in files.stdout.split("\0") if path and path not in MADE for place in wide(path)]
    prose = [place for place in found if ".md:" in place]
    comments = [place for place in found if ".rs:" in place]
    for place in found:
        print(f"check-width: {place} is wider than {COLUMNS} columns", file=sys.stderr)
    print(f"check-width: {len(prose)} wide lines of markdown, {len(comments)} wide comment lines of Rust")
    sys.exit(1 if found else 0)


main()
