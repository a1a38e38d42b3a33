"""Lists the programs, grouped by who uses them.

python -m experiments              print this list
python -m experiments.X --help     explain program X: purpose, example and all flags
"""

from __future__ import annotations

import ast
import pathlib
import sys
from collections.abc import Sequence

GROUPS = {
    "Researchers: reproduce the paper, run studies": (
        "table1",
        "study",
        "run_report",
        "verify",
        "membership",
        "dryrun",
        "overfit",
        "search_all",
        "search_topology",
        "search_operations",
        "search_evidence",
    ),
    "Sites: prepare scans": (
        "list_cases",
        "prepare",
        "cohort_report",
        "compare_cohorts",
        "synthesize",
        "deform_cohort",
    ),
    "Sites: train": ("join", "train_local", "train_pooled", "request"),
    "Operators: run a federation": (
        "provision",
        "init_model",
        "serve",
        "status",
        "operate",
        "search_federated",
        "audit",
        "evaluation_report",
        "doctor",
    ),
    "Anyone with a model: predict and score": (
        "predict",
        "evaluate",
        "score",
        "package",
        "export",
        "reconstructions",
    ),
    "Experiments that corrupt a run on purpose, started by a study": ("faulty_site",),
}


def summary(program: str) -> str:
    """Returns the first paragraph of a program's docstring, read from its source.

    Importing the program would define its flags.
    """
    source = pathlib.Path(__file__).with_name(f"{program}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].replace("\n", " ")


def listing() -> str:
    """Returns the programs under their headings, one line each."""
    lines = ["Run a program with `python -m experiments.X`; `--help` explains it."]
    for heading, programs in GROUPS.items():
        lines += [
            "",
            f"{heading}:",
            *(f"  {program:17s} {summary(program)}" for program in programs),
        ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Prints the list and returns 0; with arguments, prints an error and returns 2."""
    if arguments and arguments[0] not in ("-h", "--help"):
        known = any(arguments[0] in programs for programs in GROUPS.values())
        command = f"run python -m experiments.{arguments[0] if known else 'X'}"
        print(f"error: unexpected argument {arguments[0]!r}; {command}", file=sys.stderr)
        return 2
    print(listing())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
