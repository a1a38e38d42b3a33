"""Measures candidates in turn (A B C A B C ...) and prints medians and ratios.

Each repetition is a separate process. A benchmark is a module `tests.benchmarks.<name>` whose
functions each measure one candidate once and return figures, e.g. `{"seconds": 0.41}`. Peers have
their own environment (`requirements-segmentation.txt`, `requirements-federation.txt`):

    python3.11 -m venv .venv/peers
    .venv/peers/bin/pip install -r tests/benchmarks/requirements-segmentation.txt
    .venv/py3.11/bin/python -m tests.benchmarks.<name> --peers_python=.venv/peers/bin/python

A measuring function runs in the environment of its candidate. It therefore imports what it measures
inside the function; at its top, a benchmark imports only modules that every environment has.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from runkit import markdown_tables
from tests.benchmarks import machine, peak_memory


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One candidate.

    Attributes:
      name: name in the table.
      function: "tests.benchmarks.module:function"; called with `arguments`, returns name -> figure.
      python: interpreter of its environment.
      arguments: keyword arguments, JSON values.
      environment: environment variables for this candidate only.
    """

    name: str
    function: str
    python: str = sys.executable
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def measure(
    candidates: Sequence[Candidate], *, repetitions: int = 5, warm_up: int = 1
) -> dict[str, dict[str, list[float]]]:
    """Returns candidate -> figure -> one value per counted repetition.

    The candidates take turns, so a machine that slows down slows all of them. `peak_mib`, the peak
    resident memory of the process, is added to the figures unless the function measures it itself.

    Raises:
      RuntimeError: naming the candidate whose process failed, with the end of its output.
    """
    print(machine.describe(), flush=True)
    figures: dict[str, dict[str, list[float]]] = {candidate.name: {} for candidate in candidates}
    for repetition in range(-warm_up, repetitions):
        for candidate in candidates:
            once = _once(candidate)
            if repetition >= 0:
                for figure, value in once.items():
                    figures[candidate.name].setdefault(figure, []).append(value)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return figures


def table(
    figures: Mapping[str, Mapping[str, Sequence[float]]], *, figure: str, reference: str
) -> str:
    """Returns a Markdown table of one figure.

    It shows median, range, and the ratio of the median to that of `reference`.
    """
    base = statistics.median(figures[reference][figure])
    rows = []
    for name, measured in figures.items():
        values = measured.get(figure)
        if values:
            middle = statistics.median(values)
            between = f"{min(values):.4g} - {max(values):.4g}"
            rows.append([name, f"{middle:.4g}", between, f"{middle / base:.3g}"])
    head = [figure, "median", "range", f"/ {reference}"]
    return "\n".join(markdown_tables.lines(head, rows))


def arguments(description: str) -> argparse.Namespace:
    """Returns the flags of every benchmark: --peers_python and --repetitions.

    Without --peers_python the peers are skipped, with a message.
    """
    parser = _parser(description)
    parser.add_argument(
        "--peers_python",
        help="Python of the peers' environment; without it only the product is measured",
    )
    parser.add_argument(
        "--repetitions", type=int, default=5, help="number of counted repetitions per candidate"
    )
    flags = parser.parse_args()
    if not flags.peers_python:
        print("without --peers_python the peers are skipped", file=sys.stderr)
    return flags


def no_arguments(description: str) -> None:
    """Accepts no flags except --help."""
    _parser(description).parse_args()


def _parser(description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _once(candidate: Candidate) -> dict[str, float]:
    request = json.dumps({"function": candidate.function, "arguments": dict(candidate.arguments)})
    done = subprocess.run(
        [candidate.python, "-m", "tests.benchmarks.side_by_side", request],
        capture_output=True,
        text=True,
        env={**os.environ, **candidate.environment},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{candidate.name} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _main(request: str) -> None:
    peak_memory.reset()
    wanted = json.loads(request)
    module, function = wanted["function"].split(":")
    figures = dict(getattr(importlib.import_module(module), function)(**wanted["arguments"]))
    figures.setdefault("peak_mib", peak_memory.peak_mib())
    print(json.dumps(figures))


if __name__ == "__main__":
    _main(sys.argv[1])
