"""A small study, its settings and runs, with stand-ins for the programs that it starts."""

import dataclasses
import json
import pathlib

from experiments.configuration import ExperimentConfig
from experiments.reports import table1_report
from experiments.run.processes import ProgramFailed
from experiments.studies import study_file
from runkit import atomic
from tests.experiments import run_folder

CONFIG = ExperimentConfig(
    profile="demo",
    seed=1,
    genotype="c2fnas",
    filters=8,
    vae="reduced",
    latent_size=128,
    classifier_bias="log_prior",
    class_prior=(0.985, 0.012, 0.003),
    spacing_mm=(3.0, 3.0, 3.0),
    window_hu=(-200.0, 250.0),
    patch_size=(48, 48, 48),
    patches_per_case=1,
    foreground_fraction=0.5,
    batch_size=4,
    learning_rate=5e-3,
    final_learning_rate=5e-5,
    kl="voxels",
    num_rounds=13,
    local_epochs=5,
    inference_window=(80, 80, 64),
    inference_overlap=0.25,
    inference_blending="constant",
)


FILE = {
    "name": "s",
    "profile": "demo",
    "seeds": [1, 2],
    "pictures": "synthetic",
    "sites": {
        "C1": {"cohort": {"C1": 30}, "split": [18, 6, 6]},
        "C2": {"cohort": {"C2": 34}, "split": [20, 7, 7]},
    },
    "points": [
        {"label": "table1", "beyond": ["pooled", "finetuned"]},
        {
            "label": "no_vae",
            "settings": {"vae": "none"},
            "baselines": False,
            "rows": {"FL_global": "FL_global_no_vae"},
        },
    ],
}


def read(folder, **changes):
    atomic.write_json(folder / "s.json", {**FILE, **changes})
    return study_file.read(folder / "s.json")


def parse(arguments):
    return dataclasses.replace(CONFIG, seed=int(arguments[1].split("=")[1])), "\n".join(arguments)


DEFORMED = {
    "C1": {"deformed": "m.json", "split": [3, 1, 1]},
    "C2": {"deformed": "m.json", "split": [4, 1, 1]},
}


def configs(study):
    return {
        (point.label, seed): dataclasses.replace(CONFIG, seed=seed) for point, seed in study.runs()
    }


def leave_run(folder, seed, rows, wall=60.0):
    metadata = {
        "profile": "demo",
        "seed": seed,
        "stack": "s",
        "configuration": run_folder.CONFIGURATION,
        "wall_seconds": {"all": wall},
    }
    table1_report.write_table(folder, table1_report.document(rows, metadata))
    atomic.write_json(
        folder / "stages.json", {"wall_seconds": {"all": wall}, "peak_memory_bytes": 2**30}
    )


class FakePrograms:
    """Replaces programs: each at once leaves the files of the real one; one of them may fail."""

    def __init__(self):
        self.started, self.failing = [], set()
        self.flags, self.all_flags = {}, []  # the last flags of each program; those of every start

    def __call__(self, log_folder, **how):
        self._failed = []
        self.how = how
        return self

    def __enter__(self):
        self.peak_memory_bytes = 7
        return self

    def __exit__(self, *error):
        pass

    def start(self, name, module, arguments, *, log=None):
        values = dict(argument[2:].split("=", 1) for argument in arguments)
        program, who = (
            module.removeprefix("experiments."),
            values.get("model_name") or values.get("site") or name,
        )
        self.started.append(f"{program} {who}")
        self.flags[f"{program} {who}"] = values
        self.all_flags.append(values)
        if f"{program} {who}" in self.failing:
            self._failed.append(name)
        elif program == "prepare":
            index = {
                "site": name,
                "seed": 1,
                "settings": {"target_mm": [3.0, 3.0, 3.0], "window_hu": [-200.0, 250.0]},
                "splits": {},
                "numbers": {},
                "sources": {},
            }
            declared = {"pancreas": "complete", "tumour": "absent"} if name == "C1" else None
            atomic.write_json(
                pathlib.Path(values["site_folder"]) / "cases" / "index.json",
                {**index, "declared_labels": declared},
            )
        elif program == "deform_cohort":
            atomic.write_json(
                pathlib.Path(values["output"]) / "cohort.json",
                {"notes": ["WARNING: there is ONE source patient."]},
            )
        elif program == "serve":
            atomic.write_json(pathlib.Path(values["store"]) / "address.json", {"port": 1})
            rows = run_folder.rows()
            atomic.write_text(
                pathlib.Path(values["store"]) / "rows.jsonl",
                "".join(json.dumps(row) + "\n" for row in rows),
            )
        elif program == "score":
            models = [entry.split(":")[0] for entry in values["models"].split(",")]
            rows = [
                {**row, "model": model}
                for model in models
                for row in run_folder.rows(("FL_global",))
                if row["site"] == name
            ]
            atomic.write_text(values["output"], "".join(json.dumps(row) + "\n" for row in rows))
        return name

    def wait(self, programs, what):
        for name in programs:
            if name in self._failed:
                raise ProgramFailed(f"{name} ended with exit code 1")

    def wait_for(self, ready, program, what, timeout_s):
        assert ready()
