"""Writes the tables of an evaluation: models by sites, with intervals, from a server's folder.

    python -m experiments.evaluation_report --store=evaluation --output=report

Audits log, models and rows first, and can be run while sites are still working. Writes
evaluation.html, evaluation.md, evaluation.csv (every measure) and evaluation.json (with the rows).
Works for any run, with or without training.
"""

from __future__ import annotations

import pathlib

from absl import flags

from experiments import flags as experiment_flags
from experiments import program
from federated.errors import FederationError

FLAGS = flags.FLAGS
flags.DEFINE_string("store", None, "The server's folder, or a copy of it.")
flags.DEFINE_string("output", None, "Folder to write the tables to.")


def main(argv: list[str]) -> None:
    del argv
    from experiments.reports import evaluation_page
    from runkit import overwriting

    store = pathlib.Path(experiment_flags.required("store", "the server's folder"))
    output = pathlib.Path(experiment_flags.required("output", "the folder of the tables"))
    overwriting.require_apart(
        {"--store": [store]}, {"--output": [output / name for name in evaluation_page.FILES]}
    )
    content = evaluation_page.document(store)
    for path in evaluation_page.write(output, content):
        print(path)
    print(evaluation_page.title(content))


if __name__ == "__main__":
    program.run(main, required=["store", "output"], expected=(FederationError,))
