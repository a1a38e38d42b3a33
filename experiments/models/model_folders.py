"""Writes trained weights as model folders, with their plan, training data and scores."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from c2fnas import model_folder, named_weights
from c2fnas.model_folder import Model
from experiments.configuration import ExperimentConfig, load_genotype, plan
from experiments.models import devices
from experiments.results import gated_rows, score_summary
from experiments.results.case_rows import CaseRow
from federated.rounds.tasks import is_global
from federated.site.journal import Journal
from federated.site.private_arrays import PrivateArrays
from federated.tensors.tensor_files import TensorFile, file_digest
from preprocessing import declared_labels, geometry
from preprocessing.case_source import CaseSource
from preprocessing.case_store import CaseStore
from preprocessing.splits import SPLITS
from runkit import atomic

if TYPE_CHECKING:
    from experiments.models.site_trainer import SegmentationTrainer

_AXES = ("x, left to right", "y, back to front", "z, feet to head")


def write(
    folder: str | os.PathLike,
    name: str,
    weights: Mapping[str, Any],
    config: ExperimentConfig,
    *,
    stores: Iterable[CaseSource] = (),
    rows: Sequence[CaseRow] = (),
    scores: Mapping[str, Any] | None = None,
    private_arrays_of: str = "",
    trained_with: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Writes a model folder.

    Args:
      folder: the folder to write.
      name: name of the model.
      weights: its weights.
      config: the settings it was trained with.
      stores: the available prepared cases of the sites that trained it; only numbers and ranges are
        taken from them.
      rows: per-case rows of this and any other model. This model's rows on the training grid become
        its scores; if it has rows with the healthy gate, the gate is written too.
      scores: further scores, see c2fnas.model_card.
      private_arrays_of: the site whose own arrays the weights hold, if the settings keep arrays at
        the sites; the model card says so.
      trained_with: site -> the devices it trained with, as `devices.of_training` describes them.
    Raises:
      ValueError: see `model_folder.save`.
    """
    gate = gated_rows.gates_of(rows).get(name)
    genotype = load_genotype(config)
    model_folder.save(
        folder,
        Model(
            name=name,
            weights=weights,
            genotype=genotype,
            plan=plan(config, genotype.to_json()),
            training_data={
                **training_data(list(stores), config),
                **_private_arrays(config, private_arrays_of),
                **_devices(trained_with or {}),
            },
            scores={
                **(scores or {}),
                **_scores(name, rows),
                **_scores(name + gated_rows.SUFFIX, rows, " with the healthy gate"),
            },
            gate={} if gate is None else gate.to_json(),
        ),
    )


def training_data(stores: Sequence[CaseSource], config: ExperimentConfig) -> dict[str, Any]:
    """Summarises the training data: number of cases, and ranges of spacing and field of view."""
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
            store.site: {split: len(store.case_ids(split)) for split in SPLITS} for store in stores
        },
        "labels": {store.site: declared_labels.text(store.declared) for store in stores},
        "spacing_mm": {axis: _range(values) for axis, values in zip(_AXES, spacings, strict=True)},
        "view_mm": [_range(values) for values in views],
        "epochs": config.num_rounds * config.local_epochs,
    }


def _private_arrays(config: ExperimentConfig, site: str) -> dict[str, Any]:
    """Returns the model folder's entry on arrays that the settings keep at the sites."""
    patterns = config.share_rules.keep
    return {"private_arrays": {f"of {site}": ", ".join(patterns)}} if site and patterns else {}


