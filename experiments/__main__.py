"""Lists the programs, grouped by who uses them.

python -m experiments              print this list
python -m experiments.X --help     explain program X: purpose, example and all flags
"""

from __future__ import annotations

import ast
import pathlib

GROUPS = {
    "Researchers: reproduce the paper, run studies": (
        "table1",
        "study",
        "run_report",
        "verify",
        "dryrun",
        "overfit",
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
        "audit",
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
            *(f"  {program:16s} {summary(program)}" for program in programs),
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(listing())
