"""Weights of a training as the folder of a model: with the plan they were made by, the data behind
them and their scores.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from c2fnas import genotype, model_folder, named_weights
from c2fnas.model_folder import Model
from experiments.configuration import ExperimentConfig, plan
from experiments.results import gated_rows, score_summary
from preprocessing import declared_labels, geometry
from preprocessing.case_store import CaseStore
from runkit import atomic
from runkit.classes import CLASSES

_AXES = ("x, left to right", "y, back to front", "z, feet to head")


def write(
    folder: str | os.PathLike,
    name: str,
    weights: Mapping[str, Any],
    config: ExperimentConfig,
    *,
    stores: Iterable[CaseStore] = (),
    rows: Sequence[Mapping[str, Any]] = (),
    scores: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model's folder.

    Args:
      stores: prepared cases of the sites that trained it, where they are at hand; described by
          numbers and ranges only.
      rows: per-case rows of this model or of many, see case_rows; those of this model on the
        training grid become its scores, and where it has rows with the healthy gate, the gate goes
        along.
      scores: further ones, see c2fnas.model_card.
    Raises:
      ValueError: as `model_folder.save`.
    """
    gate = gated_rows.gates_of(rows).get(name)
    genes = genotype.load(config.genotype).with_size(filters=config.filters, classes=len(CLASSES))
    model_folder.save(
        folder,
        Model(
            name=name,
            weights=weights,
            genotype=genes,
            plan=plan(config, genes.to_json()),
            training_data=training_data(list(stores), config),
            scores={
                **(scores or {}),
                **_scores(name, rows),
                **_scores(name + gated_rows.SUFFIX, rows, " with the healthy gate"),
            },
            gate={} if gate is None else gate.to_json(),
        ),
    )


def training_data(stores: Sequence[CaseStore], config: ExperimentConfig) -> dict[str, Any]:
    """Returns what a model was trained on, as numbers: cases, ranges of spacing and field of view
    over the training cases.
    """
    if not stores:
        return {}
    grids = [
        geometry.ras_grid(store.open(case_id).native)
        for store in stores
        for case_id in store.case_ids("training")
    ]
    spacings = list(zip(*(grid.spacing_mm for grid in grids), strict=True))
    views = list(
        zip(
            *([n * s for n, s in zip(grid.shape, grid.spacing_mm, strict=True)] for grid in grids),
            strict=True,
        )
    )
    return {
        "cases": {
            store.site: {
                split: len(store.case_ids(split)) for split in ("training", "validation", "test")
            }
            for store in stores
        },
        "labels": {store.site: declared_labels.text(store.declared) for store in stores},
        "spacing_mm": {axis: _range(values) for axis, values in zip(_AXES, spacings, strict=True)},
        "view_mm": [_range(values) for values in views],
        "epochs": config.num_rounds * config.local_epochs,
    }


def write_best(
    folder: str | os.PathLike, name: str, trainer: Any, config: ExperimentConfig, store: CaseStore
) -> None:
    """Writes the best model of a site's finished training (site_trainer.SiteTrainer), scored by the
    site's validation.
    """
    best = trainer.best_score
    score = {
        "mean": best["dice"],
        "low": None,
        "high": None,
        "cases": len(store.case_ids("validation")),
    }
    scores = {
        f"validation cases of {store.site}, by which round {best['round']} was chosen": {
            "dice": score
        }
    }
    write(folder, name, trainer.best_model(), config, stores=[store], scores=scores)


def write_run(
    folder: str | os.PathLike, config: ExperimentConfig, rows: Sequence[Mapping[str, Any]]
) -> list[pathlib.Path]:
    """Writes `models/<name>` for every final model of a finished run on one machine, and returns
    these folders.

    Args:
      folder: of the run: `sites/<site>`, with the sites' prepared cases, baselines and federated
          models, and `server`.
      rows: per-case rows of all models.
    """
    folder = pathlib.Path(folder)
    sites = sorted(path.parent.parent.name for path in folder.glob("sites/*/cases/index.json"))
    stores = {site: CaseStore(folder / "sites" / site / "cases") for site in sites}
    found = {}
    for site in sites:
        found[f"{site}_baseline"] = (
            folder / "sites" / site / "baseline" / "best.safetensors",
            [stores[site]],
        )
    for site in sites:
        found[f"{site}_FL_local"] = (
            folder / "sites" / site / "federated" / "best.safetensors",
            list(stores.values()),
        )
    for model, number in sorted(
        {(row["model"], row["round"]) for row in rows if row["model"].endswith("_FL_local_shared")}
    ):
        site = model.removesuffix("_FL_local_shared")
        found[model] = (
            folder
            / "sites"
            / site
            / "federated"
            / "candidates"
            / f"round_{number:03d}.safetensors",
            list(stores.values()),
        )
    rounds = sorted(
        (folder / "server" / "global").glob("round_*.safetensors"),
        key=lambda path: int(path.stem.removeprefix("round_")),
    )
    if rounds:
        found["FL_global"] = (rounds[-1], list(stores.values()))
    found["FL_best_global"] = (folder / "server" / "best.safetensors", list(stores.values()))
    written = []
    for name, (file, trained_on) in found.items():
        if file.is_file():
            write(
                folder / "models" / name,
                name,
                named_weights.load(file)[0],
                config,
                stores=trained_on,
                rows=rows,
            )
            written.append(folder / "models" / name)
    return written


def write_tables(folder: str | os.PathLike, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes `cases.csv`, every row with every measure, and `scores.csv`, their means with
    intervals and numbers of cases.
    """
    folder = pathlib.Path(folder)
    atomic.write_text(folder / "cases.csv", score_summary.csv_text(rows))
    atomic.write_text(folder / "scores.csv", score_summary.csv_text(score_summary.by_model(rows)))


def _scores(name: str, rows: Sequence[Mapping[str, Any]], how: str = "") -> dict[str, Any]:
    own = [row for row in rows if row["model"] == name and row["grid"] == "training"]
    sites = sorted({row["site"] for row in own})
    return {
        f"test cases of {site}{how}": score_summary.for_card(
            [row for row in own if row["site"] == site]
        )
        for site in sites
    }


def _range(values: Sequence[float]) -> list[float]:
    return [round(float(min(values)), 2), round(float(max(values)), 2)]
