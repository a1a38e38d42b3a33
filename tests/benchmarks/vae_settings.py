"""Trains a site alone with several rates and weights of the VAE branch, and without the branch.

    .venv/py3.11/bin/python -m tests.benchmarks.vae_settings --run=runs/demo --site=C2 \
        --output=vae_settings.json

It takes the settings and the prepared cases of a run of `experiments.table1`, of which it changes
nothing, and prints the mean Dice on the site's validation cases as the training goes on, and the
highest squared difference of the reconstruction. Choose a run whose seed no table is reported for.
One training takes as long as the run's baseline; finished ones are not repeated.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from runkit import atomic, events
from tests.benchmarks import machine

VARIANTS = (
    "--vae_rate=1",
    "--vae_rate=0.03",
    "--vae_weight=0.1",
    "--vae_weight=0.01",
    "--vae_weight=0.01 --vae_rate=0.03",
    "--vae=none",
)


def result(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the validation Dice by step and the highest reconstruction loss of a history."""
    reconstruction = [e["reconstruction"] for e in history if e.get("reconstruction") is not None]
    return {
        "dice": {str(e["step"]): e["dice"] for e in history if e["event"] == "validation"},
        "highest_reconstruction": max(reconstruction, default=None),
    }


def train(run: pathlib.Path, site: str, folder: pathlib.Path, flags: list[str]) -> dict[str, Any]:
    """Trains one variant in a folder of its own, or reads it if it has been trained."""
    paper = ["--vae_rate=1", "--vae_weight=1"]  # unless the variant says otherwise
    settings = [f"--flagfile={run / 'experiment.flags'}", *paper, *flags]
    model, site_folder = folder / "initial.safetensors", folder / site
    cases = site_folder / "cases"
    if not cases.exists():
        shutil.copytree(run / "sites" / site / "cases", cases)

    def start(program: str, *own: str) -> None:
        command = [sys.executable, "-m", f"experiments.{program}", *settings, *own]
        subprocess.run(command, check=True)

    if not model.exists():
        start("init_model", f"--output={model}")
    start(
        "train_local",
        f"--site_folder={site_folder}",
        f"--initial_model={model}",
        "--validation_every=5",
    )
    return result(list(events.EventLog(site_folder / "baseline" / "history.jsonl").read()))


def table(found: Mapping[str, Any]) -> str:
    """Returns the results as a Markdown table: one line per measure, one column per variant."""
    variants = found["variants"]
    head = [f"`{name}`" for name in variants]
    lines = [f"| | {' | '.join(head)} |", "|---|" + "---:|" * len(head)]
    for step in next(iter(variants.values()))["dice"]:
        cells = [f"{100 * one['dice'][step]:.0f}" for one in variants.values()]
        lines.append(f"| Dice after {step} steps | {' | '.join(cells)} |")
    highest = [one["highest_reconstruction"] for one in variants.values()]
    cells = ["–" if value is None else f"{value:.1f}" for value in highest]
    lines.append(f"| highest squared difference, mean of an epoch | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=pathlib.Path, required=True, help="folder of the run")
    parser.add_argument("--site", default="C2")
    parser.add_argument(
        "--work", type=pathlib.Path, default=pathlib.Path("vae_settings"), help="folder"
    )
    parser.add_argument("--output", type=pathlib.Path, help="JSON file of the results")
    flags = parser.parse_args()
    found: dict[str, Any] = {"machine": machine.describe(), "site": flags.site, "variants": {}}
    found["seed"] = json.loads((flags.run / "table1.json").read_text(encoding="utf-8"))["seed"]
    for number, name in enumerate(VARIANTS):
        one = train(flags.run, flags.site, flags.work / str(number), name.split())
        found["variants"][name] = one
        steps = "  ".join(f"{step}: {dice:.3f}" for step, dice in one["dice"].items())
        highest = one["highest_reconstruction"]
        print(
            f"{name:>33}  Dice after steps  {steps}"
            + ("" if highest is None else f"  highest squared difference {highest:.1f}"),
            flush=True,
        )
    if flags.output is not None:
        atomic.write_json(flags.output, found)


if __name__ == "__main__":
    main()
