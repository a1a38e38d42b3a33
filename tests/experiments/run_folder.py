"""A small finished run for tests of reports: rows, histories, server's events, a site's picture."""

import json

import numpy as np

from experiments import figures
from experiments.reports import table1_report
from experiments.results import fingerprints, table1_values
from experiments.studies import study_results
from preprocessing import nifti
from preprocessing.case_list import Case, CaseManifest
from preprocessing.preparation import pipeline
from runkit import atomic, events
from tests.experiments.study import scan

CONFIGURATION = {
    "profile": "demo",
    "seed": 2,
    "filters": 8,
    "spacing_mm": [3.0, 3.0, 3.0],
    "patch_size": [48, 48, 48],
    "patches_per_case": 4,
    "learning_rate": 0.0001,
    "num_rounds": 2,
    "local_epochs": 10,
    "class_prior": [0.985, 0.012, 0.003],
    "genotype": "c2fnas",
    "vae": "reduced",
    "latent_size": 128,
}
# model -> Dice of C1's two cases (pancreas), of C2's three cases (pancreas, tumour)
DICE = {
    "C1_baseline": ((0.8, 0.9), ((0.4, 0.0), (0.5, 0.0), (0.6, 0.0))),
    "C2_baseline": ((0.5, 0.6), ((0.6, 0.5), (0.7, 0.4), (0.8, 0.6))),
    "C1_FL_local": ((0.8, 0.8), ((0.6, 0.3), (0.7, 0.5), (0.8, 0.4))),
    "C2_FL_local": ((0.7, 0.8), ((0.6, 0.5), (0.7, 0.4), (0.8, 0.6))),
    "FL_global": ((0.8, 0.8), ((0.7, 0.4), (0.7, 0.3), (0.7, 0.5))),
}


def rows(models=tuple(DICE)):
    """Rows on both grids.

    Dice on the native grid is half of that on the training grid, so that they cannot be confused.
    """
    found = []
    for model in models:
        c1, c2 = DICE[model]
        cases = [("C1", i + 1, p, None) for i, p in enumerate(c1)] + [
            ("C2", i + 1, p, t) for i, (p, t) in enumerate(c2)
        ]
        for site, number, pancreas, tumour in cases:
            for grid, factor in (("training", 1.0), ("native", 0.5)):
                row = {
                    "model": model,
                    "site": site,
                    "case": number,
                    "grid": grid,
                    "dice_pancreas": pancreas * factor,
                }
                row["dice_tumour"] = None if tumour is None else tumour * factor
                row |= {
                    "volume_ml_pancreas": 70.0,
                    "volume_ml_tumour": 3.0 * (model == "C2_baseline"),
                }
                marked = float(model == "C2_baseline")
                row |= {
                    "truth_components_tumour": float(site == "C2"),
                    "found_tumour": marked * (site == "C2"),
                }
                row |= {
                    "false_components_tumour": marked * (site == "C1"),
                    "score_tumour": marked * number,
                }
                found.append(
                    row | {"truth_ml_pancreas": 75.0, "truth_ml_tumour": 9.0 * (site == "C2")}
                )
    return found


def leave_traces(folder):
    """Writes the files that programs leave in a run's folder before its table is made."""
    for model, part, steps in (
        ("C1_baseline", "baseline", 3),
        ("C1_FL_local", "federated", 3),
        ("C2_baseline", "baseline", 4),
    ):
        log = events.EventLog(
            folder / "sites" / model[:2] / part / "history.jsonl", clock=lambda: 5.0
        )
        log.append("devices", model=model, round=1, devices=["Card A (15.8 GiB)"])
        for number in (1, 2):
            log.append("epoch", model=model, round=number, step=number * steps, loss=1.0 / number)
            log.append(
                "validation", model=model, round=number, step=number * steps, dice=0.3 * number
            )
    times = iter(range(100, 1000, 7))
    log = events.EventLog(folder / "server" / "events.jsonl", clock=lambda: float(next(times)))
    log.append("round_opened", round=1, received=[])
    for site in table1_values.SITES:
        log.append("login", site=site)
        log.append("pulled", site=site, model="round_000", seconds=1.0)
        log.append("pushed", site=site, round=1, seconds=1.0)
    log.append("aggregated", round=1)
    mask = np.zeros((8, 8, 4), np.uint8)
    mask[2:5, 3:6, 1:3] = 1
    case = figures.slice_case("C1, case 1", mask - 0.5, mask, {"FL_global": mask}, (3.0, 3.0, 3.0))
    with atomic.replacing(folder / "sites" / "C1" / "figures" / "comparison.png") as path:
        figures.comparison([case]).savefig(path, dpi=40)


def leave_cases(folder):
    """Prepares tiny scans at both sites and writes masks of two models.

    There are two test cases at C1 and three at C2.
    """
    for site, count in (("C1", 4), ("C2", 5)):
        cases = []
        for number in range(count):
            image, label = (
                folder / "scans" / site / f"{kind}{number}.nii" for kind in ("image", "label")
            )
            for path, volume in zip((image, label), scan(site, number), strict=True):
                nifti.write_volume(path, volume)
            cases.append(Case(f"SECRET{number}", image, label))
        home = folder / "sites" / site
        listed = CaseManifest(site, tuple(cases))
        store = pipeline.prepare(
            listed,
            home / "cases",
            target_mm=(5, 5, 5),
            window_hu=(-200, 250),
            split_seed=1,
            split_counts=(1, 1, count - 2),
        )
        for case in (store.open(case_id) for case_id in store.case_ids("test")):
            label = np.asarray(case.label)
            for model, mask in (
                ("FL_global", label),
                ("C1_baseline", np.where(label == 2, 0, label).astype(np.uint8)),
            ):
                path = home / "federated" / "examples" / f"case{case.number:03d}.{model}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, mask)


def leave_study(folder):
    """Writes a study of one finished run."""
    home = folder / "table1" / "seed2"
    leave_traces(home)
    table1_report.write_table(
        home,
        table1_report.document(
            rows(),
            {
                "profile": "demo",
                "seed": 2,
                "stack": "s",
                "configuration": CONFIGURATION,
                "wall_seconds": {"cohort": 61.0},
            },
        ),
    )
    content = study_results.of_one_run(home)
    content["runs"][0]["folder"] = "table1/seed2"
    study_results.write(folder, content)


def leave_verifiable(folder):
    """Writes a run whose table, rows, models and data agree, and returns its folder."""
    atomic.write_bytes(folder / "initial.safetensors", b"weights")
    atomic.write_json(
        folder / "sites" / "C1" / "cases" / "index.json",
        {"site": "C1", "sources": {"a": "1f"}, "splits": {}},
    )
    listed = rows()
    atomic.write_text(
        folder / "server" / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in listed)
    )
    metadata = {
        "profile": "demo", "seed": 2, "stack": "s", "configuration": {}, "wall_seconds": {}, "fingerprints": fingerprints.of_run(folder)
    }  # fmt: skip
    table1_report.write_table(folder, table1_report.document(listed, metadata))
    return folder


def change_table(folder, edit):
    """Changes table1.json of a run by `edit`, which gets its content."""
    content = atomic.read_json(folder / "table1.json")
    edit(content)
    atomic.write_json(folder / "table1.json", content)