def _devices(trained_with: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Returns the model folder's entry on the devices of the training, if they are known."""
    known = {site: "; ".join(texts) for site, texts in trained_with.items() if texts}
    return {"devices": known} if known else {}


def write_best(
    folder: str | os.PathLike,
    name: str,
    trainer: SegmentationTrainer,
    config: ExperimentConfig,
    store: CaseSource,
    *,
    private_arrays_of: str = "",
) -> None:
    """Writes the best model of a finished training, with its score on the validation cases.

    Args:
      private_arrays_of: as in `write`.
    Raises:
      ValueError: if no model of the training has been scored on validation cases.
    """
    best = trainer.best_score
    if best is None:
        raise ValueError(f"{folder}: {name} has no validated model yet; train at least one round")
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
    write(
        folder,
        name,
        trainer.best_model(),
        config,
        stores=[store],
        scores=scores,
        private_arrays_of=private_arrays_of,
        trained_with={store.site: trainer.devices["devices"]},
    )


def write_run(
    folder: str | os.PathLike, config: ExperimentConfig, rows: Sequence[CaseRow]
) -> list[pathlib.Path]:
    """Writes `models/<name>` for each final model of a run on one machine; returns these folders.

    If the settings keep arrays at the sites, a global model becomes one model per site, with the
    site's own arrays and rows: `models/FL_global_<site>`.

    Args:
      folder: the run's folder. It holds `server` and, for each site, `sites/<site>` with prepared
        cases, baseline and federated model.
      config: the settings of the run.
      rows: per-case rows of all models.
    """
    folder = pathlib.Path(folder)
    sites = sorted(path.parent.parent.name for path in folder.glob("sites/*/cases/index.json"))
    stores = {site: CaseStore(folder / "sites" / site / "cases") for site in sites}
    written = []
    for name, (file, trained_on) in _final_models(folder, stores, rows).items():
        if not file.is_file():
            continue
        part = "baseline" if name.endswith("_baseline") else "federated"
        trained_with = {
            store.site: devices.of_training(folder / "sites" / store.site / part)
            for store in trained_on
        }
        write_model = functools.partial(
            write, config=config, stores=trained_on, trained_with=trained_with
        )
        if is_global(name) and config.share_rules.keep:
            for site in sites:
                target = folder / "models" / f"{name}_{site}"
                own: list[CaseRow] = [
                    {**row, "model": target.name}
                    for row in rows
                    if row["model"] == name and row["site"] == site
                ]
                weights = of_site(file, name, folder / "sites" / site, config)
                write_model(target, target.name, weights, rows=own, private_arrays_of=site)
                written.append(target)
            continue
        target = folder / "models" / name
        weights, _ = named_weights.load(file)
        site = next((site for site in sites if name.startswith(f"{site}_FL_local")), "")
        write_model(target, name, weights, rows=rows, private_arrays_of=site)
        written.append(target)
    return written


def _final_models(
    folder: pathlib.Path, stores: Mapping[str, CaseStore], rows: Sequence[CaseRow]
) -> dict[str, tuple[pathlib.Path, list[CaseStore]]]:
    """Returns the file of each final model of a run, and the stores whose cases trained it.

    A file may be absent.
    """
    all_sites = list(stores.values())
    site_folders = folder / "sites"
    found = {
        f"{site}_baseline": (site_folders / site / "baseline" / "best.safetensors", [store])
        for site, store in stores.items()
    }
    for site in stores:
        best = site_folders / site / "federated" / "best.safetensors"
        found[f"{site}_FL_local"] = (best, all_sites)
    for model, number in sorted(
        {(row["model"], row["round"]) for row in rows if row["model"].endswith("_FL_local_shared")}
    ):
        federated = site_folders / model.removesuffix("_FL_local_shared") / "federated"
        file = federated / "candidates" / f"round_{number:03d}.safetensors"
        found[model] = (file, all_sites)
    rounds = sorted(
        (folder / "server" / "global").glob("round_*.safetensors"),
        key=lambda path: int(path.stem.removeprefix("round_")),
    )
    if rounds:
        found["FL_global"] = (rounds[-1], all_sites)
    found["FL_best_global"] = (folder / "server" / "best.safetensors", all_sites)
    return found


def of_site(
    file: str | os.PathLike, name: str, site_folder: pathlib.Path, config: ExperimentConfig
) -> dict[str, Any]:
    """Returns a global model with a site's own arrays, as the site evaluated it.

    Args:
      file: the server's file of the model.
      name: name of the model.
      site_folder: the site's folder, whose journal has the arrays.
    Raises:
      ValueError: if the site has no arrays of its own, or has lost them.
    """
    folder = site_folder / "federated" / "journal"
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the folder of a site that took part")
    journal = Journal(folder)
    with TensorFile(file) as stored:
        number = journal.number_of(file_digest(stored))
        own = PrivateArrays(
            journal, config.share_rules.of(spec.name for spec in stored.specs), stored.specs
        )
        weights, of = own.completed(name, stored.read(), number=number)
    if not of:
        raise ValueError(f"{folder}: has no arrays of its own; this site has trained no round")
    return weights


def write_tables(folder: str | os.PathLike, rows: Sequence[CaseRow]) -> None:
    """Writes `cases.csv` with all rows, and `scores.csv` with their means and intervals."""
    folder = pathlib.Path(folder)
    atomic.write_text(folder / "cases.csv", score_summary.csv_text(rows))
    atomic.write_text(folder / "scores.csv", score_summary.csv_text(score_summary.by_model(rows)))


def _scores(name: str, rows: Sequence[CaseRow], how: str = "") -> dict[str, Any]:
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
