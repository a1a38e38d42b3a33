"""Prints the coverage of each package, and writes the lines of each file that no test reaches.

    python -m tests.coverage_table .coverage/coverage.json .coverage/files.txt

`make test` calls it on the JSON report of coverage.py.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import sys
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

_COUNTED = {"lines": ("covered_lines", "num_statements")}
_BRANCHES = {"branches": ("covered_branches", "num_branches")}


def table(report: dict[str, Any]) -> list[str]:
    """Returns one line per package, and one for all packages.

    A line has the share of covered lines and, if measured, of covered branches.
    """
    columns = _COUNTED | (_BRANCHES if report["meta"]["branch_coverage"] else {})
    sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for path, file in report["files"].items():
        for name in (pathlib.PurePath(path).parts[0], "all"):
            for key in itertools.chain(*columns.values()):
                sums[name][key] += file["summary"][key]
    lines = [f"{'coverage':15}" + "".join(f"{title:>22}" for title in columns)]
    for name in sorted(sums, key=lambda name: (name == "all", name)):
        cells = (_share(sums[name][part], sums[name][whole]) for part, whole in columns.values())
        lines.append(f"{name:15}" + "".join(f"{cell:>22}" for cell in cells))
    return lines


def files(report: dict[str, Any]) -> list[str]:
    """Returns one line per file that is not fully covered, with the lines that are missed."""
    found = []
    for path, file in sorted(report["files"].items()):
        missing = [f"lines {_ranges(file['missing_lines'])}"] if file["missing_lines"] else []
        branches = [f"{start}->{end}" for start, end in file.get("missing_branches", [])]
        missing += [f"branches {', '.join(branches)}"] if branches else []
        if missing:
            found.append(f"{path}: {'; '.join(missing)}")
    return found


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} % of {whole}" if whole else "-"


def _ranges(numbers: Iterable[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def main() -> None:
    source, target = map(pathlib.Path, sys.argv[1:])
    report = json.loads(source.read_text())
    target.write_text("".join(f"{line}\n" for line in files(report)))
    print("\n".join(table(report)))
    print(f"what is not covered: {target}")


if __name__ == "__main__":
    main()
