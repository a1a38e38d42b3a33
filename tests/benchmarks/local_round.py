"""Measures what one local round at a site without tumours does to the global model.

    .venv/py3.11/bin/python -m tests.benchmarks.local_round --run=runs/demo --rounds=11,15 \\
        --output=local_round.json

It takes the global models of a finished run of Table 1. For each treatment of missing labels and
each round r, C1 trains rounds r - 1 and r from the global models that it received then. The first
of the two gives Adam's moments the values they have in the middle of a run. The validation cases of
both sites score the result. The run itself is not changed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runkit import atomic, markdown_tables
from tests.benchmarks import machine

TREATMENTS = {
    name + (", evidence" if evidence else ""): {
        "missing_labels": name,
        "absence_evidence": evidence,
    }
    for name, evidence in (
        ("background", False),
        ("exclude", False),
        ("restricted", False),
        ("restricted", True),
        ("marginal", False),
        ("distil", False),
        ("distil", True),
    )
}


def rows(
    run: pathlib.Path, treatments: Sequence[str], rounds: Sequence[int]
) -> Iterator[tuple[str, int, dict[str, float], dict[str, float]]]:
    """Yields (model, round, scores at C1, scores at C2).

    The model is "received", "aggregated" or a treatment.
    """
    import tensorflow as tf

    from c2fnas import named_weights, threads
    from experiments import flags as experiment_flags
    from experiments.models import builders, prepared_cases, site_trainer

    threads.set_up(1, 1)
    experiment_flags.define_experiment()
    config, _ = experiment_flags.parse_experiment([f"--flagfile={run / 'experiment.flags'}"])
    stores = {
        site: prepared_cases.open_store(run / "sites" / site / "cases", config)
        for site in ("C1", "C2")
    }
    strategy = tf.distribute.MirroredStrategy()

    def global_model(number: int):
        return named_weights.load(run / "server" / "global" / f"round_{number:03d}.safetensors")[0]

    with tempfile.TemporaryDirectory() as folder:
        scorers = [
            site_trainer.SegmentationTrainer(
                config, store, pathlib.Path(folder, "scorer", site), label=site, strategy=strategy
            )
            for site, store in stores.items()
        ]

        def row(name: str, number: int, weights):
            return name, number, *(scorer.score(weights) for scorer in scorers)

        for number in rounds:
            yield row("received", number, global_model(number - 1))
            yield row("aggregated", number, global_model(number))
        for treatment in treatments:
            changed = dataclasses.replace(
                config, validation_every=config.num_rounds, **TREATMENTS[treatment]
            )
            trainer = site_trainer.SegmentationTrainer(
                changed,
                stores["C1"],
                pathlib.Path(folder, treatment),
                label=treatment,
                strategy=strategy,
                missing=builders.missing_labels(changed, stores["C1"]),
            )
            for number in rounds:
                trainer.train(global_model(number - 2), number - 1)
                yield row(treatment, number, trainer.train(global_model(number - 1), number)[0])


def table(found: Mapping[str, Any]) -> str:
    """Returns a Markdown table of the tumour Dice at C2: one line per model, one column per round."""
    rounds = list(dict.fromkeys(row["round"] for row in found["rows"]))
    names = {
        "received": "global model that C1 received",
        "background": "after C1's round, `background`",
    }
    rows = []
    for name in dict.fromkeys(
        row["model"] for row in found["rows"] if row["model"] != "aggregated"
    ):
        loss, _, evidence = name.partition(", ")
        text = names.get(name, f"`{loss}`" + (" with `--absence_evidence`" if evidence else ""))
        cells = [
            f"{100 * row['C2']['dice_tumour']:.1f}" for row in found["rows"] if row["model"] == name
        ]
        rows.append([text, *cells])
    head = ["tumour Dice (%) at C2", *(f"round {number}#" for number in rounds)]
    return "\n".join(markdown_tables.lines(head, rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run", type=pathlib.Path, required=True, help="folder of a finished run of Table 1"
    )
    parser.add_argument("--rounds", default="11,15", help="rounds, from 2 to the last but one")
    parser.add_argument(
        "--treatments",
        default="background;restricted;distil",
        help=f"separated by semicolons, of {'; '.join(TREATMENTS)}",
    )
    parser.add_argument("--output", type=pathlib.Path, help="JSON file of the results")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"machine": machine.describe(), "rows": []}
    found["seed"] = json.loads((arguments.run / "table1.json").read_text(encoding="utf-8"))["seed"]
    rounds = [int(number) for number in arguments.rounds.split(",")]
    print("Dice in per cent on validation cases")
    for name, number, first, second in rows(arguments.run, arguments.treatments.split(";"), rounds):
        shown = (
            f"C1 pancreas {100 * first['dice_pancreas']:.1f}, "
            f"C2 pancreas {100 * second['dice_pancreas']:.1f}"
        )
        print(
            f"round {number}, {name}: {shown}, C2 tumour {100 * second['dice_tumour']:.1f}",
            flush=True,
        )
        found["rows"].append({"model": name, "round": number, "C1": first, "C2": second})
    if arguments.output is not None:
        atomic.write_json(arguments.output, found)


if __name__ == "__main__":
    main()
