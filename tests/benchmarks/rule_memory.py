"""The memory that a server needs to aggregate a round, under every rule.

    .venv/py3.11/bin/python -m tests.benchmarks.rule_memory
    SITES=3,32,128 VALUES=2000000,10000000 ...    sites, and float32 values of the model
    JSON=docs/results/rule_memory.json ...        writes the figures there too

Each figure is of a process of its own, which aggregates two rounds from files to files, so that a
rule with a state reads one. The peak is reset before them and read after them in that process; the
figure is by how many MiB it is above the memory before. Beside it stands what the updates of a
round take together, which is what a server that holds them all would need. Linux only.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import tempfile
from collections.abc import Sequence

from runkit import atomic, markdown_tables
from tests.benchmarks import aggregation_speed, machine, side_by_side
from tests.benchmarks.side_by_side import Candidate

SITES = os.environ.get("SITES", "3,32")
VALUES = os.environ.get("VALUES", "2000000,10000000")


def measure(
    rules: Sequence[str], *, sites: int, values: int, repetitions: int = 3, warm_up: int = 0
) -> dict[str, list[float]]:
    """Returns rule -> MiB by which the peak rises, one value per repetition."""
    with tempfile.TemporaryDirectory() as folder:
        aggregation_speed.write(pathlib.Path(folder), sites, values)
        about = {"folder": folder, "sites": sites}
        function = "tests.benchmarks.aggregation_speed:aggregate"
        candidates = [
            Candidate(rule, function, arguments={**about, "rule": rule}) for rule in rules
        ]
        figures = side_by_side.measure(candidates, repetitions=repetitions, warm_up=warm_up)
    return {rule: figures[rule]["growth_mib"] for rule in rules}


def table(found: dict[tuple[int, int], dict[str, list[float]]]) -> str:
    """Returns a Markdown table.

    Args:
      found: (sites, values of the model) -> rule -> MiB, as `measure` returns them.
    """
    rules = list(dict.fromkeys(rule for by_rule in found.values() for rule in by_rule))
    rows = []
    for (sites, values), by_rule in found.items():
        model = values * 4 / 2**20
        cells = [f"{statistics.median(by_rule[rule]):.1f}" for rule in rules]
        rows.append([str(sites), f"{model:.1f}", f"{sites * model:.0f}", *cells])
    head = ["sites", "model, MiB", "all updates, MiB", *rules]
    return "\n".join(markdown_tables.lines(head, rows))


def main() -> None:
    from federated.aggregation import rules

    flags = side_by_side.arguments(__doc__)
    found = {
        (sites, values): measure(
            list(rules.RULES), sites=sites, values=values, repetitions=flags.repetitions
        )
        for sites in map(int, SITES.split(","))
        for values in map(int, VALUES.split(","))
    }
    print(table(found))
    if path := os.environ.get("JSON"):
        listed = [
            {"sites": sites, "values": values, "growth_mib": by_rule}
            for (sites, values), by_rule in found.items()
        ]
        atomic.write_json(path, {"machine": machine.describe(), "found": listed})


def read(path: str | os.PathLike) -> dict[tuple[int, int], dict[str, list[float]]]:
    """Returns the figures that `JSON=path` wrote, for `table`."""
    found = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["found"]
    return {(entry["sites"], entry["values"]): entry["growth_mib"] for entry in found}


if __name__ == "__main__":
    main()
